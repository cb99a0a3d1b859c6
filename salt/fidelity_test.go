package salt_test

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/internal/hostexec"
	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

const fidelity = "testdata/fidelity"

// outcome is what a case rendered: one of a text, a tree's result, or an error.
type outcome struct {
	Text   *string        `json:"text"`
	Pillar map[string]any `json:"pillar"`
	Low    []any          `json:"low"`
	Files  map[string]any `json:"files"`
	Error  string         `json:"error"`
	Line   int            `json:"line"`
}

var memberRE = regexp.MustCompile(`(?m)^-- (.+) --\n`)

// archive reads a txtar file; its members keep carriage returns.
func archive(t testing.TB, path string) (names []string, members map[string]string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	members = map[string]string{}
	at := memberRE.FindAllStringSubmatchIndex(string(data), -1)
	for i, m := range at {
		end := len(data)
		if i+1 < len(at) {
			end = at[i+1][0]
		}
		name := string(data[m[2]:m[3]])
		names = append(names, name)
		members[name] = string(data[m[1]:end])
	}
	return names, members
}

// tree is a file tree in memory.
type tree map[string]string

func (f tree) File(p string) ([]byte, bool) { s, ok := f[p]; return []byte(s), ok }

func (f tree) Under(dir string) []string {
	var out []string
	for p := range f {
		if strings.HasPrefix(p, dir+"/") {
			out = append(out, p)
		}
	}
	slices.Sort(out)
	return out
}

func yamlMap(t testing.TB, text string) *jinja.Map {
	t.Helper()
	v, err := pyyaml.Load(&pyyaml.File{Name: "t", Output: jinja.Plain([]byte(text))}, false)
	if err != nil {
		t.Fatal(err)
	}
	m, ok := v.(*jinja.Map)
	if !ok {
		return jinja.NewMap()
	}
	return m
}

// Those of record.py.
const (
	recordGrains = `{"id": "az1-c1", "cluster": "az1-c1", "az": "az1", "kubernetes": "1.36", "tier": "prod", "os": "Debian", "os_family": "Debian",
          "osmajorrelease": 12, "roles": ["storage", "db"], "ipv4": ["10.1.2.3", "127.0.0.1"], "nested": {"a": {"b": "c"}, "l": [1, 2]}}`
	recordPillar = `{"app": {"name": "web", "port": 8080, "on": true, "none": null, "list": [1, "two", 3.5], "sub": {"b": 1, "a": 2}}, "text": "words", "empty": {}, "zero": 0}`
)

// templateCases renders the templates of an archive.
func templateCases(t testing.TB, names []string, members map[string]string) map[string]outcome {
	t.Helper()
	files := tree{}
	for name, text := range members {
		if strings.HasPrefix(name, "states/") {
			files[name] = text
		}
	}
	tr := salt.Tree{Files: files, States: "states", Minion: "az1-c1", Grains: yamlMap(t, recordGrains)}
	out := map[string]outcome{}
	run := func(key, text string) {
		s, err := salt.RenderText(tr, yamlMap(t, recordPillar), "case", []byte(text), yamlMap(t, members["context.yaml"]))
		if err != nil {
			out[key] = failed(err)
			return
		}
		out[key] = outcome{Text: &s}
	}
	for _, name := range names {
		switch {
		case strings.HasPrefix(name, "states/"):
		case strings.HasSuffix(name, ".jinja"):
			run(name, members[name])
		case strings.HasSuffix(name, ".lines"):
			for line := range strings.SplitSeq(members[name], "\n") {
				if line != "" && !strings.HasPrefix(line, "##") {
					run(name+": "+line, line)
				}
			}
		}
	}
	return out
}

func failed(err error) outcome {
	o := outcome{Error: err.Error()}
	var e *strictyaml.Error
	if errors.As(err, &e) {
		o.Line = e.Line
	}
	return o
}

// treeCases renders the trees of an archive.
func treeCases(t testing.TB, names []string, members map[string]string) map[string]outcome {
	t.Helper()
	cases := map[string]tree{}
	for _, name := range names {
		c, p, _ := strings.Cut(name, "/")
		if cases[c] == nil {
			cases[c] = tree{}
		}
		cases[c][p] = members[name]
	}
	out := map[string]outcome{}
	for name, files := range cases {
		grains := yamlMap(t, recordGrains)
		for _, k := range yamlMap(t, files["grains.yaml"]).All() {
			v, _ := yamlMap(t, files["grains.yaml"]).At(k)
			if err := grains.Put(k, v); err != nil {
				t.Fatal(err)
			}
		}
		minion, _ := grains.Get("id")
		opts := yamlMap(t, files["opts.yaml"])
		text := func(k string) string { v, _ := opts.Get(k); s, _ := v.(string); return s }
		flag := func(k string) bool { v, _ := opts.Get(k); return v == true }
		tr := salt.Tree{Files: files, States: "states", Pillar: "pillar", Minion: minion.(string), Grains: grains, Options: salt.Options{
			PillarStrategy: text("pillar_source_merging_strategy"), PillarMergeLists: flag("pillar_merge_lists"), PillarIncludesOverride: flag("pillar_includes_override_sls")}}
		res, err := salt.Highstate(tr)
		if err != nil {
			out[name] = failed(err)
			continue
		}
		out[name] = treeOutcome(res)
	}
	return out
}

func treeOutcome(res *salt.Result) outcome {
	o := outcome{Files: map[string]any{}, Low: []any{}}
	o.Pillar, _ = plain(res.Pillar).(map[string]any)
	for _, m := range res.Low {
		o.Low = append(o.Low, plain(m))
	}
	for _, f := range res.Files {
		switch {
		case f.Dir:
			o.Files[f.Path] = map[string]any{"dir": true, "mode": f.Mode}
		case f.Target != "":
			o.Files[f.Path] = map[string]any{"target": f.Target}
		default:
			o.Files[f.Path] = map[string]any{"text": string(f.Text), "mode": f.Mode}
		}
	}
	return o
}

// plain is a value as record.py writes it, read back from JSON.
func plain(v any) any {
	switch v := v.(type) {
	case *jinja.Map:
		out := map[string]any{}
		var pairs []any
		for _, k := range v.All() {
			item, _ := v.At(k)
			pairs = append(pairs, []any{plain(k), plain(item)})
			if s, ok := k.(string); ok {
				out[s] = plain(item)
			}
		}
		if len(out) < len(pairs) {
			return map[string]any{"__pairs__": pairs}
		}
		return out
	case *jinja.List, jinja.Tuple:
		items, err := jinja.Iterate(v)
		out := make([]any, 0, len(items))
		for _, item := range items {
			out = append(out, plain(item))
		}
		if err != nil {
			return err.Error()
		}
		return out
	case *jinja.Set:
		items, err := jinja.Iterate(v)
		if err != nil {
			return err.Error()
		}
		return map[string]any{"__set__": items}
	case jinja.Bytes:
		return map[string]any{"__bytes__": hex.EncodeToString([]byte(v))}
	case jinja.Markup:
		return string(v)
	case int64:
		return json.Number(strconv.FormatInt(v, 10))
	case *big.Int:
		return json.Number(v.String())
	case float64:
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return map[string]any{"__float__": jinja.Str(v)}
		}
		return json.Number(jinja.Str(v))
	}
	return v
}

func recorded(t testing.TB, data []byte) map[string]outcome {
	t.Helper()
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber()
	out := map[string]outcome{}
	if err := dec.Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

// differences reads DIFFERS: case prefix, tab, the reason. Those cases are hard
// errors here, and not in Salt, or the other way round.
func differences(t testing.TB) map[string]string {
	t.Helper()
	data, err := os.ReadFile(fidelity + "/DIFFERS")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if name, reason, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			out[name] = reason
		}
	}
	return out
}

// compareOutcome says how ours differs from Salt's; "" if it does not.
func compareOutcome(ours, theirs outcome) string {
	switch {
	case theirs.Error != "" && ours.Error == "":
		return fmt.Sprintf("Salt fails (line %d: %s), we render %s", theirs.Line, theirs.Error, short(ours))
	case theirs.Error == "" && ours.Error != "":
		return fmt.Sprintf("we fail: %s; Salt renders %s", ours.Error, short(theirs))
	case theirs.Error != "":
		if theirs.Line > 0 && theirs.Line != ours.Line {
			return fmt.Sprintf("Salt names line %d (%s), we %d: %s", theirs.Line, theirs.Error, ours.Line, ours.Error)
		}
		return ""
	}
	return cmp.Diff(theirs, ours)
}

func short(o outcome) string {
	if o.Text != nil {
		return strconv.Quote(*o.Text)
	}
	data, err := json.Marshal(o)
	if err != nil {
		return err.Error()
	}
	return string(data[:min(len(data), 600)])
}

// What Salt renders, this renders to the same; what Salt refuses, this refuses, at
// the same line. The results in the .json files are recorded by record.py. With
// HOLDFAST_SALT_PYTHON, a python that has Salt, they are recorded anew.
func TestSameAsSalt(t *testing.T) {
	differs := differences(t)
	used := map[string]bool{}
	cases, mismatches, deliberate := 0, 0, 0
	live := liveResults(t)
	for _, kind := range []string{"templates", "trees"} {
		paths, err := filepath.Glob(fidelity + "/" + kind + "/*.txt")
		if err != nil || len(paths) == 0 {
			t.Fatalf("no archives of %s: %v", kind, err)
		}
		for _, path := range paths {
			names, members := archive(t, path)
			data, err := os.ReadFile(strings.TrimSuffix(path, ".txt") + ".json")
			if err != nil {
				t.Fatal(err)
			}
			theirs := recorded(t, data)
			if l, ok := live[kind+"/"+filepath.Base(path)]; ok {
				theirs = l
			}
			run := templateCases
			if kind == "trees" {
				run = treeCases
			}
			ours := run(t, names, members)
			if len(ours) != len(theirs) {
				t.Errorf("%s has %d cases, recorded are %d: run record.py", path, len(ours), len(theirs))
			}
			for name, want := range theirs {
				cases++
				diff := compareOutcome(ours[name], want)
				key := kind + "/" + strings.TrimSuffix(filepath.Base(path), ".txt") + "/" + name
				reason, expected := differs[key]
				if expected {
					used[key] = true
					deliberate++
					if strings.HasPrefix(reason, "line: ") && want.Error == "" || diff == "" || ours[name].Error == "" {
						t.Errorf("%s: it is said to differ (%s), and does not, or is no error", key, reason)
					}
					continue
				}
				if diff != "" {
					mismatches++
					t.Errorf("%s\n\t%s", key, diff)
				}
			}
		}
	}
	for key := range differs {
		if !used[key] {
			t.Errorf("DIFFERS names %q, which is no case", key)
		}
	}
	if cases < 400 {
		t.Errorf("there are only %d cases", cases)
	}
	fmt.Fprintf(os.Stdout, "fidelity: %d cases, %d as in Salt, %d differ on purpose, %d mismatches\n", cases, cases-deliberate-mismatches, deliberate, mismatches)
}

func liveResults(t *testing.T) map[string]map[string]outcome {
	python := os.Getenv("HOLDFAST_SALT_PYTHON")
	if python == "" {
		return nil
	}
	data, err := hostexec.Run(t.Context(), 20*time.Minute, hostexec.Command{Path: python, Args: []string{fidelity + "/record.py", "--check"}})
	if err != nil {
		t.Fatalf("record.py: %v", err)
	}
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber()
	out := map[string]map[string]outcome{}
	if err := dec.Decode(&out); err != nil {
		t.Fatal(err)
	}
	return out
}

// No filter, test or global of Salt's Jinja is missing.
func TestNoNameIsMissing(t *testing.T) {
	data, err := os.ReadFile(fidelity + "/names.json")
	if err != nil {
		t.Fatal(err)
	}
	var names struct{ Filters, Tests, Globals []string }
	if err := json.Unmarshal(data, &names); err != nil {
		t.Fatal(err)
	}
	for kind, sets := range map[string]struct {
		want []string
		have map[string]bool
	}{"filter": {names.Filters, jinja.FilterNames()}, "test": {names.Tests, jinja.TestNames()}} {
		for _, name := range sets.want {
			if !sets.have[name] {
				t.Errorf("the %s %q is missing", kind, name)
			}
		}
	}
	tr := salt.Tree{Files: tree{}, States: "states", Minion: "m", Grains: jinja.NewMap()}
	for _, name := range names.Globals {
		if out, err := salt.RenderText(tr, jinja.NewMap(), "t", []byte("{{ "+name+" is defined }}"), jinja.NewMap()); err != nil || out != "True" {
			t.Errorf("the global %q is missing: %v", name, err)
		}
	}
}
