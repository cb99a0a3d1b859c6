package agent

import (
	"errors"
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
			for i := range 2 * atOnce {
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

// TestPolicyOrSchema: what a policy refuses counted as what another schema could allow,
// and was let through, when the definition changed in the same commit.
func TestPolicyOrSchema(t *testing.T) {
	const policy = `ws.example.com "w" is forbidden: ValidatingAdmissionPolicy 'guard' with binding 'guard' denied request: too large`
	const webhook = `admission webhook "guard.example.com" denied the request: too large`
	invalid := func(text string) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInvalid, Code: 422, Message: text}}
	}
	for name, tc := range map[string]struct {
		reason, schema string
		err            error
		unsure         bool
	}{
		"Schema":    {"another schema may take it", "{type: integer}", invalid(`W "w" is invalid: size: Invalid value: 9`), true},
		"Policy":    {"the policy sees the same object under either", "{type: integer}", invalid(policy), false},
		"Webhook":   {"and so does a webhook", "{type: integer}", invalid(webhook), false},
		"Defaulted": {"the policy will see another object", "{type: integer}, depth: {type: integer, default: 1}", invalid(policy), true},
	} {
		t.Run(name, func(t *testing.T) {
			crd := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte("apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: ws.example.com}\nspec:\n  group: example.com\n  scope: Namespaced\n  names: {kind: W, plural: ws}\n"+
				"  versions: [{name: v1, served: true, storage: true, schema: {openAPIV3Schema: {type: object, properties: {size: "+tc.schema+"}}}}]\n"), crd); err != nil {
				t.Fatal(err)
			}
			b := bringsOf([]unit{{name: "one", digest: "new", objects: []*unstructured.Unstructured{crd}}}, nil, func(*unstructured.Unstructured) error { return errors.New("not found") })
			o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "example.com/v1", "kind": "W", "metadata": map[string]any{"name": "w", "namespace": "default"}, "size": int64(9)}}
			if got := b.comesFirst(tc.err, o); got != tc.unsure {
				t.Errorf("it is unsure: %v; reason: %s", got, tc.reason)
			}
		})
	}
}
