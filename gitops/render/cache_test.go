package render_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast.dev/gitops/render"
)

// Only what reads a changed value is rendered again.
func TestOnlyWhatReadsAChangeIsRendered(t *testing.T) {
	cases := map[string]struct {
		reason string
		edits  []edit
		want   []string
	}{
		"Nothing":         {"all is known", nil, nil},
		"ReadByAll":       {"every web reads the interval", []edit{{common, "10s", "20s"}}, []string{"c1/web", "c2/web", "canary/web"}},
		"ReadByNone":      {"nobody reads site", []edit{{common, "example", "other"}}, nil},
		"OneCluster":      {"a cluster's pillar", []edit{{"salt/pillar/c1.sls", "3", "4"}}, []string{"c1/web"}},
		"UnreadValue":     {"verbose is false by default, and read through the whole map", []edit{{common, "interval: 10s", "interval: 10s\n  verbose: false"}}, nil},
		"Overlay":         {"an overlay may touch every addon of its zone", []edit{{"kustomize/overlays/az2/kustomization.yaml", "zone: az2}", "zone: az-2}"}}, []string{"c2/base", "c2/web"}},
		"Component":       {"an addon's component", []edit{{component, "patches:", "commonAnnotations: {a: b}\npatches:"}}, []string{"c1/web", "c2/web", "canary/web"}},
		"Template":        {"an addon's template", []edit{{deployment, "tier:", "tear:"}}, []string{"c1/web", "c2/web", "canary/web"}},
		"Grain":           {"the tier of one cluster, which its web reads", []edit{{"fleet.yaml", "labels: {tier: prod}}\n- {name: c2", "labels: {tier: prod, rack: r1}}\n- {name: c2"}}, nil},
		"README":          {"no part of anything", []edit{{"README.md", "", "# Hello\n"}}, nil},
		"AddonDefault":    {"a default that the pillar sets anyway", []edit{{webAddon, "default: 5s", "default: 6s"}}, []string{"c1/web", "c2/web", "canary/web"}},
		"KubernetesGrain": {"nobody reads the version", []edit{{"fleet.yaml", "1.36.3", "1.36.4"}}, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			cache := newMemory()
			mustRender(t, tree(t, testFleet(t)), cache)
			after := tree(t, edited(t, tc.edits...))
			res := mustRender(t, after, cache)
			if diff := cmp.Diff(tc.want, res.RenderedUnits); diff != "" {
				t.Errorf("%s\nreason: %s", diff, tc.reason)
			}
			if len(res.RenderedUnits) != res.Rendered || res.Rendered+res.Cached != 6 {
				t.Errorf("counts %d rendered, %d cached", res.Rendered, res.Cached)
			}
			sameBundles(t, mustRender(t, after, nil), res)
		})
	}
}

func sameBundles(t interface{ Errorf(string, ...any) }, want, got *render.Result) {
	for c, b := range want.Bundles {
		if diff := cmp.Diff(b.Files, got.Bundles[c].Files); diff != "" {
			t.Errorf("the bundle of %s from the cache differs from a cold one: %s", c, diff)
		}
	}
}

// git revert brings the digests before back without rendering anything.
func TestRevertIsCached(t *testing.T) {
	cache := newMemory()
	before := mustRender(t, tree(t, testFleet(t)), cache)
	changed := mustRender(t, tree(t, edited(t, edit{common, "10s", "20s"}, edit{deployment, "tier:", "tear:"})), cache)
	after := mustRender(t, tree(t, testFleet(t)), cache)
	if after.Rendered != 0 {
		t.Errorf("the revert rendered %v", after.RenderedUnits)
	}
	for c := range before.Bundles {
		if before.Bundles[c].Index.Digest != after.Bundles[c].Index.Digest || before.Bundles[c].Index.Digest == changed.Bundles[c].Index.Digest {
			t.Errorf("digests of %s: before %s, changed %s, after %s", c, before.Bundles[c].Index.Digest, changed.Bundles[c].Index.Digest, after.Bundles[c].Index.Digest)
		}
	}
}

// Clusters that are alike share one rendering, with no cache at all.
func TestAlikeClustersShare(t *testing.T) {
	files := testFleet(t)
	files["fleet.yaml"] = "apiVersion: holdfast.dev/v1alpha1\nkind: Fleet\nclusters:\n"
	for i := range 60 {
		files["fleet.yaml"] += fmt.Sprintf("- {name: n%d, az: az1, kubernetes: \"1.36\", labels: {tier: prod}}\n", i)
	}
	files["fleet.yaml"] += "rings:\n- {name: all, select: {az: az1}, maxUnavailable: 10}\n"
	maps.DeleteFunc(files, func(p, _ string) bool { return strings.HasPrefix(p, "kustomize/overlays/") })
	res := mustRender(t, tree(t, files), nil)
	if res.Rendered != 2 || res.Cached != 118 {
		t.Errorf("rendered %d and shared %d units of 60 like clusters", res.Rendered, res.Cached)
	}
}

// Whatever is edited, in whatever order: the cache changes no byte. An edit that
// does not render must fail in the same words with and without it.
func TestCacheChangesNothing(t *testing.T) {
	base := testFleet(t)
	maps.DeleteFunc(base, func(p, _ string) bool { return strings.HasPrefix(p, "kustomize/") }) // it is slow, and reads nothing that is traced
	edits := []func(t *rapid.T, files map[string]string){
		func(t *rapid.T, f map[string]string) {
			f[common] = fmt.Sprintf("web:\n  interval: %ds\n  extra: {a: %d}\n", rapid.IntRange(1, 3).Draw(t, "interval"), rapid.IntRange(1, 2).Draw(t, "a"))
		},
		func(t *rapid.T, f map[string]string) {
			f["salt/pillar/c1.sls"] = fmt.Sprintf("web: {replicas: %d}\n", rapid.IntRange(1, 3).Draw(t, "replicas"))
		},
		func(t *rapid.T, f map[string]string) {
			f["salt/pillar/az2.sls"] = fmt.Sprintf("web: {zones: [%s]}\n", strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 0, 2).Draw(t, "zones"), ", "))
		},
		func(t *rapid.T, f map[string]string) {
			f["fleet.yaml"] = strings.Replace(base["fleet.yaml"], "tier: canary}}\n- {name: c1", "tier: canary"+rapid.SampledFrom([]string{"", ", rack: r1", ", x: y"}).Draw(t, "label")+"}}\n- {name: c1", 1)
		},
		func(t *rapid.T, f map[string]string) {
			f[deployment] = strings.Replace(base[deployment], "grains.get('tier', 'none')", rapid.SampledFrom([]string{"grains.get('tier', 'none')", "grains.get('rack', 'none')", "pillar.get('site', {})['name']|default('x')"}).Draw(t, "expr"), 1)
		},
		func(t *rapid.T, f map[string]string) {
			f["salt/pillar/top.sls"] = strings.Replace(base["salt/pillar/top.sls"], "'c1'", rapid.SampledFrom([]string{"'c1'", "'c*'", "'not c*'", "'c1 or G@az:az2'"}).Draw(t, "target"), 1)
		},
	}
	rapid.Check(t, func(rt *rapid.T) {
		cache, files := newMemory(), maps.Clone(base)
		for range rapid.IntRange(1, 6).Draw(rt, "pushes") {
			rapid.SampledFrom(edits).Draw(rt, "edit")(rt, files)
			tr := tree(t, files)
			cold, err1 := render.Fleet(t.Context(), tr, "c", nil)
			warm, err2 := render.Fleet(t.Context(), tr, "c", cache)
			if fmt.Sprint(err1) != fmt.Sprint(err2) {
				rt.Fatalf("cold: %v\nwarm: %v", err1, err2)
			}
			if err1 == nil {
				sameBundles(rt, cold, warm)
			}
		}
	})
}

// A cache that fails, or lies, costs time and changes nothing.
func TestBadCache(t *testing.T) {
	tr := tree(t, testFleet(t))
	want := mustRender(t, tr, nil)
	damaged := newMemory()
	mustRender(t, tr, damaged)
	for k, v := range damaged.m {
		damaged.m[k] = append(slices.Clone(v), ' ', 'x')
	}
	got := mustRender(t, tr, damaged)
	sameBundles(t, want, got)
	if got.Rendered != 6 {
		t.Errorf("%d units rendered, %d taken from a damaged cache", got.Rendered, got.Cached)
	}
	res, err := render.Fleet(t.Context(), tr, "0123abcd", failing{})
	if err != nil || !errors.Is(res.CacheError, errDisk) {
		t.Fatalf("got %v, %+v", err, res)
	}
	sameBundles(t, want, res)
}

// TestDamagedTrace: with one bit of a name turned, a trace is JSON still and says that
// its rendering has read nothing. Every cluster got what one of them had rendered.
func TestDamagedTrace(t *testing.T) {
	files := testFleet(t)
	maps.DeleteFunc(files, func(p, _ string) bool { return strings.HasPrefix(p, "kustomize/overlays/") }) // only reads tell the clusters apart
	tr := tree(t, files)
	cache := newMemory()
	want := mustRender(t, tr, cache)
	for k, v := range cache.m {
		cache.m[k] = bytes.ReplaceAll(v, []byte(`"reads"`), []byte(`"readr"`))
	}
	sameBundles(t, want, mustRender(t, tr, cache))
	if again := mustRender(t, tr, cache); again.Rendered != 0 {
		t.Errorf("%d units rendered, though the damaged entries were made anew", again.Rendered)
	}
}

var errDisk = errors.New("no space left on device")

type failing struct{}

func (failing) Get(string) ([]byte, bool, error) { return nil, false, errDisk }
func (failing) Put(string, []byte) error         { return errDisk }
