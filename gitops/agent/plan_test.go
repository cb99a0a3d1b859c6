package agent_test

import (
	"context"
	"strings"
	"testing"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/gitops/protocol"
)

// TestPlan asks a real API server what a bundle would change: what rendering
// alone cannot know, and without changing anything.
func TestPlan(t *testing.T) {
	r := newRig(t, "c6")
	class := func(kind string) string {
		return "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: plan-class}\nprovisioner: example.com/x\nparameters: {type: " + kind + "}\n"
	}
	t.Cleanup(func() {
		o := &unstructured.Unstructured{}
		o.SetGroupVersionKind(storagev1.SchemeGroupVersion.WithKind("StorageClass"))
		o.SetName("plan-class")
		_ = r.c.Delete(context.WithoutCancel(t.Context()), o)
	})
	first := bundle(t, "c6", map[string]addon{"one": {"0.1.0", map[string]string{
		"same.yaml": configMap("plan-same", "1"), "changed.yaml": configMap("plan-changed", "1"), "gone.yaml": configMap("plan-gone", "1"),
		"class.yaml": class("fast"), "ns.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: plan-held}\n",
	}}})
	r.hub.want(first)
	r.until("the first bundle", func() bool { return r.settled(first) })

	second := bundle(t, "c6", map[string]addon{"one": {"0.1.0", map[string]string{
		"same.yaml": configMap("plan-same", "1"), "changed.yaml": configMap("plan-changed", "2"), "new.yaml": configMap("plan-new", "1"),
		"class.yaml":  class("slow"),
		"nsnew.yaml":  "apiVersion: v1\nkind: Namespace\nmetadata: {name: plan-later}\n",
		"inside.yaml": strings.Replace(configMap("plan-inside", "1"), "namespace: default", "namespace: plan-later", 1),
		"nokind.yaml": "apiVersion: nobody.example.com/v1\nkind: Gone\nmetadata: {name: plan-nokind, namespace: default}\n",
	}}})
	r.hub.plan(second)
	r.until("the answer", func() bool { return r.hub.answered() != nil })
	got := *r.hub.answered()
	if got.Error != "" || got.Cluster != "c6" || got.Unchanged != 1 {
		t.Fatalf("answer %+v", got)
	}
	actions := map[string]protocol.PlanAction{}
	for _, c := range got.Changes {
		actions[c.Object] = c.Action
	}
	want := map[string]protocol.PlanAction{
		"ConfigMap default/plan-changed":              protocol.PlanChanged,
		"ConfigMap default/plan-new":                  protocol.PlanCreate,
		"ConfigMap default/plan-gone":                 protocol.PlanPrune,
		"ConfigMap plan-later/plan-inside":            protocol.PlanUnsure,
		"Namespace plan-later":                        protocol.PlanCreate,
		"Namespace plan-held":                         protocol.PlanHeld,
		"StorageClass.storage.k8s.io plan-class":      protocol.PlanRefused,
		"Gone.nobody.example.com default/plan-nokind": protocol.PlanRefused,
	}
	if diff := cmp.Diff(want, actions); diff != "" {
		t.Errorf("actions (-want +got):\n%s", diff)
	}
	for _, c := range got.Changes {
		if c.Object == "ConfigMap default/plan-changed" && !cmp.Equal(c.Fields, []string{"data.value"}) {
			t.Errorf("fields of the change: %q", c.Fields)
		}
		if c.Action == protocol.PlanRefused && c.Message == "" {
			t.Errorf("%s is refused without a word", c.Object)
		}
	}
	if r.value("plan-changed") != "1" || r.value("plan-new") != "" || r.value("plan-gone") != "1" {
		t.Error("the plan changed something")
	}
}

// TestTooLarge: what an agent cannot read at all it says, and does not ask for it
// again and again as if the hub were away.
func TestTooLarge(t *testing.T) {
	r := newRig(t, "c14")
	const want = "more than 67108864 bytes, which is all that an agent reads; give the cluster fewer or smaller objects"
	r.hub.want(map[string][]byte{"bundle.yaml": make([]byte, 65<<20)})
	r.until("the refusal of the bundle", func() bool { return strings.Contains(r.hub.last().Error, want) })
	r.hub.plan(map[string][]byte{"bundle.yaml": make([]byte, 51<<20)})
	r.until("the refusal of the question", func() bool { a := r.hub.answered(); return a != nil && strings.Contains(a.Error, want) })
}
