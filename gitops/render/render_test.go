package render_test

import (
	"context"
	"errors"
	"flag"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/gitops/render"
)

var update = flag.Bool("update", false, "write the golden bundles anew")

// testFleet is the fleet of testdata/fleet, by path.
func testFleet(t testing.TB) map[string]string {
	t.Helper()
	tree, err := render.TreeFromFS(os.DirFS("testdata/fleet"))
	if err != nil {
		t.Fatal(err)
	}
	files := map[string]string{}
	err = filepath.WalkDir("testdata/fleet", func(p string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			rel := filepath.ToSlash(strings.TrimPrefix(p, "testdata/fleet"+string(filepath.Separator)))
			data, ok := tree.File(rel)
			if !ok {
				t.Errorf("the tree has no %s", rel)
			}
			files[rel] = string(data)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func tree(t testing.TB, files map[string]string) render.Tree {
	t.Helper()
	bytes := map[string][]byte{}
	for p, text := range files {
		bytes[p] = []byte(text)
	}
	tr, err := render.NewTree(bytes)
	if err != nil {
		t.Fatal(err)
	}
	return tr
}

func mustRender(t testing.TB, tr render.Tree, cache render.Cache) *render.Result {
	t.Helper()
	res, err := render.Fleet(context.Background(), tr, "0123abcd", cache)
	if err != nil {
		t.Fatal(err)
	}
	if res.CacheError != nil {
		t.Fatal(res.CacheError)
	}
	return res
}

// memory is a cache.
type memory struct {
	mu sync.Mutex
	m  map[string][]byte
}

func newMemory() *memory { return &memory{m: map[string][]byte{}} }

func (c *memory) Get(key string) ([]byte, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	data, ok := c.m[key]
	return data, ok, nil
}

func (c *memory) Put(key string, data []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.m[key] = slices.Clone(data)
	return nil
}

func TestGolden(t *testing.T) {
	res := mustRender(t, tree(t, testFleet(t)), nil)
	got := map[string]string{}
	for cluster, b := range res.Bundles {
		if _, err := render.ParseBundle(b.Files); err != nil {
			t.Errorf("the bundle of %s does not pass its own check: %v", cluster, err)
		}
		for p, data := range b.Files {
			got[cluster+"/"+p] = string(data)
		}
	}
	const dir = "testdata/golden"
	if *update {
		if err := os.RemoveAll(dir); err != nil {
			t.Fatal(err)
		}
		for p, text := range got {
			name := filepath.Join(dir, filepath.FromSlash(p))
			if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(p)
		want[filepath.ToSlash(strings.TrimPrefix(p, filepath.FromSlash(dir)+string(filepath.Separator)))] = string(data)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("run with -update when this is meant:\n%s", diff)
	}
	if res.Rendered != 6 || res.Cached != 0 {
		t.Errorf("rendered %d and shared %d units, want 6 and 0, for every cluster has another overlay: %v", res.Rendered, res.Cached, res.RenderedUnits)
	}
}

// Same files, same bytes: whatever the order in which maps are walked, however
// the work is shared out.
func TestDeterminism(t *testing.T) {
	files := testFleet(t)
	digests := map[string]bool{}
	for range 100 {
		shuffled := map[string]string{}
		paths := slices.Collect(maps.Keys(files))
		rand.Shuffle(len(paths), func(i, j int) { paths[i], paths[j] = paths[j], paths[i] })
		for _, p := range paths {
			shuffled[p] = files[p]
		}
		res := mustRender(t, tree(t, shuffled), nil)
		var all []string
		for _, c := range slices.Sorted(maps.Keys(res.Bundles)) {
			all = append(all, res.Bundles[c].Index.Digest+string(res.Bundles[c].Files[render.BundleFile]))
		}
		digests[strings.Join(all, " ")] = true
	}
	if len(digests) != 1 {
		t.Errorf("100 renderings gave %d different results", len(digests))
	}
}

// The commit is noted and is no part of any digest, so that a revert brings the
// digest before back.
func TestCommitIsNoPartOfTheDigest(t *testing.T) {
	tr := tree(t, testFleet(t))
	a := mustRender(t, tr, nil)
	b, err := render.Fleet(context.Background(), tr, "another", nil)
	if err != nil {
		t.Fatal(err)
	}
	if a.Bundles["c1"].Index.Digest != b.Bundles["c1"].Index.Digest || b.Bundles["c1"].Index.Commit != "another" {
		t.Errorf("%+v", b.Bundles["c1"].Index)
	}
}

func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := render.Fleet(ctx, tree(t, testFleet(t)), "c", nil); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// A bundle that was cut short or changed on its way is refused.
func TestParseBundleRefuses(t *testing.T) {
	good := mustRender(t, tree(t, testFleet(t)), nil).Bundles["c1"].Files
	const object = "web/configmap_web_web.yaml"
	cases := map[string]struct {
		change func(map[string][]byte)
		want   string
	}{
		"ObjectLost":    {func(m map[string][]byte) { delete(m, object) }, "the bundle has 1 objects of web, its index says 2"},
		"ObjectChanged": {func(m map[string][]byte) { m[object] = append(slices.Clone(m[object]), '\n') }, "the bundle's files of web have the digest"},
		"ObjectAdded":   {func(m map[string][]byte) { m["other/x.yaml"] = []byte("x") }, "the bundle has 6 files, its index accounts for 5"},
		"Empty":         {func(m map[string][]byte) { clear(m) }, "the bundle has no bundle.yaml"},
		"Timeout": {func(m map[string][]byte) {
			m["bundle.yaml"] = []byte(strings.Replace(string(m["bundle.yaml"]), "1m0s", "9m0s", 1))
		}, "the bundle's index has the digest"},
		"Unknown": {func(m map[string][]byte) { m["bundle.yaml"] = append(slices.Clone(m["bundle.yaml"]), "more: 1\n"...) }, `unknown field "more"`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			files := maps.Clone(good)
			tc.change(files)
			_, err := render.ParseBundle(files)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %s", err, tc.want)
			}
		})
	}
}
