package salt

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast.dev/salt/jinja"
)

// Reading is what one manifest's template read, line by line. The paths are those
// of [Read]; files of the addon's own folder are among them.
type Reading struct {
	file   string
	frames []frame
	wide   map[string]bool
	// direct has what is read where a line is printed; blocks what decides over the
	// lines below an if or a for; under the blocks that a line is below.
	direct, blocks map[int]map[string]bool
	under          map[int]map[int]bool
}

type frame struct {
	file string
	line int
	kind jinja.FrameKind
}

// Wide lists what may reach any line of the template: what it puts into variables,
// macros and imports.
func (r *Reading) Wide() []string { return sorted(r.wide) }

// Line lists what reaches the lines that are printed by one line of the template:
// what it reads itself, and what the ifs and fors around it do.
func (r *Reading) Line(line int) []string {
	out := maps.Clone(r.direct[line])
	if out == nil {
		out = map[string]bool{}
	}
	for block := range r.under[line] {
		maps.Copy(out, r.blocks[block])
	}
	return sorted(out)
}

func sorted(m map[string]bool) []string { return slices.Sorted(maps.Keys(m)) }

func add[K comparable](m map[K]map[string]bool, key K, value string) {
	if m[key] == nil {
		m[key] = map[string]bool{}
	}
	m[key][value] = true
}

// explainer notes where each read happens. It is the tracer's, for those who ask;
// what was read is the tracer's own and the same with or without it.
type explainer struct {
	active   []*Reading
	of       map[*jinja.Output]*Reading
	shared   map[string]bool            // read outside of all manifests' templates
	places   map[string]map[string]bool // file:line, by path
	manifest bool                       // a manifest is written now
	pending  map[string]bool            // read for it before its template began
	begun    bool
}

func newExplainer() *explainer {
	return &explainer{of: map[*jinja.Output]*Reading{}, shared: map[string]bool{}, places: map[string]map[string]bool{}}
}

// begin is called before a text is rendered, done after it.
func (x *explainer) begin(file string) (done func(*jinja.Output)) {
	r := &Reading{file: file, wide: map[string]bool{}, direct: map[int]map[string]bool{}, blocks: map[int]map[string]bool{}, under: map[int]map[int]bool{}}
	if x.manifest {
		x.begun = true
		maps.Copy(r.wide, x.pending)
	}
	x.active = append(x.active, r)
	return func(out *jinja.Output) {
		x.active = x.active[:len(x.active)-1]
		if out != nil {
			x.of[out] = r
		}
	}
}

// at is called before a statement of a template is rendered, leave after it.
func (x *explainer) at(file string, from, to int, kind jinja.FrameKind) (leave func()) {
	r := x.active[len(x.active)-1]
	if file == r.file {
		for line := from; line <= to; line++ {
			for _, f := range r.frames {
				if f.file == r.file && f.kind == jinja.FrameBlock {
					if r.under[line] == nil {
						r.under[line] = map[int]bool{}
					}
					r.under[line][f.line] = true
				}
			}
		}
	}
	r.frames = append(r.frames, frame{file, from, kind})
	return func() { r.frames = r.frames[:len(r.frames)-1] }
}

// note notes that path is read now.
func (x *explainer) note(path string) {
	switch {
	case !x.manifest:
		x.shared[path] = true
	case len(x.active) == 0:
		x.pending[path] = true
	}
	for i, r := range x.active {
		r.note(path)
		if i == len(x.active)-1 && len(r.frames) > 0 {
			f := r.frames[len(r.frames)-1]
			add(x.places, path, fmt.Sprintf("%s:%d", f.file, f.line))
		}
	}
}

// note finds the lines that a read can reach by where it happens. Anything but a
// printed expression, an if or a for may reach every line.
func (r *Reading) note(path string) {
	own := slices.DeleteFunc(slices.Clone(r.frames), func(f frame) bool { return f.file != r.file })
	wide := len(own) == 0 || slices.ContainsFunc(own, func(f frame) bool { return f.kind == jinja.FrameWide })
	switch {
	case wide:
		r.wide[path] = true
		return
	case own[len(own)-1].kind == jinja.FrameBlock:
		add(r.blocks, own[len(own)-1].line, path)
	}
	for _, f := range own {
		if f.kind == jinja.FrameOutput {
			add(r.direct, f.line, path) // it is inside what this line prints
		}
	}
}

// manifest tells whether a manifest is written now.
func (t *tracer) manifest(on bool) {
	x := t.explain
	if x == nil {
		return
	}
	if x.manifest && !x.begun { // no template: the manifest names its file itself
		for path := range x.pending {
			if !strings.HasPrefix(path, "file:") {
				x.shared[path] = true
			}
		}
	}
	x.manifest, x.begun, x.pending = on, false, map[string]bool{}
}

// explained adds what the explainer noted to a rendering.
func (t *tracer) explained(out *Rendered) {
	if t.explain == nil {
		return
	}
	out.Explained = &Explained{Shared: sorted(t.explain.shared), Places: map[string][]string{}}
	for path, places := range t.explain.places {
		out.Explained.Places[path] = sorted(places)
	}
	for _, m := range out.Files {
		m.Reading = t.explain.of[m.Output]
	}
}
