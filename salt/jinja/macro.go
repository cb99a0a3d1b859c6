package jinja

import (
	"fmt"
	"slices"
)

// callable is an [Object] that can be called.
type callable interface {
	call(a *Args) (any, error)
}

// macro is a macro, or the body of a call block.
type macro struct {
	r     *run
	t     *Template
	node  *macroNode
	scope *scope
}

// Attr returns what Jinja2 tells of a macro.
func (m *macro) Attr(name string) (any, error) {
	switch name {
	case "name":
		if m.node.name == "" {
			return nil, nil
		}
		return m.node.name, nil
	case "arguments":
		out := make(Tuple, len(m.node.params))
		for i, p := range m.node.params {
			out[i] = p
		}
		return out, nil
	case "catch_kwargs":
		return m.node.usesKwargs, nil
	case "catch_varargs":
		return m.node.usesVarargs, nil
	case "caller":
		return m.node.usesCaller, nil
	}
	return &undefined{what: fmt.Sprintf("%q of a macro", name)}, nil
}

func (m *macro) Item(any) (any, error) { return &undefined{what: "an item of a macro"}, nil }

func (m *macro) title() string {
	if m.node.name == "" {
		return "caller"
	}
	return "the macro " + m.node.name
}

func (m *macro) call(a *Args) (any, error) {
	names, err := m.bind(a)
	if err != nil {
		return nil, err
	}
	if err := m.r.enter(m.node.line()); err != nil {
		return nil, err
	}
	defer m.r.leave()
	sub := *m.r
	sub.t, sub.parent, sub.out, sub.capturing = m.t, nil, &sink{}, 1
	sub.scope = &scope{names: names, parent: m.scope}
	if err := m.defaults(&sub, names); err != nil {
		return nil, err
	}
	if err := sub.body(m.node.body); err != nil {
		return nil, err
	}
	if m.r.autoescape {
		return Markup(sub.out.b.String()), nil
	}
	return sub.out.b.String(), nil
}

// missingParam marks a parameter that the call does not give.
type missingParam struct{}

// bind gives the parameters their values, as jinja2/runtime.py, Macro.__call__ does.
func (m *macro) bind(a *Args) (map[string]any, error) {
	n := m.node
	names := map[string]any{}
	for i, p := range n.params {
		switch v, ok := a.Named(p); {
		case i < len(a.Pos):
			names[p] = a.Pos[i]
		case ok:
			names[p] = v
			a.drop(p)
		default:
			names[p] = missingParam{}
		}
	}
	if n.usesCaller && !n.definesCaller {
		if v, ok := a.Named("caller"); ok {
			names["caller"] = v
			a.drop("caller")
		} else {
			names["caller"] = &undefined{what: "caller", hint: "call the macro with {% call %}"}
		}
	}
	if n.usesKwargs {
		names["kwargs"] = a.rest()
	} else if len(a.named) > 0 {
		return nil, faultf("%s has no argument %q", m.title(), a.named[0].name)
	}
	if n.usesVarargs {
		names["varargs"] = Tuple(slices.Clone(a.Pos[min(len(n.params), len(a.Pos)):]))
	} else if len(a.Pos) > len(n.params) {
		return nil, faultf("%s takes at most %d arguments", m.title(), len(n.params))
	}
	return names, nil
}

func (m *macro) defaults(sub *run, names map[string]any) error {
	n := m.node
	for i, p := range n.params {
		if !is[missingParam](names[p]) {
			continue
		}
		d := i - (len(n.params) - len(n.defaults))
		if d < 0 {
			names[p] = &undefined{what: fmt.Sprintf("the parameter %q", p), hint: "give it when calling " + m.title()}
			continue
		}
		delete(names, p) // a default can use a name of outside
		v, err := sub.eval(n.defaults[d])
		if err != nil {
			return err
		}
		names[p] = v
	}
	return nil
}

func (r *run) callBlock(n callBlockNode) error {
	c := n.call.(callExpr)
	caller := &macro{r: r, t: r.t, node: n.caller, scope: r.scope}
	v, err := r.callWith(c, caller)
	if err != nil {
		return err
	}
	return r.print(v, n.line())
}
