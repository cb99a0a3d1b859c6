package kustomize_test

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/kustomize"
)

// files is a repository in memory.
type files map[string]string

func (f files) File(p string) ([]byte, bool) {
	text, ok := f[p]
	return []byte(text), ok
}

func (f files) Under(dir string) []string {
	var out []string
	for p := range f {
		if strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

const component = "apiVersion: kustomize.config.k8s.io/v1alpha1\nkind: Component\n"

func patch(value string) string {
	return component + "patches:\n- target: {kind: ConfigMap}\n  patch: |\n    - {op: add, path: /data/order, value: " + value + "}\n    - {op: add, path: /data/" + value + ", value: seen}\n"
}

var (
	unit      = kustomize.Unit{Addon: "web", AZ: "az1", Cluster: "c1"}
	manifests = []kustomize.Manifest{{Name: "cm.yaml", Text: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: cm\ndata:\n  \"yes\": \"0644\"\n")}}
)

// The addon's component comes first, then the zone, then the cluster: the last
// word is the cluster's.
func TestOrder(t *testing.T) {
	f := files{
		"kustomize/components/web/kustomization.yaml":   patch("component"),
		"kustomize/components/other/kustomization.yaml": patch("other"),
		"kustomize/overlays/az1/kustomization.yaml":     patch("zone"),
		"kustomize/overlays/az2/kustomization.yaml":     patch("elsewhere"),
		"kustomize/overlays/c1/kustomization.yaml":      patch("cluster"),
	}
	got, changed, err := kustomize.Build(f, unit, manifests)
	if err != nil || !changed || len(got) != 1 {
		t.Fatalf("%d objects, changed %v, %v", len(got), changed, err)
	}
	const want = `{"apiVersion":"v1","data":{"cluster":"seen","component":"seen","order":"cluster","yes":"0644","zone":"seen"},"kind":"ConfigMap","metadata":{"name":"cm"}}`
	if diff := cmp.Diff(want, string(got[0])); diff != "" {
		t.Error(diff)
	}
}

// U+0085 ends a line of YAML 1.1, and would be folded to a space by who reads the JSON as YAML.
func TestNextLine(t *testing.T) {
	m := []kustomize.Manifest{{Name: "cm.yaml", Text: []byte("apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: cm\ndata:\n  v: \"a\\Nb\"\n")}}
	got, _, err := kustomize.Build(files{"kustomize/overlays/c1/kustomization.yaml": patch("cluster")}, unit, m)
	if err != nil || !strings.Contains(string(got[0]), `"v":"a\u0085b"`) {
		t.Errorf("%q, %v", got, err)
	}
}

func TestNothingToChange(t *testing.T) {
	for name, f := range map[string]files{"NoFolder": {}, "EmptyComponent": {"kustomize/components/web/kustomization.yaml": component}} {
		got, changed, err := kustomize.Build(f, unit, manifests)
		if err != nil || changed || got != nil {
			t.Errorf("%s: %d objects, changed %v, %v", name, len(got), changed, err)
		}
	}
}

// A build reads its own folders and base; the cache key is made of these.
func TestInputs(t *testing.T) {
	f := files{
		"kustomize/base/x/kustomization.yaml": "", "kustomize/components/web/a.yaml": "", "kustomize/components/other/a.yaml": "",
		"kustomize/overlays/az2/a.yaml": "", "kustomize/overlays/c1/a.yaml": "", "kustomize/README.md": "",
	}
	want := []string{"kustomize/components/web/a.yaml", "kustomize/overlays/c1/a.yaml", "kustomize/base/x/kustomization.yaml"}
	if diff := cmp.Diff(want, unit.Inputs(f)); diff != "" {
		t.Error(diff)
	}
	delete(f, want[0])
	delete(f, want[1])
	if got := unit.Inputs(f); got != nil {
		t.Errorf("without folders there is nothing to read, got %v", got)
	}
}

func TestRefuses(t *testing.T) {
	const file = "kustomize/components/web/kustomization.yaml"
	cases := map[string]struct{ text, want string }{
		"Generators":  {component + "generators: [x.yaml]\n", file + `:3: the field "generators" is not supported (known are apiVersion, kind, commonAnnotations, components, configMapGenerator, generatorOptions, images, labels, namespace, patches, replacements, replicas, resources)`},
		"Secret":      {component + "secretGenerator: [{name: x}]\n", file + `:3: the field "secretGenerator" is not supported (known are apiVersion, kind, commonAnnotations, components, configMapGenerator, generatorOptions, images, labels, namespace, patches, replacements, replicas, resources)`},
		"HTTP":        {component + "resources:\n- http://example.com/x.yaml\n", file + `:4: "http://example.com/x.yaml" is not a path in the repository (copy what it refers to into kustomize/base)`},
		"SSH":         {component + "components:\n- git@github.com:x/y.git\n", file + `:4: "git@github.com:x/y.git" is not a path in the repository (copy what it refers to into kustomize/base)`},
		"GitHub":      {component + "components:\n- github.com/x/y\n", file + `:4: kustomize/components/web/github.com/x/y is not there, or not for this addon and cluster (a folder may use its own files and kustomize/base)`},
		"Absolute":    {component + "resources: [/etc/passwd]\n", file + `:3: "/etc/passwd" is not a path in the repository (copy what it refers to into kustomize/base)`},
		"Escape":      {component + "patches: [{path: ../../../../x}]\n", file + `:3: "../../../../x" leads out of the repository (copy what it refers to into kustomize/base)`},
		"ConfigMap":   {component + "configMapGenerator:\n- name: x\n  files: [key=https://example.com/x]\n", file + `:5: "https://example.com/x" is not a path in the repository (copy what it refers to into kustomize/base)`},
		"Alias":       {"apiVersion: &a kustomize.config.k8s.io/v1alpha1\nkind: Component\nresources: [*a]\n", file + ":3: aliases are not supported (write the value out)"},
		"Duplicate":   {component + "kind: Component\n", file + `:3: key "kind" is there twice, first in line 2 (remove one)`},
		"NotAList":    {component + "resources: x.yaml\n", file + ":3: a list is needed here (write - ...)"},
		"NotAMapping": {"- x\n", file + ":1: the file is not a mapping (write kind: Component and patches:)"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, _, err := kustomize.Build(files{file: tc.text}, unit, manifests)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
	t.Run("NoFile", func(t *testing.T) {
		_, _, err := kustomize.Build(files{"kustomize/components/web/patch.yaml": ""}, unit, manifests)
		if err == nil || err.Error() != "kustomize/components/web: the folder has no kustomization.yaml (add one of kind Component)" {
			t.Errorf("got %v", err)
		}
	})
}

// everything uses each supported field. A strategic merge patch needs kyaml's schema.
const everything = component + `commonAnnotations: {note: PLACE}
components: [../../base/shared]
configMapGenerator:
- {name: extra, literals: [place=PLACE]}
generatorOptions: {disableNameSuffixHash: true}
images:
- {name: web, newTag: PLACE}
labels:
- {pairs: {place: PLACE}, includeSelectors: true}
namespace: PLACE
patches:
- target: {kind: Deployment}
  patch: |
    - {op: add, path: /metadata/annotations/json, value: PLACE}
- patch: |
    apiVersion: apps/v1
    kind: Deployment
    metadata: {name: web}
    spec: {template: {spec: {containers: [{name: web, env: [{name: PLACE, value: "yes"}]}]}}}
replacements:
- source: {kind: ConfigMap, name: extra, fieldPath: data.place}
  targets:
  - select: {kind: Widget}
    fieldPaths: [spec.place]
replicas:
- {name: web, count: 3}
resources: [more.yaml]
`

// Builds at the same time do not disturb each other, the first ones of a process
// among them: kubernetes-sigs/kustomize#3659 and #4824.
func TestParallel(t *testing.T) {
	f := files{"kustomize/base/shared/kustomization.yaml": component + "labels:\n- pairs: {shared: \"yes\"}\n"}
	var units []kustomize.Unit
	for i := range 16 {
		u := kustomize.Unit{Addon: "web", AZ: "az1", Cluster: fmt.Sprintf("cluster-%02d", i)}
		dir := "kustomize/overlays/" + u.Cluster
		f[dir+"/kustomization.yaml"] = strings.ReplaceAll(everything, "PLACE", u.Cluster)
		f[dir+"/more.yaml"] = "apiVersion: rbac.authorization.k8s.io/v1\nkind: ClusterRole\nmetadata: {name: more}\n"
		units = append(units, u)
	}
	all := append([]kustomize.Manifest{
		{Name: "web.yaml", Text: []byte("apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\nspec:\n  template:\n    spec:\n      containers:\n      - {name: web, image: web, env: [{name: A, value: b}]}\n      - {name: other, image: other}\n")},
		{Name: "widget.yaml", Text: []byte("apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: w}\nspec: {place: none}\n")},
	}, manifests...)
	got := make([][][]byte, len(units))
	var wg sync.WaitGroup
	for i, u := range units {
		wg.Go(func() {
			var err error
			if got[i], _, err = kustomize.Build(f, u, all); err != nil || len(got[i]) != 5 {
				t.Errorf("%s: %d objects, %v", u.Cluster, len(got[i]), err)
			}
		})
	}
	wg.Wait()
	for i, u := range units {
		want, _, err := kustomize.Build(f, u, all)
		if diff := cmp.Diff(want, got[i]); err != nil || diff != "" {
			t.Errorf("%s: %v, %s", u.Cluster, err, diff)
		}
		text := func(i int) string {
			return strings.ReplaceAll(string(bytes.Join(got[i], nil)), units[i].Cluster, "PLACE")
		}
		if diff := cmp.Diff(text(0), text(i)); diff != "" || strings.Count(text(i), "PLACE") != 22 {
			t.Errorf("%s has what is not its own: %s\n%s", u.Cluster, diff, text(i))
		}
	}
}
