package render_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/render"
)

func TestCheckEntry(t *testing.T) {
	cases := map[string]struct {
		path, mode string
		size       int64
		want       string
	}{
		"File":       {"a/b.yaml", "100644", 5, ""},
		"Executable": {"a.sh", "100755", 5, ""},
		"Symlink":    {"a/link", "120000", 5, "a/link: is a symbolic link (replace it by the file)"},
		"Submodule":  {"sub", "160000", 0, "sub: is a submodule (copy its files into this repository)"},
		"Large":      {"big", "100644", 100 << 20, "big: 104857600 bytes is too large, the limit is 1048576 (split the file, or keep it elsewhere)"},
		"DotDot":     {"a/../../b", "100644", 1, `"a/../../b": is not a path in the repository (rename it, with / and without .. or control characters)`},
		"Absolute":   {"/etc/passwd", "100644", 1, `"/etc/passwd": is not a path in the repository (rename it, with / and without .. or control characters)`},
		"Backslash":  {`a\b`, "100644", 1, `"a\\b": is not a path in the repository (rename it, with / and without .. or control characters)`},
		"Newline":    {"a\nb", "100644", 1, `"a\nb": is not a path in the repository (rename it, with / and without .. or control characters)`},
		"Mode":       {"a", "040000", 1, "a: has the mode 040000, which is not a file's (replace it by a file)"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := ""
			if err := render.CheckEntry(tc.path, tc.mode, tc.size); err != nil {
				got = err.Error()
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestNewTreeRefuses(t *testing.T) {
	cases := map[string]struct {
		files map[string][]byte
		want  string
	}{
		"UTF8":   {map[string][]byte{"a.sls": []byte("a\n\xff\n")}, "a.sls:2: not valid UTF-8 (save the file as UTF-8)"},
		"NUL":    {map[string][]byte{"a.sls": []byte("a\x00")}, "a.sls:1: has a NUL byte (this is not a text file)"},
		"Large":  {map[string][]byte{"a": bytes.Repeat([]byte("a"), render.MaxFileSize+1)}, "a: 1048577 bytes is too large, the limit is 1048576 (split the file, or keep it elsewhere)"},
		"DotDot": {map[string][]byte{"../a": nil}, `"../a": is not a path in the repository (rename it, with / and without .. or control characters)`},
		"Two":    {map[string][]byte{"a": {0xff}, "b": {0xff}}, "a:1: not valid UTF-8 (save the file as UTF-8)\nb:1: not valid UTF-8 (save the file as UTF-8)"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := render.NewTree(tc.files)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
	t.Run("Total", func(t *testing.T) {
		files := map[string][]byte{}
		for i := range 65 {
			files["f"+strings.Repeat("x", i+1)] = bytes.Repeat([]byte("a\n"), render.MaxFileSize/2)
		}
		if _, err := render.NewTree(files); err == nil || !strings.Contains(err.Error(), "the repository has 68157440 bytes, the limit is 67108864") {
			t.Errorf("got %v", err)
		}
	})
}

func TestTreeFromFSRefusesLinks(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/etc/passwd", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "big"), bytes.Repeat([]byte("a"), render.MaxFileSize+1), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := render.TreeFromFS(os.DirFS(dir))
	const want = "big: 1048577 bytes is too large, the limit is 1048576 (split the file, or keep it elsewhere)\nlink: is a symbolic link (replace it by the file)"
	if err == nil || err.Error() != want {
		t.Errorf("got  %v\nwant %s", err, want)
	}
}

// What holdfast init writes renders, on a directory that is new, empty, or a fresh clone.
func TestInit(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, ".git"), 0o700); err != nil {
		t.Fatal(err)
	}
	paths, err := render.Init(dir, render.InitOptions{})
	if err != nil {
		t.Fatal(err)
	}
	tr, err := render.TreeFromFS(os.DirFS(dir))
	if err != nil {
		t.Fatal(err)
	}
	if got := len(tr.Under("salt")) + len(tr.Under("addons")) + len(tr.Under("kustomize")) + 3; got != len(paths) {
		t.Errorf("%d files are there, %d were written", got, len(paths))
	}
	res := mustRender(t, tr, nil)
	if len(res.Bundles) != 3 || len(res.Fleet.Rings) != 3 {
		t.Errorf("%d bundles, rings %+v", len(res.Bundles), res.Fleet.Rings)
	}
	for cluster, b := range res.Bundles {
		if _, err := render.ParseBundle(b.Files); err != nil {
			t.Errorf("%s: %v", cluster, err)
		}
		var names []string
		for _, a := range b.Index.Addons {
			names = append(names, a.Name)
		}
		if got := strings.Join(names, " "); got != "crds local-volume-provisioner disk-monitor remediation-controller" {
			t.Errorf("%s gets %s", cluster, got)
		}
	}
	if _, err := render.Init(dir, render.InitOptions{}); err == nil || !strings.Contains(err.Error(), "is not empty: it has .gitattributes (give a new or empty directory)") {
		t.Errorf("a second init: %v", err)
	}
}

func TestInitOptions(t *testing.T) {
	clusters := []fleet.Cluster{
		{Name: "a", AZ: "x", Kubernetes: "1.36", Labels: map[string]string{"tier": "canary", "odd": "1"}},
		{Name: "b", AZ: "x", Kubernetes: "1.36"}, {Name: "c", AZ: "y", Kubernetes: "1.36"},
	}
	tr, err := render.InitialTree(render.InitOptions{Clusters: clusters, Rings: []fleet.Ring{
		{Name: "one", Select: map[string]string{"cluster": "a"}, Soak: 90e9}, {Name: "rest", Select: map[string]string{"cluster": "b"}, MaxUnavailable: 2}, {Name: "last", Select: map[string]string{"az": "y"}, Timeout: 3600e9},
	}})
	if err != nil {
		t.Fatal(err)
	}
	got, _ := tr.File("fleet.yaml")
	const want = `apiVersion: holdfast.dev/v1alpha1
kind: Fleet
clusters:
- {name: "a", az: "x", kubernetes: "1.36", labels: {odd: "1", tier: canary}}
- {name: "b", az: "x", kubernetes: "1.36"}
- {name: "c", az: "y", kubernetes: "1.36"}
# A change reaches one ring after the other; every cluster is in exactly one.
rings:
- {name: one, select: {cluster: "a"}, soak: 1m30s}
- {name: rest, select: {cluster: "b"}, maxUnavailable: 2}
- {name: last, select: {az: "y"}, timeout: 1h}
`
	if string(got) != want {
		t.Errorf("got\n%s", got)
	}
	if _, err := render.InitialTree(render.InitOptions{Clusters: clusters[:1], Rings: []fleet.Ring{{Name: "one", Select: map[string]string{"az": "nowhere"}}}}); err == nil {
		t.Error("a fleet that does not compile was written")
	}
}
