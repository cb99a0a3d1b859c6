package jinja

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"holdfast.dev/internal/strictyaml"
)

// Values of the language are nil (None), bool, int64, float64, string, []any,
// [*Map], [Func] and [Object]. They are never changed once a template sees them.

// Func is a function that templates can call. An error that is a
// [strictyaml.Error] without file and line gets those of the call.
type Func func(args []any, named map[string]any) (any, error)

// Object is a value that decides itself what its attributes (x.name) and items
// (x['key']) are.
type Object interface {
	Attr(name string) (any, error)
	Item(key any) (any, error)
}

// Fault is an error with a remedy, for Func and Object.
func Fault(msg, hint string) error { return &strictyaml.Error{Msg: msg, Hint: hint} }

// Origin is where a value was written.
type Origin struct {
	File string
	Line int
}

// Map is a dict: keys are strings and keep the order they were added in.
type Map struct {
	keys    []string
	entries map[string]entry
}

type entry struct {
	value  any
	origin Origin
}

// NewMap makes an empty Map.
func NewMap() *Map { return &Map{entries: map[string]entry{}} }

// Set adds or replaces one entry; a replaced entry keeps its place.
func (m *Map) Set(key string, value any, origin Origin) {
	if _, ok := m.entries[key]; !ok {
		m.keys = append(m.keys, key)
	}
	m.entries[key] = entry{value, origin}
}

// Get returns the value of key.
func (m *Map) Get(key string) (any, bool) {
	e, ok := m.entries[key]
	return e.value, ok
}

// Origin returns where the entry was written.
func (m *Map) Origin(key string) Origin { return m.entries[key].origin }

// Keys returns the keys in order.
func (m *Map) Keys() []string { return slices.Clone(m.keys) }

// Len returns the number of entries.
func (m *Map) Len() int { return len(m.keys) }

// Merge returns a new Map of base overlaid by top, as Salt's default strategy
// does (salt/utils/dictupdate.py, merge_recurse): dicts merge at every depth,
// anything else is replaced.
func Merge(base, top *Map) *Map {
	out := NewMap()
	for _, k := range base.keys {
		e := base.entries[k]
		out.Set(k, e.value, e.origin)
	}
	for _, k := range top.keys {
		e := top.entries[k]
		below, isMap := out.entries[k].value.(*Map)
		above, areMaps := e.value.(*Map)
		if isMap && areMaps {
			e.value = Merge(below, above)
		}
		out.Set(k, e.value, e.origin)
	}
	return out
}

// Hash is the SHA-256 of the value, as hexadecimal digits. It tells apart types and the order of
// keys, because a template can.
func Hash(v any) string {
	sum := sha256.Sum256(appendHash(nil, v))
	return hex.EncodeToString(sum[:])
}

func appendHash(b []byte, v any) []byte {
	switch v := v.(type) {
	case nil:
		return append(b, 'n')
	case bool:
		return strconv.AppendBool(append(b, 'b'), v)
	case int64:
		return append(strconv.AppendInt(append(b, 'i'), v, 10), ';')
	case float64:
		return append(strconv.AppendUint(append(b, 'f'), math.Float64bits(v), 16), ';')
	case string:
		b = append(strconv.AppendInt(append(b, 's'), int64(len(v)), 10), ':')
		return append(b, v...)
	case []any:
		b = append(strconv.AppendInt(append(b, 'l'), int64(len(v)), 10), ':')
		for _, item := range v {
			b = appendHash(b, item)
		}
		return b
	case *Map:
		b = append(strconv.AppendInt(append(b, 'm'), int64(len(v.keys)), 10), ':')
		for _, k := range v.keys {
			b = appendHash(appendHash(b, k), v.entries[k].value)
		}
		return b
	default:
		return fmt.Appendf(b, "?%T", v)
	}
}

// undefined stands for a name, attribute or item that is not there. Only
// "is defined" and default take it; every other use is an error.
type undefined struct{ what, hint string }

// typeName is Python's name of a value's type, for errors.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "None"
	case bool:
		return "a bool"
	case int64:
		return "an int"
	case float64:
		return "a float"
	case string:
		return "a string"
	case []any:
		return "a list"
	case *Map:
		return "a dict"
	case Func:
		return "a function"
	default:
		return "an object"
	}
}

// truth is Python's bool(v).
func truth(v any) (bool, error) {
	switch v := v.(type) {
	case nil:
		return false, nil
	case bool:
		return v, nil
	case int64:
		return v != 0, nil
	case float64:
		return v != 0, nil
	case string:
		return v != "", nil
	case []any:
		return len(v) > 0, nil
	case *Map:
		return v.Len() > 0, nil
	default:
		return false, Fault(typeName(v)+" is neither true nor false", "call it, or read a value from it")
	}
}

// text is Python's str(v), as far as it is fit for a manifest: what Python would
// print as None, [...] or {...} is an error.
func text(v any) (string, error) {
	switch v := v.(type) {
	case bool:
		if v {
			return "True", nil
		}
		return "False", nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		return formatFloat(v), nil
	case string:
		return v, nil
	case nil:
		return "", Fault("prints None", "give it a value, or use | json to print null")
	case []any, *Map:
		return "", Fault("prints "+typeName(v)+" as Python writes it", "use | json")
	default:
		return "", Fault("prints "+typeName(v), "call it, or read a value from it")
	}
}

// formatFloat is Python's repr of a float.
func formatFloat(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.FormatFloat(f, 'e', -1, 64)
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// number returns v as a float, and whether it is a number: in Python a bool is one.
func number(v any) (float64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return float64(v), true
	case float64:
		return v, true
	default:
		return 0, false
	}
}

// equal is Python's ==.
func equal(a, b any) bool {
	if x, ok := a.(int64); ok {
		if y, ok := b.(int64); ok {
			return x == y
		}
	}
	if x, ok := number(a); ok {
		y, ok := number(b)
		return ok && x == y
	}
	switch a := a.(type) {
	case nil:
		return b == nil
	case string:
		s, ok := b.(string)
		return ok && a == s
	case []any:
		l, ok := b.([]any)
		return ok && slices.EqualFunc(a, l, equal)
	case *Map:
		m, ok := b.(*Map)
		if !ok || a.Len() != m.Len() {
			return false
		}
		for k, e := range a.entries {
			other, ok := m.entries[k]
			if !ok || !equal(e.value, other.value) {
				return false
			}
		}
		return true
	default:
		return false
	}
}
