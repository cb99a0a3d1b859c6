package salt

import (
	"fmt"
	"slices"
	"strings"

	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
)

// Pillar compiles a cluster's pillar: the files that salt/pillar/top.sls selects,
// in order, each laid over those before. Pillar files see grains, and no pillar.
func Pillar(files Files, grains Grains, texts *Texts) (*jinja.Map, error) {
	e := fleetEngine(files, Inputs{Grains: grains, Files: files}, nil)
	e.texts = texts
	p, err := e.compilePillar(Options{})
	if err != nil {
		return nil, err
	}
	return jinja.Export(p).(*jinja.Map), nil
}

// pillarRun compiles one pillar.
type pillarRun struct {
	*engine
	Options
	// mods are the files that were rendered: an include of one is not rendered again.
	mods map[string]*jinja.Map
	open []string // the includes at work
}

func (e *engine) compilePillar(o Options) (*jinja.Map, error) {
	chosen, err := e.selected(e.pillRoot, true)
	if err != nil {
		return nil, err
	}
	r := &pillarRun{e, o, map[string]*jinja.Map{}, nil}
	pillar := jinja.NewMap()
	pillar.Ordered = true
	for _, s := range chosen {
		names, err := e.available(e.pillRoot, s.Name)
		if err != nil {
			return nil, at(s.Origin, err)
		}
		if len(names) == 0 {
			if s.Optional {
				continue
			}
			return nil, &strictyaml.Error{File: s.Origin.File, Line: s.Origin.Line, Msg: fmt.Sprintf("there is no pillar %q", s.Name), Hint: "add " + e.pillRoot + s.Name + ".sls, or remove it here"}
		}
		for _, name := range names {
			m, err := r.one(name, nil, s.Origin)
			if err != nil {
				return nil, err
			}
			if m == nil {
				continue
			}
			if pillar, err = mergeStrategy(pillar, m, r.PillarStrategy, r.PillarMergeLists); err != nil {
				return nil, err
			}
		}
	}
	return pillar, nil
}

// one renders one pillar file with its includes (salt/pillar/__init__.py, render_pstate).
func (r *pillarRun) one(name string, context *jinja.Map, from jinja.Origin) (*jinja.Map, error) {
	s, ok := r.findSLS(r.pillRoot, name)
	if !ok {
		return nil, &strictyaml.Error{File: from.File, Line: from.Line, Msg: fmt.Sprintf("there is no pillar %q", name), Hint: "add " + r.pillRoot + name + ".sls, or remove it here"}
	}
	if len(r.open) > maxInner*4 {
		return nil, s.fault(0, "includes are nested too deep", "")
	}
	s.pillar, s.context = true, context
	v, err := r.render(s, defaultPipe)
	if err != nil {
		return nil, err
	}
	r.mods[name] = nil
	on, err := jinja.Truth(v)
	if err != nil || !on {
		return nil, err
	}
	m, ok := v.(*jinja.Map)
	if !ok {
		return nil, s.fault(1, "the file is not a mapping", "write key: value")
	}
	r.mods[name] = m
	include, ok := m.Get("include")
	if !ok {
		return m, nil
	}
	origin := m.Origin("include")
	if r.strict {
		return nil, at(origin, jinja.Fault("include is not supported", "select the file in "+PillarDir+"/top.sls"))
	}
	list, ok := include.(*jinja.List)
	if !ok {
		return nil, at(origin, jinja.Fault("include is not a list", "write include: and below it - name"))
	}
	m.Delete("include")
	r.open = append(r.open, name)
	defer func() { r.open = r.open[:len(r.open)-1] }()
	return r.included(s, name, m, list, origin)
}

func (r *pillarRun) included(s source, name string, m *jinja.Map, list *jinja.List, origin jinja.Origin) (*jinja.Map, error) {
	var below []*jinja.Map
	context := s.context
	for _, item := range list.Items {
		key := ""
		if one, ok := item.(*jinja.Map); ok && one.Len() > 0 {
			item = one.All()[0]
			options, _ := one.At(item)
			if o, ok := options.(*jinja.Map); ok {
				context = jinja.NewMap()
				if d, ok := o.Get("defaults"); ok {
					context, _ = d.(*jinja.Map)
				}
				k, _ := o.Get("key")
				key, _ = k.(string)
			}
		}
		names, err := r.includeNames(s, name, jinja.Str(item))
		if err != nil {
			return nil, at(origin, err)
		}
		for _, n := range names {
			sub, known := r.mods[n]
			if !known {
				if sub, err = r.one(n, context, origin); err != nil {
					return nil, err
				}
			}
			if sub == nil {
				continue
			}
			if key != "" {
				for _, k := range slices.Backward(strings.Split(key, ":")) {
					outer := jinja.NewMap()
					outer.Set(k, sub, origin)
					sub = outer
				}
			}
			if !r.PillarIncludesOverride {
				below = append(below, sub)
			} else if m, err = mergeStrategy(m, sub, r.PillarStrategy, r.PillarMergeLists); err != nil {
				return nil, err
			}
		}
	}
	if r.PillarIncludesOverride {
		return m, nil
	}
	below = append(below, m)
	out := below[0]
	for _, over := range below[1:] {
		var err error
		if out, err = mergeStrategy(out, over, r.PillarStrategy, r.PillarMergeLists); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// includeNames resolves the name of an include: absolute, relative or a glob.
func (r *pillarRun) includeNames(s source, name, sub string) ([]string, error) {
	names, err := r.available(r.pillRoot, strings.ReplaceAll(strings.TrimLeft(sub, "."), "/", "."))
	if err != nil {
		return nil, err
	}
	if strings.HasPrefix(sub, ".") {
		parts := strings.Split(name, ".")
		if !strings.HasSuffix(s.path, "/init.sls") {
			parts = parts[:len(parts)-1]
		}
		sub = strings.Join(append(parts, sub[1:]), ".")
	}
	more, err := r.available(r.pillRoot, sub)
	if err != nil {
		return nil, err
	}
	if names = append(names, more...); len(names) == 0 {
		names = []string{sub}
	}
	return names, nil
}
