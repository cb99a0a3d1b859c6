package jinja

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"
	"math/big"
	"slices"
	"strconv"

	"holdfast.dev/internal/strictyaml"
)

// Values of the language are nil (None), bool, int64, [*big.Int] (only what an
// int64 cannot hold), float64, string, [Markup], [Bytes], [*List], [Tuple],
// [*Map], [*Set], [Func], [Object] and the sequences of sequence.go. A list that
// comes in as []any is copied, see [Import].

// List is a list: templates can change it.
type List struct{ Items []any }

// NewList makes a list of these items.
func NewList(items ...any) *List { return &List{items} }

// Tuple is a list that cannot change.
type Tuple []any

// Markup is a string that is safe to print as HTML.
type Markup string

// Bytes are Python's bytes, such as YAML's !!binary.
type Bytes string

// Func is a function that templates can call. An error that is a
// [strictyaml.Error] without file and line gets those of the call.
type Func func(a *Args) (any, error)

// Object is a value that decides itself what its attributes (x.name) and items
// (x['key']) are. What it does not have is [Missing].
type Object interface {
	Attr(name string) (any, error)
	Item(key any) (any, error)
}

// Missing is what an [Object] returns for a name that it does not have.
func Missing(what, hint string) any { return &undefined{what: what, hint: hint} }

// Fault is an error with a remedy, for Func and Object.
func Fault(msg, hint string) error { return &strictyaml.Error{Msg: msg, Hint: hint} }

func faultf(format string, args ...any) error { return Fault(fmt.Sprintf(format, args...), "") }

// Origin is where a value was written.
type Origin struct {
	File string
	Line int
}

// undefined stands for a name, attribute or item that is not there. Only
// "is defined", default and passing it on take it; every other use is an error.
type undefined struct {
	what, hint string
	// lenient is Jinja2's undefined of an inline if without else: it prints as
	// nothing and is false.
	lenient bool
}

func (u *undefined) fault() error { return Fault(u.what+" is not defined", u.hint) }

// IsUndefined tells whether v stands for something that is not there.
func IsUndefined(v any) bool { _, ok := v.(*undefined); return ok }

// Import copies a value that the caller keeps: templates may change the copy.
func Import(v any) any {
	switch v := v.(type) {
	case []any:
		out := &List{make([]any, len(v))}
		for i := range v {
			out.Items[i] = Import(v[i])
		}
		return out
	case *List:
		out := &List{make([]any, len(v.Items))}
		for i := range v.Items {
			out.Items[i] = Import(v.Items[i])
		}
		return out
	case Tuple:
		out := make(Tuple, len(v))
		for i := range v {
			out[i] = Import(v[i])
		}
		return out
	case *Map:
		out := NewMap()
		out.Ordered = v.Ordered
		for _, k := range v.keys {
			e, _ := v.entry(k)
			out.put(k, entry{Import(e.value), e.origin})
		}
		return out
	case int:
		return int64(v)
	}
	return v
}

// Export is the value with lists as []any, as pyyaml's strict reader makes it.
func Export(v any) any {
	switch v := v.(type) {
	case *List:
		return exportAll(v.Items)
	case Tuple:
		return exportAll(v)
	case Markup:
		return string(v)
	case *Map:
		out := NewMap()
		out.Ordered = v.Ordered
		for _, k := range v.keys {
			e, _ := v.entry(k)
			out.put(k, entry{Export(e.value), e.origin})
		}
		return out
	}
	return v
}

func exportAll(items []any) []any {
	out := make([]any, len(items))
	for i := range items {
		out[i] = Export(items[i])
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
	text := func(sort byte, s string) []byte {
		return append(append(strconv.AppendInt(append(b, sort), int64(len(s)), 10), ':'), s...)
	}
	list := func(sort byte, items []any) []byte {
		out := append(strconv.AppendInt(append(b, sort), int64(len(items)), 10), ':')
		for _, item := range items {
			out = appendHash(out, item)
		}
		return out
	}
	switch v := v.(type) {
	case nil:
		return append(b, 'n')
	case bool:
		return strconv.AppendBool(append(b, 'b'), v)
	case int64:
		return append(strconv.AppendInt(append(b, 'i'), v, 10), ';')
	case *big.Int:
		return append(append(append(b, 'i'), v.String()...), ';')
	case float64:
		return append(strconv.AppendUint(append(b, 'f'), math.Float64bits(v), 16), ';')
	case string:
		return text('s', v)
	case Markup:
		return text('S', string(v))
	case Bytes:
		return text('B', string(v))
	case []any:
		return list('l', v)
	case *List:
		return list('l', v.Items)
	case Tuple:
		return list('t', v)
	case *Map:
		b = append(strconv.AppendInt(append(b, 'm'), int64(v.Len()), 10), ':')
		for _, k := range v.keys {
			e, _ := v.entry(k)
			b = appendHash(appendHash(b, k), e.value)
		}
		return b
	default:
		return fmt.Appendf(b, "?%T", v)
	}
}

// typeName names a value's type in errors.
func typeName(v any) string {
	switch v.(type) {
	case nil:
		return "None"
	case bool:
		return "a bool"
	case int64, *big.Int:
		return "an int"
	case float64:
		return "a float"
	case string, Markup:
		return "a string"
	case Bytes:
		return "bytes"
	case *List, []any:
		return "a list"
	case Tuple:
		return "a tuple"
	case *Map:
		return "a dict"
	case *Set:
		return "a set"
	case Func, *macro:
		return "a function"
	case *iterator:
		return "a generator"
	case *undefined:
		return "undefined"
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
	case *undefined:
		if v.lenient {
			return false, nil
		}
		return false, v.fault()
	}
	if s, ok := asText(v); ok {
		return s != "", nil
	}
	if n, ok := length(v); ok {
		return n != 0, nil
	}
	return true, nil
}

// asText returns the characters of a string, of whichever kind.
func asText(v any) (string, bool) {
	switch v := v.(type) {
	case string:
		return v, true
	case Markup:
		return string(v), true
	}
	return "", false
}

// Text returns the characters of a string.
func Text(v any) (string, bool) { return asText(v) }

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
	case *big.Int:
		f, _ := new(big.Float).SetInt(v).Float64()
		return f, true
	case float64:
		return v, true
	}
	return 0, false
}

// integer returns v as an int64 if it is an integer of that size, or a bool.
func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	case int64:
		return v, true
	}
	return 0, false
}

// equal is Python's ==.
func equal(a, b any) bool {
	if x, ok := a.(int64); ok {
		if y, ok := b.(int64); ok {
			return x == y
		}
	}
	if x, ok := asText(a); ok {
		y, ok := asText(b)
		return ok && x == y
	}
	if x, ok := asBig(a); ok {
		if y, ok := asBig(b); ok {
			return x.Cmp(y) == 0
		}
	}
	if x, ok := number(a); ok {
		y, ok := number(b)
		return ok && x == y
	}
	switch a := a.(type) {
	case nil:
		return b == nil
	case Bytes:
		s, ok := b.(Bytes)
		return ok && a == s
	case *List:
		l, ok := b.(*List)
		return ok && (a == l || slices.EqualFunc(a.Items, l.Items, equal))
	case Tuple:
		l, ok := b.(Tuple)
		return ok && slices.EqualFunc(a, l, equal)
	case rangeValue:
		l, ok := b.(rangeValue)
		return ok && slices.EqualFunc(a.items(), l.items(), equal)
	case *Map:
		m, ok := b.(*Map)
		return ok && equalMaps(a, m)
	case *Set:
		s, ok := b.(*Set)
		return ok && equalMaps(&a.m, &s.m)
	case *view:
		v, ok := b.(*view)
		return ok && v.kind == a.kind && a.kind != "values" && equalMaps(a.m, v.m)
	case Func:
		return false
	}
	return a == b
}

func equalMaps(a, m *Map) bool {
	if a == m {
		return true
	}
	if a.Len() != m.Len() {
		return false
	}
	for _, k := range a.keys {
		x, _ := a.entry(k)
		y, ok := m.entry(k)
		if !ok || !equal(x.value, y.value) {
			return false
		}
	}
	return true
}

// Equal is Python's ==.
func Equal(a, b any) bool { return equal(a, b) }

// Truth is Python's bool(v).
func Truth(v any) (bool, error) { return truth(v) }

// Method returns a method of a Python value, nil if there is none of that name.
func Method(v any, name string) any { return method(v, name) }

// Watched is an [Object] that stands for a dict and wants to know what is read of
// it: everything but x.name and x['key'] gets the whole.
type Watched interface {
	Object
	Whole() any
}
