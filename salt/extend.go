package salt

import (
	"fmt"
	"slices"
	"strings"

	"holdfast.dev/salt/jinja"
)

// requisites are the kinds of Salt's direct requisites; a kind's place is its
// weight (salt/utils/requisite.py, RequisiteType).
var requisites = []string{"onfail", "onfail_any", "onfail_all", "require", "require_any", "onchanges", "onchanges_any", "watch", "watch_any", "prereq", "prerequired", "listen"}

func isRequisite(key string) bool { return slices.Contains(requisites, key) || key == "onfail_stop" }

// statesOf lists the modules of an ID, with their arguments.
func statesOf(body *jinja.Map) (modules []string, lists []*jinja.List) {
	for _, k := range body.Keys() {
		v, _ := body.Get(k)
		if l, ok := v.(*jinja.List); ok && !strings.HasPrefix(k, "__") {
			modules, lists = append(modules, k), append(lists, l)
		}
	}
	return modules, lists
}

func (h *high) body(id any) (*jinja.Map, bool) {
	v, _ := h.ids.At(id)
	m, ok := v.(*jinja.Map)
	return m, ok
}

func (h *high) list(id any, module string) (*jinja.List, bool) {
	body, ok := h.body(id)
	if !ok {
		return nil, false
	}
	v, _ := body.Get(module)
	l, ok := v.(*jinja.List)
	return l, ok
}

// find lists the IDs that a name means: an ID, an SLS, or the value of an argument
// (salt/state.py, find_name).
func (h *high) find(name, module string, strict bool) (ids []any, modules []string) {
	_, hasModule := h.list(name, module)
	if _, ok := h.body(name); ok && (!strict || hasModule) {
		return []any{name}, []string{module}
	}
	for _, id := range h.ids.All() {
		body, _ := h.body(id)
		if module == "sls" {
			if sls, _ := body.Get("__sls__"); sls == name {
				ids, modules = append(ids, id), append(modules, body.Keys()[0])
			}
			continue
		}
		l, ok := h.list(id, module)
		if !ok {
			continue
		}
		for _, arg := range l.Items {
			if m, ok := arg.(*jinja.Map); ok && m.Len() == 1 {
				if v, _ := m.At(m.All()[0]); v == name {
					ids, modules = append(ids, id), append(modules, module)
				}
			}
		}
	}
	return ids, modules
}

// reconcile lays extensions over the IDs (salt/state.py, reconcile_extend).
func (h *high) reconcile(list []extension, strict bool) error {
	for _, x := range list {
		origin := x.body.Origin("__sls__")
		modules, lists := statesOf(x.body)
		if len(modules) == 0 {
			return at(origin, jinja.Fault(fmt.Sprintf("the extension of %q has no state", x.id), "write module: and below it a list"))
		}
		id := any(x.id)
		if _, ok := h.list(id, modules[0]); !ok {
			ids, _ := h.find(x.id, modules[0], strict)
			if len(ids) != 1 {
				return at(origin, jinja.Fault(fmt.Sprintf("there is no state %q of %s to extend", x.id, modules[0]), "include the SLS that has it, or correct the ID"))
			}
			id = ids[0]
		}
		if sls, _ := x.body.Get("__sls__"); h.excludes("sls", jinja.Str(sls)) {
			continue
		}
		body, _ := h.body(id)
		for i, module := range modules {
			old, ok := h.list(id, module)
			if !ok {
				body.Set(module, lists[i], origin)
				continue
			}
			for _, arg := range lists[i].Items {
				extendList(old, arg)
			}
		}
	}
	return nil
}

func extendList(l *jinja.List, arg any) {
	updated := false
	for i, val := range l.Items {
		_, isText := arg.(string)
		_, wasText := val.(string)
		if isText && wasText {
			l.Items[i], updated = arg, true
			continue
		}
		a, ok1 := arg.(*jinja.Map)
		v, ok2 := val.(*jinja.Map)
		if !ok1 || !ok2 || a.Len() == 0 || v.Len() == 0 {
			continue
		}
		key, old := jinja.Str(a.All()[0]), jinja.Str(v.All()[0])
		if key == old {
			if isRequisite(key) {
				first, _ := v.Get(key)
				more, _ := a.Get(key)
				f, ok1 := first.(*jinja.List)
				m, ok2 := more.(*jinja.List)
				if ok1 && ok2 {
					f.Items = append(f.Items, m.Items...)
				}
			} else {
				l.Items[i] = a
			}
			updated = true
		}
		if key == "name" && old == "names" {
			l.Items[i] = a
		}
	}
	if !updated {
		l.Items = append(l.Items, arg)
	}
}

// excludes tells whether the exclude declarations name an SLS or an ID.
func (h *high) excludes(kind, name string) bool {
	for _, x := range h.exclude {
		pattern, ok := x.(string)
		if m, isMap := x.(*jinja.Map); isMap && m.Len() == 1 {
			v, _ := m.Get(kind)
			pattern, ok = v.(string)
		} else if kind == "id" {
			continue
		}
		if !ok {
			continue
		}
		if hit, err := glob(pattern, name); kind == "sls" && err == nil && hit || pattern == name {
			return true
		}
	}
	return false
}

func (h *high) applyExclude() {
	for _, id := range h.ids.All() {
		body, _ := h.body(id)
		sls, _ := body.Get("__sls__")
		if h.excludes("id", jinja.Str(id)) || h.excludes("sls", jinja.Str(sls)) {
			h.ids.Delete(id)
		}
	}
}

// verify checks the form of each ID (salt/state.py, _verify_high).
func (h *high) verify() error {
	for _, id := range h.ids.All() {
		origin := h.ids.OriginOf(id)
		if _, ok := id.(string); !ok {
			return at(origin, jinja.Fault(fmt.Sprintf("the ID %s is not a string", jinja.Str(id)), "quote it"))
		}
		body, _ := h.body(id)
		for _, module := range body.Keys() {
			if strings.HasPrefix(module, "__") {
				continue
			}
			if err := verifyState(body, module); err != nil {
				return at(origin, err)
			}
		}
	}
	return nil
}

func verifyState(body *jinja.Map, module string) error {
	v, _ := body.Get(module)
	l, ok := v.(*jinja.List)
	if !ok {
		return jinja.Fault("the state "+module+" has no list of arguments", "write "+module+": and below it - name: value")
	}
	funs := functionsOf(l)
	for _, f := range funs {
		if strings.Contains(strings.TrimSpace(f), " ") {
			return jinja.Fault(fmt.Sprintf("the function %q has a space in it", f), "an argument needs a colon")
		}
	}
	for _, item := range l.Items {
		m, ok := item.(*jinja.Map)
		if !ok || m.Len() == 0 {
			continue
		}
		key := jinja.Str(m.All()[0])
		value, _ := m.At(m.All()[0])
		list, isList := value.(*jinja.List)
		if (key == "names" || isRequisite(key)) && !isList {
			return jinja.Fault(key+" of "+module+" is not a list", "write "+key+": and below it - ...")
		}
		if !isRequisite(key) {
			continue
		}
		if m.Len() != 1 {
			return jinja.Fault("an argument of "+module+" holds more than "+key, "begin each with a dash")
		}
		for _, req := range list.Items {
			if _, ok := req.(string); ok {
				continue
			}
			one, ok := req.(*jinja.Map)
			if !ok || one.Len() != 1 {
				return jinja.Fault("an item of "+key+" is not one module and an ID", "write - file: /path")
			}
			if k := jinja.Str(one.All()[0]); strings.Contains(k, ".") {
				return jinja.Fault(fmt.Sprintf("%q in %s has a function", k, key), "write the module only")
			}
		}
	}
	if strings.Contains(module, ".") {
		funs = append(funs, module)
	}
	switch {
	case len(funs) == 0:
		return jinja.Fault("the state "+module+" has no function", "write "+module+".function:")
	case len(funs) > 1:
		return jinja.Fault("the state "+module+" has several functions: "+strings.Join(funs, ", "), "keep one")
	}
	return nil
}

// reversed maps the requisites that are written at the other end.
var reversed = map[string]string{"require_in": "require", "watch_in": "watch", "onfail_in": "onfail", "onchanges_in": "onchanges", "use": "use", "use_in": "use", "prereq_in": "prereq"}

// notUsed are arguments that use and use_in do not copy.
var notUsed = []string{"require_in", "watch_in", "onfail_in", "onchanges_in", "use", "use_in", "prereq_in", "require", "watch", "prereq", "onfail", "onfail_stop", "onchanges", "name", "names"}

// pending collects what the reversed requisites add to other states.
type pending struct {
	h    *high
	ids  []string
	bods map[string]*jinja.Map
}

func (p *pending) list(id, module string, from *jinja.Map) *jinja.List {
	body, ok := p.bods[id]
	if !ok {
		body = jinja.NewMap()
		p.bods[id] = body
		p.ids = append(p.ids, id)
	}
	if v, ok := body.Get(module); ok {
		return v.(*jinja.List)
	}
	l := jinja.NewList()
	body.Set(module, l, jinja.Origin{})
	if from != nil {
		for _, k := range []string{"__env__", "__sls__"} {
			v, _ := from.Get(k)
			body.Set(k, v, from.Origin(k))
		}
	}
	return l
}

// requisiteIn resolves require_in and its kind (salt/state.py, requisite_in).
func (h *high) requisiteIn() error {
	p := &pending{h, nil, map[string]*jinja.Map{}}
	for _, id := range h.ids.All() {
		body, ok := h.body(id)
		if !ok {
			continue
		}
		modules, lists := statesOf(body)
		for i, module := range modules {
			for _, item := range lists[i].Items {
				m, ok := item.(*jinja.Map)
				if !ok || m.Len() == 0 {
					continue
				}
				key := jinja.Str(m.All()[0])
				if _, ok := reversed[key]; !ok {
					continue
				}
				v, _ := m.Get(key)
				if err := p.one(jinja.Str(id), module, key, v, body); err != nil {
					return at(h.ids.OriginOf(id), err)
				}
			}
		}
	}
	var list []extension
	for _, id := range p.ids {
		list = append(list, extension{id, p.bods[id]})
	}
	return h.reconcile(list, true)
}

func (p *pending) one(id, module, key string, v any, body *jinja.Map) error {
	var pairs [][2]string
	switch v := v.(type) {
	case *jinja.Map:
		for _, k := range v.Keys() {
			name, _ := v.Get(k)
			pairs = append(pairs, [2]string{jinja.Str(name), k})
		}
	case *jinja.List:
		for _, item := range v.Items {
			more, err := p.hinges(item)
			if err != nil {
				return err
			}
			pairs = append(pairs, more...)
		}
	}
	for _, pair := range pairs {
		if strings.Contains(pair[1], ".") {
			return jinja.Fault(fmt.Sprintf("%q in %s has a function", pair[1], key), "write the module only")
		}
		switch key {
		case "use":
			p.use(pair[0], pair[1], id, module)
		case "use_in":
			p.useIn(pair[0], pair[1], id, module)
		default:
			p.require(pair[0], pair[1], id, module, reversed[key], body)
		}
	}
	return nil
}

// hinges are the states, as name and module, that one item of a requisite means.
func (p *pending) hinges(item any) ([][2]string, error) {
	if name, ok := item.(string); ok {
		if body, ok := p.h.body(name); ok {
			modules, _ := statesOf(body)
			if len(modules) > 0 {
				return [][2]string{{name, modules[0]}}, nil
			}
		}
		for _, id := range p.h.ids.All() {
			body, _ := p.h.body(id)
			modules, lists := statesOf(body)
			for i := range modules {
				if v, ok := argument(lists[i], "name"); ok && v == name {
					return [][2]string{{jinja.Str(id), modules[i]}}, nil
				}
			}
		}
		return nil, nil
	}
	m, ok := item.(*jinja.Map)
	if !ok || m.Len() == 0 {
		return nil, nil
	}
	module := jinja.Str(m.All()[0])
	v, _ := m.At(m.All()[0])
	name := jinja.Str(v)
	if module != "sls" {
		return [][2]string{{name, module}}, nil
	}
	var out [][2]string
	for _, id := range p.h.ids.All() {
		body, _ := p.h.body(id)
		if sls, _ := body.Get("__sls__"); sls == name {
			modules, _ := statesOf(body)
			for _, module := range modules {
				out = append(out, [2]string{jinja.Str(id), module})
			}
		}
	}
	return out, nil
}

// require adds {kind: [{module: id}]} to another state.
func (p *pending) require(name, other, id, module, kind string, body *jinja.Map) {
	l := p.list(name, other, body)
	if ext := p.bods[name]; body != nil {
		for _, k := range []string{"__env__", "__sls__"} {
			v, _ := body.Get(k)
			ext.Set(k, v, body.Origin(k))
		}
	}
	one := jinja.NewMap()
	one.Set(module, id, jinja.Origin{})
	if old, ok := argument(l, kind); ok {
		list := old.(*jinja.List)
		list.Items = append(list.Items, one)
		return
	}
	arg := jinja.NewMap()
	arg.Set(kind, jinja.NewList(one), jinja.Origin{})
	l.Items = append(l.Items, arg)
}

// use copies another state's arguments to this one.
func (p *pending) use(name, other, id, module string) {
	ids, modules := p.h.find(name, other, true)
	for i := range ids {
		from, ok := p.h.list(ids[i], modules[i])
		to, ok2 := p.h.list(id, module)
		if ok && ok2 {
			copyArguments(p.list(id, module, nil), from, to)
		}
	}
}

// useIn copies this state's arguments to another.
func (p *pending) useIn(name, other, id, module string) {
	ids, modules := p.h.find(name, other, true)
	for i := range ids {
		from, ok := p.h.list(id, module)
		to, ok2 := p.h.list(ids[i], other)
		if ok && ok2 {
			copyArguments(p.list(jinja.Str(ids[i]), modules[i], nil), from, to)
		}
	}
}

func copyArguments(into, from, to *jinja.List) {
	for _, item := range from.Items {
		m, ok := item.(*jinja.Map)
		if !ok || m.Len() != 1 {
			continue
		}
		key := jinja.Str(m.All()[0])
		if _, has := argument(to, key); has || slices.Contains(notUsed, key) {
			continue
		}
		into.Items = append(into.Items, m)
	}
}
