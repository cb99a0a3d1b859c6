package render

import (
	"fmt"
	"maps"
	"math"
	"strings"

	yamlv2 "go.yaml.in/yaml/v2"
	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"holdfast.dev/addons"
	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

// object is one Kubernetes object with the place it was written at.
type object struct {
	doc  *pyyaml.Document
	file *pyyaml.File
	// value is the object as JSON has it.
	value map[string]any

	gvk             schema.GroupVersionKind
	namespace, name string
	sealed          bool // a Secret that SOPS encrypted

	// Of an object that came out of kustomize: where it was written before, and
	// where a field that it did not have then was set.
	source     string
	sourceLine int
	patched    func(field string) (string, int)
}

// newObject reads what every object has: apiVersion, kind, name, namespace.
func newObject(d *pyyaml.Document) (*object, error) {
	o := &object{doc: d, file: d.File}
	v, err := d.Value()
	if err != nil {
		return nil, err
	}
	m, ok := v.(*jinja.Map)
	if !ok {
		return nil, d.File.Fault(d.Root, "the document is not an object", "write apiVersion, kind and metadata")
	}
	o.value, _ = goValue(m).(map[string]any)
	apiVersion, _ := o.value["apiVersion"].(string)
	kind, _ := o.value["kind"].(string)
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil || apiVersion == "" || kind == "" {
		return nil, d.File.Fault(d.Root, "the object has no apiVersion or no kind", "write both, such as apiVersion: apps/v1 and kind: DaemonSet")
	}
	o.gvk = gv.WithKind(kind)
	metadata, _ := o.value["metadata"].(map[string]any)
	o.name, _ = metadata["name"].(string)
	o.namespace, _ = metadata["namespace"].(string)
	if o.name == "" {
		return nil, d.File.Fault(d.Root, "the "+kind+" has no metadata.name", "give it one; generateName is not supported")
	}
	return o, nil
}

// goValue turns template values into what encoding/json makes.
func goValue(v any) any {
	switch v := v.(type) {
	case *jinja.Map:
		out := make(map[string]any, v.Len())
		for _, k := range v.Keys() {
			item, _ := v.Get(k)
			out[k] = goValue(item)
		}
		return out
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = goValue(v[i])
		}
		return out
	case float64: // in JSON 1.0 is 1
		switch {
		case v != math.Trunc(v):
		case v >= 0 && v < 1<<64:
			return uint64(v)
		case v < 0 && v >= -1<<63:
			return int64(v)
		}
	}
	return v
}

// id tells objects of one cluster apart.
func (o *object) id() string {
	kind := o.gvk.Kind
	if o.gvk.Group != "" {
		kind += "." + o.gvk.Group
	}
	return kind + " " + o.label()
}

// label is namespace/name.
func (o *object) label() string {
	if o.namespace == "" {
		return o.name
	}
	return o.namespace + "/" + o.name
}

// line is the template's line of a node, of the object itself when nil.
func (o *object) line(n *yaml.Node) int {
	if n == nil {
		n = o.doc.Root
	}
	return o.file.Line(n.Line)
}

// fault is an error of the object, at a node of it or, when nil, at its beginning.
func (o *object) fault(n *yaml.Node, msg, hint string) error {
	e := &strictyaml.Error{File: o.file.Name, Line: o.line(n), Msg: o.gvk.Kind + " " + o.label() + " " + msg, Hint: hint}
	if o.patched != nil {
		field := o.name
		if n != nil {
			field = n.Value
		}
		e.File, e.Line = o.patched(field)
	}
	return e
}

// canonical is the object as it stands in a bundle: marked as the addon's, keys
// sorted.
func (o *object) canonical(a *addons.Addon) (renderedObject, error) {
	value := maps.Clone(o.value) // it is other units', too
	metadata := maps.Clone(asMap(value["metadata"]))
	labels := maps.Clone(asMap(metadata["labels"]))
	if labels == nil {
		labels = map[string]any{}
	}
	value["metadata"], metadata["labels"] = metadata, labels
	labels[v1alpha1.LabelAddon] = a.Name
	labels[v1alpha1.LabelAddonVersion] = a.Version.String()
	if _, ok := labels[v1alpha1.LabelAddonMode]; !ok {
		labels[v1alpha1.LabelAddonMode] = v1alpha1.ModeReconcile
	}
	text, err := yamlv2.Marshal(value) // as sigs.k8s.io/yaml does, which goes through JSON first
	if err != nil {
		return renderedObject{}, fmt.Errorf("write %s: %w", o.id(), err)
	}
	return renderedObject{Path: o.path(a.Name), Text: text, ID: o.id(), File: o.source, Line: o.sourceLine}, nil
}

// path is where a bundle keeps the object.
func (o *object) path(addon string) string {
	kind := o.gvk.Kind
	if o.gvk.Group != "" {
		kind += "." + o.gvk.Group
	}
	return ObjectPath(addon, kind, o.namespace, o.name)
}

// ObjectPath is where a bundle keeps an object; kind is kind.group. A colon, which
// names of RBAC objects may have, is written as cli-utils writes it in object ids.
func ObjectPath(addon, kind, namespace, name string) string {
	return addon + "/" + strings.ToLower(kind) + "_" + namespace + "_" + strings.ReplaceAll(name, ":", "__") + ".yaml"
}
