package jinja

import (
	"fmt"
	"strings"
)

// templates renders the statements that reach other templates, and blocks.
func (r *run) templates(n stmt) error {
	switch n := n.(type) {
	case blockNode, *blockNode:
		if r.muted() {
			return nil
		}
		return r.block(n.(*blockNode))
	case extendsNode:
		if r.parent != nil {
			return r.fault(n.line(), "the template extends two others", "remove one")
		}
		t, _, err := r.find(n.template, n.line())
		r.parent, r.parentLine = t, n.line()
		return err
	case includeNode:
		if r.muted() {
			return nil
		}
		return r.include(n)
	case importNode:
		m, err := r.module(n.template, n.withContext, n.line())
		if err != nil {
			return err
		}
		var v any = m
		if n.convert != "" {
			if v, err = r.convert(n.convert, m); err != nil {
				return r.place(n.line(), err)
			}
		}
		r.scope.set(n.target, v)
		return nil
	case fromNode:
		m, err := r.module(n.template, n.withContext, n.line())
		if err != nil {
			return err
		}
		for i, name := range n.names {
			v, ok := m.names[name]
			if !ok {
				v = &undefined{what: fmt.Sprintf("%q of %s", name, m.file), hint: "it is not set there at the top level"}
			}
			r.scope.set(n.as[i], v)
		}
		return nil
	}
	return r.fault(n.line(), fmt.Sprintf("unknown statement %T", n), "")
}

// find loads the template of that name, or the first of a list that exists.
func (r *run) find(e expr, line int) (*Template, string, error) {
	v, err := r.defined(e)
	if err != nil {
		return nil, "", err
	}
	names := []any{v}
	if _, ok := asText(v); !ok {
		if names, err = iterate(v); err != nil {
			return nil, "", r.place(line, err)
		}
	}
	last := ""
	for _, n := range names {
		name, ok := asText(n)
		if !ok {
			return nil, "", r.fault(line, "a template's name is "+typeName(n), "use a string")
		}
		last = name
		if t, ok := r.cache[name]; ok {
			return t, name, nil
		}
		if r.Load == nil {
			return nil, "", r.fault(line, "other templates cannot be reached here", "")
		}
		t, err := r.Load(name, r.globals)
		if err != nil {
			return nil, "", r.place(line, err)
		}
		if t != nil {
			r.cache[name] = t
			return t, name, nil
		}
	}
	return nil, last, r.fault(line, fmt.Sprintf("there is no template %q", last), "paths begin at the states' folder; ./ and ../ at the template's")
}

func (r *run) include(n includeNode) error {
	t, name, err := r.find(n.template, n.line())
	if err != nil {
		if n.ignoreMissing && name != "" {
			return nil
		}
		return err
	}
	if err := r.enter(n.line()); err != nil {
		return err
	}
	defer r.leave()
	sub := newRun(r.env, t, nil)
	if !n.withoutContext {
		sub.top.parent = r.scope
	}
	sub.out, sub.autoescape, sub.anchor = r.out, r.autoescape, r.anchor
	if sub.anchor == 0 {
		sub.anchor = n.line()
	}
	return sub.template()
}

// module is an imported template: what it set, and what it rendered.
type module struct {
	file  string
	names map[string]any
	text  string
}

func (m *module) Attr(name string) (any, error) {
	if v, ok := m.names[name]; ok && !strings.HasPrefix(name, "_") {
		return v, nil
	}
	return &undefined{what: fmt.Sprintf("%q of %s", name, m.file), hint: "it is not set there at the top level"}, nil
}

func (m *module) Item(key any) (any, error) {
	name, _ := asText(key)
	return m.Attr(name)
}

func (m *module) str() (string, error) { return m.text, nil }

func (r *run) module(e expr, withContext bool, line int) (*module, error) {
	t, _, err := r.find(e, line)
	if err != nil {
		return nil, err
	}
	if err := r.enter(line); err != nil {
		return nil, err
	}
	defer r.leave()
	sub := newRun(r.env, t, nil)
	if withContext {
		sub.top.parent = r.scope
	}
	if err := sub.template(); err != nil {
		return nil, err
	}
	return &module{t.file, sub.top.names, sub.out.b.String()}, nil
}

// block renders the youngest definition of a block.
func (r *run) block(n *blockNode) error {
	defs := r.blocks[n.name]
	if n.required && len(defs) > 0 && defs[0].required {
		return r.fault(n.line(), fmt.Sprintf("no template fills the required block %q", n.name), "define it in the template that extends this one")
	}
	outer := r.top
	if n.scoped {
		outer = r.scope
	}
	return r.blockAt(n.name, 0, outer, n.line())
}

// blockAt renders one definition of a block; super() is the next older one.
func (r *run) blockAt(name string, i int, outer *scope, line int) error {
	defs := r.blocks[name]
	if i >= len(defs) {
		return r.fault(line, fmt.Sprintf("there is no parent block %q", name), "")
	}
	if err := r.enter(line); err != nil {
		return err
	}
	defer r.leave()
	t, parent, inner := r.t, r.parent, r.scope
	r.t, r.parent = defs[i].t, nil
	super := &superObject{r, name, i + 1, outer, line}
	r.scope = &scope{names: map[string]any{"super": super, "self": selfObject{r}}, parent: outer}
	err := r.body(defs[i].body)
	r.t, r.parent, r.scope = t, parent, inner
	return err
}

// superObject is super inside a block.
type superObject struct {
	r     *run
	name  string
	i     int
	outer *scope
	line  int
}

func (s *superObject) Attr(name string) (any, error) {
	if name == "super" {
		return &superObject{s.r, s.name, s.i + 1, s.outer, s.line}, nil
	}
	return &undefined{what: "super." + name}, nil
}

func (s *superObject) Item(any) (any, error) { return &undefined{what: "super[...]"}, nil }

func (s *superObject) call(*Args) (any, error) {
	if s.i >= len(s.r.blocks[s.name]) {
		return nil, faultf("there is no parent block %q", s.name)
	}
	return s.r.capture(func() error { return s.r.blockAt(s.name, s.i, s.outer, s.line) })
}

// selfObject is self inside a block: the template's blocks as functions.
type selfObject struct{ r *run }

func (s selfObject) Attr(name string) (any, error) {
	if len(s.r.blocks[name]) == 0 {
		return &undefined{what: "the block " + name}, nil
	}
	return &superObject{s.r, name, 0, s.r.top, s.r.blocks[name][0].line()}, nil
}

func (s selfObject) Item(key any) (any, error) {
	name, _ := asText(key)
	return s.Attr(name)
}
