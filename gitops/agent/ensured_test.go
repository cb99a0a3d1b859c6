package agent

import (
	"context"
	"maps"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
)

// TestOneNotionOfEnsureExists: an annotation, or a label in other letters, was the mode for
// some of the agent and none for the rest. A bundle says it by the label alone by now, and
// what people or earlier bundles say otherwise is left alone all the same.
func TestOneNotionOfEnsureExists(t *testing.T) {
	c, err := client.NewWithWatch(cluster.ForTest(t).RESTConfig(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPlanner(Options{}, c, nil)
	if err != nil {
		t.Fatal(err)
	}
	a := newApplier(c)
	for name, tc := range map[string]struct {
		labels, annotations map[string]string
		ensured             bool
	}{
		"label":      {map[string]string{v1alpha1.LabelAddonMode: v1alpha1.ModeEnsureExists}, nil, true},
		"letters":    {map[string]string{v1alpha1.LabelAddonMode: "ensureexists"}, nil, true},
		"annotation": {nil, map[string]string{v1alpha1.LabelAddonMode: v1alpha1.ModeEnsureExists}, true},
		"other":      {map[string]string{v1alpha1.LabelAddonMode: v1alpha1.ModeReconcile}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			labels := map[string]string{v1alpha1.LabelAddon: "one"}
			maps.Copy(labels, tc.labels)
			live := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "ensured-" + name, Labels: labels, Annotations: tc.annotations}, Data: map[string]string{"value": "live"}}
			if err := c.Create(t.Context(), live); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = c.Delete(context.WithoutCancel(t.Context()), live) })
			o := &unstructured.Unstructured{}
			o.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"})
			o.SetNamespace(live.Namespace)
			o.SetName(live.Name)
			o.SetLabels(labels)
			o.SetAnnotations(tc.annotations)
			o.Object["data"] = map[string]any{"value": "bundle"}

			u := unit{objects: []*unstructured.Unstructured{o}}
			if got := len(inventoryOf(u)) == 0; got != tc.ensured {
				t.Errorf("left out of the inventory: %t", got)
			}
			if change := p.try(t.Context(), o, brought{}); (change == nil) != tc.ensured {
				t.Errorf("the plan says %+v", change)
			}
			if step, err := a.next(t.Context(), o); err != nil || (step == nothing) != tc.ensured {
				t.Errorf("what is done is %d, %v", step, err)
			}
			stale := []v1alpha1.InventoryEntry{{ID: "default_" + live.Name + "__ConfigMap", Version: "v1"}}
			kept, _, err := a.prune(t.Context(), "one", stale, nil)
			if err != nil || len(kept) != 0 {
				t.Errorf("kept %v, %v", kept, err)
			}
			if stays := c.Get(t.Context(), client.ObjectKeyFromObject(live), live) == nil; stays != tc.ensured {
				t.Errorf("it stays when its addon goes: %t", stays)
			}
		})
	}
}

// TestPlanOfFilesHandsNothingOver: an agent that writes files for kube-addon-manager hands
// nothing over, and plans nothing of the kind.
func TestPlanOfFilesHandsNothingOver(t *testing.T) {
	c, err := client.NewWithWatch(cluster.ForTest(t).RESTConfig(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "ConfigMap"})
	o.SetNamespace("default")
	o.SetName("hands-nothing-over")
	o.SetLabels(map[string]string{v1alpha1.LabelAddon: "one", v1alpha1.LabelAddonMode: v1alpha1.ModeReconcile})
	if err := c.Apply(t.Context(), client.ApplyConfigurationFromUnstructured(o.DeepCopy()), client.FieldOwner(fieldOwner)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Delete(context.WithoutCancel(t.Context()), o) })
	o.SetLabels(map[string]string{v1alpha1.LabelAddon: "one", v1alpha1.LabelAddonMode: v1alpha1.ModeEnsureExists})
	for apply, hands := range map[string]bool{ApplyAgent: true, ApplyFiles: false, ApplyOther: false} {
		p, err := newPlanner(Options{Apply: apply}, c, nil)
		if err != nil {
			t.Fatal(err)
		}
		if change := p.try(t.Context(), o.DeepCopy(), brought{}); (change != nil) != hands {
			t.Errorf("--apply=%s plans %+v", apply, change)
		}
	}
}
