package jinja

import "strings"

// tests that are known. "defined" and "undefined" also take what is not defined.
var tests = map[string]func(v any) bool{
	"boolean":   is[bool],
	"defined":   nil,
	"mapping":   is[*Map],
	"none":      func(v any) bool { return v == nil },
	"number":    func(v any) bool { _, ok := number(v); return ok },
	"sequence":  func(v any) bool { return is[[]any](v) || is[string](v) || is[*Map](v) },
	"string":    is[string],
	"undefined": nil,
}

const testNames = "boolean, defined, mapping, none, number, sequence, string and undefined"

func is[T any](v any) bool { _, ok := v.(T); return ok }

func (r *run) test(e testExpr) (any, error) {
	v, err := r.eval(e.target)
	if err != nil {
		return nil, err
	}
	u, isUndefined := v.(undefined)
	switch e.name {
	case "defined":
		return isUndefined == e.negate, nil
	case "undefined":
		return isUndefined != e.negate, nil
	}
	if isUndefined {
		return nil, r.fault(e.at(), u.what+" is not defined", u.hint)
	}
	return tests[e.name](v) != e.negate, nil
}

// mapMethod returns a method of a dict, nil if there is none of that name.
func mapMethod(m *Map, name string) Func {
	var f func(g *given) any
	switch name {
	case "get":
		f = func(g *given) any {
			key, def := g.take("key", nil), g.take("default", nil)
			if k, ok := key.(string); ok {
				if v, ok := m.Get(k); ok {
					return v
				}
			}
			return def
		}
	case "items":
		f = func(*given) any {
			out := make([]any, 0, m.Len())
			for _, k := range m.keys {
				out = append(out, []any{k, m.entries[k].value})
			}
			return out
		}
	case "keys":
		f = func(*given) any {
			out := make([]any, 0, m.Len())
			for _, k := range m.keys {
				out = append(out, k)
			}
			return out
		}
	case "values":
		f = func(*given) any {
			out := make([]any, 0, m.Len())
			for _, k := range m.keys {
				out = append(out, m.entries[k].value)
			}
			return out
		}
	default:
		return nil
	}
	return method("a dict's "+name, func(g *given) (any, error) { return f(g), nil })
}

func method(what string, f func(g *given) (any, error)) Func {
	return func(args []any, named map[string]any) (any, error) {
		g := &given{what: what, args: args, named: named}
		v, err := f(g)
		if err == nil {
			err = g.done()
		}
		return v, err
	}
}

// stringMethod returns a method of a string, nil if there is none of that name.
func stringMethod(s, name string) Func {
	one := func(g *given) (string, error) {
		if arg, ok := g.take("", nil).(string); ok && arg != "" {
			return arg, nil
		}
		return "", Fault(g.what+" needs one string", "")
	}
	var f func(g *given) (any, error)
	switch name {
	case "lower":
		f = func(*given) (any, error) { return strings.ToLower(s), nil }
	case "upper":
		f = func(*given) (any, error) { return strings.ToUpper(s), nil }
	case "startswith":
		f = func(g *given) (any, error) { arg, err := one(g); return strings.HasPrefix(s, arg), err }
	case "endswith":
		f = func(g *given) (any, error) { arg, err := one(g); return strings.HasSuffix(s, arg), err }
	case "replace":
		f = func(g *given) (any, error) { return filterReplace(s, g) }
	case "split":
		f = func(g *given) (any, error) {
			sep, err := one(g)
			if err != nil {
				return nil, err
			}
			var out []any
			for _, part := range strings.Split(s, sep) {
				out = append(out, part)
			}
			return out, nil
		}
	default:
		return nil
	}
	return method("a string's "+name, f)
}
