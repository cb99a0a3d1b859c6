package jinja

import (
	"maps"
	"slices"
	"strings"
)

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

var sequenceFilters = map[string]filterFunc{
	"batch":    given(filterBatch),
	"dictsort": given(filterDictsort),
	"first": given(func(_ *run, v any, _ *Args) (any, error) {
		if it, ok := v.(*iterator); ok {
			if err := it.force(); err != nil {
				return nil, err
			}
			if it.pos == len(it.items) {
				return &undefined{what: "the first item of nothing", hint: ""}, nil
			}
			it.pos++
			return it.items[it.pos-1], nil
		}
		items, err := iterate(v)
		if err != nil || len(items) == 0 {
			return &undefined{what: "the first item of nothing", hint: ""}, err
		}
		return items[0], nil
	}),
	"last": given(func(_ *run, v any, _ *Args) (any, error) {
		if is[*iterator](v) || is[*Set](v) {
			return nil, Fault("last needs a list, not "+typeName(v), "| list makes a list of it")
		}
		items, err := iterate(v)
		if err != nil || len(items) == 0 {
			return &undefined{what: "the last item of nothing", hint: ""}, err
		}
		return items[len(items)-1], nil
	}),
	"groupby": given(filterGroupby),
	"items": func(_ *run, v any, _ *Args) (any, error) {
		m, ok := v.(*Map)
		if !ok && !IsUndefined(v) {
			return nil, Fault("items needs a dict, not "+typeName(v), "")
		}
		return lazily(func() ([]any, error) {
			if m == nil {
				return nil, nil
			}
			return (&view{"items", m}).items(), nil
		}), nil
	},
	"join": given(filterJoin),
	"list": given(func(_ *run, v any, _ *Args) (any, error) {
		items, err := iterate(v)
		return &List{slices.Clone(items)}, err
	}),
	"reverse": given(filterReverse),
	"slice":   given(filterSlice),
	"sort":    given(filterSort),
	"sum":     given(filterSum),
}

func filterBatch(_ *run, v any, a *Args) (any, error) {
	n, err := a.Int("linecount", 0)
	if err != nil {
		return nil, err
	}
	fill := a.Take("fill_with", nil)
	if n <= 0 {
		return nil, Fault("batch needs a count above 0", "")
	}
	return lazily(func() ([]any, error) {
		items, err := iterate(v)
		var out []any
		for len(items) > 0 {
			k := min(int(n), len(items))
			row := slices.Clone(items[:k])
			items = items[k:]
			for fill != nil && len(row) < int(min(n, MaxSteps)) {
				row = append(row, fill)
			}
			out = append(out, &List{row})
		}
		return out, err
	}), nil
}

func filterSlice(_ *run, v any, a *Args) (any, error) {
	n, err := a.Int("slices", 0)
	if err != nil {
		return nil, err
	}
	fill := a.Take("fill_with", nil)
	if n <= 0 || n > MaxSteps {
		return nil, Fault("slice needs a count above 0", "")
	}
	return lazily(func() ([]any, error) {
		items, err := iterate(v)
		each, extra := len(items)/int(n), len(items)%int(n)
		var out []any
		at := 0
		for i := range int(n) {
			k := each
			if i < extra {
				k++
			}
			row := slices.Clone(items[at : at+k])
			at += k
			if fill != nil && i >= extra {
				row = append(row, fill)
			}
			out = append(out, &List{row})
		}
		return out, err
	}), nil
}

// folded is what the filters compare by: strings without their case, unless it counts.
func folded(v any, caseSensitive bool) any {
	if s, ok := asText(v); ok && !caseSensitive {
		return strings.ToLower(s)
	}
	return v
}

// sorted sorts by key, keeping the order of what is equal.
func sorted(items []any, key func(any) (any, error)) ([]any, error) {
	type pair struct{ key, item any }
	pairs := make([]pair, len(items))
	for i, item := range items {
		pairs[i] = pair{item, item}
		if key != nil {
			k, err := key(item)
			if err != nil {
				return nil, err
			}
			pairs[i].key = k
		}
	}
	var failed error
	slices.SortStableFunc(pairs, func(a, b pair) int {
		c, err := order(a.key, b.key)
		if err != nil && failed == nil {
			failed = err
		}
		return c
	})
	out := make([]any, len(items))
	for i, p := range pairs {
		out[i] = p.item
	}
	return out, failed
}

func filterDictsort(_ *run, v any, a *Args) (any, error) {
	m, ok := v.(*Map)
	if !ok {
		return nil, Fault("dictsort needs a dict, not "+typeName(v), "")
	}
	sensitive, err := a.Flag("case_sensitive", false)
	if err != nil {
		return nil, err
	}
	by := a.Take("by", "key")
	reverse, err := a.Flag("reverse", false)
	if err != nil {
		return nil, err
	}
	pos := 0
	switch by {
	case "key":
	case "value":
		pos = 1
	default:
		return nil, Fault("dictsort sorts by 'key' or 'value'", "")
	}
	items, err := sortedBy((&view{"items", m}).items(), reverse, func(item any) (any, error) { return folded(item.(Tuple)[pos], sensitive), nil })
	return &List{items}, err
}

// sortedBy is Python's sorted(items, key=key, reverse=reverse).
func sortedBy(items []any, reverse bool, key func(any) (any, error)) ([]any, error) {
	items = slices.Clone(items)
	if reverse {
		slices.Reverse(items)
	}
	out, err := sorted(items, key)
	if reverse {
		slices.Reverse(out)
	}
	return out, err
}

func filterSort(_ *run, v any, a *Args) (any, error) {
	reverse, err := a.Flag("reverse", false)
	if err != nil {
		return nil, err
	}
	sensitive, err := a.Flag("case_sensitive", false)
	if err != nil {
		return nil, err
	}
	attr := a.Take("attribute", nil)
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	var keys []any
	if s, ok := asText(attr); ok && strings.Contains(s, ",") {
		for part := range strings.SplitSeq(s, ",") {
			keys = append(keys, part)
		}
	} else {
		keys = []any{attr}
	}
	out, err := sortedBy(items, reverse, func(item any) (any, error) {
		if len(keys) == 1 {
			k, err := attributeOf(item, keys[0], nil)
			return folded(k, sensitive), err
		}
		var all []any
		for _, key := range keys {
			k, err := attributeOf(item, key, nil)
			if err != nil {
				return nil, err
			}
			all = append(all, folded(k, sensitive))
		}
		return &List{all}, nil
	})
	return &List{out}, err
}

// attributeOf is Jinja2's make_attrgetter: the path a.b.0 below a value. def, if
// not nil, is what stands for an undefined one.
func attributeOf(v, path, def any) (any, error) {
	var parts []any
	switch p := path.(type) {
	case nil:
		return v, nil
	case int64:
		parts = []any{p}
	default:
		s, ok := asText(p)
		if !ok {
			return nil, faultf("an attribute's name is %s", typeName(path))
		}
		for part := range strings.SplitSeq(s, ".") {
			if n, ok := toInt(part, 10); ok && isDigits(part) {
				parts = append(parts, n)
			} else {
				parts = append(parts, part)
			}
		}
	}
	for _, part := range parts {
		if u, ok := v.(*undefined); ok {
			return nil, u.fault()
		}
		var err error
		if v, err = item(v, part); err != nil {
			return nil, err
		}
		if IsUndefined(v) && def != nil {
			v = def
		}
	}
	return v, nil
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// group is what groupby returns: a tuple with names.
type group struct {
	key   any
	items *List
}

func (g group) Attr(name string) (any, error) {
	switch name {
	case "grouper":
		return g.key, nil
	case "list":
		return g.items, nil
	}
	return &undefined{what: "the attribute " + name + " of a group"}, nil
}

func (g group) Item(key any) (any, error) { return item(Tuple{g.key, g.items}, key) }

func (g group) iterate() ([]any, error) { return []any{g.key, g.items}, nil }
func (g group) length() int             { return 2 }
func (g group) str() (string, error)    { return repr(Tuple{g.key, g.items}) }

func filterGroupby(_ *run, v any, a *Args) (any, error) {
	attr, err := a.Need("attribute")
	if err != nil {
		return nil, err
	}
	def := a.Take("default", nil)
	sensitive, err := a.Flag("case_sensitive", false)
	if err != nil {
		return nil, err
	}
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	key := func(item any) (any, error) {
		k, err := attributeOf(item, attr, def)
		return folded(k, sensitive), err
	}
	if items, err = sorted(items, key); err != nil {
		return nil, err
	}
	var out []any
	var last any
	for i, item := range items {
		k, err := key(item)
		if err != nil {
			return nil, err
		}
		if u, ok := k.(*undefined); ok {
			return nil, u.fault()
		}
		if i == 0 || !equal(k, last) {
			plain, err := attributeOf(item, attr, def) // the first of a group names it
			if err != nil {
				return nil, err
			}
			out = append(out, group{plain, &List{}})
		}
		last = k
		g := out[len(out)-1].(group).items
		g.Items = append(g.Items, item)
	}
	return &List{out}, nil
}

func filterJoin(_ *run, v any, a *Args) (any, error) {
	sep, err := text(a.Take("d", ""))
	if err != nil {
		return nil, err
	}
	attr := a.Take("attribute", nil)
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	var b strings.Builder
	for i, item := range items {
		if item, err = attributeOf(item, attr, nil); err != nil {
			return nil, err
		}
		s, err := text(item)
		if err != nil {
			return nil, err
		}
		if i > 0 {
			b.WriteString(sep)
		}
		if b.WriteString(s); b.Len() > MaxOutput {
			return nil, Fault("the string is too long", "")
		}
	}
	return b.String(), nil
}

func filterReverse(_ *run, v any, _ *Args) (any, error) {
	if _, ok := asText(v); ok {
		return slice(v, nil, nil, int64(-1))
	}
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	items = slices.Clone(items)
	slices.Reverse(items)
	if is[*iterator](v) || is[*Set](v) {
		return &List{items}, nil
	}
	return lazily(func() ([]any, error) { return items, nil }), nil
}

func filterSum(_ *run, v any, a *Args) (any, error) {
	attr := a.Take("attribute", nil)
	total := a.Take("start", int64(0))
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	if _, ok := asText(total); ok {
		return nil, Fault("sum cannot add strings", "use | join")
	}
	for _, item := range items {
		if item, err = attributeOf(item, attr, nil); err != nil {
			return nil, err
		}
		if total, err = operate("+", total, item); err != nil {
			return nil, err
		}
	}
	return total, nil
}
