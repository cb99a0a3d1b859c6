package jinja

// selectFilterNames are the filters that name another filter or a test.
var selectFilterNames = []string{"map", "select", "reject", "selectattr", "rejectattr"}

// selectFilter is one of them, nil for any other name. They are in no map, since
// they reach back to where all filters are found.
func selectFilter(name string) filterFunc {
	switch name {
	case "map":
		return filterMap
	case "select":
		return filterSelect(false, true)
	case "reject":
		return filterSelect(false, false)
	case "selectattr":
		return filterSelect(true, true)
	case "rejectattr":
		return filterSelect(true, false)
	}
	return nil
}

func filterMap(r *run, v any, a *Args) (any, error) {
	attr, byAttribute := a.Named("attribute")
	if len(a.Pos) == 0 && byAttribute {
		a.drop("attribute")
		def, _ := a.Named("default")
		a.drop("default")
		if err := a.Done(); err != nil {
			return nil, err
		}
		return r.each(v, func(item any) (any, error) { return attributeOf(item, attr, def) }), nil
	}
	name, err := a.Text("filter")
	if err != nil {
		return nil, err
	}
	pos, named := a.Rest(), a.named
	a.named = nil
	if filterOf(name) == nil {
		return nil, faultf("the filter %q is not known", name)
	}
	return r.each(v, func(item any) (any, error) {
		return r.applyFilter(name, item, &Args{Pos: pos, named: append([]namedArg{}, named...)})
	}), nil
}

func (r *run) each(v any, f func(any) (any, error)) *iterator {
	return lazily(func() ([]any, error) {
		items, err := iterate(v)
		if err != nil {
			return nil, err
		}
		out := make([]any, 0, len(items))
		for _, item := range items {
			if err := r.step(0); err != nil {
				return nil, Fault("takes too many steps to render", "shorten the loops")
			}
			x, err := f(item)
			if err != nil {
				return nil, err
			}
			out = append(out, x)
		}
		return out, nil
	})
}

func filterSelect(byAttribute, keep bool) filterFunc {
	return func(r *run, v any, a *Args) (any, error) {
		var attr any
		if byAttribute {
			var err error
			if attr, err = a.Need("attribute"); err != nil {
				return nil, err
			}
		}
		passes := truth
		if len(a.Pos) > a.used {
			name, err := a.Text("test")
			if err != nil {
				return nil, err
			}
			t := testOf(name)
			if t == nil {
				return nil, faultf("the test %q is not known", name)
			}
			pos, named := a.Rest(), a.named
			a.named = nil
			passes = func(x any) (bool, error) {
				args := &Args{What: "the test " + name, Pos: pos, named: append([]namedArg{}, named...)}
				ok, err := t(r, x, args)
				if err == nil {
					err = args.Done()
				}
				return ok, err
			}
		}
		if err := a.Done(); err != nil {
			return nil, err
		}
		return lazily(func() ([]any, error) {
			items, err := iterate(v)
			if err != nil {
				return nil, err
			}
			var out []any
			for _, item := range items {
				if err := r.step(0); err != nil {
					return nil, Fault("takes too many steps to render", "shorten the loops")
				}
				x, err := attributeOf(item, attr, nil)
				if err != nil {
					return nil, err
				}
				ok, err := passes(x)
				if err != nil {
					return nil, err
				}
				if ok == keep {
					out = append(out, item)
				}
			}
			return out, nil
		}), nil
	}
}
