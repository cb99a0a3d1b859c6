package agent_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

// sequenceWorld is what the sequences of a lane are about: at most three addons with
// at most four objects each, out of a few names, so that objects move between addons.
// An object is named KIND/NAME.
type sequenceWorld struct {
	lane    string
	rng     *rand.Rand
	version int
	addons  map[string]map[string]string // by addon, values by object
	foreign map[string]types.UID         // other people's objects
	widgets bool                         // the lane's own kind Widget is served
}

func (w *sequenceWorld) edit() {
	w.version++
	names := []string{w.lane + "-one", w.lane + "-two", w.lane + "-three"}
	if a := names[w.rng.IntN(3)]; w.addons[a] == nil || len(w.addons) > 1 && w.rng.IntN(3) == 0 {
		if w.addons[a] != nil {
			delete(w.addons, a)
		} else {
			w.addons[a] = map[string]string{}
		}
	}
	for _, a := range slices.Sorted(maps.Keys(w.addons)) { // sorted: what happens depends on the seed alone
		for range 1 + w.rng.IntN(3) {
			o := fmt.Sprintf("%s/seq-%d", []string{"ConfigMap", "ServiceAccount", "Role", "Widget"}[w.rng.IntN(4)], w.rng.IntN(3))
			keep := w.rng.IntN(3) > 0
			if _, taken := w.foreign[o]; taken || strings.HasPrefix(o, "Widget") && !w.widgets {
				continue
			}
			for other := range w.addons {
				delete(w.addons[other], o) // it moves
			}
			if keep {
				w.addons[a][o] = strconv.Itoa(w.version)
			}
		}
	}
	for a := range w.addons { // an addon has one object at least
		w.addons[a]["ConfigMap/own-"+a] = strconv.Itoa(w.version)
	}
}

// object is one of the kinds that occur, with a value.
func (w *sequenceWorld) object(o, value string) *unstructured.Unstructured {
	kind, name, _ := strings.Cut(o, "/")
	u := &unstructured.Unstructured{Object: map[string]any{"metadata": map[string]any{"name": name, "namespace": w.lane}}}
	u.SetAPIVersion(map[string]string{"ConfigMap": "v1", "ServiceAccount": "v1", "Role": "rbac.authorization.k8s.io/v1", "Widget": w.group() + "/v1"}[kind])
	u.SetKind(kind)
	if kind == "ConfigMap" {
		u.Object["data"] = map[string]any{"value": value}
	} else {
		u.SetAnnotations(map[string]string{"value": value})
	}
	return u
}

func valueOf(u *unstructured.Unstructured) string {
	value, _, _ := unstructured.NestedString(u.Object, "data", "value")
	return value + u.GetAnnotations()["value"]
}

// bundle renders what is wanted now; every addon has a new version.
func (w *sequenceWorld) bundle(t *testing.T) map[string][]byte {
	t.Helper()
	addons := map[string]addon{}
	for a, objects := range w.addons {
		manifests := map[string]string{}
		for o, value := range objects {
			data, err := json.Marshal(w.object(o, value).Object)
			if err != nil {
				t.Fatal(err)
			}
			manifests[strings.ToLower(strings.ReplaceAll(o, "/", "-"))+".yaml"] = string(data)
		}
		addons[a] = addon{fmt.Sprintf("0.1.%d", w.version), manifests}
	}
	return bundle(t, w.lane, addons)
}

func (w *sequenceWorld) group() string { return w.lane + ".example.com" }

func (w *sequenceWorld) widgetCRD() *unstructured.Unstructured {
	return &unstructured.Unstructured{Object: map[string]any{"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
		"metadata": map[string]any{"name": "widgets." + w.group()}, "spec": map[string]any{
			"group": w.group(), "scope": "Namespaced",
			"names": map[string]any{"kind": "Widget", "plural": "widgets", "singular": "widget", "listKind": "WidgetList"},
			"versions": []any{map[string]any{"name": "v1", "served": true, "storage": true,
				"schema": map[string]any{"openAPIV3Schema": map[string]any{"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}}}
}

const foreignWidget = "Widget/foreign"

// serveWidgets makes the kind, or takes it away as a person would.
func (w *sequenceWorld) serveWidgets(r *rig, served bool) {
	r.t.Helper()
	w.widgets = served
	crd := w.widgetCRD()
	if served {
		if err := r.c.Create(r.t.Context(), crd); err != nil && !apierrors.IsAlreadyExists(err) {
			r.t.Fatal(err)
		}
		var err error
		r.untilWithin(sequenceTimeout, "the kind", func() bool { err = w.make(r, foreignWidget, nil); return err == nil }, func() string { return fmt.Sprint(err) })
		return
	}
	if err := r.c.Delete(r.t.Context(), crd); err != nil {
		r.t.Fatal(err)
	}
	maps.DeleteFunc(w.foreign, func(o string, _ types.UID) bool { return strings.HasPrefix(o, "Widget/") })
	r.untilWithin(sequenceTimeout, "the end of the kind", func() bool {
		return apierrors.IsNotFound(r.c.Get(r.t.Context(), client.ObjectKeyFromObject(crd), w.widgetCRD())) && w.list(r, "Widget", func(*unstructured.Unstructured) {}) != nil
	}, nothing)
	for _, objects := range w.addons {
		maps.DeleteFunc(objects, func(o, _ string) bool { return strings.HasPrefix(o, "Widget/") })
	}
}

// make makes an object that is not an addon's, whatever its labels say.
func (w *sequenceWorld) make(r *rig, o string, labels map[string]string) error {
	u := w.object(o, "mine")
	u.SetLabels(labels)
	err := r.c.Create(r.t.Context(), u)
	if apierrors.IsAlreadyExists(err) { // the lane's sequences before made it
		err = r.c.Get(r.t.Context(), client.ObjectKeyFromObject(u), u)
	}
	if err == nil {
		w.foreign[o] = u.GetUID()
	}
	return err
}

// makeForeign makes other people's objects, some of which only look like the addons',
// with their labels, but are in nobody's inventory.
func (w *sequenceWorld) makeForeign(r *rig) {
	r.t.Helper()
	for o, labels := range map[string]map[string]string{
		"ConfigMap/foreign-0": nil, "ConfigMap/foreign-1": {v1alpha1.LabelAddon: w.lane + "-one", v1alpha1.LabelAddonMode: "Reconcile"},
		"ConfigMap/foreign-2": {v1alpha1.LabelAddon: "gone"}, "Role/foreign": {v1alpha1.LabelAddon: w.lane + "-two"},
	} {
		if err := w.make(r, o, labels); err != nil {
			r.t.Fatal(err)
		}
	}
}

// drop takes an object out of what is wanted, for a person to take its name; empty
// when there is none to take.
func (w *sequenceWorld) drop() string {
	var all []string
	for _, objects := range w.addons {
		for o := range objects {
			if strings.Contains(o, "/seq-") {
				all = append(all, o)
			}
		}
	}
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	o := all[w.rng.IntN(len(all))]
	for _, objects := range w.addons {
		delete(objects, o)
	}
	return o
}

// replace is a person who makes an object of their own under a name that was an
// addon's; the agent must not be running with a bundle that has it.
func (w *sequenceWorld) replace(r *rig, o string) {
	r.t.Helper()
	err := client.IgnoreNotFound(r.c.Delete(r.t.Context(), w.object(o, "")))
	if err == nil {
		err = w.make(r, o, nil)
	}
	if err != nil {
		r.t.Fatal(err)
	}
}

// forget deletes an AddonStatus, the inventory with it, or all of them; false when there
// is none. The agent must not be running.
func (w *sequenceWorld) forget(r *rig) bool {
	r.t.Helper()
	list, err := w.statuses(r.t.Context(), r.c)
	if err != nil {
		r.t.Fatal(err)
	}
	some := list
	if n := len(list); n > 0 && w.rng.IntN(3) > 0 {
		i := w.rng.IntN(n)
		some = list[i : i+1]
	}
	for i := range some {
		if err := client.IgnoreNotFound(r.c.Delete(r.t.Context(), &some[i])); err != nil {
			r.t.Fatal(err)
		}
	}
	return len(some) > 0
}

// giveBack is the person who deletes such objects again.
func (w *sequenceWorld) giveBack(r *rig) {
	r.t.Helper()
	for o := range w.foreign {
		if !strings.Contains(o, "/seq-") {
			continue
		}
		if err := client.IgnoreNotFound(r.c.Delete(r.t.Context(), w.object(o, ""))); err != nil {
			r.t.Fatal(err)
		}
		delete(w.foreign, o)
	}
}

func (w *sequenceWorld) kinds() []string {
	kinds := []string{"ConfigMap", "ServiceAccount", "Role"}
	if w.widgets {
		kinds = append(kinds, "Widget")
	}
	return kinds
}

func (w *sequenceWorld) list(r *rig, kind string, each func(*unstructured.Unstructured)) error {
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(w.object(kind+"/", "").GroupVersionKind())
	if err := r.c.List(r.t.Context(), list, client.InNamespace(w.lane)); err != nil {
		return err
	}
	for i := range list.Items {
		each(&list.Items[i])
	}
	return nil
}

// live is what the API server has with the label of an addon, as addons is, less the
// foreign objects, which must be what they were at any time.
func (w *sequenceWorld) live(r *rig, story string) (map[string]map[string]string, error) {
	out, foreign := map[string]map[string]string{}, maps.Clone(w.foreign)
	for _, kind := range w.kinds() {
		err := w.list(r, kind, func(u *unstructured.Unstructured) {
			o := kind + "/" + u.GetName()
			if uid, ok := w.foreign[o]; ok {
				if u.GetUID() == uid && u.GetDeletionTimestamp() == nil && valueOf(u) == "mine" {
					delete(foreign, o)
				}
				return
			}
			a := u.GetLabels()[v1alpha1.LabelAddon]
			if a == "" {
				return
			}
			if out[a] == nil {
				out[a] = map[string]string{}
			}
			out[a][o] = valueOf(u)
		})
		if err != nil {
			return nil, err
		}
	}
	if len(foreign) > 0 {
		r.t.Fatalf("after %s: foreign objects are gone or changed: %v", story, slices.Sorted(maps.Keys(foreign)))
	}
	return out, nil
}

// clean deletes what is left, for the lane's next sequences.
func (w *sequenceWorld) clean(r *rig) error {
	ctx := context.WithoutCancel(r.t.Context())
	for _, kind := range w.kinds() {
		u := w.object(kind+"/", "")
		if err := r.c.DeleteAllOf(ctx, u, client.InNamespace(w.lane), client.HasLabels{v1alpha1.LabelAddon}); err != nil {
			return err
		}
	}
	for o := range w.foreign {
		if err := client.IgnoreNotFound(r.c.Delete(ctx, w.object(o, ""))); err != nil {
			return err
		}
	}
	statuses, err := w.statuses(ctx, r.c)
	for _, st := range statuses {
		if err := client.IgnoreNotFound(r.c.Delete(ctx, &st)); err != nil {
			return err
		}
	}
	return err
}

// statuses are the lane's.
func (w *sequenceWorld) statuses(ctx context.Context, c client.Client) ([]v1alpha1.AddonStatus, error) {
	var list v1alpha1.AddonStatusList
	err := c.List(ctx, &list)
	return slices.DeleteFunc(list.Items, func(s v1alpha1.AddonStatus) bool { return !strings.HasPrefix(s.Name, w.lane+"-") }), err
}
