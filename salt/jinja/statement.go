package jinja

import (
	"errors"
	"fmt"
	"strings"
)

var (
	errBreak    = errors.New("break")
	errContinue = errors.New("continue")
)

func (r *run) body(nodes []stmt) error {
	for _, n := range nodes {
		if err := r.node(n); err != nil {
			return err
		}
	}
	return nil
}

// muted tells that the template extends another: only its blocks are printed.
func (r *run) muted() bool { return r.parent != nil && r.capturing == 0 }

func (r *run) node(n stmt) error {
	if r.At != nil {
		defer r.frame(n)()
	}
	switch n := n.(type) {
	case textNode:
		if r.muted() {
			return nil
		}
		return r.write(n.text, n.line(), true)
	case outputNode:
		if r.muted() {
			return nil
		}
		return r.output(n)
	case ifNode:
		for _, b := range n.branches {
			ok, err := r.cond(b.cond)
			if err != nil {
				return err
			}
			if ok {
				return r.body(b.body)
			}
		}
		return r.body(n.orElse)
	case setNode:
		v, err := r.inside(n.value)
		if err != nil {
			return err
		}
		return r.assign(n.target, v, n.line())
	case forNode:
		return r.loop(n)
	case doNode:
		_, err := r.eval(n.value)
		return err
	case withNode:
		return r.with(n)
	case scopeNode:
		return r.body(n.body)
	case jumpNode:
		return n.to
	case autoescapeNode:
		on, err := r.cond(n.on)
		if err != nil {
			return err
		}
		outer := r.autoescape
		r.autoescape = on
		err = r.within(nil, func() error { return r.body(n.body) })
		r.autoescape = outer
		return err
	}
	return r.captures(n)
}

// captures renders the statements that keep what their body renders, and those of
// whole templates.
func (r *run) captures(n stmt) error {
	switch n := n.(type) {
	case setBlockNode:
		v, err := r.capture(func() error { return r.within(nil, func() error { return r.body(n.body) }) })
		if err == nil && n.filter != nil {
			v, err = r.apply(n.filter, v)
		}
		if err != nil {
			return err
		}
		return r.assign(n.target, v, n.line())
	case filterBlockNode:
		v, err := r.capture(func() error { return r.within(nil, func() error { return r.body(n.body) }) })
		if err == nil {
			v, err = r.apply(n.filter, v)
		}
		if err != nil || r.muted() {
			return err
		}
		return r.print(v, n.line())
	case loadNode:
		v, err := r.capture(func() error { return r.within(nil, func() error { return r.body(n.body) }) })
		if err == nil {
			v, err = r.convert(n.sort, v)
		}
		if err != nil {
			return r.place(n.line(), err)
		}
		return r.assign(n.target, v, n.line())
	case *macroNode:
		return r.assign(nameExpr{place(n.line()), n.name}, &macro{r: r, t: r.t, node: n, scope: r.scope}, n.line())
	case callBlockNode:
		if r.muted() {
			return nil
		}
		return r.callBlock(n)
	}
	return r.templates(n)
}

// apply runs a chain of filters on what a block rendered.
func (r *run) apply(chain expr, v any) (any, error) {
	outer := r.captured
	r.captured = v
	out, err := r.eval(chain)
	r.captured = outer
	return out, err
}

func (r *run) output(n outputNode) error {
	v, err := r.defined(n.value)
	if err != nil {
		return err
	}
	return r.print(v, n.value.at())
}

func (r *run) print(v any, line int) error {
	if err := r.printable(v); err != nil {
		return r.place(line, err)
	}
	s, err := printed(v)
	if err != nil {
		return r.place(line, err)
	}
	if r.autoescape && !is[Markup](v) {
		s = escapeHTML(s)
	}
	return r.write(s, line, false)
}

// printable refuses, in strict rendering, what Python would print as None, [...]
// or {...}.
func (r *run) printable(v any) error {
	if !r.Strict {
		return nil
	}
	switch v.(type) {
	case nil:
		return Fault("prints None", "give it a value, or use | json to print null")
	case *List, Tuple, *Map, *Set, *view:
		return Fault("prints "+typeName(v)+" as Python writes it", "use | json")
	}
	return nil
}

// assign gives a name, several names or an attribute of a namespace its value.
func (r *run) assign(target expr, v any, line int) error {
	switch target := target.(type) {
	case nameExpr:
		r.scope.set(target.name, v)
		return nil
	case attrExpr:
		ns, err := r.eval(target.target)
		if err != nil {
			return err
		}
		n, ok := ns.(*namespace)
		if !ok {
			return r.fault(line, "only an attribute of a namespace can be set", "write {% set ns = namespace() %} first")
		}
		return r.place(line, n.m.Put(target.name, v))
	case listExpr:
		items, err := iterate(v)
		if err != nil {
			return r.place(line, err)
		}
		if len(items) != len(target.items) {
			return r.fault(line, fmt.Sprintf("%d names for %d values", len(target.items), len(items)), "use .items() to loop over a dict's keys and values")
		}
		for i, t := range target.items {
			if err := r.assign(t, items[i], line); err != nil {
				return err
			}
		}
		return nil
	}
	return r.fault(line, "cannot assign to this", "")
}

func (r *run) with(n withNode) error {
	values := make([]any, len(n.values))
	for i, e := range n.values {
		var err error
		if values[i], err = r.eval(e); err != nil {
			return err
		}
	}
	return r.within(nil, func() error {
		for i, target := range n.targets {
			if err := r.assign(target, values[i], n.line()); err != nil {
				return err
			}
		}
		return r.body(n.body)
	})
}

// loop renders a for block. Names that are set inside do not outlive one turn.
func (r *run) loop(n forNode) error {
	v, err := r.eval(n.iter)
	if err != nil {
		return err
	}
	return r.turns(n, v, 0, r.scope)
}

func (r *run) turns(n forNode, v any, depth int, outer *scope) error {
	if err := r.enter(n.line()); err != nil {
		return err
	}
	defer r.leave()
	items, err := iterate(v)
	if err != nil {
		return r.place(n.iter.at(), err)
	}
	inner := r.scope
	defer func() { r.scope = inner }()
	if n.cond != nil {
		if items, err = r.kept(n, items, outer); err != nil {
			return err
		}
	}
	r.scope = outer
	if len(items) == 0 {
		return r.within(nil, func() error { return r.body(n.orElse) })
	}
	items = append([]any{}, items...) // the body may change the list
	l := &loopObject{items: items, depth: depth}
	if n.recursive {
		l.again = func(v any) (any, error) {
			return r.capture(func() error { return r.turns(n, v, depth+1, outer) })
		}
	}
	for i, item := range items {
		if err := r.step(n.line()); err != nil {
			return err
		}
		l.i = i
		r.scope = &scope{names: map[string]any{"loop": l}, parent: outer}
		if err := r.assign(n.target, item, n.line()); err != nil {
			return err
		}
		err := r.body(n.body)
		if errors.Is(err, errBreak) {
			break
		}
		if err != nil && !errors.Is(err, errContinue) {
			return err
		}
	}
	return nil
}

// kept filters what is looped over by the loop's condition.
func (r *run) kept(n forNode, items []any, outer *scope) ([]any, error) {
	var kept []any
	for _, item := range items {
		r.scope = &scope{names: map[string]any{"loop": &undefined{what: `"loop"`, hint: "a loop's condition cannot use it"}}, parent: outer}
		if err := r.assign(n.target, item, n.line()); err != nil {
			return nil, err
		}
		ok, err := r.cond(n.cond)
		if err != nil {
			return nil, err
		}
		if ok {
			kept = append(kept, item)
		}
	}
	return kept, nil
}

// convert is the filters load_yaml, load_json and load_text.
func (r *run) convert(sort string, v any) (any, error) {
	if m, ok := v.(*module); ok {
		v = m.text
	}
	s, ok := asText(v)
	if sort == "text" {
		return v, nil
	}
	if !ok {
		if b, isBytes := v.(Bytes); isBytes {
			s, ok = string(b), true
		}
	}
	if !ok {
		return nil, faultf("load_%s of %s", sort, typeName(v))
	}
	if sort == "json" {
		return parseJSON(strings.TrimSpace(s))
	}
	if r.LoadYAML == nil {
		return nil, Fault("YAML cannot be loaded here", "")
	}
	return r.LoadYAML(s)
}
