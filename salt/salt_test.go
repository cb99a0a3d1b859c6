package salt_test

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/salt"
	"holdfast.dev/salt/jinja"
)

// files is a repository in memory.
type files map[string]string

func (f files) File(p string) ([]byte, bool) {
	text, ok := f[p]
	return []byte(text), ok
}

var grains = salt.Grains{"id": "az1-c1", "cluster": "az1-c1", "az": "az1", "kubernetes": "1.36", "tier": "prod"}

func TestTargets(t *testing.T) {
	cases := map[string]struct {
		target string
		want   bool
		err    string
	}{
		"Star":         {target: "'*'", want: true},
		"Glob":         {target: "az1-*", want: true},
		"GlobWhole":    {target: "az1", want: false},
		"Question":     {target: "az?-c1", want: true},
		"Set":          {target: "'az[12]-c1'", want: true},
		"NotInSet":     {target: "'az[!1]-c1'", want: false},
		"Dot":          {target: "az1.c1", want: false},
		"Grain":        {target: "G@az:az1", want: true},
		"GrainGlob":    {target: "'G@az:az*'", want: true},
		"GrainUnknown": {target: "G@rack:r1", want: false},
		"NotUnknown":   {target: "not G@rack:r1", want: true},
		"And":          {target: "G@az:az1 and G@tier:canary", want: false},
		"OrAnd":        {target: "G@az:az1 or G@az:az2 and G@tier:canary", want: true},
		"Not":          {target: "not G@az:az2 and G@tier:prod", want: true},
		"Parentheses":  {target: "( G@az:az1 or G@az:az2 ) and not G@tier:canary", want: true},
		"Regexp":       {target: "E@az.*", want: true},
		"List":         {target: "L@x,az1-c1", want: true},
		"Unknown":      {target: "N@group", err: `salt/pillar/top.sls:2: the target "N@group" is not supported (known are globs and G@, P@, I@, J@, L@, S@ and E@)`},
		"Pillar":       {target: "I@a:b", err: `salt/pillar/top.sls:2: the target "a:b" needs the pillar, which the fleet's top files do not see (match on a grain: label the cluster in fleet.yaml)`},
		"NoJoin":       {target: "az1 az2", err: `salt/pillar/top.sls:2: unexpected "az2" in the target "az1 az2" (join its parts with and, or, not)`},
		"OpenAnd":      {target: "az1 and", err: `salt/pillar/top.sls:2: the target ends where a name is needed (write a glob or G@grain:glob)`},
		"OpenParen":    {target: "( az1", err: `salt/pillar/top.sls:2: the target has an open parenthesis (close it, with spaces around it)`},
		"NoGrain":      {target: "'G@:x'", err: `salt/pillar/top.sls:2: the target ":x" has no grain and glob (write key:glob, in a compound target G@key:glob)`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m, err := salt.Pillar(files{"salt/pillar/top.sls": "base:\n  " + tc.target + ":\n  - a\n", "salt/pillar/a.sls": "hit: 1\n"}, grains, nil)
			if tc.err != "" {
				if err == nil || err.Error() != tc.err {
					t.Errorf("got  %v\nwant %s", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := m.Len() == 1; got != tc.want {
				t.Errorf("%s matches: %v, want %v", tc.target, got, tc.want)
			}
		})
	}
}

// Dicts merge at every depth, lists and everything else are replaced, the later
// file wins: Salt's default.
func TestPillarMerges(t *testing.T) {
	f := files{
		"salt/pillar/top.sls":        "base:\n  '*': [one, two.deep]\n  'az:az1':\n  - match: grain\n  - three\n  'az1-*':\n  - match: glob\n  - four\n",
		"salt/pillar/one.sls":        "a: {x: 1, l: [1, 2], z: {p: 1}}\nb: text\n",
		"salt/pillar/two/deep.sls":   "a:\n  l: [3]\n  z: {q: {{ grains['az'] | json }}}\nb: {now: dict}\n",
		"salt/pillar/three/init.sls": "{% if grains.get('tier') == 'prod' %}\nc: three\n{% endif %}\n",
		"salt/pillar/four.sls":       "# nothing\n",
	}
	m, err := salt.Pillar(f, grains, nil)
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"a": {"l": [3], "x": 1, "z": {"p": 1, "q": "az1"}}, "b": {"now": "dict"}, "c": "three"}`
	if got := asJSON(t, m); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	a, _ := m.Get("a")
	if got := a.(*jinja.Map).Origin("l"); got != (jinja.Origin{File: "salt/pillar/two/deep.sls", Line: 2}) {
		t.Errorf("a:l is said to be at %v", got)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	tpl, err := jinja.Parse("t", []byte("{{ v|json }}"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := tpl.Render(map[string]any{"v": v})
	if err != nil {
		t.Fatal(err)
	}
	return string(out.Text)
}

func TestRefuses(t *testing.T) {
	cases := map[string]struct {
		file, text, want string
	}{
		"NoTop":         {"salt/pillar/top.sls", "", "salt/pillar/top.sls: there is no such file (add it: it is where the cluster's files are selected)"},
		"Environment":   {"salt/pillar/top.sls", "dev:\n  '*': [a]\n", `salt/pillar/top.sls:1: the environment "dev" is not supported (put everything below base)`},
		"NoTargets":     {"salt/pillar/top.sls", "base: [a]\n", "salt/pillar/top.sls:1: base is not a mapping of targets (write base: and below it '*': [name])"},
		"NoList":        {"salt/pillar/top.sls", "base:\n  '*': a\n", `salt/pillar/top.sls:2: the target "*" has no list (write - name)`},
		"Matcher":       {"salt/pillar/top.sls", "base:\n  '*':\n  - match: nodegroup\n  - a\n", "salt/pillar/top.sls:2: match: nodegroup is not supported (known are compound, glob, list, pcre, grain, grain_pcre, pillar, pillar_pcre, pillar_exact and ipcidr)"},
		"IgnoreMissing": {"salt/pillar/top.sls", "base:\n  '*':\n  - ignore_missing: true\n  - a\n", `salt/pillar/top.sls:2: the target "*" holds "ignore_missing" (only match: is supported here)`},
		"NameGlob":      {"salt/pillar/top.sls", "base:\n  '*': ['a*']\n", `salt/pillar/top.sls:2: "a*" is not the name of an SLS (write out its name, without a glob)`},
		"Include":       {"salt/pillar/a.sls", "x: 1\ninclude: [b]\n", "salt/pillar/a.sls:2: include is not supported (select the file in salt/pillar/top.sls)"},
		"PillarSeesNo":  {"salt/pillar/a.sls", "x: {{ pillar.get('y') }}\n", "salt/pillar/a.sls:1: \"pillar\" is not defined, in `x: {{ pillar.get('y') }}` (define it with {% set %}, or with context: in the state)"},
		"GrainAttr":     {"salt/pillar/a.sls", "x: {{ grains.rack }}\n", "salt/pillar/a.sls:1: the grain \"rack\" is not defined, in `x: {{ grains.rack }}` (set it as a label of the cluster in fleet.yaml, or write grains.get(name, default))"},
		"Syntax":        {"salt/pillar/a.sls", "x: 1\n{% if %}\n", "salt/pillar/a.sls:2: the tag is empty, in `{% if %}` (write an expression)"},
		"Rendered":      {"salt/pillar/a.sls", "{% for i in [1, 2] %}\nx: {{ i }}\n{% endfor %}\n", "salt/pillar/a.sls:2: key \"x\" is there twice, first in line 2 (remove one)"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			f := files{"salt/pillar/top.sls": "base:\n  '*': [a]\n", "salt/pillar/a.sls": "x: 1\n", tc.file: tc.text}
			if tc.text == "" {
				delete(f, tc.file)
			}
			_, err := salt.Pillar(f, grains, nil)
			if err == nil || err.Error() != tc.want {
				t.Errorf("got  %v\nwant %s", err, tc.want)
			}
		})
	}
}

// Each read is noted, with what was there and what was not; nothing else is.
func TestReadsAreTraced(t *testing.T) {
	f := files{
		"salt/states/a/init.sls":  "/etc/kubernetes/addons/a/x.yaml:\n  file.managed:\n  - source: salt://a/x.jinja\n  - template: jinja\n  - defaults: {one: 1, two: 2}\n  - context: {two: {{ salt['grains.get']('az') }}}\n",
		"salt/states/a/x.jinja":   "{{ salt['pillar.get']('p:q') }} {{ salt['pillar.get']('p:none', default='d') }} {{ pillar.get('r', 7) }} {{ grains.get('rack', 'no') }} {{ one }} {{ two }}\n",
		"salt/states/a/other.txt": "{{ pillar.get('p') }}",
	}
	pillar := jinja.NewMap()
	p := jinja.NewMap()
	p.Set("q", "v", jinja.Origin{})
	p.Set("unread", "v", jinja.Origin{})
	pillar.Set("p", p, jinja.Origin{})
	in := salt.Inputs{Grains: grains, Pillar: pillar}
	out, err := salt.Render(f, "a", in)
	if err != nil {
		t.Fatal(err)
	}
	if got := string(out.Files[0].Text); got != "v d 7 no 1 az1\n" || out.Files[0].Base != "x.yaml" {
		t.Errorf("%s: %q", out.Files[0].Base, got)
	}
	want := []salt.Read{
		{Path: "file:salt/states/a.sls"}, // it would come before a/init.sls
		{Path: "grains:az", Hash: jinja.Hash("az1")}, {Path: "grains:rack"},
		{Path: "pillar:p:none"}, {Path: "pillar:p:q", Hash: jinja.Hash("v")}, {Path: "pillar:r"},
	}
	if diff := cmp.Diff(want, out.Reads); diff != "" {
		t.Error(diff)
	}
	for _, r := range out.Reads {
		if got := in.Hash(r.Path); got != r.Hash {
			t.Errorf("%s has the hash %s, was noted with %s", r.Path, got, r.Hash)
		}
	}
}

// Every file that is shipped with a state is written by it.
func TestShippedFilesAreUsed(t *testing.T) {
	init, err := fs.ReadFile(salt.Data, "states/crds/init.sls")
	if err != nil {
		t.Fatal(err)
	}
	repo := files{"salt/states/crds/init.sls": string(init)}
	shipped := map[string]bool{}
	entries, err := fs.ReadDir(salt.Data, "states/crds/files")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		p := path.Join("states/crds/files", e.Name())
		data, err := fs.ReadFile(salt.Data, p)
		if err != nil {
			t.Fatal(err)
		}
		repo["salt/"+p], shipped["salt/"+p] = string(data), true
	}
	out, err := salt.Render(repo, "crds", salt.Inputs{Grains: grains, Pillar: jinja.NewMap()})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range out.Files {
		delete(shipped, m.Name)
	}
	for p := range shipped {
		t.Errorf("%s is not in states/crds/init.sls", p)
	}
	if len(out.Files) < 6 || !strings.Contains(string(out.Files[0].Text), "kind: Namespace") {
		t.Errorf("%d files; the namespace must come first", len(out.Files))
	}
}

// Clusters that share what was read of top and pillar files get each its own pillar, be the
// rendered texts the same or not.
func TestTextsAreShared(t *testing.T) {
	f := files{
		"salt/pillar/top.sls": "base:\n  'a*': [one]\n  '*b': [two]\n{% if grains.az == 'z2' %}\n  '*': [three]\n{% endif %}\n",
		"salt/pillar/one.sls": "one: 1\nlast: one\nboth: {one: 1}\n", "salt/pillar/two.sls": "two: {{ grains.az }}\nlast: two\nboth: {two: 2}\n", "salt/pillar/three.sls": "three: 3\nlast: three\n",
	}
	texts := &salt.Texts{}
	for range 2 {
		for _, tc := range []struct{ id, az, want string }{
			{"ab", "z1", "both=[one two] last=two one=1 two=z1"}, {"ac", "z1", "both=[one] last=one one=1"}, {"ab", "z2", "both=[one two] last=three one=1 three=3 two=z2"}, {"x", "z1", ""},
		} {
			m, err := salt.Pillar(f, salt.Grains{"id": tc.id, "az": tc.az}, texts)
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, k := range m.Keys() {
				v, _ := m.Get(k)
				if below, ok := v.(*jinja.Map); ok {
					v = below.Keys()
				}
				got = append(got, fmt.Sprintf("%s=%v", k, v))
			}
			slices.Sort(got)
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("cluster %s in %s has the pillar %q, want %q", tc.id, tc.az, s, tc.want)
			}
		}
	}
}
