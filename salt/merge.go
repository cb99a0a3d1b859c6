package salt

import (
	"slices"

	"holdfast.dev/salt/jinja"
)

// update is salt/utils/dictupdate.py, update: it changes dest.
func update(dest, upd *jinja.Map, recursive, lists bool) {
	for _, k := range upd.All() {
		v, _ := upd.At(k)
		old, _ := dest.At(k)
		if recursive {
			below, ok1 := old.(*jinja.Map)
			over, ok2 := v.(*jinja.Map)
			if ok1 && ok2 {
				update(below, over, true, lists)
				continue
			}
			first, ok1 := old.(*jinja.List)
			more, ok2 := v.(*jinja.List)
			if ok1 && ok2 && lists {
				out := jinja.Import(first).(*jinja.List)
				appendNew(out, more)
				v = out
			}
		}
		put(dest, k, v, upd.OriginOf(k))
	}
}

// put sets an entry whose key was in a dict already.
func put(m *jinja.Map, k, v any, o jinja.Origin) {
	if err := m.PutAt(k, v, o); err != nil {
		panic(err) // a dict's key can be hashed
	}
}

func appendNew(l, more *jinja.List) {
	for _, v := range more.Items {
		if !slices.ContainsFunc(l.Items, func(x any) bool { return jinja.Equal(x, v) }) {
			l.Items = append(l.Items, v)
		}
	}
}

// mergeStrategy is salt/utils/dictupdate.py, merge: a new dict.
func mergeStrategy(a, b *jinja.Map, strategy string, lists bool) (*jinja.Map, error) {
	switch strategy {
	case "", "smart", "recurse", "none":
		out := jinja.Import(a).(*jinja.Map)
		update(out, b, true, lists && strategy != "none")
		return out, nil
	case "overwrite":
		for _, k := range b.All() {
			if _, ok := a.At(k); ok {
				v, _ := b.At(k)
				put(a, k, v, b.OriginOf(k))
			}
		}
		out := jinja.Import(a).(*jinja.Map)
		update(out, b, true, lists)
		return out, nil
	case "list":
		out := jinja.NewMap()
		for _, k := range a.All() {
			v, _ := a.At(k)
			if other, ok := b.At(k); ok {
				v = jinja.NewList(v, other)
			}
			put(out, k, v, a.OriginOf(k))
		}
		return out, nil
	case "aggregate":
		out, _ := aggregate(a, b, 1).(*jinja.Map)
		return out, nil
	}
	return nil, jinja.Fault("the merging strategy "+strategy+" is not known", "known are smart, recurse, overwrite, list, aggregate and none")
}

// aggregate is salt/serializers/yamlex.py, merge_recursive, without its marks.
func aggregate(a, b any, level int) any {
	x, ok1 := a.(*jinja.Map)
	y, ok2 := b.(*jinja.Map)
	if !ok1 || !ok2 || level == 0 {
		return b
	}
	out := x.Copy()
	for _, k := range y.All() {
		v, _ := y.At(k)
		if old, ok := out.At(k); ok {
			v = aggregate(old, v, level-1)
		}
		put(out, k, v, y.OriginOf(k))
	}
	return out
}

var mergeFunctions = map[string]function{
	"slsutil.update": func(_ *engine, a *jinja.Args) (any, error) {
		dest, ok1 := a.Take("dest", nil).(*jinja.Map)
		upd, ok2 := a.Take("upd", nil).(*jinja.Map)
		recursive, err := a.Flag("recursive_update", true)
		if err != nil {
			return nil, err
		}
		lists, err := a.Flag("merge_lists", false)
		if err != nil || !ok1 || !ok2 {
			return nil, jinja.Fault("slsutil.update needs two dicts", "")
		}
		update(dest, upd, recursive, lists)
		return dest, nil
	},
	"slsutil.merge": func(_ *engine, a *jinja.Args) (any, error) {
		x, ok1 := a.Take("obj_a", nil).(*jinja.Map)
		y, ok2 := a.Take("obj_b", nil).(*jinja.Map)
		strategy, _ := jinja.Text(a.Take("strategy", "smart"))
		a.Take("renderer", nil)
		lists, err := a.Flag("merge_lists", false)
		if err != nil || !ok1 || !ok2 {
			return nil, jinja.Fault("slsutil.merge needs two dicts", "")
		}
		return mergeStrategy(x, y, strategy, lists)
	},
	"slsutil.merge_all": func(_ *engine, a *jinja.Args) (any, error) {
		items, err := jinja.Iterate(a.Take("lst", nil))
		if err != nil {
			return nil, err
		}
		strategy, _ := jinja.Text(a.Take("strategy", "smart"))
		a.Take("renderer", nil)
		lists, err := a.Flag("merge_lists", false)
		if err != nil {
			return nil, err
		}
		out := jinja.NewMap()
		for _, item := range items {
			m, ok := item.(*jinja.Map)
			if !ok {
				return nil, jinja.Fault("slsutil.merge_all needs a list of dicts", "")
			}
			if out, err = mergeStrategy(out, m, strategy, lists); err != nil {
				return nil, err
			}
		}
		return out, nil
	},
	"defaults.merge":    defaultsMerge,
	"defaults.deepcopy": func(_ *engine, a *jinja.Args) (any, error) { v, err := a.Need("source"); return jinja.Import(v), err },
	"defaults.update":   defaultsUpdate,
}

func defaultsMerge(_ *engine, a *jinja.Args) (any, error) {
	dest, src := a.Take("dest", nil), a.Take("src", nil)
	lists, err1 := a.Flag("merge_lists", false)
	inPlace, err2 := a.Flag("in_place", true)
	none, err3 := a.Flag("convert_none", true)
	if err1 != nil || err2 != nil || err3 != nil {
		return nil, jinja.Fault("defaults.merge needs flags that are true or false", "")
	}
	if src == nil && none {
		src = jinja.NewMap()
	}
	if dest == nil && none && !inPlace {
		dest = jinja.NewMap()
	}
	d, ok1 := dest.(*jinja.Map)
	s, ok2 := src.(*jinja.Map)
	if !ok1 || !ok2 {
		return nil, jinja.Fault("defaults.merge needs two dicts", "")
	}
	if !inPlace {
		d = jinja.Import(d).(*jinja.Map)
	}
	update(d, s, true, lists)
	return d, nil
}

func defaultsUpdate(_ *engine, a *jinja.Args) (any, error) {
	dest, defaults := a.Take("dest", nil), a.Take("defaults", nil)
	lists, err1 := a.Flag("merge_lists", true)
	inPlace, err2 := a.Flag("in_place", true)
	none, err3 := a.Flag("convert_none", true)
	if err1 != nil || err2 != nil || err3 != nil {
		return nil, jinja.Fault("defaults.update needs flags that are true or false", "")
	}
	if dest == nil && none && !inPlace {
		dest = jinja.NewMap()
	}
	if defaults == nil && none {
		defaults = jinja.NewMap()
	}
	nodes, ok1 := dest.(*jinja.Map)
	base, ok2 := defaults.(*jinja.Map)
	if !ok1 || !ok2 {
		return nil, jinja.Fault("defaults.update needs two dicts", "")
	}
	if !inPlace {
		nodes = jinja.Import(nodes).(*jinja.Map)
	}
	for _, k := range nodes.All() {
		v, _ := nodes.At(k)
		if v == nil && none {
			v = jinja.NewMap()
		}
		vars, ok := v.(*jinja.Map)
		if !ok {
			return nil, jinja.Fault("defaults.update needs dicts below the names", "")
		}
		own := jinja.Import(base).(*jinja.Map)
		update(own, vars, true, lists)
		put(nodes, k, own, nodes.OriginOf(k))
	}
	return nodes, nil
}
