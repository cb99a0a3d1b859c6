package salt

import (
	"slices"
	"strings"

	"holdfast.dev/salt/jinja"
)

// Files gives the fleet repository's files by slash-separated path.
type Files interface {
	File(path string) ([]byte, bool)
}

// Grains are a cluster's facts: cluster, id, az, kubernetes and its labels.
type Grains map[string]string

// Read is one value that a rendering depended on.
type Read struct {
	// Path is "pillar:<key>:<key>…" or "grains:<key>".
	Path string `json:"path"`
	// Hash is of the value; empty when there was none.
	Hash string `json:"hash,omitempty"`
}

// Inputs are what a state can read.
type Inputs struct {
	Grains Grains
	Pillar *jinja.Map
}

// Hash is the hash of what a rendering with these inputs would read at path.
func (in Inputs) Hash(path string) string {
	kind, key, _ := strings.Cut(path, ":")
	switch kind {
	case "grains":
		if v, ok := in.Grains[key]; ok {
			return jinja.Hash(v)
		}
	case "pillar":
		if v, ok := lookup(in.Pillar, key); ok {
			return jinja.Hash(v)
		}
	}
	return ""
}

// lookup finds a:b:c, as Salt's pillar.get traverses a pillar.
func lookup(m *jinja.Map, path string) (any, bool) {
	var v any = m
	for key := range strings.SplitSeq(path, ":") {
		m, ok := v.(*jinja.Map)
		if !ok {
			return nil, false
		}
		if v, ok = m.Get(key); !ok {
			return nil, false
		}
	}
	return v, true
}

// tracer gives templates their view of grains and pillar and notes each read.
type tracer struct {
	in    Inputs
	reads map[string]string
}

func newTracer(in Inputs) *tracer { return &tracer{in: in, reads: map[string]string{}} }

func (t *tracer) note(path string) { t.reads[path] = t.in.Hash(path) }

// sorted returns the reads in order of their paths.
func (t *tracer) sorted() []Read {
	out := make([]Read, 0, len(t.reads))
	for path, hash := range t.reads {
		out = append(out, Read{path, hash})
	}
	slices.SortFunc(out, func(a, b Read) int { return strings.Compare(a.Path, b.Path) })
	return out
}

// names are what a template knows by name.
func (t *tracer) names(withPillar bool) map[string]any {
	names := map[string]any{"grains": grainsObject{t}}
	if withPillar {
		names["pillar"] = pillarObject{t}
		names["salt"] = saltObject{t}
	}
	return names
}

// reserved are the names that context: must not hide.
var reserved = []string{"grains", "pillar", "salt", "loop"}

type grainsObject struct{ t *tracer }

func (g grainsObject) get(name string) (any, bool) {
	g.t.note("grains:" + name)
	v, ok := g.t.in.Grains[name]
	return v, ok
}

func (g grainsObject) Attr(name string) (any, error) {
	if name == "get" {
		return getter("grains.get", "set it as a label of the cluster in fleet.yaml", g.get), nil
	}
	return nil, jinja.Fault("grains."+name+" is not supported", "write grains['"+name+"']")
}

func (g grainsObject) Item(key any) (any, error) {
	name, ok := key.(string)
	if !ok {
		return nil, jinja.Fault("a grain's name is a string", "write grains['name']")
	}
	v, ok := g.get(name)
	if !ok {
		return nil, jinja.Fault("the cluster has no grain "+quote(name), "set it as a label of the cluster in fleet.yaml, or write grains.get("+quote(name)+", default)")
	}
	return v, nil
}

type pillarObject struct{ t *tracer }

func (p pillarObject) get(path string) (any, bool) {
	p.t.note("pillar:" + path)
	return lookup(p.t.in.Pillar, path)
}

func (p pillarObject) Attr(name string) (any, error) {
	if name == "get" {
		return getter("pillar.get", "set it in salt/pillar, or give a default", func(key string) (any, bool) {
			if strings.Contains(key, ":") {
				return nil, false
			}
			return p.get(key)
		}), nil
	}
	return nil, jinja.Fault("pillar."+name+" is not supported", "write pillar.get('"+name+"')")
}

func (p pillarObject) Item(key any) (any, error) {
	name, _ := key.(string)
	return nil, jinja.Fault("pillar[...] is not supported", "write pillar.get('"+name+"')")
}

type saltObject struct{ t *tracer }

func (s saltObject) Attr(name string) (any, error) {
	return nil, jinja.Fault("salt."+name+" is not supported", "write salt['pillar.get']('key:key')")
}

func (s saltObject) Item(key any) (any, error) {
	switch key {
	case "pillar.get":
		return getter("salt['pillar.get']", "set it in salt/pillar, give it a default in addon.yaml, or give a default here", pillarObject(s).get), nil
	case "grains.get":
		return getter("salt['grains.get']", "set it as a label of the cluster in fleet.yaml", grainsObject(s).get), nil
	}
	name, _ := key.(string)
	return nil, jinja.Fault("the function "+quote(name)+" is not supported", "known are pillar.get and grains.get")
}

// getter is get(key[, default]). Unlike Salt's it refuses a key that is not there
// and has no default: Salt's empty string there has hidden many a typing error.
func getter(what, hint string, get func(string) (any, bool)) jinja.Func {
	return func(args []any, named map[string]any) (any, error) {
		if v, ok := named["default"]; ok && len(args) == 1 && len(named) == 1 {
			args, named = append(args, v), nil
		}
		if len(args) < 1 || len(args) > 2 || len(named) > 0 {
			return nil, jinja.Fault(what+" takes a key and maybe a default", "")
		}
		key, ok := args[0].(string)
		if !ok || key == "" {
			return nil, jinja.Fault(what+" needs a key that is a string", "")
		}
		if v, ok := get(key); ok {
			return v, nil
		}
		if len(args) == 2 {
			return args[1], nil
		}
		return nil, jinja.Fault(what+" finds no "+quote(key), hint)
	}
}

func quote(s string) string { return "'" + s + "'" }
