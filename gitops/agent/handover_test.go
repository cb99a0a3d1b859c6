package agent_test

import (
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/agent"
	"holdfast.dev/gitops/protocol"
)

// searches counts the lists by which the agent searches.
type searches struct {
	n    atomic.Int32
	next http.RoundTripper
}

func (s *searches) RoundTrip(r *http.Request) (*http.Response, error) {
	if strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList") {
		s.n.Add(1)
	}
	return s.next.RoundTrip(r)
}

// noted is the names of addons in the identity's Secret.
func (r *rig) noted() string {
	return strings.Join(strings.Fields(string(r.secret().Data["addons"])), " ")
}

// planOf is what a plan says of a ConfigMap.
func (r *rig) planOf(name string, files map[string][]byte) *protocol.PlanChange {
	r.t.Helper()
	r.hub.plan(files)
	r.until("the answer", func() bool { return r.hub.answered() != nil })
	got := r.hub.answered()
	if got.Error != "" || r.value(name) == "made" {
		r.t.Errorf("the plan is %+v, and %s is %q", got, name, r.value(name))
	}
	for _, c := range got.Changes {
		if c.Object == "ConfigMap default/"+name {
			return &c
		}
	}
	return nil
}

// TestHandedOver: an object that came to mode EnsureExists, was edited by people and
// then left the bundle, as it may, still had the label and the managed fields of what
// the agent applies. The next search for lost inventories deleted it, and there was one
// at every start of an agent with an addon that has objects of that mode only.
func TestHandedOver(t *testing.T) {
	r := newRig(t, "c23")
	ensured := func(name string) string {
		return strings.Replace(configMap(name, "made"), "namespace: default", "namespace: default, labels: {addonmanager.kubernetes.io/mode: EnsureExists}", 1)
	}
	of := func(version string, one map[string]string) map[string][]byte {
		addons := map[string]addon{"only": {"0.1.0", map[string]string{"o.yaml": ensured("handed-only")}}, "rest": {"0.1." + version, map[string]string{"r.yaml": configMap("handed-rest", version)}}}
		if one != nil {
			addons["one"] = addon{"0.1." + version, one}
		}
		return bundle(t, "c23", addons)
	}
	next := func(version string, one map[string]string) {
		t.Helper()
		files := of(version, one)
		r.hub.want(files)
		r.until("bundle "+version, func() bool { return r.settled(files) })
	}
	keep := configMap("handed-keep", "1")
	next("1", map[string]string{"a.yaml": configMap("handed-a", "1"), "k.yaml": keep})
	handed := map[string]string{"a.yaml": ensured("handed-a"), "k.yaml": keep}
	if got := r.planOf("handed-a", of("2", handed)); got == nil || got.Action != protocol.PlanChanged || !slices.Equal(got.Fields, []string{"metadata.labels." + v1alpha1.LabelAddonMode}) {
		t.Errorf("the plan of handing over is %+v", got)
	}
	next("2", handed)
	if got := r.planOf("handed-a", of("3", handed)); got != nil {
		t.Errorf("the plan of what is handed over already is %+v", got)
	}
	var cm corev1.ConfigMap
	if err := r.c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "handed-a"}, &cm); err != nil {
		t.Fatal(err)
	}
	if mode := cm.Labels[v1alpha1.LabelAddonMode]; mode != "EnsureExists" || cm.Data["value"] != "1" {
		t.Errorf("what was handed over has the mode %q and the value %q", mode, cm.Data["value"])
	}
	cm.Data["value"] = "people"
	if err := r.c.Update(t.Context(), &cm); err != nil {
		t.Fatal(err)
	}
	next("3", map[string]string{"k.yaml": keep})
	r.stop()

	counts := &searches{}
	r.through = func(next http.RoundTripper) http.RoundTripper { counts.next = next; return counts }
	r.start()
	next("4", map[string]string{"k.yaml": keep})
	if n := counts.n.Load(); n > 0 || r.noted() != "one rest" {
		t.Errorf("the agent searched (%d lists), and noted %q, although no inventory was lost", n, r.noted())
	}
	r.stop()
	r.forgetStatuses()
	r.start()
	next("5", map[string]string{"k.yaml": keep})
	r.until("the end of the search", func() bool { return counts.n.Load() > 0 && r.noted() == "one rest" })
	next("6", map[string]string{"k.yaml": keep})
	if got := r.value("handed-a"); got != "people" {
		t.Errorf("the search found what people have, and it is %q now", got)
	}
	r.stop()

	// However an inventory came to name it, as one that an agent before wrote may.
	var st v1alpha1.AddonStatus
	if err := r.c.Get(t.Context(), client.ObjectKey{Name: "one"}, &st); err != nil {
		t.Fatal(err)
	}
	st.Status.Inventory = append(st.Status.Inventory, v1alpha1.InventoryEntry{ID: "default_handed-a__ConfigMap", Version: "v1"})
	if err := r.c.Status().Update(t.Context(), &st); err != nil {
		t.Fatal(err)
	}
	r.start()
	next("7", nil)
	r.until("the end of the addon", func() bool { return r.noted() == "rest" })
	if a, k := r.value("handed-a"), r.value("handed-keep"); a != "people" || k != "" {
		t.Errorf("with the addon gone, what people have is %q, and the rest %q", a, k)
	}
}

// TestLeftToAnotherApplier: what an agent had applied, and was then left to Flux or Argo CD, is
// theirs. The names of addons in the identity's Secret stayed as they were, and an agent
// that applied again searched for what it missed and deleted it.
func TestLeftToAnotherApplier(t *testing.T) {
	r := newRig(t, "c26")
	files := func(addons ...string) map[string][]byte {
		with := map[string]addon{}
		for _, name := range addons {
			with[name] = addon{"0.1.0", map[string]string{"a.yaml": configMap("left-"+name, "1")}}
		}
		return bundle(t, "c26", with)
	}
	r.hub.want(files("one", "two"))
	r.until("the first bundle", func() bool { return r.settled(files("one", "two")) && r.noted() == "one two" })
	r.stop()

	r.apply = agent.ApplyOther
	r.start()
	r.hub.want(files("three"))
	r.applyText(string(files("three")[pathOf(files("three"), "left-three")]), "kustomize-controller")
	gone := func(addon string) bool {
		return apierrors.IsNotFound(r.c.Get(t.Context(), client.ObjectKey{Name: addon}, &v1alpha1.AddonStatus{}))
	}
	r.until("the end of what another has now", func() bool { return r.settled(files("three")) && gone("one") && gone("two") })
	r.stop()

	counts := &searches{}
	r.through = func(next http.RoundTripper) http.RoundTripper { counts.next = next; return counts }
	r.apply = agent.ApplyAgent
	r.start()
	r.hub.want(files("three", "four"))
	r.until("the bundle of an agent that applies again", func() bool { return r.settled(files("three", "four")) && r.noted() == "four three" })
	if n := counts.n.Load(); n > 0 || r.value("left-one") != "1" || r.value("left-two") != "1" {
		t.Errorf("the agent searched (%d lists), and what it had left to another is %q and %q", n, r.value("left-one"), r.value("left-two"))
	}
}

// TestFirstStartThatNotesAddons: an agent that finds inventories, and no names of addons,
// follows one that wrote none. It must not delete, in every cluster of the fleet at once,
// what was left behind long ago.
func TestFirstStartThatNotesAddons(t *testing.T) {
	r := newRig(t, "c24")
	next := func(version string) {
		t.Helper()
		files := bundle(t, "c24", map[string]addon{"one": {"0.1." + version, map[string]string{"a.yaml": configMap("upgrade-a", version)}}})
		r.hub.want(files)
		r.until("bundle "+version, func() bool { return r.settled(files) })
	}
	next("1")
	r.stop()
	r.applyText(strings.Replace(configMap("upgrade-left", "old"), "namespace: default", "namespace: default, labels: {holdfast.dev/addon: one, addonmanager.kubernetes.io/mode: Reconcile}", 1), "holdfast-agent")
	s := r.secret()
	delete(s.Data, "addons")
	if err := r.c.Update(t.Context(), &s); err != nil {
		t.Fatal(err)
	}
	r.start()
	r.until("the names of the addons", func() bool { return r.noted() == "one" })
	next("2")
	next("3")
	if got := r.value("upgrade-left"); got != "old" {
		t.Errorf("what was left behind is %q now", got)
	}
}
