package jinja

import (
	"encoding/xml"
	"strings"
)

var saltDictFilters = map[string]filterFunc{
	"compare_dicts": given(func(_ *run, v any, a *Args) (any, error) {
		old, ok1 := v.(*Map)
		now, ok2 := a.Take("new", nil).(*Map)
		if !ok1 || !ok2 {
			return nil, Fault("compare_dicts needs two dicts", "")
		}
		return compareDicts(old, now), nil
	}),
	"traverse": given(func(_ *run, v any, a *Args) (any, error) {
		key, err := a.Need("key")
		def := a.Take("default", nil)
		sep, ok := asText(a.Take("delimiter", ":"))
		if err != nil || !ok {
			return nil, orType(err, "traverse", v)
		}
		found, ok := Traverse(v, key, sep)
		if !ok {
			return def, nil
		}
		return found, nil
	}),
	"set_dict_key_value":    dictKeyFilter(func(m *Map, k, v any) error { return m.Put(k, v) }),
	"update_dict_key_value": dictKeyFilter(updateKey),
	"append_dict_key_value": dictKeyFilter(appendKey(false)),
	"extend_dict_key_value": dictKeyFilter(appendKey(true)),
	"json_encode_dict":      given(encodeBytes),
	"json_decode_dict":      given(encodeBytes),
	"json_encode_list":      given(encodeBytes),
	"json_decode_list":      given(encodeBytes),
}

var serialFilters = map[string]filterFunc{
	"json":   strictly(filterJSON),
	"tojson": strictly(filterToJSON),
	"yaml":   strictly(filterYAML),
	"python": strictly(func(_ *run, v any, _ *Args) (any, error) {
		s, err := pformat(v)
		return Markup(strings.TrimSpace(s)), err
	}),
	"xml":       strictly(filterXML),
	"load_yaml": strictly(func(r *run, v any, _ *Args) (any, error) { return r.convert("yaml", v) }),
	"load_json": strictly(func(r *run, v any, _ *Args) (any, error) { return r.convert("json", v) }),
	"load_text": strictly(func(r *run, v any, _ *Args) (any, error) { return r.convert("text", v) }),
	"dict_to_sls_yaml_params": strictly(func(r *run, v any, a *Args) (any, error) {
		m, ok := v.(*Map)
		if !ok {
			return nil, Fault("dict_to_sls_yaml_params needs a dict", "")
		}
		out := &List{}
		for _, k := range m.keys {
			one := NewMap()
			value, _ := m.At(k)
			one.put(k, entry{value: value})
			out.Items = append(out.Items, one)
		}
		return filterYAML(r, out, &Args{What: a.What, named: append(a.takeNamed(), namedArg{"flow_style", a.Take("flow_style", false)})})
	}),
}

func (a *Args) takeNamed() []namedArg {
	var out []namedArg
	for _, n := range a.named {
		if n.name != "flow_style" {
			out = append(out, n)
		}
	}
	return out
}

// strictly is Salt's _handle_strict_undefined: a value that holds something
// undefined becomes undefined as a whole.
func strictly(f filterFunc) filterFunc {
	return func(r *run, v any, a *Args) (any, error) {
		if u := undefinedIn(v, 0); u != nil {
			a.Pos, a.named = nil, nil
			return u, nil
		}
		return f(r, v, a)
	}
}

func undefinedIn(v any, depth int) *undefined {
	var items []any
	switch v := v.(type) {
	case *undefined:
		return v
	case *List:
		items = v.Items
	case Tuple:
		items = v
	case *Map:
		items = (&view{"values", v}).items()
	}
	if depth > maxRepr {
		return nil
	}
	for _, item := range items {
		if u := undefinedIn(item, depth+1); u != nil {
			return u
		}
	}
	return nil
}

func compareDicts(old, now *Map) *Map {
	out := NewMap()
	add := func(k any, pairs ...any) {
		m := NewMap()
		for i := 0; i < len(pairs); i += 2 {
			m.put(pairs[i], entry{value: pairs[i+1]})
		}
		out.put(k, entry{value: m})
	}
	for _, k := range now.keys {
		n, _ := now.At(k)
		if o, ok := old.At(k); !ok {
			add(k, "old", "", "new", n)
		} else if !equal(o, n) {
			add(k, "old", o, "new", n)
		}
	}
	for _, k := range old.keys {
		o, _ := old.At(k)
		if _, ok := now.At(k); !ok {
			add(k, "new", "", "old", o)
		}
	}
	return out
}

// Traverse is salt.utils.data.traverse_dict_and_list: a:b:0 below a value. key is
// a string, an integer or a list.
func Traverse(v, key any, delimiter string) (any, bool) {
	var keys []any
	if s, ok := asText(key); ok {
		for part := range strings.SplitSeq(s, delimiter) {
			keys = append(keys, part)
		}
	} else if _, ok := integer(key); ok {
		keys = []any{key}
	} else {
		var err error
		if keys, err = iterate(key); err != nil {
			return nil, false
		}
	}
	for _, k := range keys {
		next, ok := v, false
		switch at := v.(type) {
		case *List:
			next, ok = traverseList(at, k)
		case *Map:
			if next, ok = at.At(k); !ok {
				if n, isInt := toInt(k, 10); isInt {
					next, ok = at.At(n)
				}
			}
		case string:
			if n, isInt := toInt(k, 10); isInt {
				x, err := item(at, n)
				next, ok = x, err == nil && !IsUndefined(x)
			}
		}
		if !ok {
			return nil, false
		}
		v = next
	}
	return v, true
}

func traverseList(l *List, k any) (any, bool) {
	idx, isIndex := toInt(k, 10)
	for _, item := range l.Items {
		if m, ok := item.(*Map); ok {
			key := k
			if isIndex {
				key = idx
			}
			if v, ok := m.At(key); ok {
				return v, true
			}
		}
	}
	if !isIndex {
		return nil, false
	}
	v, err := item(l, idx)
	return v, err == nil && !IsUndefined(v)
}

// dictKeyFilter is one of the filters that change what a:b:c names below a dict,
// and make the dicts on the way there.
func dictKeyFilter(change func(m *Map, key, v any) error) filterFunc {
	return given(func(_ *run, v any, a *Args) (any, error) {
		keys, err := a.Text("keys")
		if err != nil {
			return nil, err
		}
		value, err := a.Need("value")
		if err != nil {
			return nil, err
		}
		sep, ok := asText(a.Take("delimiter", ":"))
		if _, err := a.Flag("ordered_dict", false); err != nil {
			return nil, err
		}
		root, isMap := v.(*Map)
		if !ok || !isMap || sep == "" {
			return nil, faultf("%s needs a dict, not %s", a.What, typeName(v))
		}
		parts := strings.Split(keys, sep)
		m := root
		for _, k := range parts[:len(parts)-1] {
			next, _ := m.Get(k)
			below, ok := next.(*Map)
			if !ok {
				below = NewMap()
				m.put(k, entry{value: below})
			}
			m = below
		}
		return root, change(m, parts[len(parts)-1], value)
	})
}

func updateKey(m *Map, k, v any) error {
	old, _ := m.At(k)
	if old == nil {
		old = NewMap()
		if err := m.Put(k, old); err != nil {
			return err
		}
	}
	below, ok := old.(*Map)
	if !ok {
		return faultf("%s cannot be updated", typeName(old))
	}
	return update(below, v)
}

func appendKey(all bool) func(m *Map, k, v any) error {
	return func(m *Map, k, v any) error {
		old, _ := m.At(k)
		if old == nil {
			old = &List{}
			if err := m.Put(k, old); err != nil {
				return err
			}
		}
		l, ok := old.(*List)
		if !ok {
			return faultf("nothing can be added to %s", typeName(old))
		}
		items := []any{v}
		if all {
			var err error
			if items, err = iterate(v); err != nil {
				return err
			}
		}
		l.Items = append(l.Items, items...)
		return nil
	}
}

// encodeBytes turns each string of a dict or list into bytes.
func encodeBytes(_ *run, v any, _ *Args) (any, error) { return toBytes(v, 0) }

func toBytes(v any, depth int) (any, error) {
	if depth > maxRepr {
		return nil, Fault("the value nests too deep", "")
	}
	switch v := v.(type) {
	case *List, Tuple:
		items, err := iterate(v)
		if err != nil {
			return nil, err
		}
		out := &List{}
		for _, item := range items {
			b, err := toBytes(item, depth+1)
			if err != nil {
				return nil, err
			}
			out.Items = append(out.Items, b)
		}
		return out, nil
	case *Map:
		out := NewMap()
		for _, k := range v.keys {
			key, err := toBytes(k, depth+1)
			if err != nil {
				return nil, err
			}
			value, _ := v.At(k)
			b, err := toBytes(value, depth+1)
			if err != nil {
				return nil, err
			}
			if err := out.Put(key, b); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	if s, ok := asText(v); ok {
		return Bytes(s), nil
	}
	return v, nil
}

// element is one of what the xml filter writes.
type element struct {
	name     string
	attrs    []xml.Attr
	text     string
	children []*element
}

// filterXML is Salt's xml filter, as minidom prints it.
func filterXML(_ *run, v any, _ *Args) (any, error) {
	m, ok := v.(*Map)
	if !ok || m.Len() == 0 {
		return nil, Fault("the filter xml needs a dict with a root", "")
	}
	k := m.keys[0]
	value, _ := m.At(k)
	root := &element{name: Str(k)}
	if err := root.fill(value, 0); err != nil {
		return nil, err
	}
	var b strings.Builder
	b.WriteString("<?xml version=\"1.0\" ?>\n")
	root.write(&b, 0)
	return Markup(b.String()), nil
}

func (e *element) fill(v any, depth int) error {
	if depth > maxRepr {
		return Fault("the value nests too deep", "")
	}
	m, ok := v.(*Map)
	if !ok {
		switch v.(type) {
		case string, int64, float64, bool:
			e.text = Str(v)
			return nil
		}
		return Fault("xml of "+typeName(v), "")
	}
	for _, k := range m.keys {
		value, _ := m.At(k)
		switch value := value.(type) {
		case *List:
			for _, item := range value.Items {
				if !is[*Map](item) {
					return Fault("xml of a list that holds "+typeName(item), "use dicts")
				}
				child := &element{name: Str(k)}
				if err := child.fill(item, depth+1); err != nil {
					return err
				}
				e.children = append(e.children, child)
			}
		case *Map:
			child := &element{name: Str(k)}
			if err := child.fill(value, depth+1); err != nil {
				return err
			}
			e.children = append(e.children, child)
		default:
			e.attrs = append(e.attrs, xml.Attr{Name: xml.Name{Local: Str(k)}, Value: Str(value)})
		}
	}
	return nil
}

var xmlEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", `"`, "&quot;")

func (e *element) write(b *strings.Builder, depth int) {
	indent := strings.Repeat(" ", depth)
	b.WriteString(indent + "<" + e.name)
	for _, a := range e.attrs {
		b.WriteString(" " + a.Name.Local + `="` + xmlEscaper.Replace(a.Value) + `"`)
	}
	switch {
	case e.text != "":
		b.WriteString(">" + xmlEscaper.Replace(e.text) + "</" + e.name + ">\n")
	case len(e.children) == 0:
		b.WriteString("/>\n")
	default:
		b.WriteString(">\n")
		for _, c := range e.children {
			c.write(b, depth+1)
		}
		b.WriteString(indent + "</" + e.name + ">\n")
	}
}
