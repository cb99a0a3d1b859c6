package addons

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/api/resource"

	"holdfast.dev/internal/strictyaml"
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
	Default *yaml.Node
	Doc     string
	// Format names what the content of a map must be beside its type: one of Formats; empty when it may be any.
	Format string
	// Line is where the value is written.
	Line int
}

// Formats of maps, which the renderer checks as the program does that reads them.
const (
	FormatThresholds = "disk-thresholds" // monitor/verdict
	FormatSmartctl   = "smartctl-disks"  // monitor/smart
)

// Formats are all of them.
var Formats = []string{FormatThresholds, FormatSmartctl}

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
		a.ValueNames = append(a.ValueNames, name.Value)
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
	v := Value{Line: name.Line}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, n := node.Content[i], node.Content[i+1]
		switch key.Value {
		case "type":
			v.Type = Type(n.Value)
		case "doc":
			v.Doc = strings.Join(strings.Fields(n.Value), " ") // it is a hint in errors, which are one line
		case "format":
			v.Format = n.Value
		case "default":
			if n.ShortTag() != "!!null" {
				v.Default = n
			}
		default:
			return fail(key, fmt.Sprintf("unknown field %q of the value %q", key.Value, name.Value), "known are type, format, default and doc")
		}
	}
	if !slices.Contains([]Type{TypeString, TypeInt, TypeBool, TypeDuration, TypeQuantity, TypeList, TypeMap}, v.Type) {
		return fail(name, fmt.Sprintf("the type %q of the value %q is not known", v.Type, name.Value), "known are string, int, bool, duration, quantity, list and map")
	}
	if v.Format != "" && (v.Type != TypeMap || !slices.Contains(Formats, v.Format)) {
		return fail(name, fmt.Sprintf("the format %q of the value %q is not known", v.Format, name.Value), "known are "+strings.Join(Formats, " and ")+", of a map")
	}
	if v.Doc == "" {
		return fail(name, fmt.Sprintf("the value %q has no doc", name.Value), "say what it does")
	}
	if v.Default != nil {
		if problem := v.Type.Problem(shallow(v.Default)); problem != "" {
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

// mapping is what the type map demands of a value.
type mapping interface{ Keys() []string }

// anyMap stands for a map whose content does not matter.
type anyMap struct{}

func (anyMap) Keys() []string { return nil }

// shallow is the value of a node as [Type.Problem] takes it: only its type
// matters, so a number out of range may be any number here. What is rendered
// is the node itself.
func shallow(n *yaml.Node) any {
	switch {
	case n.Kind == yaml.AliasNode:
		return shallow(n.Alias)
	case n.Kind == yaml.SequenceNode:
		return []any{}
	case n.Kind == yaml.MappingNode:
		return anyMap{}
	case n.ShortTag() == "!!int":
		i, _ := strconv.ParseInt(n.Value, 0, 64)
		return i
	case n.ShortTag() == "!!bool":
		return n.Value == "true"
	case n.ShortTag() == "!!float":
		f, _ := strconv.ParseFloat(n.Value, 64)
		return f
	}
	return n.Value
}

// Problem says what is wrong with v for the type; empty when nothing is. A value
// is nil, bool, int64, float64, string, []any, or for a map anything with Keys.
func (t Type) Problem(v any) string {
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
		_, ok = v.(mapping)
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
	return fmt.Sprintf("%s, not %s %s", Describe(v), article, t)
}

// Describe names a value in an error.
func Describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "empty"
	case []any:
		return "a list"
	case mapping:
		return "a map"
	case string:
		return fmt.Sprintf("the string %q", v)
	default:
		return fmt.Sprintf("%v", v)
	}
}
