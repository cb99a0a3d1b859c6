package jinja

import (
	"unicode/utf8"
)

// rangeValue is Python's range object.
type rangeValue struct{ start, stop, step int64 }

func (r rangeValue) length() int {
	if r.step > 0 && r.start < r.stop {
		return int((r.stop-r.start-1)/r.step) + 1
	}
	if r.step < 0 && r.start > r.stop {
		return int((r.start-r.stop-1)/-r.step) + 1
	}
	return 0
}

func (r rangeValue) items() []any {
	out := make([]any, r.length())
	for i := range out {
		out[i] = r.start + int64(i)*r.step
	}
	return out
}

// view is what a dict's keys(), values() and items() return: it follows the dict.
type view struct {
	kind string // "keys", "values" or "items"
	m    *Map
}

func (v *view) items() []any {
	out := make([]any, 0, v.m.Len())
	for _, k := range v.m.keys {
		e, _ := v.m.entry(k)
		switch v.kind {
		case "keys":
			out = append(out, k)
		case "values":
			out = append(out, e.value)
		default:
			out = append(out, Tuple{k, e.value})
		}
	}
	return out
}

// iterator is Python's generator: its items can be taken once. They are made when
// the first is asked for.
type iterator struct {
	make  func() ([]any, error)
	items []any
	pos   int
}

func lazily(make func() ([]any, error)) *iterator { return &iterator{make: make} }

// rest takes what is left.
func (it *iterator) rest() ([]any, error) {
	if err := it.force(); err != nil {
		return nil, err
	}
	out := it.items[it.pos:]
	it.pos = len(it.items)
	return out, nil
}

func (it *iterator) force() error {
	if it.make == nil {
		return nil
	}
	var err error
	it.items, err = it.make()
	it.make = nil
	return err
}

// iterable is an [Object] that can be looped over.
type iterable interface {
	iterate() ([]any, error)
}

// iterate returns the items of anything that Python can loop over.
func iterate(v any) ([]any, error) {
	switch v := v.(type) {
	case *List:
		return v.Items, nil
	case Tuple:
		return v, nil
	case *Map:
		return v.keys, nil
	case *Set:
		return v.m.keys, nil
	case *view:
		return v.items(), nil
	case rangeValue:
		return v.items(), nil
	case *iterator:
		return v.rest()
	case iterable:
		return v.iterate()
	case *undefined:
		if v.lenient {
			return nil, nil
		}
		return nil, v.fault()
	case Bytes:
		out := make([]any, len(v))
		for i := range len(v) {
			out[i] = int64(v[i])
		}
		return out, nil
	}
	if s, ok := asText(v); ok {
		out := make([]any, 0, len(s))
		for _, r := range s {
			out = append(out, string(r))
		}
		return out, nil
	}
	return nil, Fault(typeName(v)+" cannot be looped over", "use a list, or a dict's .items()")
}

// Iterate returns the items of anything that Python can loop over.
func Iterate(v any) ([]any, error) { return iterate(v) }

// length is Python's len(v); ok is false for what has none.
func length(v any) (n int, ok bool) {
	switch v := v.(type) {
	case *List:
		return len(v.Items), true
	case Tuple:
		return len(v), true
	case *Map:
		return v.Len(), true
	case *Set:
		return v.m.Len(), true
	case *view:
		return v.m.Len(), true
	case rangeValue:
		return v.length(), true
	case Bytes:
		return len(v), true
	case interface{ length() int }:
		return v.length(), true
	}
	if s, ok := asText(v); ok {
		return utf8.RuneCountInString(s), true
	}
	return 0, false
}

// sequence returns the items of a list, tuple, range or string: what has indexes.
func sequence(v any) ([]any, bool) {
	switch v := v.(type) {
	case *List:
		return v.Items, true
	case Tuple:
		return v, true
	case rangeValue:
		return v.items(), true
	case Bytes, string, Markup:
		out, err := iterate(v)
		return out, err == nil
	}
	return nil, false
}

// slice is v[start:stop:step]; the bounds may be nil.
func slice(v, start, stop, step any) (any, error) {
	items, ok := sequence(v)
	if !ok {
		return nil, faultf("%s has no slices", typeName(v))
	}
	picked, err := sliceOf(items, start, stop, step)
	if err != nil {
		return nil, err
	}
	switch v.(type) {
	case string, Markup:
		s := make([]byte, 0, len(picked))
		for _, c := range picked {
			s = append(s, c.(string)...)
		}
		if is[Markup](v) {
			return Markup(s), nil
		}
		return string(s), nil
	case Bytes:
		s := make([]byte, 0, len(picked))
		for _, c := range picked {
			s = append(s, byte(c.(int64)))
		}
		return Bytes(s), nil
	case Tuple:
		return Tuple(picked), nil
	case rangeValue:
		return &List{picked}, nil
	}
	return &List{picked}, nil
}

func sliceOf(items []any, start, stop, step any) ([]any, error) {
	n := int64(len(items))
	by := int64(1)
	if step != nil {
		var ok bool
		if by, ok = integer(step); !ok || by == 0 {
			return nil, Fault("a slice's step is an integer other than 0", "")
		}
	}
	bound := func(v any, def int64) (int64, error) {
		if v == nil {
			return def, nil
		}
		i, ok := integer(v)
		if !ok {
			return 0, faultf("a slice's bound is %s", typeName(v))
		}
		if i < 0 {
			i += n
		}
		low, high := int64(0), n
		if by < 0 {
			low, high = -1, n-1
		}
		return min(max(i, low), high), nil
	}
	from, to := int64(0), n
	if by < 0 {
		from, to = n-1, -1
	}
	from, err := bound(start, from)
	if err != nil {
		return nil, err
	}
	if to, err = bound(stop, to); err != nil {
		return nil, err
	}
	out := []any{}
	for i := from; by > 0 && i < to || by < 0 && i > to; i += by {
		out = append(out, items[i])
	}
	return out, nil
}
