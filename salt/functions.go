package salt

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"holdfast.dev/salt/jinja"
)

// function is one of Salt's execution modules' functions.
type function func(e *engine, a *jinja.Args) (any, error)

// functionOf is a function that a template may call, nil if there is none of that
// name: none depends on more than the repository, the grains and the pillar.
func functionOf(name string) function {
	if name == "slsutil.renderer" {
		return renderer // in no map: it reaches back to the templates, and so to here
	}
	for _, part := range []map[string]function{dataFunctions, mergeFunctions, fileFunctions, smallFunctions, matchFunctions} {
		if f, ok := part[name]; ok {
			return f
		}
	}
	return nil
}

var dataFunctions = map[string]function{
	"pillar.get": pillarGet,
	"pillar.item": func(e *engine, a *jinja.Args) (any, error) {
		return e.item(a, "pillar", e.pillar)
	},
	"pillar.items": func(e *engine, _ *jinja.Args) (any, error) { e.trace.note("pillar:"); return e.pillar, nil },
	"pillar.raw":   func(e *engine, _ *jinja.Args) (any, error) { e.trace.note("pillar:"); return e.pillar, nil },
	"pillar.keys": func(e *engine, a *jinja.Args) (any, error) {
		key, err := a.Text("key")
		if err != nil {
			return nil, err
		}
		v, ok := e.traverse("pillar", e.pillar, key, ":")
		m, isMap := v.(*jinja.Map)
		if !ok || !isMap {
			return nil, jinja.Fault("the pillar '"+key+"' has no keys", "")
		}
		return jinja.NewList(m.All()...), nil
	},
	"grains.get": func(e *engine, a *jinja.Args) (any, error) {
		key, err := a.Need("key")
		def, hasDefault := a.Given("default")
		sep, ok := jinja.Text(a.Take("delimiter", ":"))
		a.Take("ordered", nil)
		if err != nil || !ok {
			return nil, err
		}
		if v, ok := e.traverse("grains", e.grains, key, sep); ok {
			return v, nil
		}
		if hasDefault {
			return def, nil
		}
		if e.strict {
			return nil, jinja.Fault("salt['grains.get'] finds no '"+jinja.Str(key)+"'", "set it as a label of the cluster in fleet.yaml")
		}
		return "", nil
	},
	"grains.item": func(e *engine, a *jinja.Args) (any, error) { return e.item(a, "grains", e.grains) },
	"grains.items": func(e *engine, a *jinja.Args) (any, error) {
		a.Take("sanitize", nil)
		e.trace.note("grains:")
		return e.grains.Copy(), nil
	},
	"grains.has_value": func(e *engine, a *jinja.Args) (any, error) {
		key, err := a.Need("key")
		if err != nil {
			return nil, err
		}
		_, ok := e.traverse("grains", e.grains, key, ":")
		return ok, nil
	},
	"grains.filter_by": func(e *engine, a *jinja.Args) (any, error) {
		return e.filterBy(a, "grain", "os_family", "grains", e.grains)
	},
	"pillar.filter_by": func(e *engine, a *jinja.Args) (any, error) {
		return e.filterBy(a, "pillar", "role", "pillar", e.pillar)
	},
	"config.get":    configGet,
	"config.option": configOption,
}

// traverse reads a:b:c of the grains or the pillar, and notes it.
func (e *engine) traverse(kind string, m *jinja.Map, key any, delimiter string) (any, bool) {
	if s, ok := jinja.Text(key); ok && delimiter == ":" && s != "" {
		e.trace.note(kind + ":" + s)
	} else {
		e.trace.note(kind + ":")
	}
	return jinja.Traverse(m, key, delimiter)
}

// pillarGet is salt/modules/pillar.py, get.
func pillarGet(e *engine, a *jinja.Args) (any, error) {
	key, err := a.Need("key")
	def, hasDefault := a.Given("default")
	merge, err2 := a.Flag("merge", false)
	lists, err3 := a.Flag("merge_nested_lists", false)
	sep, ok := jinja.Text(a.Take("delimiter", ":"))
	env, env2 := a.Take("pillarenv", nil), a.Take("saltenv", nil)
	a.Take("unmask", nil)
	switch {
	case err != nil:
		return nil, err
	case err2 != nil || err3 != nil || !ok:
		return nil, jinja.Fault("pillar.get takes a key, a default, merge, merge_nested_lists and a delimiter", "")
	case env != nil && env != "base" || env2 != nil && env2 != "base":
		return nil, jinja.Fault("environments are not supported", "there is only base")
	case key == "":
		return nil, jinja.Fault("salt['pillar.get'] needs a key that is not empty", "")
	}
	v, found := e.traverse("pillar", e.pillar, key, sep)
	if merge {
		if out, ok := mergedDefault(def, v, found, lists); ok {
			return out, nil
		}
	}
	switch {
	case found:
		return v, nil
	case hasDefault:
		return def, nil
	case e.strict:
		return nil, jinja.Fault("salt['pillar.get'] finds no '"+jinja.Str(key)+"'", "set it in salt/pillar, give it a default in addon.yaml, or give a default here")
	}
	return "", nil
}

// mergedDefault lays a value of the pillar over the default.
func mergedDefault(def, v any, found, lists bool) (any, bool) {
	switch d := def.(type) {
	case *jinja.Map:
		if !found {
			v = jinja.NewMap()
		}
		m, ok := v.(*jinja.Map)
		if !ok {
			return nil, false
		}
		out := jinja.Import(d).(*jinja.Map)
		update(out, m, true, lists)
		return out, true
	case *jinja.List:
		if !found {
			v = jinja.NewList()
		}
		l, ok := v.(*jinja.List)
		if !ok {
			return nil, false
		}
		out := jinja.Import(d).(*jinja.List)
		appendNew(out, l)
		return out, true
	}
	return nil, false
}

func (e *engine) item(a *jinja.Args, kind string, m *jinja.Map) (any, error) {
	def, ok := a.Named("default")
	if !ok {
		def = ""
	}
	sep := ":"
	if s, ok := a.Named("delimiter"); ok {
		sep, _ = jinja.Text(s)
	}
	a.Keywords()
	out := jinja.NewMap()
	for _, key := range a.Rest() {
		v, ok := e.traverse(kind, m, key, sep)
		if !ok {
			v = def
		}
		if err := out.Put(key, v); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// filterBy is salt/utils/data.py, filter_by.
func (e *engine) filterBy(a *jinja.Args, param, lookup, kind string, m *jinja.Map) (any, error) {
	table, ok := a.Take("lookup_dict", nil).(*jinja.Map)
	if !ok {
		return nil, jinja.Fault("filter_by needs a dict", "")
	}
	key := a.Take(param, lookup)
	merge, def, base := a.Take("merge", nil), a.Take("default", "default"), a.Take("base", nil)
	v, found := e.traverse(kind, m, key, ":")
	var values []any
	if l, isList := v.(*jinja.List); isList {
		values = l.Items
	} else if found {
		values = []any{v}
	}
	var out any
search:
	for _, value := range values {
		for _, k := range table.All() {
			re, err := jinja.GlobRegexp(jinja.Str(k))
			if err == nil && re.MatchString(jinja.Str(value)) {
				out, _ = table.At(k)
				break
			}
		}
		if out != nil {
			break search
		}
	}
	if out == nil {
		out, _ = table.At(def)
	}
	if values, ok := table.At(base); ok && base != nil && base != "" {
		if out == nil {
			out = values
		} else if b, ok := values.(*jinja.Map); ok {
			o, ok := out.(*jinja.Map)
			if !ok {
				return nil, jinja.Fault("filter_by's base and the value found must both be dicts", "")
			}
			b = jinja.Import(b).(*jinja.Map)
			update(b, o, true, false)
			out = b
		}
	}
	if merge == nil {
		return out, nil
	}
	over, ok := merge.(*jinja.Map)
	if over != nil && over.Len() == 0 || merge == "" || merge == false {
		return out, nil
	}
	if !ok {
		return nil, jinja.Fault("filter_by's merge must be a dict", "")
	}
	if out == nil {
		return over, nil
	}
	o, ok := out.(*jinja.Map)
	if !ok {
		return nil, jinja.Fault("filter_by merges into what is no dict", "")
	}
	update(o, jinja.Import(over).(*jinja.Map), true, false)
	return o, nil
}

// configGet is salt/modules/config.py, get: the minion's configuration, which here
// is only its id, the grains, the pillar and the pillar below master.
func configGet(e *engine, a *jinja.Args) (any, error) {
	key, err := a.Text("key")
	if err != nil {
		return nil, err
	}
	def := a.Take("default", "")
	sep, _ := jinja.Text(a.Take("delimiter", ":"))
	merge := a.Take("merge", nil)
	omit := map[string]bool{}
	for _, name := range []string{"omit_opts", "omit_pillar", "omit_master", "omit_grains"} {
		if omit[name], err = a.Flag(name, false); err != nil {
			return nil, err
		}
	}
	layers := []struct {
		kind, omit string
		m          *jinja.Map
	}{{"", "omit_opts", e.opts}, {"grains", "omit_grains", e.grains}, {"pillar", "omit_pillar", e.pillar}}
	if merge != nil {
		e.trace.note("pillar:")
		e.trace.note("grains:")
		all := jinja.NewMap()
		for _, l := range slices.Backward(layers) {
			if err := merged(all, l.m, jinja.Str(merge)); err != nil {
				return nil, err
			}
		}
		if v, ok := jinja.Traverse(all, key, sep); ok {
			return v, nil
		}
		return def, nil
	}
	for _, l := range layers {
		if omit[l.omit] {
			continue
		}
		var v any
		var ok bool
		if l.kind == "" {
			v, ok = jinja.Traverse(l.m, key, sep)
		} else {
			v, ok = e.traverse(l.kind, l.m, key, sep)
		}
		if ok {
			return v, nil
		}
	}
	if !omit["omit_master"] {
		if v, ok := e.traverse("pillar", e.pillar, "master"+sep+key, sep); ok {
			return v, nil
		}
	}
	return def, nil
}

func merged(into, m *jinja.Map, strategy string) error {
	out, err := mergeStrategy(into, m, strategy, false)
	if err != nil {
		return err
	}
	for _, k := range out.All() {
		v, _ := out.At(k)
		if err := into.Put(k, v); err != nil {
			return err
		}
	}
	return nil
}

func configOption(e *engine, a *jinja.Args) (any, error) {
	key, err := a.Text("value")
	if err != nil {
		return nil, err
	}
	def := a.Take("default", nil)
	a.Keywords()
	if v, ok := e.opts.Get(key); ok {
		return v, nil
	}
	for kind, m := range map[string]*jinja.Map{"grains": e.grains} {
		e.trace.note(kind + ":" + key)
		if v, ok := m.Get(key); ok {
			return v, nil
		}
	}
	e.trace.note("pillar:" + key)
	if v, ok := e.pillar.Get(key); ok {
		return v, nil
	}
	if def == nil {
		def = ""
	}
	return def, nil
}

var fileFunctions = map[string]function{
	"slsutil.file_exists": func(e *engine, a *jinja.Args) (any, error) { return e.exists(a, true, false) },
	"slsutil.dir_exists":  func(e *engine, a *jinja.Args) (any, error) { return e.exists(a, false, true) },
	"slsutil.path_exists": func(e *engine, a *jinja.Args) (any, error) { return e.exists(a, true, true) },
	"cp.get_file_str": func(e *engine, a *jinja.Args) (any, error) {
		name, err := a.Text("path")
		a.Take("saltenv", nil)
		if err != nil {
			return nil, err
		}
		text, ok := e.fileURL(name)
		if !ok {
			return false, nil
		}
		return string(text), nil
	},
	"jinja.load_map": func(e *engine, a *jinja.Args) (any, error) {
		p, err := a.Text("path")
		if err != nil {
			return nil, err
		}
		name, err := a.Text("value")
		if err != nil {
			return nil, err
		}
		return e.inline(fmt.Sprintf("{%% from %q import %s with context %%}\n{{ %s | tojson }}\n", p, name, name))
	},
	"jinja.import_yaml": imported("yaml"),
	"jinja.import_json": imported("json"),
	"defaults.get":      defaultsGet,
}

func imported(sort string) function {
	return func(e *engine, a *jinja.Args) (any, error) {
		p, err := a.Text("path")
		if err != nil {
			return nil, err
		}
		return e.inline(fmt.Sprintf("{%% import_%s %q as imported %%}\n{{ imported | tojson }}\n", sort, p))
	}
}

// maxInner bounds renderings inside renderings.
const maxInner = 16

// inline renders a text that a function makes.
func (e *engine) inline(text string) (any, error) {
	return e.nested(source{path: "the text", root: e.stateRoot, text: []byte(text)}, defaultPipe)
}

func (e *engine) nested(s source, pipe string) (any, error) {
	if e.depth >= maxInner {
		return nil, jinja.Fault("renderings are nested too deep", "slsutil.renderer must not run in circles")
	}
	e.depth++
	defer func() { e.depth-- }()
	return e.render(s, pipe)
}

// fileURL reads salt://path, or a path below the states.
func (e *engine) fileURL(name string) ([]byte, bool) {
	rel := strings.TrimPrefix(name, "salt://")
	if path.Clean("/"+rel) != "/"+rel || strings.ContainsAny(rel, "?\\") {
		return nil, false
	}
	return e.file(e.stateRoot + rel)
}

func renderer(e *engine, a *jinja.Args) (any, error) {
	p, text := a.Take("path", nil), a.Take("string", nil)
	pipe, _ := jinja.Text(a.Take("default_renderer", defaultPipe))
	context := a.Keywords()
	context.Delete("saltenv")
	s := source{path: "the text", root: e.stateRoot, context: context}
	if p != nil && p != "" {
		name, ok := jinja.Text(p)
		if !ok || text != nil {
			return nil, jinja.Fault("slsutil.renderer takes a path or a string", "")
		}
		if s.text, ok = e.fileURL(name); !ok {
			return nil, jinja.Fault("there is no "+name, "write salt://path/below/the/states")
		}
		s.path = e.stateRoot + strings.TrimPrefix(name, "salt://")
	} else {
		src, ok := jinja.Text(text)
		if !ok {
			return nil, jinja.Fault("slsutil.renderer takes a path or a string", "")
		}
		s.text = []byte(src)
	}
	v, err := e.nested(s, pipe)
	if v == nil && err == nil {
		v = jinja.NewMap()
	}
	return v, err
}

func (e *engine) exists(a *jinja.Args, file, dir bool) (any, error) {
	p, err := a.Text("path")
	a.Take("saltenv", nil)
	if err != nil {
		return nil, err
	}
	if file {
		if _, ok := e.file(e.stateRoot + p); ok {
			return true, nil
		}
	}
	if dir {
		below, err := e.under(e.stateRoot, p)
		return len(below) > 0, err
	}
	return false, nil
}

// defaultsGet is salt/modules/defaults.py, get: of <formula>/defaults.yaml or .json.
func defaultsGet(e *engine, a *jinja.Args) (any, error) {
	key, err := a.Text("key")
	if err != nil {
		return nil, err
	}
	def := a.Take("default", "")
	name, rest, _ := strings.Cut(key, ":")
	for _, file := range []string{"defaults.yaml", "defaults.json"} {
		p := e.stateRoot + strings.ReplaceAll(name, ".", "/") + "/" + file
		text, ok := e.file(p)
		if !ok {
			continue
		}
		v, err := e.parseAs(strings.TrimPrefix(path.Ext(file), "."), p, text)
		if err != nil {
			return nil, err
		}
		if rest == "" {
			return v, nil
		}
		if v, ok := jinja.Traverse(v, rest, ":"); ok {
			return v, nil
		}
		return def, nil
	}
	if rest == "" {
		return jinja.NewMap(), nil
	}
	return def, nil
}

func (e *engine) parseAs(sort, p string, text []byte) (any, error) {
	if sort == "json" {
		return jinja.ParseJSON(text)
	}
	return loadYAML(string(text))
}
