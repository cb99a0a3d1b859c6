package jinja

import (
	"fmt"
	"strings"
)

// maxRange is the sandbox's bound of range() (jinja2/sandbox.py, MAX_RANGE).
const maxRange = 100_000

// globals are the names that every template knows: Jinja2's, and Salt's raise,
// ifelse and odict.
var globals = map[string]any{
	"range": Func(globalRange),
	"dict":  Func(globalDict),
	"odict": Func(globalDict),
	"namespace": Func(func(a *Args) (any, error) {
		m, err := globalDict(a)
		if err != nil {
			return nil, err
		}
		return &namespace{m.(*Map)}, nil
	}),
	"cycler": Func(func(a *Args) (any, error) {
		items := a.Rest()
		if len(items) == 0 {
			return nil, Fault("cycler needs at least one item", "")
		}
		return &cycler{items: items}, nil
	}),
	"joiner": fn("joiner", func(a *Args) (any, error) { return &joiner{sep: a.Take("sep", ", ")}, nil }),
	"raise": fn("raise", func(a *Args) (any, error) {
		v, err := a.Need("msg")
		if err != nil {
			return nil, err
		}
		s, err := text(v)
		if err != nil {
			return nil, err
		}
		return nil, Fault(s, "")
	}),
	"lipsum": Func(func(*Args) (any, error) {
		return nil, Fault("lipsum is random", "write the text out: a rendering gives the same each time")
	}),
	"show_full_context": Func(func(*Args) (any, error) {
		return nil, Fault("show_full_context depends on the machine", "name what you need")
	}),
}

func globalRange(a *Args) (any, error) {
	var n []int64
	for _, v := range a.Rest() {
		i, ok := integer(v)
		if !ok {
			return nil, faultf("range needs integers, not %s", typeName(v))
		}
		n = append(n, i)
	}
	r := rangeValue{step: 1}
	switch len(n) {
	case 1:
		r.stop = n[0]
	case 2:
		r.start, r.stop = n[0], n[1]
	case 3:
		r = rangeValue{n[0], n[1], n[2]}
	default:
		return nil, Fault("range takes one to three integers", "")
	}
	const far = 1 << 40
	for _, i := range n {
		if i > far || i < -far {
			return nil, Fault("the range is too large", "")
		}
	}
	if r.step == 0 {
		return nil, Fault("range's step is 0", "")
	}
	if r.length() > maxRange {
		return nil, Fault(fmt.Sprintf("the range has more than %d items", maxRange), "")
	}
	return r, a.Done()
}

// globalDict is dict(mapping or pairs, name=value).
func globalDict(a *Args) (any, error) {
	m := NewMap()
	if v, ok := a.Given(""); ok {
		if err := update(m, v); err != nil {
			return nil, err
		}
	}
	named := a.rest()
	if err := a.Done(); err != nil {
		return nil, err
	}
	return m, update(m, named)
}

// update is a dict's update(v): v is a dict or pairs.
func update(m *Map, v any) error {
	if other, ok := v.(*Map); ok {
		for _, k := range other.keys {
			e, _ := other.entry(k)
			m.put(k, e)
		}
		return nil
	}
	items, err := iterate(v)
	if err != nil {
		return err
	}
	for _, item := range items {
		pair, err := iterate(item)
		if err != nil || len(pair) != 2 {
			return Fault("a dict is made of pairs", "")
		}
		if err := m.Put(pair[0], pair[1]); err != nil {
			return err
		}
	}
	return nil
}

// namespace is an object whose attributes {% set %} can change.
type namespace struct{ m *Map }

func (n *namespace) Attr(name string) (any, error) {
	if v, ok := n.m.Get(name); ok {
		return v, nil
	}
	return &undefined{what: fmt.Sprintf("%q of the namespace", name), hint: "set it"}, nil
}

func (n *namespace) Item(key any) (any, error) {
	name, _ := asText(key)
	return n.Attr(name)
}

func (n *namespace) str() (string, error) {
	s, err := repr(n.m)
	return "<Namespace " + s + ">", err
}

type cycler struct {
	items []any
	pos   int
}

func (c *cycler) Attr(name string) (any, error) {
	switch name {
	case "next":
		return fn("next", func(*Args) (any, error) {
			v := c.items[c.pos]
			c.pos = (c.pos + 1) % len(c.items)
			return v, nil
		}), nil
	case "reset":
		return fn("reset", func(*Args) (any, error) { c.pos = 0; return nil, nil }), nil
	case "current":
		return c.items[c.pos], nil
	case "items":
		return Tuple(c.items), nil
	case "pos":
		return int64(c.pos), nil
	}
	return &undefined{what: fmt.Sprintf("%q of the cycler", name)}, nil
}

func (c *cycler) Item(key any) (any, error) {
	name, _ := asText(key)
	return c.Attr(name)
}

type joiner struct {
	sep  any
	used bool
}

func (j *joiner) Attr(name string) (any, error) {
	return &undefined{what: fmt.Sprintf("%q of the joiner", name)}, nil
}
func (j *joiner) Item(any) (any, error) { return &undefined{what: "an item of the joiner"}, nil }

func (j *joiner) call(*Args) (any, error) {
	if !j.used {
		j.used = true
		return "", nil
	}
	return j.sep, nil
}

// loopObject is the name loop inside a for block.
type loopObject struct {
	items   []any
	i       int
	depth   int
	again   func(v any) (any, error) // of a recursive loop
	changed any
	asked   bool // changed has a value
}

func (l *loopObject) Attr(name string) (any, error) {
	n := len(l.items)
	switch name {
	case "index":
		return int64(l.i + 1), nil
	case "index0":
		return int64(l.i), nil
	case "revindex":
		return int64(n - l.i), nil
	case "revindex0":
		return int64(n - l.i - 1), nil
	case "first":
		return l.i == 0, nil
	case "last":
		return l.i == n-1, nil
	case "length":
		return int64(n), nil
	case "depth":
		return int64(l.depth + 1), nil
	case "depth0":
		return int64(l.depth), nil
	case "previtem":
		if l.i == 0 {
			return &undefined{what: "the item before the first", hint: "ask loop.first"}, nil
		}
		return l.items[l.i-1], nil
	case "nextitem":
		if l.i == n-1 {
			return &undefined{what: "the item after the last", hint: "ask loop.last"}, nil
		}
		return l.items[l.i+1], nil
	case "cycle":
		return fn("loop.cycle", func(a *Args) (any, error) {
			items := a.Rest()
			if len(items) == 0 {
				return nil, Fault("loop.cycle needs at least one item", "")
			}
			return items[l.i%len(items)], nil
		}), nil
	case "changed":
		return fn("loop.changed", func(a *Args) (any, error) {
			v := any(Tuple(a.Rest()))
			if l.asked && equal(l.changed, v) {
				return false, nil
			}
			l.changed, l.asked = v, true
			return true, nil
		}), nil
	}
	return &undefined{what: "loop." + name, hint: "known are index, index0, revindex, revindex0, first, last, length, depth, depth0, previtem, nextitem, cycle and changed"}, nil
}

func (l *loopObject) Item(key any) (any, error) {
	name, _ := asText(key)
	return l.Attr(name)
}

func (l *loopObject) str() (string, error) {
	return fmt.Sprintf("<LoopContext %d/%d>", l.i+1, len(l.items)), nil
}

func (l *loopObject) length() int { return len(l.items) }

func (l *loopObject) call(a *Args) (any, error) {
	v, err := a.Need("iterable")
	if err != nil {
		return nil, err
	}
	if l.again == nil {
		return nil, Fault("the loop is not recursive", "write {% for ... recursive %}")
	}
	return l.again(v)
}

// escapeHTML is markupsafe's escape.
func escapeHTML(s string) string { return htmlEscaper.Replace(s) }

var htmlEscaper = strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;", "'", "&#39;", `"`, "&#34;")
