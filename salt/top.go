package salt

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
)

// The folders of a fleet repository.
const (
	StatesDir = "salt/states"
	PillarDir = "salt/pillar"
)

// Selected is one SLS that a top file selects for a cluster.
type Selected struct {
	Name string
	// Origin is the line of the top file.
	Origin jinja.Origin
	// Optional tells that the file need not exist: the top file says ignore_missing.
	Optional bool
}

// States lists the states that salt/states/top.sls selects for a cluster, in
// order, each once.
func States(files Files, grains Grains, texts *Texts) ([]Selected, error) {
	e := fleetEngine(files, Inputs{Grains: grains, Files: files}, nil)
	e.texts = texts
	return e.selected(StatesDir+"/", false)
}

// Texts remembers what it has read of top and pillar files: most clusters of a fleet have the
// same text of one. It is safe for concurrent use, and a nil one remembers nothing.
type Texts struct {
	parsed  sync.Map // by renderedText: what the text says, which nobody changes
	targets sync.Map // by what a top file's text says: []topTarget
}

type renderedText struct{ path, renderer, key string }

// known are the targets of what a text says, if they have been read.
func (t *Texts) known(top *jinja.Map) ([]topTarget, bool) {
	if t == nil {
		return nil, false
	}
	v, ok := t.targets.Load(top)
	if !ok {
		return nil, false
	}
	return slices.Clone(v.([]topTarget)), true
}

func (t *Texts) keep(top *jinja.Map, targets []topTarget) {
	if t != nil {
		t.targets.Store(top, slices.Clone(targets))
	}
}

// parse is what a file's text says, as rendered.
func (t *Texts) parse(renderer string, s source, out *jinja.Output, parse func(string, source, *jinja.Output) (any, error)) (any, error) {
	if t == nil {
		return parse(renderer, s, out)
	}
	key := renderedText{s.path, renderer, out.Key()}
	if v, ok := t.parsed.Load(key); ok {
		return v, nil
	}
	v, err := parse(renderer, s, out)
	if err == nil {
		t.parsed.Store(key, v)
	}
	return v, err
}

var nameRE = regexp.MustCompile(`^[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*$`)

// target is one entry of a top file.
type topTarget struct {
	expr, matcher string
	names         []Selected
	order         int
	origin        jinja.Origin
}

// selected lists what the top file of a tree selects.
func (e *engine) selected(root string, pillar bool) ([]Selected, error) {
	targets, err := e.topFile(root, "top.sls", pillar, map[string]bool{})
	if err != nil {
		return nil, err
	}
	if pillar {
		slices.SortStableFunc(targets, func(a, b topTarget) int { return cmp.Compare(a.order, b.order) })
	}
	var out []Selected
	seen := map[string]bool{}
	for _, t := range targets {
		ok, err := e.matches(t.expr, t.matcher)
		if err != nil {
			return nil, at(t.origin, err)
		}
		for _, s := range t.names {
			if ok && !seen[s.Name] {
				seen[s.Name] = true
				out = append(out, s)
			}
		}
	}
	return out, nil
}

// topFile reads a top file and those that it includes.
func (e *engine) topFile(root, file string, pillar bool, done map[string]bool) ([]topTarget, error) {
	text, ok := e.file(root + file)
	if !ok {
		if !e.strict && file == "top.sls" {
			return nil, nil
		}
		return nil, &strictyaml.Error{File: root + file, Msg: "there is no such file", Hint: "add it: it is where the cluster's files are selected"}
	}
	v, err := e.render(source{path: root + file, root: root, text: text, pillar: pillar, top: true}, defaultPipe)
	if err != nil || v == nil {
		return nil, err
	}
	top, ok := v.(*jinja.Map)
	if !ok {
		return nil, &strictyaml.Error{File: root + file, Line: 1, Msg: "the top file is not a mapping", Hint: "write base: and below it '*': [name]"}
	}
	if out, ok := e.texts.known(top); ok {
		return out, nil
	}
	var out []topTarget
	var includes []string
	for _, key := range top.All() {
		env := jinja.Str(key)
		value, _ := top.At(key)
		if env == "include" && !e.strict {
			items, err := jinja.Iterate(value)
			if err != nil {
				return nil, at(top.Origin(env), err)
			}
			for _, item := range items {
				includes = append(includes, jinja.Str(item))
			}
			continue
		}
		if env != "base" {
			return nil, at(top.Origin(env), jinja.Fault(fmt.Sprintf("the environment %q is not supported", env), "put everything below base"))
		}
		more, err := e.targets(top, value)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	if len(includes) == 0 {
		e.texts.keep(top, out)
	}
	for _, name := range includes {
		s, ok := e.findSLS(root, name)
		if !ok || done[name] {
			continue
		}
		done[name] = true
		more, err := e.topFile(root, strings.TrimPrefix(s.path, root), pillar, done)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	return out, nil
}

func (e *engine) targets(top *jinja.Map, value any) ([]topTarget, error) {
	base, ok := value.(*jinja.Map)
	if !ok {
		return nil, at(top.Origin("base"), jinja.Fault("base is not a mapping of targets", "write base: and below it '*': [name]"))
	}
	var out []topTarget
	for _, key := range base.All() {
		t := topTarget{expr: jinja.Str(key), origin: base.OriginOf(key)}
		value, _ := base.At(key)
		if err := e.selection(&t, value); err != nil {
			return nil, at(t.origin, err)
		}
		out = append(out, t)
	}
	return out, nil
}

// selection reads one target's list: names, and options.
func (e *engine) selection(t *topTarget, value any) error {
	items, err := jinja.Iterate(jinja.Import(value))
	if _, isText := value.(string); err != nil || isText {
		return jinja.Fault(fmt.Sprintf("the target %q has no list", t.expr), "write - name")
	}
	optional := false
	for _, item := range items {
		switch item := item.(type) {
		case string:
			if e.strict && !nameRE.MatchString(item) {
				return jinja.Fault(fmt.Sprintf("%q is not the name of an SLS", item), "write out its name, without a glob")
			}
			t.names = append(t.names, Selected{Name: item, Origin: t.origin})
		case *jinja.Map:
			for _, k := range item.Keys() {
				v, _ := item.Get(k)
				switch {
				case k == "match" && (!e.strict || item.Len() == 1):
					t.matcher = jinja.Str(v)
				case k == "order" && !e.strict:
					if n, ok := v.(int64); ok {
						t.order = int(n)
					}
				case k == "ignore_missing" && !e.strict:
					optional = v == true
				case e.strict:
					return jinja.Fault(fmt.Sprintf("the target %q holds %q", t.expr, strings.Join(item.Keys(), " ")), "only match: is supported here")
				}
			}
		default:
			return jinja.Fault(fmt.Sprintf("the target %q holds something that is not a name", t.expr), "write - name")
		}
	}
	for i := range t.names {
		t.names[i].Optional = optional
	}
	return nil
}
