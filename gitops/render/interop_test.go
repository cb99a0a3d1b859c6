package render_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/fluxcd/pkg/kustomize"
	"github.com/fluxcd/pkg/sourceignore"
	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/render"
)

// documented is a manifest that docs/interop.md shows.
func documented(t *testing.T, kind string) *unstructured.Unstructured {
	t.Helper()
	text, err := os.ReadFile("../../docs/interop.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(string(text), -1) {
		for _, o := range split(t, []byte(block[1])) {
			if o.GetKind() == kind {
				return o
			}
		}
	}
	t.Fatalf("docs/interop.md shows no %s", kind)
	return nil
}

func split(t *testing.T, text []byte) (out []*unstructured.Unstructured) {
	t.Helper()
	dec := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(text), 4096)
	for {
		o := &unstructured.Unstructured{}
		switch err := dec.Decode(o); {
		case errors.Is(err, io.EOF):
			return out
		case err != nil:
			t.Fatal(err)
		}
		out = append(out, o)
	}
}

// branch writes the bundle of a new fleet's canary to a directory, as a checkout
// of its branch is, and returns the objects that the agent would apply, by id.
func branch(t *testing.T) (dir string, want map[string]map[string]any) {
	t.Helper()
	work := filepath.Join(t.TempDir(), "fleet")
	if _, err := render.Init(work, render.InitOptions{}); err != nil {
		t.Fatal(err)
	}
	tr, err := render.TreeFromFS(os.DirFS(work))
	if err != nil {
		t.Fatal(err)
	}
	b := mustRender(t, tr, nil).Bundles["canary"]
	dir, want = t.TempDir(), map[string]map[string]any{}
	for path, data := range b.Files {
		full := filepath.Join(dir, filepath.FromSlash(path))
		if err := errors.Join(os.MkdirAll(filepath.Dir(full), 0o755), os.WriteFile(full, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for _, a := range b.Index.Addons {
		for _, o := range b.Objects(a.Name) {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal(o.Data, &u.Object); err != nil {
				t.Fatal(err)
			}
			want[idOf(u)] = u.Object
		}
	}
	if len(want) < 20 {
		t.Fatalf("the catalogue renders only %d objects", len(want))
	}
	return dir, want
}

func idOf(u *unstructured.Unstructured) string {
	return u.GroupVersionKind().String() + " " + u.GetNamespace() + "/" + u.GetName()
}

// TestFlux builds the branch as kustomize-controller does, by its own library: the
// artifact without what the GitRepository ignores, a generated kustomization, its
// build. What comes out is what the agent would apply, and the patch.
func TestFlux(t *testing.T) {
	dir, want := branch(t)
	ignore, _, err := unstructured.NestedString(documented(t, "GitRepository").Object, "spec", "ignore")
	if err != nil {
		t.Fatal(err)
	}
	matcher := sourceignore.NewMatcher(sourceignore.ReadPatterns(strings.NewReader(ignore), nil))
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(dir, path)
		if err == nil && !d.IsDir() && matcher.Match(strings.Split(rel, string(filepath.Separator)), false) {
			return os.Remove(path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	ks := documented(t, "Kustomization")
	if _, err := kustomize.NewGenerator(dir, *ks).WriteFile(dir); err != nil {
		t.Fatal(err)
	}
	built, err := kustomize.Build(filesys.MakeFsOnDisk(), dir)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]map[string]any{}
	kept := 0
	for _, r := range built.Resources() {
		text, err := r.AsYAML()
		if err != nil {
			t.Fatal(err)
		}
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal(text, &u.Object); err != nil {
			t.Fatal(err)
		}
		annotations := u.GetAnnotations()
		if annotations["kustomize.toolkit.fluxcd.io/prune"] == "disabled" != slices.Contains(fleet.DataKinds, u.GetKind()) {
			t.Errorf("%s: annotations %v", idOf(u), annotations)
		}
		if delete(annotations, "kustomize.toolkit.fluxcd.io/prune"); slices.Contains(fleet.DataKinds, u.GetKind()) {
			kept++
			if u.SetAnnotations(annotations); len(annotations) == 0 {
				unstructured.RemoveNestedField(u.Object, "metadata", "annotations")
			}
		}
		got[idOf(u)] = u.Object
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Flux builds other objects (-agent +flux):\n%.4000s", diff)
	}
	if kept == 0 {
		t.Error("the catalogue has no definition or namespace: the patch was not tried")
	}
}

// argoFiles are the files that Argo CD takes for manifests
// (reposerver/repository/repository.go, manifestFile).
var argoFiles = regexp.MustCompile(`^.*\.(yaml|yml|json|jsonnet)$`)

// TestArgoCD reads the branch by the rules of Argo CD's directory applications
// (reposerver/repository/repository.go, findManifests; its own code cannot be had
// as a library): every file of a manifest's name that is not excluded, each split
// into documents, every document an object. Lists would be taken apart, and
// generators of other kinds found by their file names.
func TestArgoCD(t *testing.T) {
	dir, want := branch(t)
	directory, _, err := unstructured.NestedMap(documented(t, "Application").Object, "spec", "source", "directory")
	if err != nil || directory["recurse"] != true {
		t.Fatalf("directory %v (%v)", directory, err)
	}
	got := map[string]map[string]any{}
	err = fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name := d.Name()
		if slices.Contains([]string{"kustomization.yaml", "kustomization.yml", "Kustomization", "Chart.yaml", ".argocd-source.yaml"}, name) {
			t.Errorf("%s would make it an application of another type, or change it", path)
		}
		if !argoFiles.MatchString(name) || path == directory["exclude"] {
			return nil
		}
		data, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		for _, u := range split(t, data) {
			if u.IsList() || u.GetName() == "" || u.GetAPIVersion() == "" || u.GetKind() == "" {
				t.Errorf("%s is a list, or no object", path)
			}
			if _, twice := got[idOf(u)]; twice {
				t.Errorf("%s is there twice", idOf(u))
			}
			text, err := u.MarshalJSON()
			if err != nil {
				return err
			}
			var plain map[string]any // with numbers as the agent's reader has them
			if err := yaml.Unmarshal(text, &plain); err != nil {
				return err
			}
			got[idOf(u)] = plain
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Sorted(maps.Keys(want)), slices.Sorted(maps.Keys(got))); diff != "" {
		t.Errorf("Argo CD finds other objects (-agent +argo):\n%s", diff)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Argo CD reads other objects (-agent +argo):\n%.4000s", diff)
	}
}
