package jinja

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// filterFunc is a filter's work on a defined value.
type filterFunc func(v any, a *given) (any, error)

// filters that are known. "default" also takes what is not defined.
var filters = map[string]filterFunc{
	"d":       nil,
	"default": nil,
	"indent":  filterIndent,
	"int":     filterInt,
	"join":    filterJoin,
	"json":    filterJSON,
	"length":  filterLength,
	"lower":   onText(strings.ToLower),
	"replace": filterReplace,
	"trim":    onText(func(s string) string { return strings.Trim(s, whitespace) }),
	"upper":   onText(strings.ToUpper),
	"yaml":    filterYAML,
}

const filterNames = "default, indent, int, join, json, length, lower, replace, trim, upper and yaml"

// given are a filter's or method's arguments, taken one by one by position or name.
type given struct {
	what  string
	args  []any
	named map[string]any
	used  int
}

// take returns the next argument, or def. An argument without default is required.
func (g *given) take(name string, def any) any {
	if g.used < len(g.args) {
		g.used++
		return g.args[g.used-1]
	}
	if v, ok := g.named[name]; ok {
		delete(g.named, name)
		return v
	}
	return def
}

func (g *given) done() error {
	for name := range g.named {
		return Fault(fmt.Sprintf("%s has no argument %q", g.what, name), "")
	}
	if g.used < len(g.args) {
		return Fault(fmt.Sprintf("%s takes at most %d arguments", g.what, g.used), "")
	}
	return nil
}

func (r *run) filter(e filterExpr) (any, error) {
	v, err := r.eval(e.target)
	if err != nil {
		return nil, err
	}
	args, named, err := r.arguments(e.args)
	if err != nil {
		return nil, err
	}
	g := &given{what: "the filter " + e.name, args: args, named: named}
	var out any
	if f := filters[e.name]; f == nil {
		out, err = filterDefault(v, g)
	} else {
		if u, ok := v.(undefined); ok {
			return nil, r.fault(e.at(), u.what+" is not defined", u.hint)
		}
		out, err = f(v, g)
	}
	if err == nil {
		err = g.done()
	}
	if err != nil {
		return nil, r.place(e.at(), err)
	}
	return out, nil
}

func filterDefault(v any, g *given) (any, error) {
	def, falsy := g.take("default_value", ""), g.take("boolean", false)
	if _, ok := v.(undefined); ok {
		return def, nil
	}
	if falsy == true {
		ok, err := truth(v)
		if err != nil || !ok {
			return def, err
		}
	}
	return v, nil
}

func onText(f func(string) string) filterFunc {
	return func(v any, _ *given) (any, error) {
		s, err := text(v)
		return f(s), err
	}
}

// filterIndent is jinja2.filters.do_indent with first and blank false.
func filterIndent(v any, g *given) (any, error) {
	s, ok := v.(string)
	width, isInt := g.take("width", int64(4)).(int64)
	first, blank := g.take("first", false), g.take("blank", false)
	if !ok || !isInt || width < 0 || width > 200 {
		return nil, Fault("indent needs a string and a width", "use | json or | yaml before it")
	}
	pad := strings.Repeat(" ", int(width))
	lines := strings.Split(s, "\n")
	for i := range lines {
		if i == 0 && first == true || i > 0 && (lines[i] != "" || blank == true) {
			lines[i] = pad + lines[i]
		}
	}
	return strings.Join(lines, "\n"), nil
}

func filterInt(v any, _ *given) (any, error) {
	switch v := v.(type) {
	case int64:
		return v, nil
	case string:
		if n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64); err == nil {
			return n, nil
		}
		return nil, Fault(strconv.Quote(v)+" is not an integer", "")
	}
	return nil, Fault(typeName(v)+" is not an integer", "")
}

func filterJoin(v any, g *given) (any, error) {
	sep, ok := g.take("d", "").(string)
	list, isList := v.([]any)
	if !ok || !isList {
		return nil, Fault("join needs a list and a string, not "+typeName(v), "")
	}
	parts := make([]string, len(list))
	for i, item := range list {
		var err error
		if parts[i], err = text(item); err != nil {
			return nil, err
		}
	}
	return strings.Join(parts, sep), nil
}

func filterLength(v any, _ *given) (any, error) {
	switch v := v.(type) {
	case string:
		return int64(len([]rune(v))), nil
	case []any:
		return int64(len(v)), nil
	case *Map:
		return int64(v.Len()), nil
	}
	return nil, Fault(typeName(v)+" has no length", "")
}

func filterReplace(v any, g *given) (any, error) {
	s, err := text(v)
	if err != nil {
		return nil, err
	}
	from, ok1 := g.take("old", nil).(string)
	to, ok2 := g.take("new", nil).(string)
	if !ok1 || !ok2 || from == "" {
		return nil, Fault("replace needs two strings, the first not empty", "")
	}
	return strings.ReplaceAll(s, from, to), nil
}

// filterJSON is Salt's json filter: json.dumps with sorted keys.
func filterJSON(v any, _ *given) (any, error) {
	var b strings.Builder
	if err := writeJSON(&b, v); err != nil {
		return nil, err
	}
	return b.String(), nil
}

func writeJSON(b *strings.Builder, v any) error {
	switch v := v.(type) {
	case nil:
		b.WriteString("null")
	case bool:
		b.WriteString(strconv.FormatBool(v))
	case int64:
		b.WriteString(strconv.FormatInt(v, 10))
	case float64:
		b.WriteString(formatFloat(v))
	case string:
		writeJSONString(b, v)
	case []any:
		b.WriteByte('[')
		for i, item := range v {
			if i > 0 {
				b.WriteString(", ")
			}
			if err := writeJSON(b, item); err != nil {
				return err
			}
		}
		b.WriteByte(']')
	case *Map:
		b.WriteByte('{')
		for i, k := range slices.Sorted(slices.Values(v.keys)) {
			if i > 0 {
				b.WriteString(", ")
			}
			writeJSONString(b, k)
			b.WriteString(": ")
			if err := writeJSON(b, v.entries[k].value); err != nil {
				return err
			}
		}
		b.WriteByte('}')
	default:
		return Fault("json of "+typeName(v), "call it, or read a value from it")
	}
	if b.Len() > MaxOutput {
		return Fault("the JSON is too long", "")
	}
	return nil
}

// writeJSONString escapes what Python's json.dumps(ensure_ascii=False) escapes.
func writeJSONString(b *strings.Builder, s string) {
	b.WriteByte('"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case '\n':
			b.WriteString(`\n`)
		case '\r':
			b.WriteString(`\r`)
		case '\t':
			b.WriteString(`\t`)
		case '\b':
			b.WriteString(`\b`)
		case '\f':
			b.WriteString(`\f`)
		default:
			if r < 0x20 {
				fmt.Fprintf(b, `\u%04x`, r)
			} else {
				b.WriteRune(r)
			}
		}
	}
	b.WriteByte('"')
}

// filterYAML is Salt's yaml filter in its default, flow style, with sorted keys.
func filterYAML(v any, _ *given) (any, error) {
	n, err := yamlNode(v)
	if err != nil {
		return nil, err
	}
	out, err := yaml.Marshal(n)
	if err != nil {
		return nil, err
	}
	return strings.TrimSpace(string(out)), nil
}

func yamlNode(v any) (*yaml.Node, error) {
	n := &yaml.Node{}
	switch v := v.(type) {
	case []any:
		n.Kind, n.Tag, n.Style = yaml.SequenceNode, "!!seq", yaml.FlowStyle
		for _, item := range v {
			c, err := yamlNode(item)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, c)
		}
	case *Map:
		n.Kind, n.Tag, n.Style = yaml.MappingNode, "!!map", yaml.FlowStyle
		for _, k := range slices.Sorted(slices.Values(v.keys)) {
			key, err := yamlNode(k)
			if err != nil {
				return nil, err
			}
			c, err := yamlNode(v.entries[k].value)
			if err != nil {
				return nil, err
			}
			n.Content = append(n.Content, key, c)
		}
	case nil, bool, int64, float64, string:
		if err := n.Encode(v); err != nil {
			return nil, err
		}
		if n.Style == yaml.LiteralStyle {
			n.Style = yaml.DoubleQuotedStyle
		}
	default:
		return nil, Fault("yaml of "+typeName(v), "call it, or read a value from it")
	}
	return n, nil
}
