package render

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

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
	known   *shared
	in      salt.Inputs
	key     string // see staticKey
	out     *output
	cached  bool
	err     error
}

func (u *unit) name() string { return u.cluster.Name + "/" + u.addon.Name }

// render renders the unit: salt, then kustomize, then the checks of each object.
func (u *unit) render(t Tree) (*output, []salt.Read, error) {
	rendered, _, objects, err := u.build(t)
	if err != nil {
		return nil, nil, err
	}
	out := &output{}
	byPath := map[string]string{}
	for _, o := range objects {
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
	files := make([]Object, len(out.Objects))
	for i, r := range out.Objects {
		files[i] = Object{r.Path, r.Text}
	}
	out.Digest = digestFiles(files)
	return out, rendered.Reads, nil
}

// build renders the unit's objects: before are those that went into kustomize,
// after those that came out.
func (u *unit) build(t Tree) (rendered *salt.Rendered, before, after []*object, err error) {
	if rendered, err = salt.Render(t, u.addon.Name, u.in); err != nil {
		return nil, nil, nil, err
	}
	before, manifests, err := u.read(rendered)
	if err != nil {
		return nil, nil, nil, err
	}
	texts, changed, err := kustomize.Build(t, u.kustomizeUnit(), manifests)
	if err != nil || !changed {
		return rendered, before, before, err
	}
	after, err = u.adapted(t, texts, before)
	return rendered, before, after, err
}

// read parses and checks what salt rendered, before kustomize sees it: here a
// fault still has a line that a person wrote.
func (u *unit) read(r *salt.Rendered) ([]*object, []kustomize.Manifest, error) {
	var errs []error
	var manifests []kustomize.Manifest
	var objects []*object
	written := map[string]*object{}
	for _, m := range r.Files {
		found, err := u.known.read(m.File)
		errs = append(errs, err)
		for _, o := range found {
			if other := written[o.id()]; other != nil {
				errs = append(errs, o.fault(nil, fmt.Sprintf("is there twice, first in %s:%d", other.file.Name, other.line(nil)), "remove one"))
			}
			written[o.id()] = o
		}
		objects = append(objects, found...)
		if len(found) > 0 {
			manifests = append(manifests, kustomize.Manifest{Name: m.Base, Text: m.Text})
		}
	}
	if errors.Join(errs...) == nil && len(objects) == 0 {
		errs = append(errs, &strictyaml.Error{File: salt.StatesDir + "/" + u.addon.Name + "/init.sls", Msg: "the state renders no object", Hint: "take the addon out of " + salt.StatesDir + "/top.sls for this cluster"})
	}
	return objects, manifests, errors.Join(errs...)
}

// shared is what the units of one tree need not do each for itself.
type shared struct {
	texts   salt.Texts
	objects sync.Map // by hash of name and text: []*object, which nobody changes; nil after the first unit
}

// read parses and checks the objects of a rendered file. They are kept from the second unit
// on: what one cluster alone has would only take up memory.
func (s *shared) read(f *pyyaml.File) ([]*object, error) {
	key := sha256.Sum256([]byte(f.Name + "\x00" + f.Key()))
	known, again := s.objects.LoadOrStore(key, []*object(nil))
	if objects := known.([]*object); objects != nil {
		return objects, nil
	}
	docs, err := pyyaml.Documents(f)
	if err != nil {
		return nil, err
	}
	var objects []*object
	var errs []error
	for _, d := range docs {
		o, err := newObject(d)
		if err == nil {
			err = o.check()
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		o.source, o.sourceLine = f.Name, o.line(nil)
		objects = append(objects, o)
	}
	if again && len(errs) == 0 {
		s.objects.Store(key, objects)
	}
	return objects, errors.Join(errs...)
}

// adapted parses and checks the objects that came out of kustomize. before are
// those that went in.
func (u *unit) adapted(t Tree, texts [][]byte, before []*object) ([]*object, error) {
	folders := u.kustomizeUnit().Folders(t)
	written := map[string]*object{}
	for _, o := range before {
		written[o.id()] = o
	}
	var out []*object
	var errs []error
	for _, text := range texts {
		file := &pyyaml.File{Name: folders[len(folders)-1], Output: jinja.Plain(text)}
		docs, err := pyyaml.Documents(file)
		if err != nil {
			return nil, withoutLine(err)
		}
		if len(docs) != 1 {
			return nil, &strictyaml.Error{File: file.Name, Msg: "kustomize wrote no object"}
		}
		o, err := newObject(docs[0])
		if err != nil {
			return nil, withoutLine(err)
		}
		o.patched = func(field string) (string, int) { return findField(t, folders, field) }
		if src := written[o.id()]; src != nil {
			o.source, o.sourceLine = src.source, src.sourceLine
		} else {
			o.source, o.sourceLine = o.patched(o.name)
		}
		errs = append(errs, o.check())
		out = append(out, o)
	}
	return out, errors.Join(errs...)
}

// withoutLine drops the line of a text that nobody wrote.
func withoutLine(err error) error {
	var e *strictyaml.Error
	if errors.As(err, &e) {
		return &strictyaml.Error{File: e.File, Msg: e.Msg, Hint: e.Hint}
	}
	return err
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
	return folders[len(folders)-1], 0
}
