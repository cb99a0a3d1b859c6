package jinja

import (
	"fmt"
	"slices"
	"strings"
)

// hashable tells whether Python can hash v: tuples and strings, but no lists or dicts.
func hashable(v any) bool { _, ok := hashKey(v); return ok }

var saltListFilters = map[string]filterFunc{
	"sequence": given(func(_ *run, v any, _ *Args) (any, error) {
		switch v.(type) {
		case *List, Tuple, *Map, *Set:
			return v, nil
		}
		return NewList(v), nil
	}),
	"unique": given(func(_ *run, v any, _ *Args) (any, error) { return unique(v) }),
	"min":    given(func(_ *run, v any, _ *Args) (any, error) { return extreme(v, -1) }),
	"max":    given(func(_ *run, v any, _ *Args) (any, error) { return extreme(v, 1) }),
	"avg": given(func(r *run, v any, _ *Args) (any, error) {
		if hashable(v) {
			f, ok := toFloat(v)
			if !ok {
				return nil, faultf("avg needs a list of numbers, not %s", typeName(v))
			}
			return f, nil
		}
		total, err := filterSum(r, v, &Args{})
		if err != nil {
			return nil, err
		}
		n, _ := length(v)
		if total, err = operate("/", total, int64(n)); err != nil {
			return nil, err
		}
		f, _ := number(total)
		return f, nil
	}),
	"union":                setFilter(func(a, b bool) bool { return a || b }),
	"intersect":            setFilter(func(a, b bool) bool { return a && b }),
	"difference":           setFilter(func(a, b bool) bool { return a && !b }),
	"symmetric_difference": setFilter(func(a, b bool) bool { return a != b }),
	"compare_lists": given(func(_ *run, v any, a *Args) (any, error) {
		return compareLists(v, a.Take("new", nil))
	}),
	"exactly_n_true": given(func(_ *run, v any, a *Args) (any, error) {
		n, err := a.Int("amount", 1)
		if err != nil {
			return nil, err
		}
		return exactly(v, n)
	}),
	"exactly_one_true": given(func(_ *run, v any, _ *Args) (any, error) { return exactly(v, 1) }),
	"substring_in_list": given(func(_ *run, v any, a *Args) (any, error) {
		items, err := iterate(a.Take("list_to_search", nil))
		for _, item := range items {
			if ok, err := contains(item, v); ok || err != nil {
				return ok, err
			}
		}
		return false, err
	}),
	"is_list": func(_ *run, v any, _ *Args) (any, error) { return is[*List](v), nil },
	"is_iter": func(_ *run, v any, _ *Args) (any, error) { return isIter(v), nil },
	"sorted_ignorecase": given(func(_ *run, v any, _ *Args) (any, error) {
		items, err := iterate(v)
		if err != nil {
			return nil, err
		}
		items, err = sortedBy(items, false, func(item any) (any, error) {
			s, ok := asText(item)
			if !ok {
				return nil, faultf("sorted_ignorecase needs strings, not %s", typeName(item))
			}
			return strings.ToLower(s), nil
		})
		return &List{items}, err
	}),
	"mysql_to_dict": given(mysqlToDict),
	"flatten": given(func(_ *run, v any, a *Args) (any, error) {
		levels := a.Take("levels", nil)
		nulls, err := a.Flag("preserve_nulls", false)
		if err != nil {
			return nil, err
		}
		out := &List{}
		return out, flatten(out, v, levels, nulls, 0)
	}),
	"combinations":                  combinatoric(combinations),
	"combinations_with_replacement": combinatoric(combinationsWithReplacement),
	"permutations": given(func(_ *run, v any, a *Args) (any, error) {
		n := a.Take("r", nil)
		items, err := iterate(v)
		if err != nil {
			return nil, err
		}
		k, ok := integer(n)
		if n == nil {
			k, ok = int64(len(items)), true
		}
		if !ok || k < 0 {
			return nil, Fault("permutations needs a length", "")
		}
		items = slices.Clone(items)
		return lazily(func() ([]any, error) { return permutations(items, int(k)) }), nil
	}),
	"product": given(func(_ *run, v any, a *Args) (any, error) {
		n := int64(1)
		if v, ok := a.Named("repeat"); ok {
			a.drop("repeat")
			if n, ok = integer(v); !ok || n < 0 {
				return nil, Fault("product's repeat is an integer", "")
			}
		}
		pools, err := iterateAll(append([]any{v}, a.Rest()...))
		if err != nil {
			return nil, err
		}
		all := [][]any{}
		for range min(n, 64) {
			all = append(all, pools...)
		}
		return lazily(func() ([]any, error) { return product(all) }), nil
	}),
	"compress": given(func(_ *run, v any, a *Args) (any, error) {
		both, err := iterateAll([]any{v, a.Take("selectors", nil)})
		if err != nil {
			return nil, err
		}
		return lazily(func() ([]any, error) {
			var out []any
			for i := range min(len(both[0]), len(both[1])) {
				ok, err := truth(both[1][i])
				if err != nil {
					return nil, err
				}
				if ok {
					out = append(out, both[0][i])
				}
			}
			return out, nil
		}), nil
	}),
	"zip": given(func(_ *run, v any, a *Args) (any, error) {
		lists, err := iterateAll(append([]any{v}, a.Rest()...))
		return zip(lists, false, nil), err
	}),
	"zip_longest": given(func(_ *run, v any, a *Args) (any, error) {
		fill, _ := a.Named("fillvalue")
		a.drop("fillvalue")
		lists, err := iterateAll(append([]any{v}, a.Rest()...))
		return zip(lists, true, fill), err
	}),
	"method_call": given(func(r *run, v any, a *Args) (any, error) {
		name, err := a.Text("f_name")
		if err != nil {
			return nil, err
		}
		m, err := attribute(v, name)
		if _, isMap := v.(*Map); isMap && err == nil {
			if f := method(v, name); f != nil {
				m = f
			} else {
				m = &undefined{}
			}
		}
		args := &Args{Pos: slices.Clone(a.Rest()), named: a.named}
		a.named = nil
		if err != nil || IsUndefined(m) {
			return nil, err
		}
		return r.call(m, args)
	}),
	"to_entries": given(func(_ *run, v any, _ *Args) (any, error) {
		out := &List{}
		add := func(k, v any) {
			m := NewMap()
			m.put("key", entry{value: k})
			m.put("value", entry{value: v})
			out.Items = append(out.Items, m)
		}
		switch v := v.(type) {
		case *Map:
			for _, k := range v.keys {
				item, _ := v.At(k)
				add(k, item)
			}
		case *List:
			for i, item := range v.Items {
				add(int64(i), item)
			}
		default:
			return nil, faultf("to_entries needs a dict or a list, not %s", typeName(v))
		}
		return out, nil
	}),
	"from_entries": given(fromEntries),
}

func isIter(v any) bool {
	if _, ok := asText(v); ok || IsUndefined(v) {
		return false
	}
	if is[*iterator](v) {
		return true
	}
	_, err := iterate(v)
	return err == nil
}

func iterateAll(values []any) ([][]any, error) {
	out := make([][]any, len(values))
	for i, v := range values {
		items, err := iterate(v)
		if err != nil {
			return nil, err
		}
		out[i] = slices.Clone(items)
	}
	return out, nil
}

// unique is Salt's: a set of what can be hashed, else a list.
func unique(v any) (any, error) {
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	if hashable(v) {
		return NewSet(items)
	}
	out := &List{}
	for _, item := range items {
		if !slices.ContainsFunc(out.Items, func(x any) bool { return equal(x, item) }) {
			out.Items = append(out.Items, item)
		}
	}
	return out, nil
}

func extreme(v any, sign int) (any, error) {
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	if len(items) == 0 {
		return nil, Fault("nothing has no least and no greatest", "")
	}
	best := items[0]
	for _, item := range items[1:] {
		c, err := order(item, best)
		if err != nil {
			return nil, err
		}
		if c*sign > 0 {
			best = item
		}
	}
	return best, nil
}

func setFilter(keep func(inA, inB bool) bool) filterFunc {
	return given(func(_ *run, v any, a *Args) (any, error) {
		other := a.Take("lst2", nil)
		both, err := iterateAll([]any{v, other})
		if err != nil {
			return nil, err
		}
		if hashable(v) && hashable(other) {
			x, err := NewSet(both[0])
			if err != nil {
				return nil, err
			}
			y, err := NewSet(both[1])
			if err != nil {
				return nil, err
			}
			return combineSets(x, y, keep), nil
		}
		out := &List{}
		has := func(items []any, x any) bool {
			return slices.ContainsFunc(items, func(y any) bool { return equal(x, y) })
		}
		all := both[0]
		if keep(false, true) {
			if _, err := operate("+", v, other); err != nil {
				return nil, err
			}
			all = append(all, both[1]...)
		}
		for _, item := range all {
			if keep(has(both[0], item), has(both[1], item)) && !has(out.Items, item) {
				out.Items = append(out.Items, item)
			}
		}
		return out, nil
	})
}

func compareLists(old, now any) (any, error) {
	both, err := iterateAll([]any{old, now})
	if err != nil {
		return nil, err
	}
	out := NewMap()
	for _, side := range []struct {
		name    string
		of, not []any
	}{{"new", both[1], both[0]}, {"old", both[0], both[1]}} {
		l := &List{}
		for _, item := range side.of {
			if !slices.ContainsFunc(side.not, func(x any) bool { return equal(x, item) }) {
				l.Items = append(l.Items, item)
			}
		}
		if len(l.Items) > 0 {
			out.put(side.name, entry{value: l})
		}
	}
	return out, nil
}

func exactly(v any, n int64) (any, error) {
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	found := int64(0)
	for _, item := range items {
		ok, err := truth(item)
		if err != nil {
			return nil, err
		}
		if ok {
			found++
		}
	}
	return found == n, nil
}

func flatten(out *List, v any, levels any, nulls bool, depth int) error {
	if depth > maxRepr {
		return Fault("the list nests too deep, or holds itself", "")
	}
	items, err := iterate(v)
	if err != nil {
		return err
	}
	for _, item := range items {
		if !nulls && (item == nil || equal(item, "None") || equal(item, "null")) {
			continue
		}
		below := levels
		n, bounded := integer(levels)
		if bounded {
			below = n - 1
		}
		if !isIter(item) || bounded && n < 1 {
			out.Items = append(out.Items, item)
			continue
		}
		if err := flatten(out, item, below, nulls, depth+1); err != nil {
			return err
		}
		if len(out.Items) > MaxSteps {
			return Fault("the list is too long", "")
		}
	}
	return nil
}

func combinatoric(f func(items []any, k int) ([]any, error)) filterFunc {
	return given(func(_ *run, v any, a *Args) (any, error) {
		k, err := a.Int("r", -1)
		if err != nil {
			return nil, err
		}
		if k < 0 {
			return nil, Fault("a length of 0 or more is needed", "")
		}
		items, err := iterate(v)
		if err != nil {
			return nil, err
		}
		items = slices.Clone(items)
		return lazily(func() ([]any, error) { return f(items, int(k)) }), nil
	})
}

var errTooMany = Fault("there are too many combinations", "")

// choose walks index tuples: next tells where the following index may begin and end.
func choose(items []any, k int, next func(chosen []int) (from int, skip func(int) bool)) ([]any, error) {
	var out []any
	chosen := []int{}
	var walk func() error
	walk = func() error {
		if len(chosen) == k {
			t := make(Tuple, k)
			for i, c := range chosen {
				t[i] = items[c]
			}
			if out = append(out, t); len(out)*max(k, 1) > MaxSteps {
				return errTooMany
			}
			return nil
		}
		from, skip := next(chosen)
		for i := from; i < len(items); i++ {
			if skip != nil && skip(i) {
				continue
			}
			chosen = append(chosen, i)
			if err := walk(); err != nil {
				return err
			}
			chosen = chosen[:len(chosen)-1]
		}
		return nil
	}
	if k > 1000 {
		return nil, errTooMany
	}
	return out, walk()
}

func combinations(items []any, k int) ([]any, error) {
	if k > len(items) {
		return nil, nil
	}
	return choose(items, k, func(c []int) (int, func(int) bool) {
		if len(c) == 0 {
			return 0, nil
		}
		return c[len(c)-1] + 1, nil
	})
}

func combinationsWithReplacement(items []any, k int) ([]any, error) {
	return choose(items, k, func(c []int) (int, func(int) bool) {
		if len(c) == 0 {
			return 0, nil
		}
		return c[len(c)-1], nil
	})
}

func permutations(items []any, k int) ([]any, error) {
	if k > len(items) {
		return nil, nil
	}
	return choose(items, k, func(c []int) (int, func(int) bool) {
		return 0, func(i int) bool { return slices.Contains(c, i) }
	})
}

func product(pools [][]any) ([]any, error) {
	out := []any{Tuple{}}
	for _, pool := range pools {
		var next []any
		for _, head := range out {
			for _, item := range pool {
				next = append(next, append(slices.Clone(head.(Tuple)), item))
			}
			if len(next)*len(pools) > MaxSteps {
				return nil, errTooMany
			}
		}
		out = next
	}
	return out, nil
}

func zip(lists [][]any, longest bool, fill any) *iterator {
	n := 0
	for i, l := range lists {
		if i == 0 || longest && len(l) > n || !longest && len(l) < n {
			n = len(l)
		}
	}
	return lazily(func() ([]any, error) {
		out := make([]any, n)
		for i := range out {
			t := make(Tuple, len(lists))
			for j, l := range lists {
				t[j] = fill
				if i < len(l) {
					t[j] = l[i]
				}
			}
			out[i] = t
		}
		return out, nil
	})
}

func mysqlToDict(_ *run, v any, a *Args) (any, error) {
	key, err := a.Need("key")
	if err != nil {
		return nil, err
	}
	lines, err := iterate(v)
	if err != nil {
		return nil, err
	}
	out := NewMap()
	var headers []string
	for _, l := range lines {
		line, ok := asText(l)
		if !ok || line == "" || strings.HasPrefix(line, "+") {
			continue
		}
		cells := strings.Split(line, "|")
		for i := range cells {
			cells[i] = strings.TrimSpace(cells[i])
		}
		if len(headers) <= 1 {
			headers = cells
			continue
		}
		row := NewMap()
		for i := 1; i < len(headers)-1; i++ {
			if i >= len(cells) {
				return nil, Fault("a row is shorter than the header", "")
			}
			value, err := toNum(cells[i])
			if err != nil {
				return nil, err
			}
			row.put(headers[i], entry{value: value})
		}
		k, ok := row.At(key)
		if !ok {
			return nil, Fault(fmt.Sprintf("a row has no %s", Str(key)), "")
		}
		if err := out.Put(k, row); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func fromEntries(_ *run, v any, _ *Args) (any, error) {
	items, err := iterate(v)
	if err != nil {
		return nil, err
	}
	out := NewMap()
	for _, item := range items {
		m, ok := item.(*Map)
		if !ok {
			return nil, faultf("from_entries needs dicts, not %s", typeName(item))
		}
		lower := NewMap()
		for _, k := range m.keys {
			value, _ := m.At(k)
			lower.put(strings.ToLower(Str(k)), entry{value: value})
		}
		value, _ := lower.Get("value")
		for _, name := range []string{"key", "name"} {
			k, _ := lower.Get(name)
			ok, err := truth(k)
			if err != nil {
				return nil, err
			}
			if ok {
				if err := out.Put(k, value); err != nil {
					return nil, err
				}
				break
			}
		}
	}
	return out, nil
}
