package salt

import (
	"fmt"
	"slices"
	"strings"

	"holdfast.dev/salt/jinja"
)

// reserved are the names that context: must not hide when the fleet renders.
var reserved = []string{"grains", "pillar", "salt", "loop"}

// names are what a template knows by name.
func (e *engine) names(s source) map[string]any {
	names := map[string]any{
		"grains": &watched{e: e, kind: "grains", m: e.grains}, "salt": saltObject{e}, "opts": e.opts, "saltenv": "base",
		"pillar": &watched{e: e, kind: "pillar", m: e.pillar},
	}
	names["ifelse"] = jinja.Function("ifelse", func(a *jinja.Args) (any, error) { return ifElse(e, a) })
	if s.pillar && e.strict { // pillar files see grains, and no pillar
		delete(names, "pillar")
		delete(names, "salt")
	}
	if s.sls != "" || s.context == nil {
		names["sls"] = s.sls
		slsContext(names, s.sls, strings.TrimPrefix(s.path, s.root))
	}
	if s.context != nil {
		for _, k := range s.context.Keys() {
			names[k], _ = s.context.Get(k)
		}
	}
	return names
}

// watched is the grains or the pillar: what a template reads of it is noted.
type watched struct {
	e    *engine
	kind string
	m    *jinja.Map
}

// Whole is the dict itself: whatever is done with it, all of it was read.
func (w *watched) Whole() any {
	w.e.trace.note(w.kind + ":")
	return w.m
}

func (w *watched) hint() string {
	if w.kind == "pillar" {
		return "set it in salt/pillar, or give a default"
	}
	return "set it as a label of the cluster in fleet.yaml, or write grains.get(name, default)"
}

// get reads one key.
func (w *watched) get(key any) (any, bool) {
	if name, ok := key.(string); ok && !strings.Contains(name, ":") {
		w.e.trace.note(w.kind + ":" + name)
	} else {
		w.e.trace.note(w.kind + ":")
	}
	return w.m.At(key)
}

func (w *watched) Attr(name string) (any, error) {
	if name == "get" {
		return jinja.Function(w.kind+".get", func(a *jinja.Args) (any, error) {
			key, err := a.Need("key")
			def, hasDefault := a.Given("default")
			if err != nil {
				return nil, err
			}
			if v, ok := w.get(key); ok {
				return v, nil
			}
			if !hasDefault && w.e.strict {
				return nil, jinja.Fault(fmt.Sprintf("%s.get finds no '%s'", w.kind, jinja.Str(key)), w.hint())
			}
			return def, nil
		}), nil
	}
	if m := jinja.Method(w.m, name); m != nil {
		return m, w.noteAll()
	}
	return w.Item(name)
}

func (w *watched) noteAll() error {
	w.e.trace.note(w.kind + ":")
	return nil
}

func (w *watched) Item(key any) (any, error) {
	if v, ok := w.get(key); ok {
		return v, nil
	}
	if m := jinja.Method(w.m, jinja.Str(key)); m != nil {
		return m, w.noteAll()
	}
	return jinja.Missing(fmt.Sprintf("the %s %q", strings.TrimSuffix(w.kind, "s"), jinja.Str(key)), w.hint()), nil
}

// saltObject is the name salt: the functions that a rendering may call.
type saltObject struct{ e *engine }

func (s saltObject) Item(key any) (any, error) {
	name, _ := jinja.Text(key)
	f := functionOf(name)
	if f == nil {
		return nil, jinja.Fault("the function '"+name+"' is not supported", refusal(name))
	}
	return jinja.Function("salt['"+name+"']", func(a *jinja.Args) (any, error) { return f(s.e, a) }), nil
}

func (s saltObject) Attr(name string) (any, error) {
	if name == "get" {
		return jinja.Function("salt.get", func(a *jinja.Args) (any, error) {
			key, err := a.Text("key")
			if err != nil {
				return nil, err
			}
			return s.Item(key)
		}), nil
	}
	return moduleObject{s, name}, nil
}

// Contains answers 'pillar.get' in salt.
func (s saltObject) Contains(key any) (bool, error) {
	name, _ := jinja.Text(key)
	return functionOf(name) != nil, nil
}

// moduleObject is salt.pillar: a module whose functions are its attributes.
type moduleObject struct {
	s    saltObject
	name string
}

func (m moduleObject) Attr(name string) (any, error) { return m.s.Item(m.name + "." + name) }

func (m moduleObject) Item(key any) (any, error) {
	name, _ := jinja.Text(key)
	return m.Attr(name)
}

// refusal says why a function is not there.
func refusal(name string) string {
	module, _, _ := strings.Cut(name, ".")
	switch {
	case slices.Contains([]string{"cmd", "state", "module", "saltutil", "service", "system", "user", "group", "mount", "docker", "git", "pip", "virtualenv", "ps", "kmod", "sysctl"}, module):
		return "a rendering runs no command: set the value in the pillar"
	case slices.Contains([]string{"mine", "network", "http", "dnsutil", "publish", "s3", "vault", "sdb", "event", "ssh", "etcd", "consul"}, module):
		return "a rendering reaches no network: set the value in the pillar"
	case slices.Contains([]string{"file", "cp", "disk", "status", "pkg", "environ", "timezone", "locale"}, module):
		return "a rendering reads nothing of the machine: set the value in the pillar"
	case slices.Contains([]string{"random", "random_org", "ntp", "schedule"}, module):
		return "a rendering gives the same each time: set the value in the pillar"
	}
	return "see salt/README.md for the functions that are"
}
