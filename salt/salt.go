package salt

import (
	"errors"
	"slices"

	"holdfast.dev/salt/jinja"
)

// Options are the settings of Salt that change what is rendered.
type Options struct {
	// PillarStrategy is pillar_source_merging_strategy: smart (the default),
	// recurse, overwrite, list, aggregate or none.
	PillarStrategy string
	// PillarMergeLists is pillar_merge_lists.
	PillarMergeLists bool
	// PillarIncludesOverride is pillar_includes_override_sls.
	PillarIncludesOverride bool
}

// Tree is a formula tree, and the minion that it is rendered for.
type Tree struct {
	Files Files
	// States and Pillar are the folders of the two trees; Pillar may be empty.
	States, Pillar string
	Minion         string
	Grains         *jinja.Map
	// FoldersExist tells that folders which no state makes are on the machine.
	FoldersExist bool
	// SLS are the states to render; nil means those that the top file selects.
	SLS []string
	Options
}

// Result is a rendered tree.
type Result struct {
	Pillar *jinja.Map
	// Low are the states in the order they would run, as state.show_lowstate has
	// them.
	Low []*jinja.Map
	// Files are what the file states of Low write, by path.
	Files []*Rendering
	// Left are the IDs of the states that are not file states: to run them needs a
	// machine.
	Left []string
}

// errNoMap is the answer to grains that are no dict.
var errNoMap = errors.New("the grains are not a mapping")

// Highstate renders a tree as salt-call --local would, without a machine. A
// function that would run a command, or reach the network, is an error.
func Highstate(t Tree) (*Result, error) {
	e, err := treeEngine(t)
	if err != nil {
		return nil, err
	}
	if t.Pillar != "" {
		if e.pillar, err = e.compilePillar(t.Options); err != nil {
			return nil, err
		}
	}
	out := &Result{Pillar: e.pillar}
	h := newHigh(e)
	selected := []Selected{}
	for _, name := range t.SLS {
		selected = append(selected, Selected{Name: name})
	}
	if t.SLS == nil {
		if selected, err = e.selected(e.stateRoot, false); err != nil {
			return nil, err
		}
	}
	chunks, err := h.compile(selected)
	if err != nil {
		return nil, err
	}
	fs := newFileStates(e)
	fs.foldersExist = t.FoldersExist
	for _, c := range chunks {
		out.Low = append(out.Low, c.m)
		if c.module != "file" {
			out.Left = append(out.Left, c.module+"."+c.fun+" "+c.id)
			continue
		}
		if err := fs.apply(c); err != nil {
			return nil, at(c.origin, err)
		}
	}
	out.Files = fs.list()
	return out, nil
}

func treeEngine(t Tree) (*engine, error) {
	grains, ok := jinja.Import(t.Grains).(*jinja.Map)
	if !ok {
		return nil, errNoMap
	}
	grains.Set("id", t.Minion, jinja.Origin{})
	e := &engine{files: t.Files, stateRoot: folder(t.States), pillRoot: folder(t.Pillar), minion: t.Minion, grains: grains, pillar: jinja.NewMap()}
	e.opts = options(t.Minion)
	return e, nil
}

// options is what a template finds in opts: the few settings that are the same
// everywhere.
func options(minion string) *jinja.Map {
	m := jinja.NewMap()
	for _, kv := range []struct {
		k string
		v any
	}{{"id", minion}, {"test", false}, {"saltenv", nil}, {"pillarenv", nil}, {"state_top", "top.sls"}, {"file_client", "local"}, {"renderer", "jinja|yaml"}} {
		m.Set(kv.k, kv.v, jinja.Origin{})
	}
	return m
}

// compile renders the selected states to low chunks.
func (h *high) compile(selected []Selected) ([]*chunk, error) {
	for _, s := range selected {
		if err := h.add(s); err != nil {
			return nil, err
		}
	}
	if err := h.reconcile(h.extend, false); err != nil {
		return nil, err
	}
	if err := h.verify(); err != nil {
		return nil, err
	}
	if err := h.requisiteIn(); err != nil {
		return nil, err
	}
	h.applyExclude()
	return h.low()
}

// RenderText renders one text as Jinja, as a file.managed template of the tree is.
func RenderText(t Tree, pillar *jinja.Map, name string, text []byte, context *jinja.Map) (string, error) {
	e, err := treeEngine(t)
	if err != nil {
		return "", err
	}
	e.pillar = jinja.Import(pillar).(*jinja.Map)
	out, err := e.template(source{path: name, root: e.stateRoot, text: text, context: context})
	if err != nil {
		return "", err
	}
	return string(out.Text), nil
}

func sortedKeys(m map[string]*Rendering) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}
