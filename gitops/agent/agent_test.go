package agent_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/render"
)

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }

func TestApplyPruneAndDrift(t *testing.T) {
	r := newRig(t, "c1")
	first := bundle(t, "c1", map[string]addon{
		"one": {"0.1.0", map[string]string{"a.yaml": configMap("one-a", "1"), "b.yaml": configMap("one-b", "1"), "ns.yaml": "apiVersion: v1\nkind: Namespace\nmetadata: {name: kept}\n"}},
		"two": {"0.1.0", map[string]string{"c.yaml": configMap("two-c", "1")}},
	})
	r.hub.want(first)
	r.until("the first bundle", func() bool { return r.settled(first) })
	if r.value("one-a") != "1" || r.value("two-c") != "1" {
		t.Fatal("the report says applied, the objects are not there")
	}

	// Drift: what a person deletes or changes comes back.
	if err := r.c.Delete(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "one-b"}}); err != nil {
		t.Fatal(err)
	}
	r.until("the deleted object", func() bool { return r.value("one-b") == "1" })

	// The second bundle drops an object, a Namespace and an addon.
	foreign := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "foreign"}, Data: map[string]string{"value": "mine"}}
	if err := r.c.Create(t.Context(), foreign); err != nil {
		t.Fatal(err)
	}
	second := bundle(t, "c1", map[string]addon{"one": {"0.1.1", map[string]string{"a.yaml": configMap("one-a", "2")}}})
	r.hub.want(second)
	r.until("the second bundle", func() bool { return r.value("one-a") == "2" && r.value("one-b") == "" && r.value("two-c") == "" })
	if r.value("foreign") != "mine" {
		t.Error("an object that is not in the inventory was touched")
	}
	var ns corev1.Namespace
	if err := r.c.Get(t.Context(), client.ObjectKey{Name: "kept"}, &ns); err != nil || ns.DeletionTimestamp != nil {
		t.Errorf("a Namespace was pruned without a named approval: %v", err)
	}
	r.until("word of what is held", func() bool {
		for _, a := range r.hub.last().Addons {
			if strings.Contains(a.Message, "not pruned: Namespace/kept (nobody approved it in approvals.yaml)") {
				return true
			}
		}
		return false
	})
	r.until("the end of addon two", func() bool {
		err := r.c.Get(t.Context(), client.ObjectKey{Name: "two"}, &v1alpha1.AddonStatus{})
		return apierrors.IsNotFound(err)
	})
}

// TestOneBadAddonDelaysNoOther: kubernetes/kubernetes#92213, one object that
// fails stops pruning everywhere.
func TestOneBadAddonDelaysNoOther(t *testing.T) {
	r := newRig(t, "c2")
	immutable := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: bad-a, namespace: default}\nimmutable: true\ndata: {value: \"%s\"}\n"
	first := bundle(t, "c2", map[string]addon{
		"bad":  {"0.1.0", map[string]string{"a.yaml": fmt.Sprintf(immutable, "1")}},
		"good": {"0.1.0", map[string]string{"b.yaml": configMap("good-b", "1"), "c.yaml": configMap("good-c", "1")}},
	})
	r.hub.want(first)
	r.until("the first bundle", func() bool { return r.settled(first) })
	second := bundle(t, "c2", map[string]addon{
		"bad":  {"0.1.1", map[string]string{"a.yaml": fmt.Sprintf(immutable, "2")}},
		"good": {"0.1.1", map[string]string{"b.yaml": configMap("good-b", "2")}},
	})
	r.hub.want(second)
	r.until("the good addon", func() bool { return r.value("good-b") == "2" && r.value("good-c") == "" })
	r.until("word of the bad one", func() bool {
		for _, a := range r.hub.last().Addons {
			if a.Name == "bad" && a.Health == v1alpha1.HealthDegraded && strings.Contains(a.Message, "immutable") && a.AppliedDigest != a.DesiredDigest {
				return true
			}
		}
		return false
	})
}

// TestBundleThatIsNotWhole: k0s#8220, a half-published directory pruned what it did not name.
func TestBundleThatIsNotWhole(t *testing.T) {
	r := newRig(t, "c3")
	good := bundle(t, "c3", map[string]addon{"one": {"0.1.0", map[string]string{"a.yaml": configMap("whole-a", "1"), "b.yaml": configMap("whole-b", "1")}}})
	r.hub.want(good)
	r.until("the good bundle", func() bool { return r.settled(good) })
	cases := map[string]struct {
		reason string
		change func(map[string][]byte)
		want   string
	}{
		"Missing": {"an object is not there", func(f map[string][]byte) { delete(f, pathOf(f, "whole-b")) }, "its index says 2"},
		"Changed": {"an object has other bytes", func(f map[string][]byte) { f[pathOf(f, "whole-a")] = []byte("{}") }, "digest"},
		"Extra":   {"an object that the index does not know", func(f map[string][]byte) { f["x/y.yaml"] = []byte("{}") }, "accounts for"},
		"Other": {"another cluster's bundle", func(f map[string][]byte) {
			f[render.BundleFile] = []byte(strings.Replace(string(f[render.BundleFile]), "cluster: c3", "cluster: c4", 1))
		}, `for cluster "c4"`},
		"NoIndex": {"nothing at all", func(f map[string][]byte) { clear(f) }, "has no bundle.yaml"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			broken := maps.Clone(good)
			tc.change(broken)
			r.hub.want(broken)
			r.until("the refusal", func() bool { return strings.Contains(r.hub.last().Error, tc.want) })
			if r.value("whole-a") != "1" || r.value("whole-b") != "1" {
				t.Errorf("the cluster changed; reason: %s", tc.reason)
			}
		})
	}
}

func pathOf(files map[string][]byte, name string) string {
	for p := range files {
		if strings.Contains(p, name) {
			return p
		}
	}
	return ""
}

// TestRestartAnywhere stops the agent at random moments of an update with a
// prune and starts another: nothing may be left that no bundle names.
func TestRestartAnywhere(t *testing.T) {
	r := newRig(t, "c4")
	for i := range 12 {
		manifests := map[string]string{}
		for j := range 4 {
			manifests[fmt.Sprintf("m%d.yaml", j)] = configMap(fmt.Sprintf("restart-%d-%d", i%3, j), fmt.Sprint(i))
		}
		next := bundle(t, "c4", map[string]addon{"one": {fmt.Sprintf("0.1.%d", i), manifests}})
		r.hub.want(next)
		time.Sleep(time.Duration(i*17%120) * time.Millisecond) // the moment is what varies here
		r.stop()
		r.start()
		r.until("the bundle", func() bool { return r.settled(next) })
		var list corev1.ConfigMapList
		if err := r.c.List(t.Context(), &list, client.InNamespace("default"), client.MatchingLabels{v1alpha1.LabelAddon: "one"}); err != nil {
			t.Fatal(err)
		}
		if len(list.Items) != len(manifests) {
			t.Fatalf("round %d: %d objects, want %d: orphans", i, len(list.Items), len(manifests))
		}
	}
}

// thingCRD is a kind with two versions. With a webhook that nobody answers,
// objects stored as v1 cannot be listed as v2.
func thingCRD(storage string, webhook bool) *unstructured.Unstructured {
	version := func(name string) map[string]any {
		return map[string]any{"name": name, "served": true, "storage": name == storage,
			"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}
	}
	spec := map[string]any{
		"group": "example.com", "scope": "Namespaced",
		"names":    map[string]any{"kind": "Thing", "plural": "things", "singular": "thing", "listKind": "ThingList"},
		"versions": []any{version("v1"), version("v2")},
	}
	if webhook {
		spec["conversion"] = map[string]any{"strategy": "Webhook", "webhook": map[string]any{
			"conversionReviewVersions": []any{"v1"}, "clientConfig": map[string]any{"url": "https://127.0.0.1:1/"}}}
	}
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "things.example.com"}, "spec": spec}}
}

// TestKindThatCannotBeListed: one dead conversion webhook hung the agent for good.
func TestKindThatCannotBeListed(t *testing.T) {
	r := newRig(t, "c5")
	crd := thingCRD("v1", false)
	if err := r.c.Create(t.Context(), crd); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // mended first: what cannot be converted cannot be deleted, and no later test could list every kind
		ctx := context.WithoutCancel(t.Context())
		if _, err := wait.Until(ctx, time.Minute, "the end of the kind", func() (bool, error) {
			now := crd.DeepCopy()
			if err := r.c.Get(ctx, client.ObjectKeyFromObject(crd), now); err != nil {
				return apierrors.IsNotFound(err), client.IgnoreNotFound(err)
			}
			mended := thingCRD("v2", false)
			mended.SetResourceVersion(now.GetResourceVersion())
			mended.SetFinalizers(now.GetFinalizers())
			return false, errors.Join(r.c.Update(ctx, mended), r.c.Delete(ctx, crd.DeepCopy()))
		}); err != nil {
			t.Error(err)
		}
	})
	old := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "Thing", "metadata": map[string]any{"name": "old", "namespace": "default"}}}
	r.until("the kind to be served", func() bool { return r.c.Create(t.Context(), old.DeepCopy()) == nil })
	next := thingCRD("v2", true)
	r.until("the webhook", func() bool {
		var now unstructured.Unstructured
		now.SetGroupVersionKind(crd.GroupVersionKind())
		if r.c.Get(t.Context(), client.ObjectKeyFromObject(crd), &now) != nil {
			return false
		}
		next.SetResourceVersion(now.GetResourceVersion())
		return r.c.Update(t.Context(), next.DeepCopy()) == nil
	})
	thing := "apiVersion: example.com/v2\nkind: Thing\nmetadata: {name: fresh, namespace: default}\n"
	addons := map[string]addon{
		"bad":  {"0.1.0", map[string]string{"thing.yaml": thing}},
		"good": {"0.1.0", map[string]string{"a.yaml": configMap("listed-a", "1")}},
	}
	r.hub.want(bundle(t, "c5", addons))
	r.until("the good addon", func() bool { return r.value("listed-a") == "1" })
	addons["good"] = addon{"0.1.1", map[string]string{"a.yaml": configMap("listed-a", "2")}}
	r.hub.want(bundle(t, "c5", addons))
	r.until("the good addon's next version", func() bool { return r.value("listed-a") == "2" })
	r.until("word of the bad one", func() bool {
		for _, a := range r.hub.last().Addons {
			if a.Name == "bad" && a.Health == v1alpha1.HealthDegraded && strings.Contains(a.Message, "Thing") {
				return true
			}
		}
		return false
	})
}
