package render

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"holdfast.dev/addons"
	"holdfast.dev/gitops/fleet"
	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/kustomize"
	"holdfast.dev/salt"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

// unit is one addon on one cluster.
type unit struct {
	cluster *fleet.Cluster
	addon   *addons.Addon
	in      salt.Inputs
	key     string // see staticKey
	out     *output
	cached  bool
	err     error
}

func (u *unit) name() string { return u.cluster.Name + "/" + u.addon.Name }

// render renders the unit: salt, then kustomize, then the checks of each object.
func (u *unit) render(t Tree) (*output, []salt.Read, error) {
	rendered, err := salt.Render(t, u.addon.Name, u.in)
	if err != nil {
		return nil, nil, err
	}
	written, manifests, err := u.read(rendered)
	if err != nil {
		return nil, nil, err
	}
	texts, err := kustomize.Build(t, u.kustomizeUnit(), manifests)
	if err != nil {
		return nil, nil, err
	}
	out := &output{}
	byPath := map[string]string{}
	for _, text := range texts {
		o, err := u.adapted(t, text, written)
		if err != nil {
			return nil, nil, err
		}
		r, err := o.canonical(u.addon)
		if err != nil {
			return nil, nil, err
		}
		if other, taken := byPath[r.Path]; taken {
			return nil, nil, o.fault(nil, fmt.Sprintf("would be written to the same file as %s", other), "rename one")
		}
		byPath[r.Path] = r.ID
		out.Objects = append(out.Objects, r)
	}
	slices.SortFunc(out.Objects, func(a, b renderedObject) int { return strings.Compare(a.Path, b.Path) })
	return out, rendered.Reads, nil
}

// read parses and checks what salt rendered, before kustomize sees it: here a
// fault still has a line that a person wrote.
func (u *unit) read(r *salt.Rendered) (map[string]*object, []kustomize.Manifest, error) {
	var errs []error
	var manifests []kustomize.Manifest
	written := map[string]*object{}
	for _, m := range r.Files {
		docs, err := pyyaml.Documents(m.File)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, d := range docs {
			o, err := newObject(d)
			if err == nil {
				err = o.check()
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
			if other := written[o.id()]; other != nil {
				errs = append(errs, o.fault(nil, fmt.Sprintf("is there twice, first in %s:%d", other.file.Name, other.line(nil)), "remove one"))
			}
			written[o.id()] = o
		}
		if len(docs) > 0 {
			manifests = append(manifests, kustomize.Manifest{Name: m.Base, Text: m.Text})
		}
	}
	if len(errs) == 0 && len(written) == 0 {
		errs = append(errs, &strictyaml.Error{File: salt.StatesDir + "/" + u.addon.Name + "/init.sls", Msg: "the state renders no object", Hint: "take the addon out of " + salt.StatesDir + "/top.sls for this cluster"})
	}
	return written, manifests, errors.Join(errs...)
}

// adapted parses and checks one object that came out of kustomize.
func (u *unit) adapted(t Tree, text []byte, written map[string]*object) (*object, error) {
	folders := u.kustomizeUnit().Folders(t)
	file := &pyyaml.File{Name: salt.StatesDir + "/" + u.addon.Name + "/init.sls", Output: jinja.Plain(text)}
	if len(folders) > 0 {
		file.Name = folders[len(folders)-1]
	}
	docs, err := pyyaml.Documents(file)
	if err != nil {
		return nil, err
	}
	if len(docs) != 1 {
		return nil, &strictyaml.Error{File: file.Name, Msg: "kustomize wrote no object"}
	}
	o, err := newObject(docs[0])
	if err != nil {
		return nil, err
	}
	o.patched = func(field string) (string, int) { return findField(t, folders, field) }
	if src := written[o.id()]; src != nil {
		o.source, o.sourceLine = src.file.Name, src.line(nil)
	} else {
		o.source, o.sourceLine = o.patched(o.name)
	}
	return o, o.check()
}

// findField finds the line that sets a field in the folders, the last folder
// first: only they can have made a fault that was not there before kustomize.
func findField(t Tree, folders []string, field string) (string, int) {
	for _, dir := range slices.Backward(folders) {
		for _, p := range t.Under(dir) {
			data, _ := t.File(p)
			for i, line := range strings.Split(string(data), "\n") {
				if field != "" && strings.Contains(line, field) {
					return p, i + 1
				}
			}
		}
	}
	if len(folders) == 0 {
		return salt.StatesDir, 0
	}
	return folders[len(folders)-1], 0
}
