package jinja

import (
	"fmt"
	"slices"
)

// Args are the arguments of a call, taken one by one by position or name.
type Args struct {
	What  string // what is called, for errors
	Pos   []any
	named []namedArg
	used  int
}

type namedArg struct {
	name  string
	value any
}

// Named returns the argument of that name.
func (a *Args) Named(name string) (any, bool) {
	for _, n := range a.named {
		if n.name == name {
			return n.value, true
		}
	}
	return nil, false
}

// AddNamed adds an argument with a name.
func (a *Args) AddNamed(name string, v any) { a.named = append(a.named, namedArg{name, v}) }

func (a *Args) drop(name string) {
	a.named = slices.DeleteFunc(a.named, func(n namedArg) bool { return n.name == name })
}

// Take returns the next argument, or def.
func (a *Args) Take(name string, def any) any {
	if v, ok := a.Given(name); ok {
		return v
	}
	return def
}

// Given returns the next argument, and whether there is one.
func (a *Args) Given(name string) (any, bool) {
	if a.used < len(a.Pos) {
		a.used++
		return a.Pos[a.used-1], true
	}
	a.used++ // a later argument has no place before it
	v, ok := a.Named(name)
	if ok {
		a.drop(name)
	}
	return v, ok
}

// Need returns the next argument, which must be there.
func (a *Args) Need(name string) (any, error) {
	v, ok := a.Given(name)
	if !ok {
		return nil, faultf("%s needs the argument %q", a.What, name)
	}
	return v, nil
}

// Text returns the next argument, a string that must be there.
func (a *Args) Text(name string) (string, error) {
	v, err := a.Need(name)
	if err != nil {
		return "", err
	}
	s, ok := asText(v)
	if !ok {
		if u, isUndefined := v.(*undefined); isUndefined {
			return "", u.fault()
		}
		return "", faultf("%s needs a string as %q, not %s", a.What, name, typeName(v))
	}
	return s, nil
}

// Flag returns the next argument as true or false.
func (a *Args) Flag(name string, def bool) (bool, error) { return truth(a.Take(name, def)) }

// Int returns the next argument, an integer.
func (a *Args) Int(name string, def int64) (int64, error) {
	v := a.Take(name, def)
	n, ok := integer(v)
	if !ok {
		return 0, faultf("%s needs an integer as %q, not %s", a.What, name, typeName(v))
	}
	return n, nil
}

// Rest takes the positional arguments that are left.
func (a *Args) Rest() []any {
	out := a.Pos[min(a.used, len(a.Pos)):]
	a.used = len(a.Pos)
	return out
}

// rest takes the named arguments that are left, as a dict.
func (a *Args) rest() *Map {
	m := NewMap()
	for _, n := range a.named {
		m.put(n.name, entry{value: n.value})
	}
	a.named = nil
	return m
}

// Keywords takes the named arguments that are left.
func (a *Args) Keywords() *Map { return a.rest() }

// Done checks that nothing is left.
func (a *Args) Done() error {
	if len(a.named) > 0 {
		return faultf("%s has no argument %q", a.What, a.named[0].name)
	}
	if a.used < len(a.Pos) {
		return Fault(fmt.Sprintf("%s takes at most %d arguments", a.What, a.used), "")
	}
	return nil
}

// fn makes a Func that refuses arguments which it does not take.
func fn(what string, f func(a *Args) (any, error)) Func {
	return func(a *Args) (any, error) {
		a.What = what
		v, err := f(a)
		if err == nil {
			err = a.Done()
		}
		return v, err
	}
}

// Function makes a [Func] that takes its arguments from a and refuses others.
func Function(what string, f func(a *Args) (any, error)) Func { return fn(what, f) }
