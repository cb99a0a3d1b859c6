package agent

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
)

// TestPruneOfAnotherOfTheName: a person who made an object anew between the agent's
// look at it and its deletion lost it: only the name was asked for.
func TestPruneOfAnotherOfTheName(t *testing.T) {
	real, err := client.NewWithWatch(cluster.ForTest(t).RESTConfig(), client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	object := func(labels map[string]string) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "another", Labels: labels}}
	}
	if err := real.Create(t.Context(), object(map[string]string{v1alpha1.LabelAddon: "one"})); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = real.Delete(context.WithoutCancel(t.Context()), object(nil)) })
	persons := object(nil)
	c := interceptor.NewClient(real, interceptor.Funcs{Delete: func(ctx context.Context, c client.WithWatch, o client.Object, opts ...client.DeleteOption) error {
		if persons.UID == "" {
			if err := real.Delete(ctx, object(nil)); err != nil {
				t.Error(err)
			}
			if err := real.Create(ctx, persons); err != nil {
				t.Error(err)
			}
		}
		return c.Delete(ctx, o, opts...)
	}})
	stale := []v1alpha1.InventoryEntry{{ID: "default_another__ConfigMap", Version: "v1"}}
	a := newApplier(c)
	if kept, _, err := a.prune(t.Context(), "one", stale, nil); err == nil || len(kept) != 1 {
		t.Errorf("kept %v, error %v: it cannot know yet that the object is no longer its own", kept, err)
	}
	if kept, _, err := a.prune(t.Context(), "one", stale, nil); err != nil || len(kept) != 0 {
		t.Errorf("kept %v, error %v: the second look shows that nothing is left to prune", kept, err)
	}
	live := object(nil)
	if err := real.Get(t.Context(), client.ObjectKeyFromObject(live), live); err != nil || live.UID != persons.UID {
		t.Errorf("the person's object is gone: %v", err)
	}
}
