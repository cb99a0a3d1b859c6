package salt

import (
	"fmt"
	"slices"
	"strings"

	"holdfast.dev/salt/jinja"
)

// high builds the high state: all IDs of all SLS, as salt/state.py does
// (BaseHighState.render_state and what it calls).
type high struct {
	*engine
	ids     *jinja.Map // of ID: {__sls__, __env__, module: [arguments]}
	extend  []extension
	exclude []any
	mods    map[string]bool
	order   int64
	depth   int
}

// extension is one entry of an extend declaration.
type extension struct {
	id   string
	body *jinja.Map
}

// firstOrder is where Salt counts the order of states from.
const firstOrder = 10000

func newHigh(e *engine) *high {
	return &high{engine: e, ids: jinja.NewMap(), mods: map[string]bool{}, order: firstOrder}
}

// add renders the SLS that a top file selects.
func (h *high) add(s Selected) error {
	names, err := h.available(h.stateRoot, s.Name)
	if err != nil {
		return at(s.Origin, err)
	}
	if len(names) == 0 {
		names = []string{s.Name}
	}
	for _, name := range names {
		if h.mods[name] {
			continue
		}
		ids, err := h.state(name, s.Origin)
		if err != nil {
			return err
		}
		if err := join(h.ids, ids); err != nil {
			return err
		}
	}
	return nil
}

// join adds IDs; one that is there already must be the same.
func join(to, ids *jinja.Map) error {
	for _, k := range ids.All() {
		v, _ := ids.At(k)
		old, ok := to.At(k)
		if ok && !jinja.Equal(old, v) {
			o := to.OriginOf(k)
			return at(ids.OriginOf(k), jinja.Fault(fmt.Sprintf("the ID %q is there twice, first in %s:%d", jinja.Str(k), o.File, o.Line), "rename one"))
		}
		put(to, k, v, ids.OriginOf(k))
	}
	return nil
}

// state renders one SLS and what it includes.
func (h *high) state(name string, from jinja.Origin) (*jinja.Map, error) {
	s, ok := h.findSLS(h.stateRoot, name)
	if !ok {
		return nil, at(from, jinja.Fault(fmt.Sprintf("there is no state %q", name), "add "+h.stateRoot+strings.ReplaceAll(name, ".", "/")+".sls, or remove it here"))
	}
	if h.depth++; h.depth > maxInner*8 {
		return nil, at(from, jinja.Fault("includes are nested too deep", ""))
	}
	defer func() { h.depth-- }()
	v, err := h.render(s, defaultPipe)
	if err != nil {
		return nil, err
	}
	h.mods[name] = true
	on, err := jinja.Truth(v)
	if err != nil || !on {
		return jinja.NewMap(), err
	}
	m, ok := jinja.Import(v).(*jinja.Map)
	if !ok {
		return nil, s.fault(1, "the SLS is not a mapping", "write ID: and below it module.function:")
	}
	include, err := h.declarations(s, m)
	if err != nil {
		return nil, err
	}
	if err := padStates(s, name, m); err != nil {
		return nil, err
	}
	for _, item := range include {
		names, origin, err := h.includes(s, name, item, from)
		if err != nil {
			return nil, err
		}
		for _, n := range names {
			if h.mods[n] {
				continue
			}
			ids, err := h.state(n, origin)
			if err != nil {
				return nil, err
			}
			for _, k := range ids.All() {
				body, _ := ids.At(k)
				list, _ := body.(*jinja.Map).Get("__sls_included_from__")
				l, ok := list.(*jinja.List)
				if !ok {
					l = jinja.NewList()
					put(body.(*jinja.Map), "__sls_included_from__", l, jinja.Origin{})
				}
				l.Items = append(l.Items, name)
			}
			if err := join(m, ids); err != nil {
				return nil, err
			}
		}
	}
	h.number(m)
	return m, nil
}

// declarations takes include, extend and exclude out of an SLS.
func (h *high) declarations(s source, m *jinja.Map) (include []any, err error) {
	listOf := func(key string) ([]any, error) {
		v, ok := m.Get(key)
		if !ok {
			return nil, nil
		}
		o := m.Origin(key)
		m.Delete(key)
		l, ok := v.(*jinja.List)
		if !ok {
			return nil, at(o, jinja.Fault(key+" is not a list", "write "+key+": and below it - name"))
		}
		return l.Items, nil
	}
	if include, err = listOf("include"); err != nil {
		return nil, err
	}
	exclude, err := listOf("exclude")
	if err != nil {
		return nil, err
	}
	h.exclude = append(h.exclude, exclude...)
	v, ok := m.Get("extend")
	if !ok {
		return include, nil
	}
	o := m.Origin("extend")
	m.Delete("extend")
	ext, ok := v.(*jinja.Map)
	if !ok {
		return nil, at(o, jinja.Fault("extend is not a mapping", "write extend: and below it the ID of a state"))
	}
	for _, k := range ext.All() {
		v, _ := ext.At(k)
		body, ok := v.(*jinja.Map)
		if !ok {
			return nil, at(ext.OriginOf(k), jinja.Fault(fmt.Sprintf("the extension of %q is not a mapping", jinja.Str(k)), "write module: and below it a list of arguments"))
		}
		if err := padBody(body); err != nil {
			return nil, at(ext.OriginOf(k), err)
		}
		mark(body, s.sls, ext.OriginOf(k))
		h.extend = append(h.extend, extension{jinja.Str(k), body})
	}
	return include, nil
}

// mark notes which SLS a body comes from.
func mark(body *jinja.Map, sls string, o jinja.Origin) {
	if _, ok := body.Get("__sls__"); !ok {
		body.Set("__sls__", sls, o)
	}
	if _, ok := body.Get("__env__"); !ok {
		body.Set("__env__", "base", o)
	}
}

// padStates splits module.function and marks each ID with its SLS.
func padStates(s source, name string, m *jinja.Map) error {
	for _, id := range m.All() {
		v, _ := m.At(id)
		o := m.OriginOf(id)
		if text, ok := v.(string); ok && strings.Contains(text, ".") {
			parts := strings.Split(text, ".")
			body := jinja.NewMap()
			mark(body, name, o)
			body.Set(parts[0], jinja.NewList(parts[1]), o)
			put(m, id, body, o)
			continue
		}
		body, ok := v.(*jinja.Map)
		if !ok {
			return at(o, jinja.Fault(fmt.Sprintf("the ID %q is not a mapping", jinja.Str(id)), "write module.function: below it"))
		}
		if err := padBody(body); err != nil {
			return at(o, err)
		}
		mark(body, name, o)
	}
	return nil
}

func padBody(body *jinja.Map) error {
	seen := map[string]bool{}
	for _, key := range body.Keys() {
		v, _ := body.Get(key)
		l, ok := v.(*jinja.List)
		if !ok || strings.HasPrefix(key, "_") {
			continue
		}
		module, fun, dotted := strings.Cut(key, ".")
		if !dotted {
			seen[key] = true
			continue
		}
		if seen[module] {
			return jinja.Fault("an ID has two functions of the module "+module, "give one of them an ID of its own")
		}
		seen[module] = true
		o := body.Origin(key)
		body.Delete(key)
		fun, _, _ = strings.Cut(fun, ".")
		l.Items = append(l.Items, fun)
		body.Set(module, l, o)
	}
	return nil
}

// includes resolves one item of an include.
func (h *high) includes(s source, name string, item any, from jinja.Origin) ([]string, jinja.Origin, error) {
	origin := jinja.Origin{File: s.path, Line: lineOf(s.text, jinja.Str(item))}
	if one, ok := item.(*jinja.Map); ok && one.Len() > 0 {
		env := one.All()[0]
		item, _ = one.At(env)
		origin = one.OriginOf(env)
		if env != "base" && env != "_xenv" {
			return nil, origin, at(origin, jinja.Fault(fmt.Sprintf("the environment %q is not supported", jinja.Str(env)), "there is only base"))
		}
	}
	inc, ok := item.(string)
	if !ok || inc == "" {
		return nil, origin, at(origin, jinja.Fault("an include is not a name", "write - name"))
	}
	if rest := strings.TrimLeft(inc, "."); rest != inc {
		levels := len(inc) - len(rest)
		parts := strings.Split(name, ".")
		if strings.HasSuffix(s.path, "/init.sls") {
			parts = append(parts, "init")
		}
		if levels > len(parts) {
			return nil, origin, at(origin, jinja.Fault(fmt.Sprintf("the include %q leads out of the tree", inc), "use fewer dots"))
		}
		inc = strings.Join(append(slices.Clone(parts[:len(parts)-levels]), rest), ".")
	}
	names, err := h.available(h.stateRoot, inc)
	if err == nil && len(names) == 0 {
		err = jinja.Fault(fmt.Sprintf("there is no state %q to include", inc), "add it, or correct the name")
	}
	return names, origin, at(origin, err)
}

// lineOf finds the line that holds a text; 0 if there is none.
func lineOf(text []byte, part string) int {
	for i, line := range strings.Split(string(text), "\n") {
		if strings.Contains(line, part) {
			return i + 1
		}
	}
	return 0
}

// number gives each state without an order the next.
func (h *high) number(m *jinja.Map) {
	for _, id := range m.All() {
		v, _ := m.At(id)
		body, ok := v.(*jinja.Map)
		if !ok {
			continue
		}
		for _, module := range body.Keys() {
			v, _ := body.Get(module)
			l, ok := v.(*jinja.List)
			if !ok || strings.HasPrefix(module, "_") {
				continue
			}
			if _, found := argument(l, "order"); !found {
				one := jinja.NewMap()
				one.Set("order", h.order, jinja.Origin{})
				l.Items = append(l.Items, one)
				h.order++
			}
		}
	}
}

// argument finds the argument of that name in a state's list.
func argument(l *jinja.List, name string) (any, bool) {
	for _, item := range l.Items {
		if m, ok := item.(*jinja.Map); ok && m.Len() > 0 && m.All()[0] == name {
			v, _ := m.Get(name)
			return v, true
		}
	}
	return nil, false
}

// functionsOf lists the functions that a state's list names.
func functionsOf(l *jinja.List) []string {
	var out []string
	for _, item := range l.Items {
		if s, ok := item.(string); ok {
			out = append(out, s)
		}
	}
	return out
}
