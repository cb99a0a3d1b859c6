package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions"
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/install"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	structuralschema "k8s.io/apiextensions-apiserver/pkg/apiserver/schema"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/cel"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/defaulting"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/listtype"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/objectmeta"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/schema/pruning"
	"k8s.io/apiextensions-apiserver/pkg/apiserver/validation"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	celconfig "k8s.io/apiserver/pkg/apis/cel"
)

// brought is what a bundle makes possible, or impossible, that was not before.
type brought struct {
	namespaces map[string]bool
	// definitions by Kind.group, but for those that the API server has as the bundle
	// has them: of these it knows best itself.
	definitions map[string]*definition
}

// definition is one with its versions as they are compiled, each once and when an
// object needs it: rules of a large schema take a while, and objects are tried at once.
type definition struct {
	*apiextensions.CustomResourceDefinition
	versions map[string]func() (*compiled, error)
}

// compiled is what judges objects of a version; it may be used by many at once.
type compiled struct {
	schema    *structuralschema.Structural
	validator validation.SchemaValidator
	rules     *cel.Validator
}

func newDefinition(crd *apiextensions.CustomResourceDefinition) *definition {
	d := &definition{crd, map[string]func() (*compiled, error){}}
	for _, v := range crd.Spec.Versions {
		d.versions[v.Name] = sync.OnceValues(func() (*compiled, error) { return compile(crd, v.Name) })
	}
	return d
}

// compile is nil when the version has no schema.
func compile(crd *apiextensions.CustomResourceDefinition, version string) (*compiled, error) {
	props, err := apiextensions.GetSchemaForVersion(crd, version)
	if err != nil || props == nil || props.OpenAPIV3Schema == nil {
		return nil, err
	}
	schema, err := structuralschema.NewStructural(props.OpenAPIV3Schema)
	if err != nil {
		return nil, err
	}
	validator, _, err := validation.NewSchemaValidator(props.OpenAPIV3Schema)
	if err != nil {
		return nil, err
	}
	return &compiled{schema, validator, cel.NewValidator(schema, true, celconfig.PerCallLimit)}, nil
}

// bringsOf looks through a bundle; stands are the digests that are applied, by addon.
// live reads what there is into an object with its kind and name.
func bringsOf(units []unit, stands map[string]string, live func(*unstructured.Unstructured) error) brought {
	b := brought{map[string]bool{}, map[string]*definition{}}
	for _, u := range units {
		for _, o := range u.objects {
			switch {
			case o.GetKind() == "Namespace":
				b.namespaces[o.GetName()] = true
			case o.GetKind() == "CustomResourceDefinition" && stands[u.name] != u.digest:
				// The API server says of one that cannot be read what is wrong with it.
				if crd, err := readDefinition(o); err == nil && !defined(crd, o, live) {
					b.definitions[crd.Spec.Names.Kind+"."+crd.Spec.Group] = newDefinition(crd)
				}
			}
		}
	}
	return b
}

// defined is true when the API server has the definition already: of an addon's new
// version often its labels alone are new. How versions are converted is not looked at.
func defined(crd *apiextensions.CustomResourceDefinition, o *unstructured.Unstructured, live func(*unstructured.Unstructured) error) bool {
	there := &unstructured.Unstructured{}
	there.SetGroupVersionKind(o.GroupVersionKind())
	there.SetName(o.GetName())
	if live(there) != nil {
		return false
	}
	has, err := readDefinition(there)
	if err != nil {
		return false
	}
	want, is := crd.Spec.DeepCopy(), has.Spec.DeepCopy()
	want.Conversion, is.Conversion = nil, nil
	return equality.Semantic.DeepEqual(want, is)
}

func (b brought) definition(o *unstructured.Unstructured) *definition {
	return b.definitions[o.GroupVersionKind().GroupKind().String()]
}

// comesFirst is true when the refusal may be only for what the bundle brings and
// the API server does not have yet: a namespace, a kind, or another schema of it.
func (b brought) comesFirst(err error, o *unstructured.Unstructured) bool {
	return b.definition(o) != nil && bySchema(err) && (!byAdmission(err) || b.defaults(o)) ||
		b.namespaces[o.GetNamespace()] && strings.Contains(err.Error(), fmt.Sprintf("namespaces %q not found", o.GetNamespace()))
}

// bySchema is true for a refusal that another schema of the kind could explain.
func bySchema(err error) bool {
	for cause := err; cause != nil; cause = errors.Unwrap(cause) {
		if meta.IsNoMatchError(cause) {
			return true
		}
	}
	// What does not fit the schema at all is an internal error to server-side apply
	// (structuredmerge.go of k8s.io/apimachinery).
	return apierrors.IsInvalid(err) || strings.Contains(err.Error(), "failed to create typed patch object")
}

// byAdmission is true for the refusal of an admission policy or a webhook, which is known
// by its words alone: by default its reason is Invalid, as that of a schema is
// (k8s.io/apiserver, pkg/admission/plugin: policy/validating/dispatcher.go and
// webhook/errors/statuserror.go). The schema that there is has taken the object by then.
func byAdmission(err error) bool {
	text := err.Error()
	return strings.Contains(text, "ValidatingAdmissionPolicy '") && strings.Contains(text, "' denied request: ") ||
		strings.Contains(text, "admission webhook ") && strings.Contains(text, " denied the request")
}

// defaults is true when the definition that the bundle brings would add to the object,
// so that a policy sees another than it does now.
func (b brought) defaults(o *unstructured.Unstructured) bool {
	made := b.definition(o).versions[o.GroupVersionKind().Version]
	if made == nil {
		return false
	}
	c, err := made()
	if err != nil || c == nil {
		return err != nil
	}
	whole := o.DeepCopy().Object
	defaulting.Default(whole, c.schema)
	return !equality.Semantic.DeepEqual(whole, o.Object)
}

func readDefinition(o *unstructured.Unstructured) (*apiextensions.CustomResourceDefinition, error) {
	data, err := json.Marshal(o.Object)
	if err != nil {
		return nil, err
	}
	var given apiextensionsv1.CustomResourceDefinition
	if err := json.Unmarshal(data, &given); err != nil {
		return nil, err
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	scheme.Default(&given)
	crd := &apiextensions.CustomResourceDefinition{}
	return crd, scheme.Convert(&given, crd, nil)
}

// fits is an error when the API server would refuse the object once it has the
// definition that the bundle brings, as its own handler of custom resources does.
// o is the object of the bundle, live what there is under its name (nil for
// nothing), and whole what o makes of live, or o itself when that is not known: then
// a required field that somebody else owns counts as missing. Webhooks and
// admission policies are not asked: the API server's own dry run is, as long as the
// schema that there is takes the object.
func (b brought) fits(ctx context.Context, o, live, whole *unstructured.Unstructured) error {
	d := b.definition(o)
	if d == nil {
		return nil
	}
	crd, version := d.CustomResourceDefinition, o.GroupVersionKind().Version
	if !apiextensions.HasServedCRDVersion(crd, version) {
		return refusedBy(crd, fmt.Errorf("it does not serve version %s", version))
	}
	if namespaced := crd.Spec.Scope == apiextensions.NamespaceScoped; namespaced != (o.GetNamespace() != "") {
		return refusedBy(crd, fmt.Errorf("metadata.namespace is %q, and its scope is %s", o.GetNamespace(), crd.Spec.Scope))
	}
	made, err := d.versions[version]()
	if err != nil {
		return refusedBy(crd, err)
	}
	if made == nil {
		return nil
	}
	schema := made.schema
	// Only of o are unknown fields a mistake: whole has those that were dropped, too.
	unknown := pruning.PruneWithOptions(o.DeepCopy().Object, schema, true, structuralschema.UnknownFieldPathOptions{TrackUnknownFieldPaths: true})
	slices.Sort(unknown)
	var errs []error
	for _, path := range unknown {
		errs = append(errs, fmt.Errorf("%s: unknown field", path))
	}
	after := stored(crd, version, schema, whole)
	var before any
	if live != nil {
		before = stored(crd, version, schema, live)
	}
	var faults field.ErrorList
	faults = append(faults, validation.ValidateCustomResource(nil, after, made.validator)...)
	faults = append(faults, objectmeta.Validate(nil, after, schema, false)...)
	faults = append(faults, listtype.ValidateListSetsAndMaps(nil, schema, after)...)
	if made.rules != nil && len(faults) == 0 {
		faults, _ = made.rules.Validate(ctx, nil, schema, after, before, celconfig.RuntimeCELCostBudget)
	}
	for _, f := range faults {
		errs = append(errs, f)
	}
	return refusedBy(crd, errors.Join(errs...))
}

// stored is the object as the API server would validate it: without what the
// schema does not know, and with its defaults. The status is others' to write.
func stored(crd *apiextensions.CustomResourceDefinition, version string, schema *structuralschema.Structural, o *unstructured.Unstructured) map[string]any {
	obj := o.DeepCopy().Object
	if sub, err := apiextensions.GetSubresourcesForVersion(crd, version); err == nil && sub != nil && sub.Status != nil {
		delete(obj, "status")
	}
	pruning.Prune(obj, schema, true)
	defaulting.PruneNonNullableNullsWithoutDefaults(obj, schema)
	defaulting.Default(obj, schema)
	return obj
}

func refusedBy(crd *apiextensions.CustomResourceDefinition, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the CustomResourceDefinition %s of the same bundle does not take it: %w", crd.Name, err)
}
