package jinja

import (
	"errors"
	"fmt"
	"maps"
	"slices"
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

// Key tells outputs of one template apart, by their text and where its lines came from.
func (o *Output) Key() string {
	key := slices.Clone(o.Text)
	for i, line := range o.lines {
		if line != i+1 {
			key = fmt.Appendf(key, "\x00%d:%d", i, line) // no text has a NUL
		}
	}
	return string(key)
}

// Plain is the output of a text that is no template.
func Plain(text []byte) *Output { return &Output{Text: text} }

// Options are what a rendering can reach.
type Options struct {
	// Names are what the template can use by name. Imported templates see them too.
	Names map[string]any
	// Load finds a template that is imported, included or extended. names are
	// Names, as this rendering has them: Load may change them. Nil means that there
	// is none. It returns nil for a template that does not exist.
	Load func(name string, names map[string]any) (*Template, error)
	// LoadYAML parses YAML for load_yaml and import_yaml.
	LoadYAML func(text string) (any, error)
	// Strict refuses to print None, lists and dicts.
	Strict bool
	// At, which may be nil, is called before each statement is rendered, and what it
	// returns after it: for those who want to know where something is read.
	At func(file string, from, to int, kind FrameKind) (leave func())
}

// FrameKind tells what a statement can change of the output.
type FrameKind int

// Kinds. Output prints, at its own line. Block decides over the statements inside
// of it. Wide can change anything after it.
const (
	FrameWide FrameKind = iota
	FrameOutput
	FrameBlock
)

// frame calls At.
func (r *run) frame(n stmt) (leave func()) {
	from, kind := n.line(), FrameWide
	to := from
	switch n := n.(type) {
	case textNode:
		kind, to = FrameOutput, from+strings.Count(n.text, "\n")
	case outputNode, includeNode, filterBlockNode, callBlockNode:
		kind = FrameOutput
	case ifNode, forNode, withNode, scopeNode, autoescapeNode, blockNode, *blockNode:
		kind = FrameBlock
	}
	return r.At(r.t.file, from, to, kind)
}

// Render renders the template strictly. names are what it can use by name.
func (t *Template) Render(names map[string]any) (*Output, error) {
	return t.RenderWith(Options{Names: names, Strict: true})
}

// RenderWith renders the template.
func (t *Template) RenderWith(o Options) (*Output, error) {
	if out := t.verbatim(); out != nil && o.At == nil {
		return out, nil
	}
	env := &env{Options: o, cache: map[string]*Template{}, main: t, globals: map[string]any{}}
	maps.Copy(env.globals, globals)
	names := make(map[string]any, len(o.Names))
	for name, v := range o.Names {
		v = Import(v)
		names[name] = v
		env.globals[name] = v
	}
	r := newRun(env, t, names)
	r.out.track = true
	if err := r.template(); err != nil {
		return nil, err
	}
	if t.newline {
		if err := r.write("\n", strings.Count(t.src, "\n")+1, false); err != nil {
			return nil, err
		}
	}
	return &Output{Text: []byte(r.out.b.String()), lines: r.out.lines}, nil
}

// verbatim is the output of a template that is text alone, nil for others.
func (t *Template) verbatim() *Output {
	if len(t.body) != 1 {
		return nil
	}
	if n, ok := t.body[0].(textNode); !ok || n.text != t.src {
		return nil
	}
	out := &Output{Text: []byte(t.src), lines: make([]int, strings.Count(t.src, "\n")+1)}
	for i := range out.lines {
		out.lines[i] = i + 1
	}
	if t.newline {
		out.Text = append(out.Text, '\n')
	}
	return out
}

// env is what all templates of one rendering share.
type env struct {
	Options
	cache   map[string]*Template
	main    *Template
	globals map[string]any
	steps   int
	size    int // bytes that were written, captured ones included
	depth   int // macros, includes and expressions at work
}

// run renders one template.
type run struct {
	*env
	t     *Template
	scope *scope
	top   *scope // the template's own names: what can be imported of it
	out   *sink
	// anchor is the line of the main template that reached this one; 0 in the main
	// template.
	anchor     int
	autoescape bool
	parent     *Template // set by extends
	parentLine int
	capturing  int
	blocks     map[string][]definedBlock // the youngest first
	captured   any
}

type definedBlock struct {
	*blockNode
	t *Template
}

// sink is a text that grows.
type sink struct {
	b      strings.Builder
	lines  []int
	track  bool
	inLine bool // the current output line has a known origin
}

func newRun(e *env, t *Template, names map[string]any) *run {
	r := &run{env: e, t: t, out: &sink{}, blocks: map[string][]definedBlock{}}
	outer := &scope{names: names, parent: &scope{names: e.globals}}
	r.top = &scope{names: map[string]any{}, parent: outer}
	r.scope = r.top
	r.define(t)
	return r
}

func (r *run) define(t *Template) {
	for name, b := range t.blocks {
		r.blocks[name] = append(r.blocks[name], definedBlock{b, t})
	}
}

// template renders the template's body, and that of those it extends.
func (r *run) template() error {
	for {
		if err := r.body(r.t.body); err != nil {
			return err
		}
		if r.parent == nil {
			return nil
		}
		if err := r.enter(r.parentLine); err != nil {
			return err
		}
		if r.anchor == 0 && r.t == r.main {
			r.anchor = r.parentLine
		}
		r.t, r.parent = r.parent, nil
		r.define(r.t)
		r.scope = r.top
	}
}

// scope holds names; those of an outer scope are seen through it.
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

func (s *scope) set(name string, v any) {
	if s.names == nil {
		s.names = map[string]any{}
	}
	s.names[name] = v
}

// within renders with a scope of its own.
func (r *run) within(names map[string]any, render func() error) error {
	outer := r.scope
	r.scope = &scope{names: names, parent: outer}
	err := render()
	r.scope = outer
	return err
}

func (r *run) fault(line int, msg, hint string) error {
	return fault(r.t.file, r.t.src, line, msg, hint)
}

// place gives an error from below the template's file and line.
func (r *run) place(line int, err error) error {
	if err == nil || errors.Is(err, errBreak) || errors.Is(err, errContinue) {
		return err
	}
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
	if r.size += len(s); r.size > MaxOutput {
		return r.fault(line, fmt.Sprintf("renders more than %d bytes", MaxOutput), "split the file")
	}
	o := r.out
	if !o.track {
		o.b.WriteString(s)
		return nil
	}
	if r.t != r.main && r.anchor > 0 {
		line, verbatim = r.anchor, false
	}
	for s != "" {
		if !o.inLine {
			o.lines = append(o.lines, line)
			o.inLine = true
		}
		l, rest, more := strings.Cut(s, "\n")
		o.b.WriteString(l)
		if !more {
			break
		}
		o.b.WriteByte('\n')
		o.inLine = false
		if verbatim {
			line++
		}
		s = rest
	}
	return nil
}

// capture renders into a text of its own.
func (r *run) capture(render func() error) (any, error) {
	outer := r.out
	r.out = &sink{}
	r.capturing++
	err := render()
	text := r.out.b.String()
	r.out = outer
	r.capturing--
	if r.autoescape {
		return Markup(text), err
	}
	return text, err
}

// step counts what is evaluated.
func (r *run) step(line int) error {
	r.steps++
	if r.steps > MaxSteps {
		return r.fault(line, fmt.Sprintf("takes more than %d steps to render", MaxSteps), "shorten the loops")
	}
	return nil
}

// enter counts how deep the rendering is; every call is paired with leave, except
// where an error or an extends ends the rendering.
func (r *run) enter(line int) error {
	r.depth++
	if r.depth > maxCalls {
		return r.fault(line, fmt.Sprintf("nested deeper than %d levels", maxCalls), "macros, includes and expressions must not run in circles")
	}
	return nil
}

func (r *run) leave() { r.depth-- }
