package salt

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

// Rendered is what an addon's state rendered.
type Rendered struct {
	// Files are the manifests, in the order of the state's file.
	Files []*Manifest
	// Reads are the pillar keys and grains that the rendering saw.
	Reads []Read
}

// Manifest is one rendered file of an addon.
type Manifest struct {
	// Base is the file's name in the addon's folder.
	Base string
	// File is the text, and the template it came from.
	*pyyaml.File
}

// Render renders the state of one addon: salt/states/<addon>/init.sls.
func Render(files Files, addon string, in Inputs) (*Rendered, error) {
	t := newTracer(in)
	init := StatesDir + "/" + addon + "/init.sls"
	states, err := sls(files, init, "renders the addon's manifests", t, true)
	if err != nil {
		return nil, err
	}
	out := &Rendered{}
	for _, id := range states.Keys() {
		body, _ := states.Get(id)
		m, err := render(files, addon, id, body, t)
		if err != nil {
			return nil, at(states.Origin(id), err)
		}
		if slices.ContainsFunc(out.Files, func(o *Manifest) bool { return o.Base == m.Base }) {
			return nil, at(states.Origin(id), jinja.Fault(fmt.Sprintf("%s is written twice", m.Base), "remove one"))
		}
		out.Files = append(out.Files, m)
	}
	if len(out.Files) == 0 {
		return nil, &strictyaml.Error{File: init, Msg: "the state renders nothing", Hint: "add a file.managed, or take the addon out of " + StatesDir + "/top.sls"}
	}
	out.Reads = t.sorted()
	return out, nil
}

func render(files Files, addon, id string, body any, t *tracer) (*Manifest, error) {
	base, err := target(addon, id)
	if err != nil {
		return nil, err
	}
	args, err := managedArguments(id, body)
	if err != nil {
		return nil, err
	}
	source, err := sourcePath(addon, args)
	if err != nil {
		return nil, err
	}
	src, ok := files.File(source)
	if !ok {
		return nil, jinja.Fault(fmt.Sprintf("there is no %s", source), "correct source:, or add the file")
	}
	if _, ok := args.Get("template"); !ok {
		return &Manifest{base, &pyyaml.File{Name: source, Output: jinja.Plain(src)}}, nil
	}
	names := t.names(true)
	for _, layer := range []string{"defaults", "context"} {
		v, ok := args.Get(layer)
		if !ok {
			continue
		}
		m, ok := v.(*jinja.Map)
		if !ok {
			return nil, at(args.Origin(layer), jinja.Fault(layer+" is not a mapping", "write name: value below it"))
		}
		for _, name := range m.Keys() {
			if slices.Contains(reserved, name) {
				return nil, at(m.Origin(name), jinja.Fault(fmt.Sprintf("%s hides %q", layer, name), "use another name"))
			}
			names[name], _ = m.Get(name)
		}
	}
	tpl, err := jinja.Parse(source, src)
	if err != nil {
		return nil, err
	}
	text, err := tpl.Render(names)
	if err != nil {
		return nil, err
	}
	return &Manifest{base, &pyyaml.File{Name: source, Output: text}}, nil
}

// target checks the state's id, which is the file that it manages.
func target(addon, id string) (string, error) {
	switch id {
	case "include", "extend", "exclude":
		return "", jinja.Fault(id+" is not supported", "write the states out, one for each manifest")
	}
	dir := destination + addon + "/"
	base, ok := strings.CutPrefix(id, dir)
	if !ok || strings.ContainsAny(base, "/\\") || path.Ext(base) != ".yaml" || strings.HasPrefix(base, ".") {
		return "", jinja.Fault(fmt.Sprintf("the state %q is not a manifest of the addon", id), "its id is the path "+dir+"<file>.yaml")
	}
	return base, nil
}

// managedArguments reads the state's body: file.managed and a list of arguments.
func managedArguments(id string, body any) (*jinja.Map, error) {
	functions, ok := body.(*jinja.Map)
	if !ok {
		return nil, jinja.Fault(fmt.Sprintf("the state %q has no function", id), "write file.managed: below it")
	}
	for _, f := range functions.Keys() {
		if f != "file.managed" {
			return nil, at(functions.Origin(f), jinja.Fault(fmt.Sprintf("%q is not supported in a state", f), "known is file.managed"))
		}
	}
	value, ok := functions.Get("file.managed")
	list, isList := value.([]any)
	if !ok || !isList {
		return nil, jinja.Fault(fmt.Sprintf("the state %q has no arguments", id), "write file.managed: and below it - source: salt://...")
	}
	args := jinja.NewMap()
	for _, item := range list {
		one, ok := item.(*jinja.Map)
		if !ok || one.Len() != 1 {
			return nil, at(functions.Origin("file.managed"), jinja.Fault("an argument of file.managed is not one key and a value", "write - source: salt://..."))
		}
		key := one.Keys()[0]
		v, _ := one.Get(key)
		switch key {
		case "source", "template", "context", "defaults", "makedirs":
		default:
			return nil, at(one.Origin(key), jinja.Fault(fmt.Sprintf("the argument %q is not supported", key), "known are source, template, context, defaults and makedirs"))
		}
		if _, dup := args.Get(key); dup {
			return nil, at(one.Origin(key), jinja.Fault(fmt.Sprintf("the argument %q is there twice", key), "remove one"))
		}
		if key == "template" && v != "jinja" {
			return nil, at(one.Origin(key), jinja.Fault("the template engine is not supported", "write template: jinja"))
		}
		args.Set(key, v, one.Origin(key))
	}
	return args, nil
}

// sourcePath is the repository's path of salt://<addon>/....
func sourcePath(addon string, args *jinja.Map) (string, error) {
	v, _ := args.Get("source")
	source, ok := v.(string)
	prefix := "salt://" + addon + "/"
	rel, inside := strings.CutPrefix(source, prefix)
	if !ok || !inside || rel == "" || path.Clean("/"+rel) != "/"+rel || strings.ContainsAny(rel, "?\\") {
		err := jinja.Fault(fmt.Sprintf("the source %q is not a file of the addon's own state", source), "write source: "+prefix+"files/<file>")
		if !ok {
			return "", err
		}
		return "", at(args.Origin("source"), err)
	}
	return StatesDir + "/" + addon + "/" + rel, nil
}
