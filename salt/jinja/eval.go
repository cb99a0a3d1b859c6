package jinja

import (
	"errors"
	"fmt"
	"strings"

	"holdfast.dev/internal/strictyaml"
)

// Output is a rendered template.
type Output struct {
	Text []byte
	// lines[i] is the template line that output line i+1 begins with.
	lines []int
}

// Line returns the template line that a line of the output came from, both
// counted from 1.
func (o *Output) Line(line int) int {
	switch {
	case len(o.lines) == 0:
		return line
	case line < 1:
		return o.lines[0]
	case line > len(o.lines):
		return o.lines[len(o.lines)-1]
	}
	return o.lines[line-1]
}

// Plain is the output of a text that is no template.
func Plain(text []byte) *Output { return &Output{Text: text} }

// Render renders the template. names are what it can use by name.
func (t *Template) Render(names map[string]any) (*Output, error) {
	r := &run{t: t, scope: &scope{names: names}}
	r.scope = &scope{names: map[string]any{}, parent: r.scope}
	if err := r.body(t.body); err != nil {
		return nil, err
	}
	if t.newline {
		if err := r.write("\n", strings.Count(t.src, "\n")+1, false); err != nil {
			return nil, err
		}
	}
	return &Output{Text: []byte(r.out.String()), lines: r.lines}, nil
}

// run is one rendering.
type run struct {
	t      *Template
	scope  *scope
	out    strings.Builder
	lines  []int
	inLine bool // the current output line has a known origin
	steps  int
}

type scope struct {
	names  map[string]any
	parent *scope
}

func (s *scope) get(name string) (any, bool) {
	for ; s != nil; s = s.parent {
		if v, ok := s.names[name]; ok {
			return v, true
		}
	}
	return nil, false
}

func (r *run) fault(line int, msg, hint string) error {
	return fault(r.t.file, r.t.src, line, msg, hint)
}

// place gives an error from below the template's file and line.
func (r *run) place(line int, err error) error {
	var e *strictyaml.Error
	if !errors.As(err, &e) {
		return r.fault(line, err.Error(), "")
	}
	if e.File != "" {
		return err
	}
	return r.fault(line, e.Msg, e.Hint)
}

// write appends text that begins in a template line; verbatim text counts the
// template's lines up as it goes.
func (r *run) write(s string, line int, verbatim bool) error {
	for s != "" {
		if !r.inLine {
			r.lines = append(r.lines, line)
			r.inLine = true
		}
		l, rest, more := strings.Cut(s, "\n")
		r.out.WriteString(l)
		if !more {
			break
		}
		r.out.WriteByte('\n')
		r.inLine = false
		if verbatim {
			line++
		}
		s = rest
	}
	if r.out.Len() > MaxOutput {
		return r.fault(line, fmt.Sprintf("renders more than %d bytes", MaxOutput), "split the file")
	}
	return nil
}

func (r *run) step(line int) error {
	r.steps++
	if r.steps > MaxSteps {
		return r.fault(line, fmt.Sprintf("takes more than %d steps to render", MaxSteps), "shorten the loops")
	}
	return nil
}

func (r *run) body(nodes []any) error {
	for _, n := range nodes {
		if err := r.node(n); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) node(n any) error {
	switch n := n.(type) {
	case textNode:
		return r.write(n.text, n.line, true)
	case outputNode:
		v, err := r.defined(n.value)
		if err != nil {
			return err
		}
		s, err := text(v)
		if err != nil {
			return r.place(n.line, err)
		}
		return r.write(s, n.line, false)
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
		v, err := r.defined(n.value)
		if err != nil {
			return err
		}
		r.scope.names[n.name] = v
		return nil
	case forNode:
		return r.loop(n)
	}
	return fmt.Errorf("unknown node %T", n)
}

// loop renders a for block. Names that are set inside do not outlive one turn.
func (r *run) loop(n forNode) error {
	items, err := r.loopItems(n)
	if err != nil {
		return err
	}
	if len(items) == 0 {
		return r.body(n.orElse)
	}
	outer := r.scope
	defer func() { r.scope = outer }()
	for i, item := range items {
		if err := r.step(n.line); err != nil {
			return err
		}
		r.scope = &scope{names: map[string]any{"loop": loopObject{i, len(items)}}, parent: outer}
		if err := r.bind(n, item); err != nil {
			return err
		}
		if err := r.body(n.body); err != nil {
			return err
		}
	}
	return nil
}

// loopItems evaluates what is looped over, filtered by the loop's condition.
func (r *run) loopItems(n forNode) ([]any, error) {
	v, err := r.defined(n.iter)
	if err != nil {
		return nil, err
	}
	var items []any
	switch v := v.(type) {
	case []any:
		items = v
	case *Map:
		for _, k := range v.keys {
			items = append(items, k)
		}
	default:
		return nil, r.fault(n.line, "for loops over "+typeName(v), "loop over a list, or over a dict's .items()")
	}
	if n.cond == nil {
		return items, nil
	}
	outer := r.scope
	defer func() { r.scope = outer }()
	var kept []any
	for _, item := range items {
		r.scope = &scope{names: map[string]any{}, parent: outer}
		if err := r.bind(n, item); err != nil {
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

// bind gives the loop's names their values.
func (r *run) bind(n forNode, item any) error {
	if len(n.names) == 1 {
		r.scope.names[n.names[0]] = item
		return nil
	}
	parts, ok := item.([]any)
	if !ok || len(parts) != len(n.names) {
		return r.fault(n.line, fmt.Sprintf("for has %d names, but an item is %s", len(n.names), typeName(item)), "use .items() for a dict")
	}
	for i, name := range n.names {
		r.scope.names[name] = parts[i]
	}
	return nil
}

// loopObject is the name loop inside a for block.
type loopObject struct{ i, n int }

func (l loopObject) Attr(name string) (any, error) {
	switch name {
	case "index":
		return int64(l.i + 1), nil
	case "index0":
		return int64(l.i), nil
	case "revindex":
		return int64(l.n - l.i), nil
	case "first":
		return l.i == 0, nil
	case "last":
		return l.i == l.n-1, nil
	case "length":
		return int64(l.n), nil
	}
	return nil, Fault("loop."+name+" is not supported", "known are index, index0, revindex, first, last and length")
}

func (l loopObject) Item(any) (any, error) {
	return nil, Fault("loop[...] is not supported", "write loop.index")
}

func (r *run) cond(e expr) (bool, error) {
	v, err := r.defined(e)
	if err != nil {
		return false, err
	}
	ok, err := truth(v)
	if err != nil {
		return false, r.place(e.at(), err)
	}
	return ok, nil
}

// defined evaluates e and refuses what is not there.
func (r *run) defined(e expr) (any, error) {
	v, err := r.eval(e)
	if err != nil {
		return nil, err
	}
	if u, ok := v.(undefined); ok {
		return nil, r.fault(e.at(), u.what+" is not defined", u.hint)
	}
	return v, nil
}

func (r *run) eval(e expr) (any, error) {
	if err := r.step(e.at()); err != nil {
		return nil, err
	}
	switch e := e.(type) {
	case literal:
		return e.value, nil
	case nameExpr:
		if v, ok := r.scope.get(e.name); ok {
			return v, nil
		}
		return undefined{`"` + e.name + `"`, `define it with {% set %}, or with context: in the state`}, nil
	case listExpr:
		return r.list(e.items)
	case dictExpr:
		return r.dict(e)
	case attrExpr:
		return r.attr(e)
	case itemExpr:
		return r.item(e)
	case callExpr:
		return r.call(e)
	case filterExpr:
		return r.filter(e)
	case testExpr:
		return r.test(e)
	case unaryExpr:
		return r.unary(e)
	case binaryExpr:
		return r.binary(e)
	case condExpr:
		ok, err := r.cond(e.cond)
		switch {
		case err != nil:
			return nil, err
		case ok:
			return r.eval(e.then)
		case e.orElse == nil:
			return undefined{"the value of an inline if without else", "add else"}, nil
		}
		return r.eval(e.orElse)
	}
	return nil, fmt.Errorf("unknown expression %T", e)
}

func (r *run) list(items []expr) (any, error) {
	out := make([]any, 0, len(items))
	for _, item := range items {
		v, err := r.defined(item)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

func (r *run) dict(e dictExpr) (any, error) {
	m := NewMap()
	for i, k := range e.keys {
		key, err := r.defined(k)
		if err != nil {
			return nil, err
		}
		name, ok := key.(string)
		if !ok {
			return nil, r.fault(k.at(), "a dict's key is "+typeName(key), "use a string")
		}
		v, err := r.defined(e.values[i])
		if err != nil {
			return nil, err
		}
		m.Set(name, v, Origin{r.t.file, k.at()})
	}
	return m, nil
}

func (r *run) attr(e attrExpr) (any, error) {
	target, err := r.defined(e.target)
	if err != nil {
		return nil, err
	}
	switch target := target.(type) {
	case Object:
		v, err := target.Attr(e.name)
		if err != nil {
			return nil, r.place(e.at(), err)
		}
		return v, nil
	case *Map:
		if f := mapMethod(target, e.name); f != nil {
			return f, nil
		}
		if v, ok := target.Get(e.name); ok {
			return v, nil
		}
	case string:
		if f := stringMethod(target, e.name); f != nil {
			return f, nil
		}
	}
	return undefined{fmt.Sprintf("%q of %s", e.name, typeName(target)), ""}, nil
}

func (r *run) item(e itemExpr) (any, error) {
	target, err := r.defined(e.target)
	if err != nil {
		return nil, err
	}
	key, err := r.defined(e.key)
	if err != nil {
		return nil, err
	}
	switch target := target.(type) {
	case Object:
		v, err := target.Item(key)
		if err != nil {
			return nil, r.place(e.at(), err)
		}
		return v, nil
	case *Map:
		if k, ok := key.(string); ok {
			if v, ok := target.Get(k); ok {
				return v, nil
			}
			return undefined{fmt.Sprintf("the key %q", k), "use .get(key, default)"}, nil
		}
	case []any:
		if n, ok := key.(int64); ok {
			if n < 0 {
				n += int64(len(target))
			}
			if n >= 0 && n < int64(len(target)) {
				return target[n], nil
			}
			return undefined{fmt.Sprintf("item %d of a list of %d", key, len(target)), ""}, nil
		}
	}
	return nil, r.fault(e.at(), fmt.Sprintf("%s has no item named by %s", typeName(target), typeName(key)), "")
}

func (r *run) arguments(a arguments) ([]any, map[string]any, error) {
	args, named := make([]any, 0, len(a.positional)), map[string]any{}
	for _, e := range a.positional {
		v, err := r.defined(e)
		if err != nil {
			return nil, nil, err
		}
		args = append(args, v)
	}
	for i, e := range a.named {
		v, err := r.defined(e)
		if err != nil {
			return nil, nil, err
		}
		if _, twice := named[a.names[i]]; twice {
			return nil, nil, r.fault(e.at(), fmt.Sprintf("the argument %q is there twice", a.names[i]), "")
		}
		named[a.names[i]] = v
	}
	return args, named, nil
}

func (r *run) call(e callExpr) (any, error) {
	fn, err := r.defined(e.fn)
	if err != nil {
		return nil, err
	}
	f, ok := fn.(Func)
	if !ok {
		return nil, r.fault(e.at(), "calls "+typeName(fn), "")
	}
	args, named, err := r.arguments(e.args)
	if err != nil {
		return nil, err
	}
	v, err := f(args, named)
	if err != nil {
		return nil, r.place(e.at(), err)
	}
	return v, nil
}
