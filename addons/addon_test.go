package addons_test

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

	"holdfast.dev/addons"
	"holdfast.dev/internal/strictyaml"
)

const good = `apiVersion: holdfast.dev/v1alpha1
kind: Addon
name: web
version: 1.2.3
summary: A web server
order: 20
requires: {kubernetes: ">=1.29.0", addons: [base]}
images: {web: "registry.example.com:5000/a/web:v1@sha256:0123456789012345678901234567890123456789012345678901234567890123"}
values:
  interval: {type: duration, default: 5s, doc: how often}
  size: {type: quantity, doc: how large}
  level: {type: int, default: 0, doc: how much}
health: {timeout: 90s}
upgradeNotes: none
`

func TestLoadRefuses(t *testing.T) {
	cases := map[string]struct{ old, new, want string }{
		"Field":        {"order: 20", "ordr: 20", `a.yaml:6: unknown field "ordr" (check its spelling and indentation)`},
		"Type":         {"order: 20", "order: twenty", "a.yaml:6: cannot unmarshal str `twenty` into int"},
		"Duplicate":    {"order: 20", "order: 20\norder: 21", `a.yaml:7: key "order" is there twice, first in line 6 (remove one)`},
		"Kind":         {"kind: Addon", "kind: Fleet", `a.yaml:2: apiVersion "holdfast.dev/v1alpha1" and kind "Fleet" are not an addon's (write apiVersion: holdfast.dev/v1alpha1 and kind: Addon)`},
		"Name":         {"name: web", "name: Web_1", `a.yaml:3: the name "Web_1" is not valid (use lower-case letters, digits and -)`},
		"Version":      {"1.2.3", "v1.2", `a.yaml:4: the version "v1.2" is not valid (write major.minor.patch, such as 0.1.0)`},
		"NoVersion":    {"version: 1.2.3\n", "", `a.yaml: the version "" is not valid (write major.minor.patch, such as 0.1.0)`},
		"Order":        {"order: 20", "order: -1", "a.yaml:6: the order -1 is out of range (use 0 to 1000)"},
		"Constraint":   {">=1.29.0", "newer", `a.yaml:7: the Kubernetes version "newer" is not a constraint (write one such as ">=1.29.0")`},
		"Self":         {"[base]", "[web]", `a.yaml:7: the required addon "web" is not another addon's name, given once (correct it)`},
		"Image":        {"registry.example.com:5000/a/web:v1@", "web:v1@", `a.yaml:8: the image "web:v1@sha256:0123456789012345678901234567890123456789012345678901234567890123" is not a reference with registry and tag or digest (write registry/name:tag or registry/name@sha256:...)`},
		"ValueType":    {"type: int", "type: number", `a.yaml:12: the type "number" of the value "level" is not known (known are string, int, bool, duration, quantity, list and map)`},
		"ValueName":    {"level:", "a:b:", `a.yaml:12: the value's name "a:b" is not valid (use letters, digits, - and _)`},
		"ValueField":   {"doc: how much", "docs: how much", `a.yaml:12: unknown field "docs" of the value "level" (known are type, format, default and doc)`},
		"ValueFormat":  {"type: int, default: 0", "type: int, format: disk-thresholds, default: 0", `a.yaml:12: the format "disk-thresholds" of the value "level" is not known (known are disk-thresholds and smartctl-disks, of a map)`},
		"ValueFormat2": {"type: int, default: 0", "type: map, format: disks", `a.yaml:12: the format "disks" of the value "level" is not known (known are disk-thresholds and smartctl-disks, of a map)`},
		"ValueNoDoc":   {", doc: how much", "", `a.yaml:12: the value "level" has no doc (say what it does)`},
		"ValueDefault": {"default: 5s", "default: 5 seconds", `a.yaml:10: the default of "interval" is "5 seconds", which is not a duration such as 5s or 2m`},
		"ValueScalar":  {"{type: int, default: 0, doc: how much}", "3", `a.yaml:12: the value "level" is not a mapping (write {type: ..., default: ..., doc: ...})`},
		"Timeout":      {"90s", "soon", `a.yaml:13: the timeout "soon" is not a duration up to 24h (write one such as 2m)`},
		"Notes":        {"upgradeNotes: none\n", "", "a.yaml: the addon has no upgradeNotes (say what an operator must know before taking this version)"},
		"Summary":      {"summary: A web server", "summary: |\n  two\n  lines", "a.yaml:5: the summary is not one line of text (say in one line what the addon is for)"},
		"YAML":         {"order: 20", " order: 20", "a.yaml:6: mapping values are not allowed in this context"},
		"Empty":        {good, "", "a.yaml: the file is empty"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(good, tc.old) {
				t.Fatalf("there is no %q", tc.old)
			}
			_, err := addons.Load("a.yaml", []byte(strings.Replace(good, tc.old, tc.new, 1)))
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

func load(t *testing.T, text string) *addons.Addon {
	t.Helper()
	a, err := addons.Load("a.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func addon(t *testing.T, name, order, requires string) *addons.Addon {
	return load(t, "apiVersion: holdfast.dev/v1alpha1\nkind: Addon\nname: "+name+"\nversion: 1.0.0\nsummary: s\norder: "+order+"\nrequires: {addons: ["+requires+"]}\nupgradeNotes: none\n")
}

func TestSort(t *testing.T) {
	cases := map[string]struct {
		in   []*addons.Addon
		want string
		err  string
	}{
		"Order":    {in: []*addons.Addon{addon(t, "c", "1", ""), addon(t, "a", "3", ""), addon(t, "b", "2", "")}, want: "c b a"},
		"Name":     {in: []*addons.Addon{addon(t, "b", "1", ""), addon(t, "a", "1", "")}, want: "a b"},
		"Requires": {in: []*addons.Addon{addon(t, "a", "2", "b"), addon(t, "b", "1", "")}, want: "b a"},
		"Outside":  {in: []*addons.Addon{addon(t, "a", "2", "zz")}, want: "a"},
		"Circle":   {in: []*addons.Addon{addon(t, "a", "1", "b"), addon(t, "b", "2", "a")}, err: "a.yaml:7: the addons a, b require each other in a circle (remove one requirement)"},
		"Contrary": {in: []*addons.Addon{addon(t, "a", "1", "b"), addon(t, "b", "2", "")}, err: "a.yaml:6: a has order 1, which is not above 2 of b, which it requires (raise it)"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			bundle := map[string]*addons.Addon{}
			for _, a := range tc.in {
				bundle[a.Name] = a
			}
			sorted, err := addons.Sort(bundle)
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Errorf("got  %v\nwant %s", err, tc.err)
				}
				return
			}
			var got []string
			for _, a := range sorted {
				got = append(got, a.Name)
			}
			if err != nil || strings.Join(got, " ") != tc.want {
				t.Errorf("got %v, %v, want %s", got, err, tc.want)
			}
		})
	}
}

// Every shipped addon loads, is in the folder of its name, and requires what is shipped.
func TestCatalogue(t *testing.T) {
	bundle := map[string]*addons.Addon{}
	paths, err := fs.Glob(addons.Catalogue, "*/addon.yaml")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range paths {
		data, err := fs.ReadFile(addons.Catalogue, p)
		if err != nil {
			t.Fatal(err)
		}
		a, err := addons.Load(p, data)
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		if p != a.Name+"/addon.yaml" {
			t.Errorf("%s is the addon %s", p, a.Name)
		}
		bundle[a.Name] = a
	}
	if bundle["crds"] == nil {
		t.Error("crds is not shipped")
	}
	for _, a := range bundle {
		if err := a.CheckCluster("c", "1.36", bundle); err != nil {
			t.Error(err)
		}
	}
	if _, err := addons.Sort(bundle); err != nil {
		t.Error(err)
	}
}

func FuzzAddon(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("apiVersion: holdfast.dev/v1alpha1\nkind: Addon\nvalues: &a {x: {type: map, default: *a}}\n"))
	f.Add([]byte("values: [1]\nimages: {a: b}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		a, err := addons.Load("a.yaml", data)
		var e *strictyaml.Error
		if err != nil && (!errors.As(err, &e) || e.File != "a.yaml" || strings.Contains(err.Error(), "\n")) {
			t.Fatalf("the error %q has no file, or two lines", err)
		}
		if err == nil && (a.Name == "" || a.Version == nil || a.Health.Timeout <= 0) {
			t.Fatalf("an addon without name, version or timeout: %+v", a)
		}
	})
}
