//go:build interop

package interop_test

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

// owner applies what docs/interop.md has people apply.
const owner = client.FieldOwner("interop-test")

// objects are all objects of the cluster that carry an addon's label, by id: without
// what the API server and its controllers write, and without an applier's marks, each
// of which every object must have.
func (w *world) objects(marks []string) map[string]map[string]any {
	w.t.Helper()
	config := w.cluster.RESTConfig()
	config.WarningHandler = rest.NoWarnings{} // of kinds that are old: every kind is listed
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		w.t.Fatal(err)
	}
	dyn, err := dynamic.NewForConfig(config)
	if err != nil {
		w.t.Fatal(err)
	}
	lists, err := disco.ServerPreferredResources()
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]map[string]any{}
	for _, l := range lists {
		gv, err := schema.ParseGroupVersion(l.GroupVersion)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, r := range l.APIResources {
			if !slices.Contains(r.Verbs, "list") {
				continue
			}
			got, err := dyn.Resource(gv.WithResource(r.Name)).List(w.t.Context(), metav1.ListOptions{LabelSelector: v1alpha1.LabelAddon})
			if err != nil {
				w.t.Fatal(err)
			}
			for _, o := range got.Items {
				if len(o.GetOwnerReferences()) == 0 { // what controllers make from an object may have its labels
					out[id(&o)] = w.plain(&o, marks)
				}
			}
		}
	}
	return out
}

func id(o *unstructured.Unstructured) string {
	name := strings.TrimPrefix(o.GetNamespace()+"/"+o.GetName(), "/")
	return o.GroupVersionKind().GroupKind().String() + " " + name
}

// plain is an object as people asked for it.
func (w *world) plain(o *unstructured.Unstructured, marks []string) map[string]any {
	w.t.Helper()
	labels, annotations := o.GetLabels(), o.GetAnnotations()
	for _, m := range marks {
		if labels[m] == "" && annotations[m] == "" {
			w.t.Errorf("%s has no %s: who applied it?", id(o), m)
		}
		delete(labels, m)
		delete(annotations, m)
	}
	delete(annotations, "deployment.kubernetes.io/revision")
	delete(annotations, "deprecated.daemonset.template.generation")
	delete(annotations, "kustomize.toolkit.fluxcd.io/prune") // of the patch in docs/interop.md; flux_test.go looks at it
	metadata := map[string]any{"name": o.GetName(), "namespace": o.GetNamespace(), "labels": labels, "annotations": annotations, "finalizers": o.GetFinalizers()}
	out := maps.Clone(o.Object)
	out["metadata"] = metadata
	delete(out, "status")
	return out
}

// has tells whether the cluster has an object of an addon.
func (w *world) has(object string) bool {
	w.t.Helper()
	_, there := w.objects(nil)[object]
	return there
}

// documented are the manifests that docs/interop.md shows in blocks of YAML, by kind.
func documented(t *testing.T) map[string]*unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile("../../../docs/interop.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]*unstructured.Unstructured{}
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for _, o := range split(t, []byte(block[1])) {
			if out[o.GetKind()] != nil {
				t.Fatalf("docs/interop.md shows two of kind %s", o.GetKind())
			}
			out[o.GetKind()] = o
		}
	}
	return out
}

func split(t *testing.T, text []byte) (out []*unstructured.Unstructured) {
	t.Helper()
	dec := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		o := &unstructured.Unstructured{}
		switch err := dec.Decode(&o.Object); {
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			t.Fatal(err)
		}
		if len(o.Object) > 0 {
			out = append(out, o)
		}
	}
}

// apply applies objects as "kubectl apply --server-side" does.
func (w *world) apply(objects ...*unstructured.Unstructured) {
	w.t.Helper()
	for _, o := range objects {
		if err := w.client.Apply(w.t.Context(), client.ApplyConfigurationFromUnstructured(o), owner); err != nil {
			w.t.Fatalf("apply %s: %v", id(o), err)
		}
	}
}

// applyFile applies a file of manifests.
func (w *world) applyFile(path string) {
	w.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	w.apply(split(w.t, text)...)
}

// set changes a field of a manifest.
func set(t *testing.T, o *unstructured.Unstructured, value any, fields ...string) {
	t.Helper()
	if err := unstructured.SetNestedField(o.Object, value, fields...); err != nil {
		t.Fatal(err)
	}
}

// get reads an object of the cluster anew; its content is empty when there is none.
func (w *world) get(like *unstructured.Unstructured) *unstructured.Unstructured {
	w.t.Helper()
	o := &unstructured.Unstructured{}
	o.SetGroupVersionKind(like.GroupVersionKind())
	if err := w.client.Get(w.t.Context(), client.ObjectKeyFromObject(like), o); client.IgnoreNotFound(err) != nil {
		w.t.Fatal(err)
	}
	return o
}
