package render_test

import (
	"slices"
	"strings"
	"testing"

	"holdfast.dev/gitops/render"
)

// explained is the fleet's explanation of a unit, with its own checks: the bytes
// of the fields are the files, whole, and every path that a field names is one
// that the cache goes by.
func explained(t *testing.T, files map[string]string, cluster, addon string) *render.Explanation {
	t.Helper()
	tr := tree(t, files)
	x, err := render.Explain(t.Context(), tr, cluster, addon)
	if err != nil {
		t.Fatal(err)
	}
	bundle := mustRender(t, tr, nil).Bundles[cluster]
	if len(x.Objects) != len(bundle.Objects(addon)) {
		t.Errorf("%d objects are explained, the bundle has %d", len(x.Objects), len(bundle.Objects(addon)))
	}
	known := map[string]bool{}
	for _, v := range x.Values {
		known[v.Path] = true
	}
	for _, f := range x.Files {
		known["file:"+f.Path] = true
	}
	for _, o := range x.Objects {
		at := 0
		for _, f := range o.Fields {
			if f.From != at || f.To <= f.From {
				t.Errorf("%s: the field %s is bytes %d to %d, the one before ends at %d", o.ID, f.Path, f.From, f.To, at)
			}
			at = f.To
			for _, r := range slices.Concat(f.Reads, o.Reads) {
				if !known[r] {
					t.Errorf("%s: the field %s reads %s, of which the cache knows nothing", o.ID, f.Path, r)
				}
			}
		}
		if text, ok := bundle.Files[o.Path]; !ok || at != len(text) {
			t.Errorf("%s: the fields are %d bytes, the file %s has %d", o.ID, at, o.Path, len(text))
		}
	}
	return x
}

// covers is true when one of the reads is the path, something above it, or below it.
func covers(reads []string, path string) bool {
	return slices.ContainsFunc(reads, func(r string) bool {
		return r == path || strings.HasPrefix(path, strings.TrimSuffix(r, ":")+":") || strings.HasPrefix(r, path+":")
	})
}

// TestExplainAccountsForEveryByte changes a value and looks at what became
// different: each such field must have named the value, and what is not named by
// the unit must change nothing.
func TestExplainAccountsForEveryByte(t *testing.T) {
	cases := map[string]struct {
		reason        string
		edit          edit
		cluster, path string
		direct        bool // some changed field names it itself, and not only its object
	}{
		"Interval": {"a value of the common pillar, printed where it is read", edit{common, "10s", "20s"}, "c1", "pillar:web:interval", true},
		"Replicas": {"one of the cluster's own, through a variable", edit{"salt/pillar/c1.sls", "3", "4"}, "c1", "pillar:web:replicas", false},
		"Zones":    {"a list that a loop makes objects of", edit{"salt/pillar/az2.sls", "az3", "az4"}, "c2", "pillar:web:zones", true},
		"Unread":   {"nobody reads site", edit{common, "example", "other"}, "c1", "", false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			before := testFleet(t)
			x := explained(t, before, tc.cluster, "web")
			was := mustRender(t, tree(t, before), nil).Bundles[tc.cluster]
			now := mustRender(t, tree(t, edited(t, tc.edit)), nil).Bundles[tc.cluster]
			changed, direct := 0, 0
			for _, o := range x.Objects {
				old, fresh := string(was.Files[o.Path]), string(now.Files[o.Path])
				for _, f := range o.Fields {
					if strings.Contains(fresh, old[f.From:f.To]) {
						continue
					}
					changed++
					if tc.path == "" || !covers(slices.Concat(f.Reads, o.Reads), tc.path) {
						t.Errorf("%s: bytes %d to %d (%s) changed with %s; named are %v and %v", o.ID, f.From, f.To, f.Path, tc.edit.file, f.Reads, o.Reads)
					}
					if covers(f.Reads, tc.path) {
						direct++
					}
				}
			}
			if (changed > 0) != (tc.path != "") || (direct > 0) != tc.direct {
				t.Errorf("%d fields changed, %d name %q themselves; reason: %s", changed, direct, tc.path, tc.reason)
			}
		})
	}
}

// TestExplainNamesPlaces: where a value is set, where it is read, and who set a field.
func TestExplainNamesPlaces(t *testing.T) {
	x := explained(t, testFleet(t), "c1", "web")
	i := slices.IndexFunc(x.Values, func(v render.ExplainedValue) bool { return v.Path == "pillar:web:interval" })
	if i < 0 || !strings.HasPrefix(x.Values[i].SetAt, common+":") || len(x.Values[i].At) == 0 {
		t.Errorf("values %+v", x.Values)
	}
	by := map[string]bool{}
	for _, o := range x.Objects {
		for _, f := range o.Fields {
			who, _, _ := strings.Cut(f.By, " ")
			who, _, _ = strings.Cut(who, ":")
			by[who] = true
		}
	}
	for _, who := range []string{"holdfast", "kustomize", deployment} {
		if !by[who] {
			t.Errorf("no field is set by %s; %v", who, by)
		}
	}
	uses := map[string]string{}
	for _, f := range x.Files {
		uses[f.Path] = f.Use
	}
	for path, want := range map[string]string{webAddon: "addon", deployment: "read", component: "kustomize"} {
		if uses[path] != want {
			t.Errorf("%s is %q, want %q", path, uses[path], want)
		}
	}
	if _, ok := uses["README.md"]; ok {
		t.Error("README.md counts for nothing")
	}
	for unit, want := range map[[2]string]string{{"c9", "web"}: `no cluster "c9"`, {"c1", "none"}: `no addon "none"`} {
		if _, err := render.Explain(t.Context(), tree(t, testFleet(t)), unit[0], unit[1]); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v: %v", unit, err)
		}
	}
}
