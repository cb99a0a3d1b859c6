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

// destination is where a state puts an addon's manifests on a machine that runs
// kube-addon-manager.
const destination = "/etc/kubernetes/addons/"

// Rendered is what an addon's state rendered.
type Rendered struct {
	// Files are the manifests, in the order they would be written.
	Files []*Manifest
	// Reads are the pillar keys and grains that the rendering saw.
	Reads []Read
	// Explained tells where; nil unless [Inputs.Explain] asks.
	Explained *Explained
}

// Explained tells where a rendering read what.
type Explained struct {
	// Shared is what was read outside of the manifests' own templates: by the state
	// files, which say what manifests there are and what they are given.
	Shared []string
	// Places has, by path, the lines (file:line) at which it was read.
	Places map[string][]string
}

// Manifest is one rendered file of an addon.
type Manifest struct {
	// Base is the file's name in the addon's folder.
	Base string
	// File is the text, and the template it came from.
	*pyyaml.File
	// Reading is what its template read; nil unless [Inputs.Explain] asks, and when
	// it is no template.
	Reading *Reading
}

// fleetEngine renders as the fleet does: strictly.
func fleetEngine(files Files, in Inputs, t *tracer) *engine {
	pillar := jinja.NewMap()
	if in.Pillar != nil {
		pillar = jinja.Import(in.Pillar).(*jinja.Map)
	}
	return &engine{files: files, stateRoot: StatesDir + "/", pillRoot: PillarDir + "/", minion: in.Grains["id"], grains: in.Grains.Map(), pillar: pillar, opts: options(in.Grains["id"]), strict: true, trace: t}
}

// Render renders the state of one addon, salt/states/<addon>/init.sls, and what it
// includes.
func Render(files Files, addon string, in Inputs) (*Rendered, error) {
	if in.Files == nil {
		in.Files = files
	}
	t := newTracer(in, StatesDir+"/"+addon+"/")
	e := fleetEngine(files, in, t)
	init := StatesDir + "/" + addon + "/init.sls"
	if _, ok := files.File(init); !ok {
		return nil, &strictyaml.Error{File: init, Msg: "there is no such file", Hint: "add it: it renders the addon's manifests"}
	}
	h := newHigh(e)
	chunks, err := h.compile([]Selected{{Name: addon, Origin: jinja.Origin{File: init}}})
	if err != nil {
		return nil, err
	}
	out := &Rendered{}
	fs := newFileStates(e)
	fs.mkdirs(strings.TrimSuffix(destination, "/")+"/"+addon, "")
	for _, c := range chunks {
		if c.module != "file" {
			return nil, at(c.origin, jinja.Fault(fmt.Sprintf("%q is not supported in a state", c.module+"."+c.fun), "a rendering writes files and does nothing else: use file.managed"))
		}
		if err := manifestTarget(addon, c); err != nil {
			return nil, at(c.origin, err)
		}
		if r, ok := fs.files[c.name]; ok && c.fun == "managed" && r.File != nil {
			return nil, at(c.origin, jinja.Fault(fmt.Sprintf("%s is written twice", path.Base(c.name)), "remove one"))
		}
		t.manifest(true)
		if err := fs.apply(c); err != nil {
			return nil, at(c.origin, err)
		}
		t.manifest(false)
	}
	if out.Files, err = manifests(addon, chunks, fs); err != nil {
		return nil, err
	}
	if len(out.Files) == 0 {
		return nil, &strictyaml.Error{File: init, Msg: "the state renders nothing", Hint: "add a file.managed, or take the addon out of " + StatesDir + "/top.sls"}
	}
	out.Reads = t.sorted()
	t.explained(out)
	return out, nil
}

// manifestTarget checks where a state writes: to the addon's own folder.
func manifestTarget(addon string, c *chunk) error {
	dir := destination + addon
	if c.fun == "recurse" || c.fun == "directory" || c.fun == "absent" {
		if c.name == dir || strings.HasPrefix(c.name, dir+"/") {
			return nil
		}
	}
	base, ok := strings.CutPrefix(c.name, dir+"/")
	if !ok || strings.ContainsAny(base, "/\\") || path.Ext(base) != ".yaml" || strings.HasPrefix(base, ".") {
		return jinja.Fault(fmt.Sprintf("the state %q is not a manifest of the addon", c.name), "its id is the path "+dir+"/<file>.yaml")
	}
	return nil
}

// manifests are the files in the order of the states that wrote them.
func manifests(addon string, chunks []*chunk, fs *fileStates) ([]*Manifest, error) {
	var order []string
	for _, c := range chunks {
		order = append(order, c.name)
	}
	var out []*Manifest
	dir := destination + addon + "/"
	add := func(r *Rendering) error {
		base, ok := strings.CutPrefix(r.Path, dir)
		if r.File == nil {
			return nil
		}
		if !ok || strings.Contains(base, "/") || path.Ext(base) != ".yaml" {
			return &strictyaml.Error{File: r.Name, Msg: fmt.Sprintf("%q is not a manifest of the addon", r.Path), Hint: "it is " + dir + "<file>.yaml; include_pat leaves others out"}
		}
		out = append(out, &Manifest{Base: base, File: r.File})
		return nil
	}
	for _, name := range order {
		if r, ok := fs.files[name]; ok {
			if err := add(r); err != nil {
				return nil, err
			}
		}
	}
	for _, r := range fs.list() {
		if slices.Contains(order, r.Path) {
			continue
		}
		if err := add(r); err != nil {
			return nil, err
		}
	}
	return out, nil
}
