package jinja

import (
	"fmt"
	"strings"
)

func (r *run) cond(e expr) (bool, error) {
	v, err := r.defined(e)
	if err != nil {
		return false, err
	}
	ok, err := truth(v)
	return ok, r.place(e.at(), err)
}

// defined evaluates e and refuses what is not there.
func (r *run) defined(e expr) (any, error) {
	v, err := r.eval(e)
	if err != nil {
		return nil, err
	}
	if u, ok := v.(*undefined); ok && !u.lenient {
		return nil, r.fault(e.at(), u.what+" is not defined", u.hint)
	}
	return v, nil
}

func (r *run) eval(e expr) (any, error) {
	if err := r.step(e.at()); err != nil {
		return nil, err
	}
	if err := r.enter(e.at()); err != nil {
		return nil, err
	}
	defer r.leave()
	switch e := e.(type) {
	case literal:
		return e.value, nil
	case nameExpr:
		v := r.name(e)
		if w, ok := v.(Watched); ok {
			return w.Whole(), nil
		}
		return v, nil
	case captured:
		return r.captured, nil
	case listExpr:
		return r.list(e)
	case dictExpr:
		return r.dict(e)
	case attrExpr:
		target, err := r.target(e.target)
		if err != nil {
			return nil, err
		}
		v, err := attribute(target, e.name)
		return v, r.place(e.at(), err)
	case itemExpr:
		return r.item(e)
	case callExpr:
		return r.callWith(e, nil)
	case filterExpr:
		return r.filter(e)
	case testExpr:
		return r.test(e)
	case unaryExpr:
		return r.unary(e)
	case binaryExpr:
		return r.binary(e)
	case compareExpr:
		return r.compare(e)
	case condExpr:
		ok, err := r.cond(e.cond)
		switch {
		case err != nil:
			return nil, err
		case ok:
			return r.eval(e.then)
		case e.orElse == nil:
			return &undefined{what: "the value of an inline if without else", hint: "add else", lenient: !r.Strict}, nil
		}
		return r.eval(e.orElse)
	}
	return nil, r.fault(e.at(), fmt.Sprintf("unknown expression %T", e), "")
}

func (r *run) name(e nameExpr) any {
	if v, ok := r.scope.get(e.name); ok {
		if _, unset := v.(missingParam); !unset {
			return v
		}
	}
	if e.name == "self" {
		return selfObject{r}
	}
	return &undefined{what: `"` + e.name + `"`, hint: `define it with {% set %}, or with context: in the state`}
}

// target evaluates what an attribute or item is read of.
func (r *run) target(e expr) (any, error) {
	if n, ok := e.(nameExpr); ok {
		if w, ok := r.name(n).(Watched); ok {
			return w, nil
		}
	}
	v, err := r.defined(e)
	if u, ok := v.(*undefined); ok {
		err = r.fault(e.at(), u.what+" is not defined", u.hint)
	}
	return v, err
}

func (r *run) list(e listExpr) (any, error) {
	out := make([]any, 0, len(e.items))
	for _, item := range e.items {
		v, err := r.inside(item)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	if e.tuple {
		return Tuple(out), nil
	}
	return &List{out}, nil
}

// inside evaluates what is set, or goes into a list or dict. Strict rendering refuses what is
// not there; Jinja2 does when it is used.
func (r *run) inside(e expr) (any, error) {
	if r.Strict {
		return r.defined(e)
	}
	return r.eval(e)
}

func (r *run) dict(e dictExpr) (any, error) {
	m := NewMap()
	for i, k := range e.keys {
		key, err := r.defined(k)
		if err != nil {
			return nil, err
		}
		v, err := r.inside(e.values[i])
		if err != nil {
			return nil, err
		}
		if err := m.PutAt(key, v, Origin{r.t.file, k.at()}); err != nil {
			return nil, r.place(k.at(), err)
		}
	}
	return m, nil
}

// attribute is x.name: a method or attribute, else the item of that name.
func attribute(target any, name string) (any, error) {
	if strings.HasPrefix(name, "__") {
		return &undefined{what: fmt.Sprintf("%q", name), hint: "Python's inner names cannot be reached"}, nil
	}
	if o, ok := target.(Object); ok {
		return o.Attr(name)
	}
	if f := method(target, name); f != nil {
		return f, nil
	}
	if m, ok := target.(*Map); ok {
		if v, ok := m.Get(name); ok {
			return v, nil
		}
	}
	return &undefined{what: fmt.Sprintf("%q of %s", name, typeName(target)), hint: ""}, nil
}

func (r *run) item(e itemExpr) (any, error) {
	target, err := r.target(e.target)
	if err != nil {
		return nil, err
	}
	if s, ok := e.key.(sliceExpr); ok {
		return r.slice(e, target, s)
	}
	key, err := r.eval(e.key)
	if err != nil {
		return nil, err
	}
	v, err := item(target, key)
	return v, r.place(e.at(), err)
}

func (r *run) slice(e itemExpr, target any, s sliceExpr) (any, error) {
	var bounds [3]any
	for i, b := range []expr{s.start, s.stop, s.step} {
		if b == nil {
			continue
		}
		var err error
		if bounds[i], err = r.defined(b); err != nil {
			return nil, err
		}
	}
	v, err := slice(target, bounds[0], bounds[1], bounds[2])
	return v, r.place(e.at(), err)
}

// item is x[key]: the item, else the attribute of that name.
func item(target, key any) (any, error) {
	switch target := target.(type) {
	case Object:
		return target.Item(key)
	case *Map:
		if v, ok := target.At(key); ok {
			return v, nil
		}
	default:
		if items, ok := sequence(target); ok {
			if n, ok := integer(key); ok {
				if n < 0 {
					n += int64(len(items))
				}
				if n >= 0 && n < int64(len(items)) {
					return items[n], nil
				}
				return &undefined{what: fmt.Sprintf("item %d of %s of %d", n, typeName(target), len(items)), hint: ""}, nil
			}
		}
	}
	name, ok := asText(key)
	if !ok {
		return &undefined{what: fmt.Sprintf("the item %s of %s", Str(key), typeName(target)), hint: ""}, nil
	}
	if f := method(target, name); f != nil && !strings.HasPrefix(name, "__") {
		return f, nil
	}
	return &undefined{what: fmt.Sprintf("the key %q", name), hint: "use .get(key, default)"}, nil
}

func (r *run) arguments(what string, a arguments) (*Args, error) {
	args := &Args{What: what, Pos: make([]any, 0, len(a.positional))}
	for _, e := range a.positional {
		v, err := r.eval(e)
		if err != nil {
			return nil, err
		}
		args.Pos = append(args.Pos, v)
	}
	for i, e := range a.named {
		v, err := r.eval(e)
		if err != nil {
			return nil, err
		}
		if _, twice := args.Named(a.names[i]); twice {
			return nil, r.fault(e.at(), fmt.Sprintf("the argument %q is there twice", a.names[i]), "")
		}
		args.AddNamed(a.names[i], v)
	}
	if a.star != nil {
		v, err := r.defined(a.star)
		if err != nil {
			return nil, err
		}
		items, err := iterate(v)
		if err != nil {
			return nil, r.place(a.star.at(), err)
		}
		args.Pos = append(args.Pos, items...)
	}
	if a.stars != nil {
		return args, r.keywords(args, a.stars)
	}
	return args, nil
}

// keywords adds the arguments of **dict.
func (r *run) keywords(args *Args, e expr) error {
	v, err := r.defined(e)
	if err != nil {
		return err
	}
	m, ok := v.(*Map)
	if !ok {
		return r.fault(e.at(), "** needs a dict, not "+typeName(v), "")
	}
	for _, k := range m.keys {
		name, ok := asText(k)
		if _, twice := args.Named(name); twice || !ok {
			return r.fault(e.at(), fmt.Sprintf("the argument %s is there twice, or no string", Str(k)), "")
		}
		value, _ := m.At(k)
		args.AddNamed(name, value)
	}
	return nil
}

// callWith calls a function; caller is the body of the call block around it, if any.
func (r *run) callWith(e callExpr, caller *macro) (any, error) {
	fn, err := r.defined(e.fn)
	if err != nil {
		return nil, err
	}
	args, err := r.arguments("the function", e.args)
	if err != nil {
		return nil, err
	}
	if caller != nil {
		args.AddNamed("caller", caller)
	}
	v, err := r.call(fn, args)
	return v, r.place(e.at(), err)
}

func (r *run) call(fn any, args *Args) (any, error) {
	switch fn := fn.(type) {
	case Func:
		return fn(args)
	case contextFunc:
		return fn(r, args)
	case callable:
		return fn.call(args)
	}
	return nil, Fault("calls "+typeName(fn), "")
}

// contextFunc is a function that sees the rendering.
type contextFunc func(r *run, a *Args) (any, error)
