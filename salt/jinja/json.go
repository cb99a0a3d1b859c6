package jinja

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math/big"
	"strconv"
	"strings"
	"unicode/utf16"
)

// jsonWriter writes JSON as Python's json.dumps does.
type jsonWriter struct {
	b        strings.Builder
	sortKeys bool
	ascii    bool
	indent   string // of one level
	lines    bool   // indent is given, if only ""
	item     string
	key      string
}

func newJSONWriter() *jsonWriter { return &jsonWriter{item: ", ", key: ": "} }

func (w *jsonWriter) newline(depth int) {
	if w.lines {
		w.b.WriteByte('\n')
		w.b.WriteString(strings.Repeat(w.indent, depth))
	}
}

func (w *jsonWriter) value(v any, depth int) error {
	if depth > maxRepr {
		return Fault("the value nests too deep for JSON", "")
	}
	if w.b.Len() > MaxOutput {
		return Fault("the JSON is too long", "")
	}
	switch v := v.(type) {
	case nil:
		w.b.WriteString("null")
	case bool:
		w.b.WriteString(strconv.FormatBool(v))
	case int64:
		w.b.WriteString(strconv.FormatInt(v, 10))
	case *big.Int:
		w.b.WriteString(v.String())
	case float64:
		w.b.WriteString(jsonFloat(v))
	case string:
		w.text(v)
	case Markup:
		w.text(string(v))
	case []any:
		return w.list(v, depth)
	case *List:
		return w.list(v.Items, depth)
	case Tuple:
		return w.list(v, depth)
	case *Map:
		return w.dict(v, depth)
	case *undefined:
		return v.fault()
	default:
		return Fault("json of "+typeName(v), "call it, or read a value from it; | list makes a list of a generator")
	}
	return nil
}

func jsonFloat(f float64) string {
	switch s := formatFloat(f); s {
	case "nan":
		return "NaN"
	case "inf":
		return "Infinity"
	case "-inf":
		return "-Infinity"
	default:
		return s
	}
}

func (w *jsonWriter) list(items []any, depth int) error {
	if len(items) == 0 {
		w.b.WriteString("[]")
		return nil
	}
	w.b.WriteByte('[')
	for i, item := range items {
		if i > 0 {
			w.b.WriteString(w.item)
		}
		w.newline(depth + 1)
		if err := w.value(item, depth+1); err != nil {
			return err
		}
	}
	w.newline(depth)
	w.b.WriteByte(']')
	return nil
}

func (w *jsonWriter) dict(m *Map, depth int) error {
	if m.Len() == 0 {
		w.b.WriteString("{}")
		return nil
	}
	keys := m.keys
	if w.sortKeys {
		var err error
		if keys, err = sorted(keys, nil); err != nil {
			return err
		}
	}
	w.b.WriteByte('{')
	for i, k := range keys {
		if i > 0 {
			w.b.WriteString(w.item)
		}
		w.newline(depth + 1)
		switch k := k.(type) {
		case string:
			w.text(k)
		case Markup:
			w.text(string(k))
		case nil:
			w.text("null")
		case bool:
			w.text(strconv.FormatBool(k))
		case float64:
			w.text(jsonFloat(k))
		case int64, *big.Int:
			w.text(Str(k))
		default:
			return faultf("%s cannot be a key of JSON", typeName(k))
		}
		w.b.WriteString(w.key)
		v, _ := m.At(k)
		if err := w.value(v, depth+1); err != nil {
			return err
		}
	}
	w.newline(depth)
	w.b.WriteByte('}')
	return nil
}

func (w *jsonWriter) text(s string) {
	w.b.WriteByte('"')
	for _, r := range s {
		switch r {
		case '"', '\\':
			w.b.WriteByte('\\')
			w.b.WriteRune(r)
		case '\n':
			w.b.WriteString(`\n`)
		case '\r':
			w.b.WriteString(`\r`)
		case '\t':
			w.b.WriteString(`\t`)
		case '\b':
			w.b.WriteString(`\b`)
		case '\f':
			w.b.WriteString(`\f`)
		default:
			switch {
			case r < 0x20 || w.ascii && r > 0x7e && r < 0x10000:
				fmt.Fprintf(&w.b, `\u%04x`, r)
			case w.ascii && r >= 0x10000:
				hi, lo := utf16.EncodeRune(r)
				fmt.Fprintf(&w.b, `\u%04x\u%04x`, hi, lo)
			default:
				w.b.WriteRune(r)
			}
		}
	}
	w.b.WriteByte('"')
}

// JSON is the value as JSON, in one line, keys in their order.
func JSON(v any) (string, error) {
	w := newJSONWriter()
	err := w.value(v, 0)
	return w.b.String(), err
}

// indentOf reads json.dumps' indent: None, a number or a string.
func (w *jsonWriter) indentOf(v any) error {
	if v == nil {
		return nil
	}
	w.lines, w.item = true, ","
	if s, ok := asText(v); ok {
		w.indent = s
		return nil
	}
	n, ok := integer(v)
	if !ok || n > 100 {
		return Fault("the indent is a small integer", "")
	}
	w.indent = strings.Repeat(" ", int(max(n, 0)))
	return nil
}

// filterJSON is Salt's json filter: json.dumps with sorted keys.
func filterJSON(_ *run, v any, a *Args) (any, error) {
	w := newJSONWriter()
	var err error
	if w.sortKeys, err = a.Flag("sort_keys", true); err != nil {
		return nil, err
	}
	if err := w.indentOf(a.Take("indent", nil)); err != nil {
		return nil, err
	}
	if err := w.value(v, 0); err != nil {
		return nil, err
	}
	return Markup(w.b.String()), nil
}

// filterToJSON is Salt's tojson filter.
func filterToJSON(_ *run, v any, a *Args) (any, error) {
	w := newJSONWriter()
	if err := w.indentOf(a.Take("indent", nil)); err != nil {
		return nil, err
	}
	options := map[string]*bool{"sort_keys": &w.sortKeys, "ensure_ascii": &w.ascii}
	w.ascii = true
	for name, to := range options {
		if v, ok := a.Named(name); ok {
			a.drop(name)
			var err error
			if *to, err = truth(v); err != nil {
				return nil, err
			}
		}
	}
	if seps, ok := a.Named("separators"); ok {
		a.drop("separators")
		pair, err := iterate(seps)
		if err != nil || len(pair) != 2 {
			return nil, Fault("separators are two strings", "")
		}
		w.item, w.key = Str(pair[0]), Str(pair[1])
	}
	if err := w.value(v, 0); err != nil {
		return nil, err
	}
	return jsonHTML.Replace(w.b.String()), nil
}

var jsonHTML = strings.NewReplacer("<", `\u003c`, ">", `\u003e`, "&", `\u0026`, "'", `\u0027`)

// parseJSON is Python's json.loads: the last of two equal keys wins.
func parseJSON(s string) (any, error) {
	dec := json.NewDecoder(strings.NewReader(s))
	dec.UseNumber()
	v, err := jsonValue(dec, 0)
	if err == nil {
		if _, more := dec.Token(); more != io.EOF {
			err = Fault("there is more after the JSON value", "")
		}
	}
	if err != nil {
		return nil, Fault("not valid JSON: "+err.Error(), "")
	}
	return v, nil
}

// ParseJSON parses JSON with the order of keys kept.
func ParseJSON(data []byte) (any, error) { return parseJSON(string(bytes.TrimSpace(data))) }

func jsonValue(dec *json.Decoder, depth int) (any, error) {
	if depth > maxRepr {
		return nil, Fault("nested too deep", "")
	}
	tok, err := dec.Token()
	if err != nil {
		return nil, err
	}
	switch t := tok.(type) {
	case json.Number:
		if n, ok := toInt(t.String(), 10); ok && !strings.ContainsAny(t.String(), ".eE") {
			return n, nil
		}
		return strconv.ParseFloat(t.String(), 64)
	case json.Delim:
		if t == '[' {
			out := &List{}
			for dec.More() {
				v, err := jsonValue(dec, depth+1)
				if err != nil {
					return nil, err
				}
				out.Items = append(out.Items, v)
			}
			_, err := dec.Token()
			return out, err
		}
		out := NewMap()
		for dec.More() {
			k, err := dec.Token()
			if err != nil {
				return nil, err
			}
			v, err := jsonValue(dec, depth+1)
			if err != nil {
				return nil, err
			}
			if err := out.Put(k, v); err != nil {
				return nil, err
			}
		}
		_, err := dec.Token()
		return out, err
	}
	return tok, nil
}

// Serialize is Salt's serializers yaml and json (salt/serializers).
func Serialize(sort string, v any, options *Map) (string, error) {
	flag := func(name string, def any) any {
		if v, ok := options.Get(name); ok {
			return v
		}
		return def
	}
	switch sort {
	case "json":
		w := newJSONWriter()
		keys, err := truth(flag("sort_keys", false))
		if err != nil {
			return "", err
		}
		ascii, err := truth(flag("ensure_ascii", false))
		if err != nil {
			return "", err
		}
		w.sortKeys, w.ascii = keys, ascii
		if err := w.indentOf(flag("indent", nil)); err != nil {
			return "", err
		}
		err = w.value(v, 0)
		return w.b.String(), err
	case "yaml":
		flow := flag("default_flow_style", nil)
		w := &yamlWriter{width: bestWidth, whitespace: true, indention: true, indent: -1, style: flow, ascii: true, sort: true}
		if err := w.node(v, false, false, 0); err != nil {
			return "", err
		}
		return strings.TrimSuffix(w.b.String(), "\n"), nil
	}
	return "", faultf("the serializer %q is not supported", sort)
}
