package addons

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"

	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

// Type of a value.
type Type string

// Types of values. A duration is Go's (5s, 2m), a quantity Kubernetes' (10Gi).
const (
	TypeString   Type = "string"
	TypeInt      Type = "int"
	TypeBool     Type = "bool"
	TypeDuration Type = "duration"
	TypeQuantity Type = "quantity"
	TypeList     Type = "list"
	TypeMap      Type = "map"
)

// Value is one thing that the pillar can set, below the addon's name.
type Value struct {
	Type Type
	// Default is nil when the pillar must set the value.
	Default any
	Doc     string

	origin jinja.Origin
}

// loadValues reads the values in the order they are written in.
func (a *Addon) loadValues(root *yaml.Node) error {
	values := child(root, "values")
	if values == nil || values.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(values.Content); i += 2 {
		name, node := values.Content[i], values.Content[i+1]
		v, err := loadValue(a.file, name, node)
		if err != nil {
			return err
		}
		a.Values[name.Value] = v
		a.valueOf = append(a.valueOf, name.Value)
	}
	return nil
}

// valueRE is what a value's name looks like.
var valueRE = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_-]*$`)

func loadValue(file string, name, node *yaml.Node) (Value, error) {
	fail := func(n *yaml.Node, msg, hint string) (Value, error) {
		return Value{}, &strictyaml.Error{File: file, Line: n.Line, Msg: msg, Hint: hint}
	}
	if !valueRE.MatchString(name.Value) {
		return fail(name, fmt.Sprintf("the value's name %q is not valid", name.Value), "use letters, digits, - and _")
	}
	if node.Kind != yaml.MappingNode {
		return fail(node, fmt.Sprintf("the value %q is not a mapping", name.Value), "write {type: ..., default: ..., doc: ...}")
	}
	v := Value{origin: jinja.Origin{File: file, Line: name.Line}}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, n := node.Content[i], node.Content[i+1]
		switch key.Value {
		case "type":
			v.Type = Type(n.Value)
		case "doc":
			v.Doc = strings.Join(strings.Fields(n.Value), " ") // it is a hint in errors, which are one line
		case "default":
			def, err := (&pyyaml.Document{File: &pyyaml.File{Name: file, Output: jinja.Plain(nil)}, Root: n}).Value()
			if err != nil {
				return Value{}, err
			}
			v.Default, v.origin.Line = def, n.Line
		default:
			return fail(key, fmt.Sprintf("unknown field %q of the value %q", key.Value, name.Value), "known are type, default and doc")
		}
	}
	if !slices.Contains([]Type{TypeString, TypeInt, TypeBool, TypeDuration, TypeQuantity, TypeList, TypeMap}, v.Type) {
		return fail(name, fmt.Sprintf("the type %q of the value %q is not known", v.Type, name.Value), "known are string, int, bool, duration, quantity, list and map")
	}
	if v.Doc == "" {
		return fail(name, fmt.Sprintf("the value %q has no doc", name.Value), "say what it does")
	}
	if v.Default != nil {
		if problem := v.Type.problem(v.Default); problem != "" {
			return fail(name, fmt.Sprintf("the default of %q is %s", name.Value, problem), "")
		}
	}
	return v, nil
}

func child(n *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(n.Content); i += 2 {
		if n.Content[i].Value == key {
			return n.Content[i+1]
		}
	}
	return nil
}

// problem says what is wrong with v for the type; empty when nothing is.
func (t Type) problem(v any) string {
	s, isString := v.(string)
	ok := false
	switch t {
	case TypeString:
		ok = isString
	case TypeInt:
		_, ok = v.(int64)
	case TypeBool:
		_, ok = v.(bool)
	case TypeList:
		_, ok = v.([]any)
	case TypeMap:
		_, ok = v.(*jinja.Map)
	case TypeDuration:
		if d, err := time.ParseDuration(s); isString && (err != nil || d < 0) {
			return fmt.Sprintf("%q, which is not a duration such as 5s or 2m", s)
		}
		ok = isString
	case TypeQuantity:
		if _, err := resource.ParseQuantity(s); isString && err != nil {
			return fmt.Sprintf("%q, which is not a quantity such as 10Gi", s)
		}
		_, isInt := v.(int64)
		ok = isString || isInt
	}
	if ok {
		return ""
	}
	article := "a"
	if t == TypeInt {
		article = "an"
	}
	return fmt.Sprintf("%s, not %s %s", describe(v), article, t)
}

func describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "empty"
	case []any:
		return "a list"
	case *jinja.Map:
		return "a map"
	case string:
		return fmt.Sprintf("the string %q", v)
	default:
		return fmt.Sprintf("%v", v)
	}
}

// Reserved is the pillar key that the renderer fills, with each addon's version and images.
const Reserved = "addons"

// Complete lays a cluster's pillar over the addons' defaults and adds each
// addon's version and images below [Reserved]: what templates see. It refuses
// values that an addon does not know, or of the wrong type.
func Complete(pillar *jinja.Map, bundle []*Addon) (*jinja.Map, error) {
	var errs []error
	if pillar.Origin(Reserved).File != "" {
		errs = append(errs, fault(pillar.Origin(Reserved), "the pillar key \"addons\" is the renderer's own", "set values below the addon's name"))
	}
	defaults, facts := jinja.NewMap(), jinja.NewMap()
	for _, a := range bundle {
		values := jinja.NewMap()
		for _, name := range a.valueOf {
			if v := a.Values[name]; v.Default != nil {
				values.Set(name, v.Default, v.origin)
			}
		}
		origin := jinja.Origin{File: a.file, Line: a.lines["values"]}
		defaults.Set(a.Name, values, origin)
		images := jinja.NewMap()
		for _, name := range a.imageOf {
			images.Set(name, a.Images[name], origin)
		}
		fact := jinja.NewMap()
		fact.Set("version", a.Version.String(), origin)
		fact.Set("images", images, origin)
		facts.Set(a.Name, fact, origin)
		if err := a.checkPillar(pillar); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	out := jinja.Merge(defaults, pillar)
	out.Set(Reserved, facts, jinja.Origin{})
	return out, nil
}

func fault(o jinja.Origin, msg, hint string) error {
	return &strictyaml.Error{File: o.File, Line: o.Line, Msg: msg, Hint: hint}
}

// checkPillar checks what a pillar sets below the addon's name.
func (a *Addon) checkPillar(pillar *jinja.Map) error {
	set := jinja.NewMap()
	if v, ok := pillar.Get(a.Name); ok {
		m, ok := v.(*jinja.Map)
		if !ok {
			return fault(pillar.Origin(a.Name), fmt.Sprintf("the values of %s are %s, not a map", a.Name, describe(v)), "write name: value below it")
		}
		set = m
	}
	var errs []error
	for _, name := range set.Keys() {
		v, _ := set.Get(name)
		value, ok := a.Values[name]
		if !ok {
			errs = append(errs, fault(set.Origin(name), fmt.Sprintf("%s has no value %q", a.Name, name), "known are "+a.known()))
			continue
		}
		if problem := value.Type.problem(v); problem != "" {
			errs = append(errs, fault(set.Origin(name), fmt.Sprintf("%s:%s is %s", a.Name, name, problem), value.Doc))
		}
	}
	for _, name := range a.valueOf {
		if _, ok := set.Get(name); !ok && a.Values[name].Default == nil {
			errs = append(errs, fault(a.Values[name].origin, fmt.Sprintf("%s:%s has no default and the pillar does not set it", a.Name, name), "set it in salt/pillar: "+a.Values[name].Doc))
		}
	}
	return errors.Join(errs...)
}

func (a *Addon) known() string {
	if len(a.valueOf) == 0 {
		return "none"
	}
	return strings.Join(slices.Sorted(slices.Values(a.valueOf)), ", ")
}
