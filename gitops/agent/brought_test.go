package agent

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

// TestDefinitionThatIsThere: a new label of a definition made it one that the bundle
// brings; then a policy's refusal of its objects counted as that of the old schema.
func TestDefinitionThatIsThere(t *testing.T) {
	definition := func(label, schema, more string) *unstructured.Unstructured {
		t.Helper()
		o := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte("apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: ws.example.com, labels: {version: "+label+"}}\nspec:\n  group: example.com\n  scope: Namespaced\n  names: {kind: W, plural: ws"+more+"\n"+
			"  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {size: "+schema+"}}}}]\n"), o); err != nil {
			t.Fatal(err)
		}
		return o
	}
	const defaults = ", singular: w, listKind: WList}\n  conversion: {strategy: None}"
	cases := map[string]struct {
		reason string
		live   *unstructured.Unstructured // nil for none
		brings bool
	}{
		"None":   {"it is new", nil, true},
		"Label":  {"the addon's version alone is new", definition("a", "{type: integer, default: 1, x-kubernetes-validations: [{rule: self < 8}]}", defaults), false},
		"Schema": {"its schema is new", definition("a", "{type: integer, default: 2}", defaults), true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			o := definition("b", "{type: integer, default: 1, x-kubernetes-validations: [{rule: self < 8}]}", "}")
			b := bringsOf([]unit{{name: "one", digest: "new", objects: []*unstructured.Unstructured{o}}}, map[string]string{"one": "old"}, func(into *unstructured.Unstructured) error {
				if tc.live == nil || into.GetName() != tc.live.GetName() || into.GetKind() != tc.live.GetKind() {
					return errors.New("not found")
				}
				into.Object = tc.live.Object
				return nil
			})
			d := b.definitions["W.example.com"]
			if (d != nil) != tc.brings {
				t.Errorf("the bundle brings it: %v; reason: %s", d != nil, tc.reason)
			}
			if d == nil {
				return
			}
			var tries errgroup.Group // as objects are tried at once
			for i := range 2 * dryRuns {
				tries.Go(func() error {
					o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "W", "metadata": map[string]any{"name": "w", "namespace": "default"}, "size": int64(i)}}
					if err := b.fits(t.Context(), o, nil, o); (err == nil) != (i < 8) {
						return fmt.Errorf("size %d: %w", i, err)
					}
					return nil
				})
			}
			if err := tries.Wait(); err != nil {
				t.Error(err)
			}
			first, _ := d.versions["v1"]()
			if again, _ := d.versions["v1"](); first == nil || first != again {
				t.Error("it is compiled for every object")
			}
		})
	}
}
