package agent_test

import (
	"context"
	"slices"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"holdfast.dev/gitops/protocol"
)

// widgets is a CustomResourceDefinition with the versions given, of which the first is stored.
func widgets(kind string, versions ...string) string {
	plural := strings.ToLower(kind) + "s"
	return "apiVersion: apiextensions.k8s.io/v1\nkind: CustomResourceDefinition\nmetadata: {name: " + plural + ".plan.example.com}\nspec:\n  group: plan.example.com\n  scope: Namespaced\n" +
		"  names: {kind: " + kind + ", plural: " + plural + ", singular: " + strings.ToLower(kind) + ", listKind: " + kind + "List}\n  versions:\n" + strings.Join(versions, "")
}

// version is one of them; spec are the properties of its spec, and more of the spec's schema.
func version(name string, stored bool, spec string) string {
	storage := "false"
	if stored {
		storage = "true"
	}
	return "  - name: " + name + "\n    served: true\n    storage: " + storage + "\n    schema:\n      openAPIV3Schema:\n        type: object\n        properties:\n          spec: {type: object, " + spec + "}\n"
}

func widget(apiVersion, kind, spec string) string {
	return "apiVersion: plan.example.com/" + apiVersion + "\nkind: " + kind + "\nmetadata: {name: w, namespace: default}\nspec: {" + spec + "}\n"
}

// said asks what would become of the object of a kind.
func (r *rig) said(files map[string][]byte, kind string) (said protocol.PlanChange) {
	r.t.Helper()
	r.hub.plan(files)
	r.until("the answer", func() bool { return r.hub.answered() != nil })
	got := *r.hub.answered()
	if got.Error != "" {
		r.t.Fatalf("answer %+v", got)
	}
	for _, c := range got.Changes {
		if c.Object == kind+".plan.example.com default/w" || c.Object == kind+".plan.example.com w" {
			said = c
		}
	}
	return said
}

// TestDefinitionWithItsObjects: a commit that changed a definition and used what
// was new in it was refused for good, as the API server knew the old schema alone;
// and one that broke the objects that there are was found out when it was applied.
func TestDefinitionWithItsObjects(t *testing.T) {
	r := newRig(t, "c12")
	t.Cleanup(func() { // the next test has the same API server
		for _, name := range []string{"widgets.plan.example.com", "gadgets.plan.example.com"} {
			o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": map[string]any{"name": name}}}
			_ = r.c.Delete(context.WithoutCancel(t.Context()), o)
		}
	})
	const size = "size: {type: integer, minimum: 1}"
	v1 := version("v1", true, "properties: {"+size+"}")
	fleet := func(definitions, objects map[string]string) map[string][]byte {
		t.Helper()
		return bundle(t, "c12", map[string]addon{"defs": {"0.1.0", definitions}, "uses": {"0.1.0", objects}})
	}
	one := func(definition, object string) map[string][]byte {
		return fleet(map[string]string{"w.yaml": definition}, map[string]string{"w.yaml": object, "a.yaml": configMap("plan-widget", "1")})
	}
	first := one(widgets("Widget", v1), widget("v1", "Widget", "size: 2"))
	r.hub.want(first)
	r.until("the first bundle", func() bool { return r.settled(first) })

	coloured := widgets("Widget", version("v1", true, "properties: {"+size+", color: {type: string, enum: [red, blue]}, tags: {type: array, x-kubernetes-list-type: set, items: {type: string}}}"))
	twice := widgets("Widget", version("v1", false, "properties: {"+size+"}"), version("v2", true, "properties: {"+size+", count: {type: integer}}"))
	ruled := widgets("Widget", version("v1", true, "properties: {"+size+", step: {type: integer}}, x-kubernetes-validations: [{rule: '!has(self.step) || self.step <= self.size', message: a step too far}]"))
	gadgets := map[string]string{"w.yaml": widgets("Widget", v1), "g.yaml": widgets("Gadget", v1)}
	cases := map[string]struct {
		reason  string
		files   map[string][]byte
		object  string
		action  protocol.PlanAction // none for an object that stays as it is
		message []string
	}{
		"NewField":    {"a field that the new schema has", one(coloured, widget("v1", "Widget", "size: 2, color: red, tags: [a, b]")), "Widget", protocol.PlanUnsure, []string{"fits the definition"}},
		"Misspelt":    {"a field that neither schema has", one(coloured, widget("v1", "Widget", "size: 2, colour: red")), "Widget", protocol.PlanRefused, []string{"widgets.plan.example.com", "spec.colour: unknown field"}},
		"BadValue":    {"a new field with a wrong value", one(coloured, widget("v1", "Widget", "size: 2, color: green")), "Widget", protocol.PlanRefused, []string{`spec.color: Unsupported value: "green"`}},
		"BadSet":      {"a new list that names one thing twice", one(coloured, widget("v1", "Widget", "size: 2, tags: [a, a]")), "Widget", protocol.PlanRefused, []string{"spec.tags[1]: Duplicate value"}},
		"OldMistake":  {"a value that both schemas refuse", one(coloured, widget("v1", "Widget", "size: 0")), "Widget", protocol.PlanRefused, []string{"spec.size: Invalid value: 0"}},
		"NewVersion":  {"a version that the API server does not have yet", one(twice, widget("v2", "Widget", "count: 2")), "Widget", protocol.PlanUnsure, []string{"fits the definition"}},
		"BadVersion":  {"a new version with a wrong value", one(twice, widget("v2", "Widget", "count: two")), "Widget", protocol.PlanRefused, []string{"spec.count"}},
		"NoVersion":   {"a version that nobody has", one(twice, widget("v3", "Widget", "count: 2")), "Widget", protocol.PlanRefused, []string{"does not serve version v3"}},
		"Rule":        {"a rule that the new schema has", one(ruled, widget("v1", "Widget", "size: 2, step: 3")), "Widget", protocol.PlanRefused, []string{"a step too far"}},
		"RuleKept":    {"an object that keeps the rule", one(ruled, widget("v1", "Widget", "size: 2, step: 1")), "Widget", protocol.PlanUnsure, []string{"fits the definition"}},
		"NewKind":     {"a kind that is new", fleet(gadgets, map[string]string{"g.yaml": widget("v1", "Gadget", "size: 2")}), "Gadget", protocol.PlanUnsure, []string{"fits the definition"}},
		"BadNewKind":  {"a kind that is new, with a mistake", fleet(gadgets, map[string]string{"g.yaml": widget("v1", "Gadget", "size: 2, sise: 3")}), "Gadget", protocol.PlanRefused, []string{"spec.sise: unknown field"}},
		"Scope":       {"a kind that is new, without its namespace", fleet(gadgets, map[string]string{"g.yaml": strings.Replace(widget("v1", "Gadget", "size: 2"), ", namespace: default", "", 1)}), "Gadget", protocol.PlanRefused, []string{"its scope is Namespaced"}},
		"Narrowed":    {"an object that nobody changed, which the new schema refuses", one(widgets("Widget", version("v1", true, "properties: {size: {type: integer, minimum: 5}}")), widget("v1", "Widget", "size: 2")), "Widget", protocol.PlanRefused, []string{"spec.size: Invalid value: 2"}},
		"FieldGone":   {"a field that the new schema has no more", one(widgets("Widget", version("v1", true, "properties: {length: {type: integer}}")), widget("v1", "Widget", "size: 2")), "Widget", protocol.PlanRefused, []string{"spec.size: unknown field"}},
		"VersionGone": {"a version that the definition has no more", one(widgets("Widget", version("v2", true, "properties: {"+size+"}")), widget("v1", "Widget", "size: 2")), "Widget", protocol.PlanRefused, []string{"does not serve version v1"}},
		"Default":     {"a required field that has a default", one(widgets("Widget", version("v1", true, "required: [depth], properties: {"+size+", depth: {type: integer, default: 1}}")), widget("v1", "Widget", "size: 2")), "Widget", "", nil},
		"Required":    {"a required field that has none", one(widgets("Widget", version("v1", true, "required: [depth], properties: {"+size+", depth: {type: integer}}")), widget("v1", "Widget", "size: 2")), "Widget", protocol.PlanRefused, []string{"spec.depth: Required value"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			said := r.said(tc.files, tc.object)
			if said.Action != tc.action {
				t.Errorf("%s: %q with %q, want %q", tc.reason, said.Action, said.Message, tc.action)
			}
			for _, part := range tc.message {
				if !strings.Contains(said.Message, part) {
					t.Errorf("%s: said %q, want %q in it", tc.reason, said.Message, part)
				}
			}
		})
	}

	// And what was let through goes in.
	r.hub.want(cases["NewField"].files)
	r.until("the new field to be applied", func() bool { return r.settled(cases["NewField"].files) })
	// The new version comes in one commit, and is used in the next.
	both := one(twice, widget("v1", "Widget", "size: 2"))
	r.hub.want(both)
	r.until("the new version", func() bool { return r.settled(both) })
	next := cases["NewVersion"].files
	if c := r.said(next, "Widget"); c.Action != protocol.PlanChanged || !slices.Contains(c.Fields, "spec.count") {
		t.Errorf("an object that comes to the new version: %+v", c)
	}
	for _, spec := range []string{"count: two", "cuont: 2"} {
		if c := r.said(one(twice, widget("v2", "Widget", spec)), "Widget"); c.Action != protocol.PlanRefused || !strings.Contains(c.Message, "spec.c") {
			t.Errorf("one with %s: %+v", spec, c)
		}
	}
	r.hub.want(next)
	r.until("the object at the new version", func() bool { return r.settled(next) })
}
