package render

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	serializer "k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/validation"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	kjson "sigs.k8s.io/json"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/secretscan"
)

// known are the kinds that objects are decoded strictly against.
var known = sync.OnceValues(func() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	return s, errors.Join(clientscheme.AddToScheme(s), apiextensionsv1.AddToScheme(s), v1alpha1.AddToScheme(s))
})

// check refuses what the API server would refuse, as far as that can be told
// without one, and what no addon may bring.
func (o *object) check() error {
	sealed, faults := secretscan.Sealed(o.doc.Root)
	if len(faults) > 0 {
		return o.fault(faults[0].Node, faults[0].Msg, faults[0].Hint)
	}
	secret := o.gvk.Group == "" && o.gvk.Kind == "Secret"
	if secret && !sealed && (len(asMap(o.value["data"])) > 0 || len(asMap(o.value["stringData"])) > 0) {
		return o.fault(nil, "holds data", "no secret belongs in git: refer to one that is made in the cluster, or encrypt it with SOPS")
	}
	o.sealed = secret && sealed
	if err := o.decode(); err != nil {
		return err
	}
	metadata := child(o.doc.Root, "metadata")
	if err := o.checkName(child(metadata, "name")); err != nil {
		return err
	}
	if o.gvk.Group == "" && o.gvk.Kind == "Namespace" && slices.Contains(ownNamespaces, o.name) {
		return o.fault(nil, "is Kubernetes' own namespace", "use a namespace of the addon's own: what an addon brings can be pruned with it")
	}
	if err := o.checkMode(); err != nil {
		return err
	}
	switch scope := o.scope(); {
	case scope == namespaced && o.namespace == "":
		return o.fault(metadata, "has no metadata.namespace", "write namespace: holdfast-system")
	case scope == clusterWide && o.namespace != "":
		return o.fault(child(metadata, "namespace"), "has a namespace, which its kind cannot have", "remove it")
	}
	return nil
}

// checkMode refuses a mode that kube-addon-manager, or the agent, would not know.
func (o *object) checkMode() error {
	metadata := asMap(o.value["metadata"])
	if _, there := asMap(metadata["annotations"])[v1alpha1.LabelAddonMode]; there {
		return o.fault(find(o.doc.Root, "metadata.annotations."+v1alpha1.LabelAddonMode), "has its mode as an annotation", "make "+v1alpha1.LabelAddonMode+" a label")
	}
	mode, there := asMap(metadata["labels"])[v1alpha1.LabelAddonMode]
	if there && mode != v1alpha1.ModeReconcile && mode != v1alpha1.ModeEnsureExists {
		return o.fault(find(o.doc.Root, "metadata.labels."+v1alpha1.LabelAddonMode), fmt.Sprintf("has the mode %q", mode), "write EnsureExists, to have it made and left alone, or Reconcile")
	}
	return nil
}

// rbacNameRE is what the names of RBAC objects may be beyond other names, as far
// as anyone uses it.
var rbacNameRE = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9:._-]{0,252}$`)

func (o *object) checkName(n *yaml.Node) error {
	if o.gvk.Group == "rbac.authorization.k8s.io" {
		if !rbacNameRE.MatchString(o.name) {
			return o.fault(n, "has a name that is not valid", "use letters, digits, -, _, . and :")
		}
		return nil
	}
	if len(validation.IsDNS1123Subdomain(o.name)) > 0 {
		return o.fault(n, "has a name that is not valid", "use lower-case letters, digits, - and .")
	}
	return nil
}

// ownNamespaces are those that every cluster begins with.
var ownNamespaces = []string{"default", "kube-system", "kube-public", "kube-node-lease"}

func asMap(v any) map[string]any { m, _ := v.(map[string]any); return m }

// decode decodes the object strictly: as its kind if it is a known one, else its
// metadata only.
func (o *object) decode() error {
	err := o.tryDecode()
	switch {
	case err == nil:
		return nil
	case runtime.IsNotRegisteredError(err):
		return o.fault(child(o.doc.Root, "apiVersion"), fmt.Sprintf("is of a kind that %s does not have", o.gvk.GroupVersion()), "correct apiVersion or kind")
	}
	if strict, ok := runtime.AsStrictDecodingError(err); ok {
		msg := strict.Errors()[0].Error()
		if m := fieldRE.FindStringSubmatch(msg); m != nil {
			return o.fault(find(o.doc.Root, m[2]), fmt.Sprintf("has the %s field %q", m[1], m[2]), "check its spelling and indentation")
		}
		return o.fault(nil, "does not decode: "+msg, "")
	}
	return o.fault(o.narrow(err.Error()), "does not decode: "+decodeMessage(err), "correct the value")
}

// fieldRE reads the errors of a strict decoding (sigs.k8s.io/json).
var fieldRE = regexp.MustCompile(`^(unknown|duplicate) field "(.+)"$`)

func decodeMessage(err error) string {
	var t *json.UnmarshalTypeError
	if errors.As(err, &t) {
		return fmt.Sprintf("%s must be %s, not %s", t.Field, typeWords(t.Type.String()), t.Value)
	}
	return strings.Join(strings.Fields(err.Error()), " ")
}

// typeWords names a Go type for a person who writes YAML.
func typeWords(t string) string {
	switch {
	case strings.HasPrefix(t, "int"), strings.HasPrefix(t, "uint"):
		return "an integer"
	case t == "bool":
		return "true or false"
	case t == "string":
		return "a string"
	case strings.HasPrefix(t, "[]"):
		return "a list"
	}
	return "a mapping (" + t + ")"
}

func (o *object) tryDecode() error {
	s, err := known()
	if err != nil {
		return err
	}
	if !s.IsGroupRegistered(o.gvk.Group) || o.sealed {
		return o.tryMetadata()
	}
	data, err := json.Marshal(o.value)
	if err != nil {
		return err
	}
	codec := serializer.NewSerializerWithOptions(serializer.DefaultMetaFactory, s, s, serializer.SerializerOptions{Strict: true})
	_, _, err = codec.Decode(data, nil, nil)
	return err
}

// tryMetadata decodes the metadata of a kind that is not known here, or that is one
// only when it is decrypted.
func (o *object) tryMetadata() error {
	data, err := json.Marshal(map[string]any{"metadata": o.value["metadata"]})
	if err != nil {
		return err
	}
	var into struct {
		Metadata metav1.ObjectMeta `json:"metadata"`
	}
	strict, err := kjson.UnmarshalStrict(data, &into)
	if err == nil && len(strict) > 0 {
		err = runtime.NewStrictDecodingError(strict)
	}
	return err
}

// narrow finds the deepest field without which the object no longer has the
// fault. The decoder itself tells neither list items nor, for quantities and
// the like, any field.
func (o *object) narrow(fault string) *yaml.Node {
	var found *yaml.Node
	for n := o.doc.Root; ; {
		step := 1
		if n.Kind == yaml.MappingNode {
			step = 2
		}
		var next *yaml.Node
		all := n.Content
		for i := 0; next == nil && i+step <= len(all); i += step {
			n.Content = slices.Concat(all[:i], all[i+step:])
			without := &object{doc: o.doc, file: o.file, gvk: o.gvk, sealed: o.sealed}
			if v, err := o.doc.Value(); err == nil {
				if m, ok := v.(interface{ Len() int }); ok && m.Len() > 0 {
					without.value, _ = goValue(v).(map[string]any)
				}
			}
			if err := without.tryDecode(); err == nil || err.Error() != fault && !runtime.IsMissingKind(err) && !runtime.IsMissingVersion(err) {
				next, found = all[i+step-1], all[i]
			}
		}
		n.Content = all
		if next == nil {
			return found
		}
		n = next
	}
}

// find finds the key of a.b[0].c in a document. Keys of maps may have dots.
func find(n *yaml.Node, field string) *yaml.Node {
	var found *yaml.Node
	for field != "" && n != nil {
		switch n.Kind {
		case yaml.SequenceNode:
			var i int
			if _, err := fmt.Sscanf(field, "[%d]", &i); err != nil || i >= len(n.Content) {
				return found
			}
			_, field, _ = strings.Cut(field, "]")
			n = n.Content[i]
			found = n
		case yaml.MappingNode:
			var next *yaml.Node
			best := ""
			for i := 0; i+1 < len(n.Content); i += 2 {
				k := n.Content[i]
				if rest, ok := strings.CutPrefix(field, k.Value); ok && len(k.Value) > len(best) && (rest == "" || rest[0] == '.' || rest[0] == '[') {
					best, found, next = k.Value, k, n.Content[i+1]
				}
			}
			if next == nil {
				return found
			}
			field, n = field[len(best):], next
		default:
			return found
		}
		field = strings.TrimPrefix(field, ".")
	}
	return found
}

// child returns the value of a key of a mapping, or nil.
func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; n != nil && n.Kind == yaml.MappingNode && i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}
