// Package kustomize lays what one place changes over an addon's manifests: the
// addon's own component, then the overlay of the availability zone, then that of
// the cluster. It runs kustomize itself (sigs.k8s.io/kustomize/api) on a file
// system in memory that holds those folders and nothing else, so that no remote
// base, plugin, command or file outside of them can take part.
package kustomize

import (
	"bytes"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"
	"sync"

	"go.yaml.in/yaml/v3"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/types"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/openapi"

	"holdfast.dev/internal/strictyaml"
)

// The folders of a fleet repository. Base is for what several folders share.
const (
	Dir           = "kustomize"
	BaseDir       = Dir + "/base"
	ComponentsDir = Dir + "/components"
	OverlaysDir   = Dir + "/overlays"
)

// Files gives the fleet repository's files.
type Files interface {
	// File returns the content of a file.
	File(path string) ([]byte, bool)
	// Under lists the paths of all files below a folder, sorted.
	Under(dir string) []string
}

// Unit is one addon on one cluster.
type Unit struct {
	Addon, AZ, Cluster string
}

// Folders lists the folders that take part in the unit, in the order in which
// they apply, as far as they are there.
func (u Unit) Folders(files Files) []string {
	var out []string
	for _, dir := range []string{ComponentsDir + "/" + u.Addon, OverlaysDir + "/" + u.AZ, OverlaysDir + "/" + u.Cluster} {
		if len(files.Under(dir)) > 0 && !slices.Contains(out, dir) {
			out = append(out, dir)
		}
	}
	return out
}

// Inputs lists every file that the unit's build can read.
func (u Unit) Inputs(files Files) []string {
	folders := u.Folders(files)
	if len(folders) == 0 {
		return nil
	}
	var out []string
	for _, dir := range append(folders, BaseDir) {
		out = append(out, files.Under(dir)...)
	}
	return out
}

// schema reads kyaml's OpenAPI schema before the first run. It is the only state
// that runs share: kyaml fills it when a run first asks, under a lock that not all
// readers take (kyaml/openapi, initSchema and IsNamespaceScoped;
// kubernetes-sigs/kustomize#3659). After that only the field openapi of a
// kustomization would change it, which check refuses.
var schema = sync.OnceFunc(func() { openapi.Schema() })

// root is where the unit's own kustomization lies in the file system in memory:
// outside of every folder of the repository.
const root = "unit"

// Build applies the unit's folders to its manifests (name and YAML text, in
// order) and returns the resulting objects as one JSON text each, which is what
// kustomize's own YAML is made of; changed is false, and there are none, when no
// folder changes anything. It may be called by several goroutines.
func Build(files Files, u Unit, manifests []Manifest) (objects [][]byte, changed bool, err error) {
	fs := filesys.MakeFsInMemory()
	folders := u.Folders(files)
	for _, p := range u.Inputs(files) {
		data, _ := files.File(p)
		if err := fs.WriteFile(p, data); err != nil {
			return nil, false, fmt.Errorf("copy %s: %w", p, err)
		}
	}
	empty := map[string]bool{}
	for _, p := range u.Inputs(files) {
		if !isKustomization(p) {
			continue
		}
		fields, err := check(files, fs, p, folders)
		if err != nil {
			return nil, false, err
		}
		empty[path.Dir(p)] = fields == 0
	}
	own := types.Kustomization{TypeMeta: types.TypeMeta{APIVersion: types.KustomizationVersion, Kind: types.KustomizationKind}}
	for i, m := range manifests {
		name := fmt.Sprintf("%03d-%s", i, m.Name)
		if err := fs.WriteFile(root+"/"+name, m.Text); err != nil {
			return nil, false, fmt.Errorf("copy %s: %w", m.Name, err)
		}
		own.Resources = append(own.Resources, name)
	}
	for _, dir := range folders {
		if kustomizationOf(fs, dir) == "" {
			return nil, false, &strictyaml.Error{File: dir, Msg: "the folder has no kustomization.yaml", Hint: "add one of kind Component"}
		}
		if empty[dir] {
			continue // kustomize refuses a component that changes nothing; here it is a place to begin
		}
		own.Components = append(own.Components, "../"+dir)
	}
	if len(own.Components) == 0 {
		return nil, false, nil
	}
	text, err := yaml.Marshal(own)
	if err != nil {
		return nil, false, fmt.Errorf("write the kustomization of %s: %w", u.Addon, err)
	}
	if err := fs.WriteFile(root+"/kustomization.yaml", text); err != nil {
		return nil, false, fmt.Errorf("write the kustomization of %s: %w", u.Addon, err)
	}
	objects, err = run(fs)
	if err != nil {
		return nil, false, buildFault(files, u, folders, err)
	}
	return objects, true, nil
}

// Manifest is one rendered file.
type Manifest struct {
	Name string
	Text []byte
}

func run(fs filesys.FileSystem) ([][]byte, error) {
	schema()
	options := krusty.MakeDefaultOptions()
	options.LoadRestrictions = types.LoadRestrictionsRootOnly
	options.PluginConfig = types.DisabledPluginConfig()
	objects, err := krusty.MakeKustomizer(options).Run(fs, root)
	if err != nil {
		return nil, err
	}
	out := make([][]byte, 0, objects.Size())
	for _, r := range objects.Resources() {
		text, err := r.MarshalJSON()
		if err != nil {
			return nil, fmt.Errorf("write %s: %w", r.CurId(), err)
		}
		// It is a line's end to YAML's readers, and only within strings of JSON.
		out = append(out, bytes.ReplaceAll(text, []byte("\u0085"), []byte(`\u0085`)))
	}
	return out, nil
}

var (
	// folderRE finds the repository's path in kustomize's own error text.
	folderRE = regexp.MustCompile(`/(kustomize/(?:base|components|overlays)/[A-Za-z0-9._-]+(?:/[A-Za-z0-9._/-]*[A-Za-z0-9_-])?)`)
	// patchRE finds the name of the object that a patch is for.
	patchRE = regexp.MustCompile(`patch \\*"[A-Za-z0-9.]+/([A-Za-z0-9-]+)\.`)
)

// buildFault names the folder at fault, and the line of a patch that fits
// nothing, as far as kustomize says which it is.
func buildFault(files Files, u Unit, folders []string, err error) error {
	msg := strings.Join(strings.Fields(err.Error()), " ")
	out := &strictyaml.Error{File: folders[len(folders)-1], Hint: "correct the folder, or its patch"}
	if m := folderRE.FindStringSubmatch(msg); m != nil {
		out.File = m[1]
	}
	if m := patchRE.FindStringSubmatch(msg); m != nil {
		for _, p := range files.Under(out.File) {
			data, _ := files.File(p)
			for i, line := range strings.Split(string(data), "\n") {
				if out.Line == 0 && strings.Contains(line, "name: "+m[1]) {
					out.File, out.Line = p, i+1
				}
			}
		}
	}
	// The first clauses name the unit's own kustomization, which nobody wrote.
	if _, rest, ok := strings.Cut(msg, "': "); ok && strings.HasPrefix(msg, "accumulating") {
		msg = rest
	}
	msg = strings.TrimSuffix(strings.ReplaceAll(msg, `\"`, "'"), `"`)
	out.Msg = fmt.Sprintf("kustomize for %s: %s", u.Addon, msg)
	return out
}

// kustomizationNames are the names that kustomize looks for.
var kustomizationNames = []string{"kustomization.yaml", "kustomization.yml", "Kustomization"}

func isKustomization(p string) bool { return slices.Contains(kustomizationNames, path.Base(p)) }

// kustomizationOf finds a folder's kustomization file; empty when there is none.
func kustomizationOf(fs filesys.FileSystem, dir string) string {
	for _, name := range kustomizationNames {
		if p := path.Join(dir, name); fs.Exists(p) {
			return p
		}
	}
	return ""
}
