package agent_test

import (
	"context"
	"net/http"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"holdfast.dev/api/v1alpha1"
)

// unlisted makes an API server fail to list the metadata of one resource, which is how
// the agent searches.
type unlisted struct {
	resource string
	next     http.RoundTripper
}

func (u *unlisted) RoundTrip(r *http.Request) (*http.Response, error) {
	if path.Base(r.URL.Path) == u.resource && strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList") {
		return refusal(r, http.StatusInternalServerError), nil
	}
	return u.next.RoundTrip(r)
}

// late keeps back what the API server said of one resource to the search, until held is closed.
type late struct {
	resource   string
	next       http.RoundTripper
	once       sync.Once
	said, held chan struct{}
}

func (l *late) RoundTrip(r *http.Request) (*http.Response, error) {
	resp, err := l.next.RoundTrip(r)
	if path.Base(r.URL.Path) == l.resource && strings.Contains(r.Header.Get("Accept"), "as=PartialObjectMetadataList") {
		l.once.Do(func() { close(l.said) })
		select {
		case <-l.held:
		case <-r.Context().Done():
		}
	}
	return resp, err
}

// forgetStatuses is "kubectl delete addonstatuses --all".
func (r *rig) forgetStatuses() {
	r.t.Helper()
	if err := r.c.DeleteAllOf(r.t.Context(), &v1alpha1.AddonStatus{}); err != nil {
		r.t.Fatal(err)
	}
}

// applyText is a person, or another program, that applies server-side.
func (r *rig) applyText(text string, owner client.FieldOwner) {
	r.t.Helper()
	o := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(text), o); err != nil {
		r.t.Fatal(err)
	}
	if err := r.c.Apply(r.t.Context(), client.ApplyConfigurationFromUnstructured(o), owner, client.ForceOwnership); err != nil {
		r.t.Fatal(err)
	}
}

// inventoryHas tells whether an AddonStatus names an object.
func (r *rig) inventoryHas(addon, id string) bool {
	var st v1alpha1.AddonStatus
	if err := r.c.Get(r.t.Context(), client.ObjectKey{Name: addon}, &st); err != nil {
		return false
	}
	for _, e := range st.Status.Inventory {
		if e.ID == id {
			return true
		}
	}
	return false
}

// TestLostInventories: somebody deleted the AddonStatuses while the agent was away, and
// what the next bundle dropped stayed in the cluster for ever. Exactly what the agent
// itself applied is found and pruned; what only looks like it stays, and so does what
// takes data with it.
func TestLostInventories(t *testing.T) {
	r := newRig(t, "c20")
	labelled := func(name, addon string) string {
		return strings.Replace(configMap(name, "mine"), "namespace: default", "namespace: default, labels: {holdfast.dev/addon: "+addon+", addonmanager.kubernetes.io/mode: Reconcile}", 1)
	}
	ensured := strings.Replace(configMap("lost-ensured", "1"), "namespace: default", "namespace: default, labels: {addonmanager.kubernetes.io/mode: EnsureExists}", 1)
	claim := "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: lost-claim, namespace: default}\nspec:\n  accessModes: [ReadWriteOnce]\n  storageClassName: none\n  resources: {requests: {storage: 1Gi}}\n"
	one := map[string]string{"a.yaml": configMap("lost-a", "1"), "b.yaml": configMap("lost-b", "1"), "e.yaml": ensured, "taken.yaml": configMap("lost-taken", "1")}
	first := bundle(t, "c20", map[string]addon{"one": {"0.1.0", one}, "two": {"0.1.0", map[string]string{"c.yaml": configMap("lost-c", "1")}}, "three": {"0.1.0", map[string]string{"p.yaml": claim}}})
	r.hub.want(first)
	// A claim without a volume is never healthy, so what is there is asked for.
	live := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "lost-claim"}}
	r.until("the first bundle", func() bool {
		return r.value("lost-a") == "1" && r.value("lost-b") == "1" && r.value("lost-c") == "1" && r.value("lost-ensured") == "1" && r.value("lost-taken") == "1" &&
			r.c.Get(t.Context(), client.ObjectKeyFromObject(live), live) == nil
	})
	t.Cleanup(func() { _ = r.c.Delete(context.WithoutCancel(t.Context()), live) })
	r.stop()

	r.forgetStatuses()
	r.applyText(labelled("lost-foreign", "one"), "another")                                                                                                                            // who copies our labels
	r.applyText(labelled("lost-gone", "nobody"), "holdfast-agent-2")                                                                                                                   // of an addon that there never was
	if err := r.c.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "lost-made", Labels: map[string]string{v1alpha1.LabelAddon: "two"}}, // what agents of our name write without an apply
		Data: map[string]string{"value": "mine"}}, client.FieldOwner("holdfast-agent")); err != nil {
		t.Fatal(err)
	}
	r.applyText(strings.Replace(labelled("lost-taken", "two"), "mine", "taken", 1), "another") // who took one over, label and all

	r.applyText(labelled("lost-restored", "two"), "holdfast-agent") // out of a backup of an hour ago
	restored := &corev1.ConfigMap{}
	if err := r.c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "lost-restored"}, restored); err != nil {
		t.Fatal(err)
	}
	restored.Annotations = map[string]string{"restored": "yes"} // an update of times alone is none
	for i := range restored.ManagedFields {
		restored.ManagedFields[i].Time = &metav1.Time{Time: restored.CreationTimestamp.Add(-time.Hour)}
	}
	if err := r.c.Update(t.Context(), restored); err != nil {
		t.Fatal(err)
	}

	r.hub.want(bundle(t, "c20", map[string]addon{"one": {"0.2.0", map[string]string{"a.yaml": configMap("lost-a", "2")}}}))
	r.start()
	r.until("what the bundle dropped", func() bool { return r.value("lost-a") == "2" && r.value("lost-b") == "" && r.value("lost-c") == "" })
	r.until("the end of addon two", func() bool {
		return apierrors.IsNotFound(r.c.Get(t.Context(), client.ObjectKey{Name: "two"}, &v1alpha1.AddonStatus{}))
	})
	r.until("word of the claim", func() bool {
		var st v1alpha1.AddonStatus
		return r.c.Get(t.Context(), client.ObjectKey{Name: "three"}, &st) == nil && strings.Contains(st.Status.Message, "not pruned: PersistentVolumeClaim/lost-claim (nobody approved it in approvals.yaml)")
	})
	for name, want := range map[string]string{"lost-foreign": "mine", "lost-gone": "mine", "lost-made": "mine", "lost-ensured": "1", "lost-taken": "taken", "lost-restored": "mine"} {
		if got := r.value(name); got != want {
			t.Errorf("%s has %q, want %q", name, got, want)
		}
	}
	if err := r.c.Get(t.Context(), client.ObjectKeyFromObject(live), live); err != nil || live.DeletionTimestamp != nil {
		t.Errorf("a claim was deleted that nobody named: %v", err)
	}
}

// TestLostInventoryThatCannotBeFound: a kind that the API server does not list loses
// nothing by that. It is looked for again, by the next agent as well, although by then
// the addon has an AddonStatus again.
func TestLostInventoryThatCannotBeFound(t *testing.T) {
	r := newRig(t, "c21")
	first := bundle(t, "c21", map[string]addon{"one": {"0.1.0", map[string]string{"a.yaml": configMap("find-a", "1"), "b.yaml": configMap("find-b", "1")}}})
	r.hub.want(first)
	r.until("the first bundle", func() bool { return r.settled(first) })
	r.stop()
	r.forgetStatuses()

	r.through = func(next http.RoundTripper) http.RoundTripper { return &unlisted{"configmaps", next} }
	for _, value := range []string{"2", "3"} {
		r.start()
		next := bundle(t, "c21", map[string]addon{"one": {"0." + value + ".0", map[string]string{"a.yaml": configMap("find-a", value)}}})
		r.hub.want(next)
		r.until("the bundle", func() bool { return r.settled(next) })
		if r.value("find-b") != "1" {
			t.Fatal("what could not be listed was deleted")
		}
		r.stop()
	}
	r.through = nil
	r.start()
	r.until("what is listed at last", func() bool { return r.value("find-b") == "" })
	if r.value("find-a") != "3" {
		t.Error("what the bundle has was deleted")
	}
}

// TestComesToEnsureExists: an object that its addon now only makes, and leaves to
// whoever has it, was deleted with what people had written into it, and made anew.
func TestComesToEnsureExists(t *testing.T) {
	r := newRig(t, "c22")
	first := bundle(t, "c22", map[string]addon{"one": {"0.1.0", map[string]string{"a.yaml": configMap("ensure-a", "1")}}})
	r.hub.want(first)
	r.until("the first bundle", func() bool { return r.settled(first) })
	var was corev1.ConfigMap
	if err := r.c.Get(t.Context(), client.ObjectKey{Namespace: "default", Name: "ensure-a"}, &was); err != nil {
		t.Fatal(err)
	}
	ensured := strings.Replace(configMap("ensure-a", "2"), "namespace: default", "namespace: default, labels: {addonmanager.kubernetes.io/mode: EnsureExists}", 1)
	second := bundle(t, "c22", map[string]addon{"one": {"0.2.0", map[string]string{"a.yaml": ensured, "b.yaml": configMap("ensure-b", "1")}}})
	r.hub.want(second)
	r.until("the second bundle", func() bool { return r.settled(second) && !r.inventoryHas("one", "default_ensure-a__ConfigMap") })
	var is corev1.ConfigMap
	if err := r.c.Get(t.Context(), client.ObjectKeyFromObject(&was), &is); err != nil || is.UID != was.UID || is.Data["value"] != "1" {
		t.Errorf("the object was made anew, or changed: %v, %v", err, is.Data)
	}
}

// TestFoundBeforeItWasHandedOver: the search saw an object while it was the agent's, and
// brought it back into the inventory after the addon had handed it over to people.
func TestFoundBeforeItWasHandedOver(t *testing.T) {
	r := newRig(t, "c25")
	first := bundle(t, "c25", map[string]addon{"one": {"0.1.0", map[string]string{"a.yaml": configMap("late-a", "1"), "b.yaml": configMap("late-b", "1")}}})
	r.hub.want(first)
	r.until("the first bundle", func() bool { return r.settled(first) })
	r.stop()
	r.forgetStatuses()

	l := &late{resource: "configmaps", said: make(chan struct{}), held: make(chan struct{})}
	r.through = func(next http.RoundTripper) http.RoundTripper { l.next = next; return l }
	r.start()
	r.until("the search", func() bool {
		select {
		case <-l.said:
			return true
		default:
			return false
		}
	})
	ensured := strings.Replace(configMap("late-a", "2"), "namespace: default", "namespace: default, labels: {addonmanager.kubernetes.io/mode: EnsureExists}", 1)
	second := bundle(t, "c25", map[string]addon{"one": {"0.2.0", map[string]string{"a.yaml": ensured, "b.yaml": configMap("late-b", "2")}}})
	r.hub.want(second)
	r.until("the second bundle", func() bool { return r.settled(second) })
	if got := r.noted(); got != "?" {
		t.Fatalf("the search has ended, and the agent noted %q", got)
	}
	close(l.held)
	r.until("the end of the search", func() bool { return r.noted() == "one" })
	if r.inventoryHas("one", "default_late-a__ConfigMap") || !r.inventoryHas("one", "default_late-b__ConfigMap") {
		t.Error("the inventory has what was handed over, or lacks what the addon has")
	}
}
