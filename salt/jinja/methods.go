package jinja

import (
	"math"
	"math/big"
	"slices"
)

// method returns a method of a Python value, nil if there is none of that name.
func method(v any, name string) any {
	var f func(a *Args) (any, error)
	switch v := v.(type) {
	case string:
		f = stringMethod(v, name)
	case Markup:
		f = stringMethod(string(v), name)
	case *Map:
		f = mapMethod(v, name)
	case *List:
		f = listMethod(v, name)
	case Tuple:
		f = tupleMethod(v, name)
	case *Set:
		f = setMethod(v, name)
	case Bytes:
		f = bytesMethod(v, name)
	case float64:
		if name == "is_integer" {
			f = func(*Args) (any, error) { return v == math.Trunc(v) && !math.IsInf(v, 0), nil }
		}
	case int64, *big.Int:
		n, _ := asBig(v)
		switch name {
		case "bit_length":
			f = func(*Args) (any, error) { return int64(n.BitLen()), nil }
		case "real", "numerator":
			return v
		case "imag":
			return int64(0)
		case "denominator":
			return int64(1)
		}
	case rangeValue:
		switch name {
		case "start":
			return v.start
		case "stop":
			return v.stop
		case "step":
			return v.step
		}
		f = tupleMethod(v.items(), name)
	}
	if f == nil {
		return nil
	}
	return fn(typeName(v)+"'s "+name, f)
}

func mapMethod(m *Map, name string) func(a *Args) (any, error) {
	switch name {
	case "get":
		return func(a *Args) (any, error) {
			key, err := a.Need("key")
			def := a.Take("", nil)
			if err != nil {
				return nil, err
			}
			if _, err := hasKey(m, key); err != nil {
				return nil, err
			}
			if v, ok := m.At(key); ok {
				return v, nil
			}
			return def, nil
		}
	case "items", "keys", "values":
		return func(*Args) (any, error) { return &view{name, m}, nil }
	case "copy":
		return func(*Args) (any, error) { return m.Copy(), nil }
	case "clear":
		return func(*Args) (any, error) { m.keys, m.entries = nil, map[any]entry{}; return nil, nil }
	case "update":
		return func(a *Args) (any, error) {
			if v, ok := a.Given(""); ok {
				if err := update(m, v); err != nil {
					return nil, err
				}
			}
			return nil, update(m, a.rest())
		}
	case "setdefault":
		return func(a *Args) (any, error) { return setDefault(m, a) }
	case "pop":
		return func(a *Args) (any, error) { return popKey(m, a) }
	case "popitem":
		return func(*Args) (any, error) {
			if m.Len() == 0 {
				return nil, Fault("the dict is empty", "")
			}
			k := m.keys[m.Len()-1]
			v, _ := m.At(k)
			m.Delete(k)
			return Tuple{k, v}, nil
		}
	case "fromkeys":
		return func(a *Args) (any, error) {
			keys, err := a.Need("iterable")
			if err != nil {
				return nil, err
			}
			v := a.Take("", nil)
			out := NewMap()
			items, err := iterate(keys)
			for _, k := range items {
				if err := out.Put(k, v); err != nil {
					return nil, err
				}
			}
			return out, err
		}
	}
	return nil
}

func listMethod(l *List, name string) func(a *Args) (any, error) {
	switch name {
	case "append":
		return func(a *Args) (any, error) {
			v, err := a.Need("object")
			if err != nil {
				return nil, err
			}
			if len(l.Items) >= MaxSteps {
				return nil, Fault("the list is too long", "")
			}
			l.Items = append(l.Items, v)
			return nil, nil
		}
	case "extend":
		return func(a *Args) (any, error) {
			items, err := iterate(a.Take("iterable", nil))
			if err != nil {
				return nil, err
			}
			if len(l.Items)+len(items) > MaxSteps {
				return nil, Fault("the list is too long", "")
			}
			l.Items = append(l.Items, items...)
			return nil, nil
		}
	case "insert":
		return func(a *Args) (any, error) { return insertItem(l, a) }
	case "pop":
		return func(a *Args) (any, error) { return popItem(l, a) }
	case "remove":
		return func(a *Args) (any, error) {
			v := a.Take("value", nil)
			i := slices.IndexFunc(l.Items, func(x any) bool { return equal(x, v) })
			if i < 0 {
				return nil, Fault("removes what the list does not have", "")
			}
			l.Items = slices.Delete(l.Items, i, i+1)
			return nil, nil
		}
	case "clear":
		return func(*Args) (any, error) { l.Items = nil; return nil, nil }
	case "copy":
		return func(*Args) (any, error) { return &List{slices.Clone(l.Items)}, nil }
	case "reverse":
		return func(*Args) (any, error) { slices.Reverse(l.Items); return nil, nil }
	case "sort":
		return func(a *Args) (any, error) {
			reverse, ok := a.Named("reverse")
			a.drop("reverse")
			down := false
			if ok {
				var err error
				if down, err = truth(reverse); err != nil {
					return nil, err
				}
			}
			items, err := sortedBy(l.Items, down, nil)
			if err == nil {
				l.Items = items
			}
			return nil, err
		}
	}
	return tupleMethod(l.Items, name)
}

func setDefault(m *Map, a *Args) (any, error) {
	key, err := a.Need("key")
	def := a.Take("", nil)
	if err != nil {
		return nil, err
	}
	if v, ok := m.At(key); ok {
		return v, nil
	}
	return def, m.Put(key, def)
}

func popKey(m *Map, a *Args) (any, error) {
	key, err := a.Need("key")
	def, hasDefault := a.Given("")
	if err != nil {
		return nil, err
	}
	if v, ok := m.At(key); ok {
		m.Delete(key)
		return v, nil
	}
	if !hasDefault {
		return nil, faultf("the dict has no key %s", Str(key))
	}
	return def, nil
}

func insertItem(l *List, a *Args) (any, error) {
	at, err := a.Int("index", 0)
	v := a.Take("object", nil)
	if err != nil {
		return nil, err
	}
	if at < 0 {
		at += int64(len(l.Items))
	}
	l.Items = slices.Insert(l.Items, int(min(max(at, 0), int64(len(l.Items)))), v)
	return nil, nil
}

func popItem(l *List, a *Args) (any, error) {
	at, err := a.Int("index", -1)
	if err != nil {
		return nil, err
	}
	if at < 0 {
		at += int64(len(l.Items))
	}
	if at < 0 || at >= int64(len(l.Items)) {
		return nil, Fault("pops what the list does not have", "")
	}
	v := l.Items[at]
	l.Items = slices.Delete(l.Items, int(at), int(at)+1)
	return v, nil
}

func tupleMethod(items []any, name string) func(a *Args) (any, error) {
	switch name {
	case "count":
		return func(a *Args) (any, error) {
			v, err := a.Need("value")
			n := int64(0)
			for _, item := range items {
				if equal(item, v) {
					n++
				}
			}
			return n, err
		}
	case "index":
		return func(a *Args) (any, error) {
			v, err := a.Need("value")
			if err != nil {
				return nil, err
			}
			i := slices.IndexFunc(items, func(x any) bool { return equal(x, v) })
			if i < 0 {
				return nil, faultf("%s is not in the list", Str(v))
			}
			return int64(i), nil
		}
	}
	return nil
}

func setMethod(s *Set, name string) func(a *Args) (any, error) {
	combine := func(keep func(inA, inB bool) bool) func(a *Args) (any, error) {
		return func(a *Args) (any, error) {
			items, err := iterate(a.Take("", Tuple{}))
			if err != nil {
				return nil, err
			}
			other, err := NewSet(items)
			if err != nil {
				return nil, err
			}
			return combineSets(s, other, keep), nil
		}
	}
	switch name {
	case "add":
		return func(a *Args) (any, error) { return nil, s.m.Put(a.Take("", nil), nil) }
	case "discard", "remove":
		return func(a *Args) (any, error) { s.m.Delete(a.Take("", nil)); return nil, nil }
	case "union":
		return combine(func(a, b bool) bool { return a || b })
	case "intersection":
		return combine(func(a, b bool) bool { return a && b })
	case "difference":
		return combine(func(a, b bool) bool { return a && !b })
	case "symmetric_difference":
		return combine(func(a, b bool) bool { return a != b })
	}
	return nil
}

func combineSets(x, y *Set, keep func(inX, inY bool) bool) *Set {
	out := &Set{}
	for _, k := range append(slices.Clone(x.m.keys), y.m.keys...) {
		_, inX := x.m.entry(k)
		_, inY := y.m.entry(k)
		if keep(inX, inY) {
			out.m.put(k, entry{})
		}
	}
	return out
}

func bytesMethod(b Bytes, name string) func(a *Args) (any, error) {
	switch name {
	case "decode":
		return func(a *Args) (any, error) { a.Take("encoding", nil); a.Take("errors", nil); return string(b), nil }
	case "hex":
		return func(*Args) (any, error) { return hexOf([]byte(b)), nil }
	}
	return nil
}
