package jinja

import (
	"math"
	"math/big"
	"slices"
	"strings"
)

// Map is a dict: it keeps the order its keys were added in.
type Map struct {
	// Ordered dicts are written to YAML in their order, others sorted: PyYAML tells
	// OrderedDict from dict.
	Ordered bool
	keys    []any
	entries map[any]entry // by what hashKey makes of a key
}

type entry struct {
	value  any
	origin Origin
}

// NewMap makes an empty Map.
func NewMap() *Map { return &Map{entries: map[any]entry{}} }

// composite is the hashed form of a key that Go cannot compare as Python does.
type composite string

// hashKey returns what a Go map can use for a dict's key; ok is false for what
// Python cannot hash. Keys that are equal in Python have the same hash key: 1, 1.0
// and True are one.
func hashKey(k any) (hashed any, ok bool) {
	switch k := k.(type) {
	case string, nil, int64, Bytes:
		return k, true
	case Markup:
		return string(k), true
	case bool:
		n, _ := integer(k)
		return n, true
	case float64:
		if k == math.Trunc(k) && math.Abs(k) < 1<<62 {
			return int64(k), true
		}
		return k, true
	case *big.Int:
		return composite(k.String()), true
	case Tuple:
		var b strings.Builder
		for _, item := range k {
			if _, ok := hashKey(item); !ok {
				return nil, false
			}
			b.Write(appendHash(nil, item))
		}
		return composite("(" + b.String()), true
	case *List, *Map, *Set, []any, Func, *undefined:
		return nil, false
	}
	return k, true
}

func (m *Map) entry(k any) (entry, bool) {
	if s, ok := k.(string); ok { // nearly always
		e, ok := m.entries[s]
		return e, ok
	}
	h, ok := hashKey(k)
	if !ok {
		return entry{}, false
	}
	e, ok := m.entries[h]
	return e, ok
}

func (m *Map) put(k any, e entry) {
	h, ok := hashKey(k)
	if !ok {
		return
	}
	if m.entries == nil {
		m.entries = map[any]entry{}
	}
	if _, there := m.entries[h]; !there {
		m.keys = append(m.keys, k)
	}
	m.entries[h] = e
}

// Put adds or replaces the entry of a key of any type. What Python cannot hash is
// an error.
func (m *Map) Put(key, value any) error {
	if _, ok := hashKey(key); !ok {
		return faultf("%s cannot be a dict's key", typeName(key))
	}
	old, _ := m.entry(key)
	m.put(key, entry{value, old.origin})
	return nil
}

// PutAt is Put with the place that the entry was written at.
func (m *Map) PutAt(key, value any, origin Origin) error {
	if _, ok := hashKey(key); !ok {
		return faultf("%s cannot be a dict's key", typeName(key))
	}
	m.put(key, entry{value, origin})
	return nil
}

// At returns the value of a key of any type.
func (m *Map) At(key any) (any, bool) {
	e, ok := m.entry(key)
	return e.value, ok
}

// All returns the keys of any type, in order.
func (m *Map) All() []any { return slices.Clone(m.keys) }

// Delete removes an entry.
func (m *Map) Delete(key any) {
	h, ok := hashKey(key)
	if _, there := m.entries[h]; !ok || !there {
		return
	}
	delete(m.entries, h)
	m.keys = slices.DeleteFunc(m.keys, func(k any) bool { other, _ := hashKey(k); return other == h })
}

// Set adds or replaces one entry; a replaced entry keeps its place.
func (m *Map) Set(key string, value any, origin Origin) { m.put(key, entry{value, origin}) }

// Get returns the value of key.
func (m *Map) Get(key string) (any, bool) {
	e, ok := m.entries[key]
	return e.value, ok
}

// Origin returns where the entry was written.
func (m *Map) Origin(key string) Origin { return m.entries[key].origin }

// OriginOf returns where the entry of a key of any type was written.
func (m *Map) OriginOf(key any) Origin { e, _ := m.entry(key); return e.origin }

// Keys returns the keys in order, as strings.
func (m *Map) Keys() []string {
	out := make([]string, len(m.keys))
	for i, k := range m.keys {
		var ok bool
		if out[i], ok = k.(string); !ok {
			out[i] = Str(k)
		}
	}
	return out
}

// Len returns the number of entries.
func (m *Map) Len() int { return len(m.keys) }

// Copy returns a new Map with the same entries.
func (m *Map) Copy() *Map {
	out := NewMap()
	out.Ordered = m.Ordered
	for _, k := range m.keys {
		e, _ := m.entry(k)
		out.put(k, e)
	}
	return out
}

// Merge returns a new Map of base overlaid by top, as Salt's default strategy
// does (salt/utils/dictupdate.py, merge_recurse): dicts merge at every depth,
// anything else is replaced.
func Merge(base, top *Map) *Map {
	out := base.Copy()
	for _, k := range top.keys {
		e, _ := top.entry(k)
		old, _ := out.entry(k)
		below, isMap := old.value.(*Map)
		above, areMaps := e.value.(*Map)
		if isMap && areMaps {
			e.value = Merge(below, above)
		}
		out.put(k, e)
	}
	return out
}

// Set is Python's set, in the order its items were added.
type Set struct{ m Map }

// NewSet makes a set of the items; what Python cannot hash is an error.
func NewSet(items []any) (*Set, error) {
	s := &Set{}
	for _, item := range items {
		if err := s.m.Put(item, nil); err != nil {
			return nil, err
		}
	}
	return s, nil
}
