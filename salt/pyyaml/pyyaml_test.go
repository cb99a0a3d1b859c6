package pyyaml_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

func one(text string) (*jinja.Map, error) {
	return pyyaml.One(&pyyaml.File{Name: "f.sls", Output: jinja.Plain([]byte(text))})
}

func TestRefuses(t *testing.T) {
	bomb := "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
	for i := range 9 {
		bomb += fmt.Sprintf("a%d: &a%d [%s]\n", i+1, i+1, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*a%d, ", i), 10), ", "))
	}
	cases := map[string]struct {
		reason string
		in     string
		want   string
	}{
		"Yes":        {"true to PyYAML", "a: yes", "f.sls:1: yes is a boolean to some YAML readers and a string to others (quote it)"},
		"OffKey":     {"keys as well", "off: 1", "f.sls:1: off is a boolean to some YAML readers and a string to others (quote it)"},
		"Octal":      {"644 to Salt, 420 to Kubernetes", "a: 0644", "f.sls:1: 0644 is octal to some YAML readers and decimal to others (quote it)"},
		"OctalNew":   {"a string to PyYAML", "a: 0o17", "f.sls:1: 0o17 is a number to some YAML readers and a string to others (quote it)"},
		"Sixty":      {"5400 to PyYAML", "a: 1:30:00", "f.sls:1: 1:30:00 is a number to base 60 to some YAML readers and a string to others (quote it)"},
		"Underscore": {"1000 to PyYAML", "a: 1_000", "f.sls:1: 1_000 is a number to some YAML readers and a string to others (quote it)"},
		"Exponent":   {"a string to PyYAML", "a: 1e3", "f.sls:1: 1e3 is a number to some YAML readers and a string to others (quote it)"},
		"Date":       {"a date to most", "a: 2024-01-31", "f.sls:1: 2024-01-31 is a date to some YAML readers and a string to others (quote it)"},
		"Infinity":   {"no JSON has it", "a: .inf", "f.sls:1: .inf is read differently by different YAML readers (quote it)"},
		"IntKey":     {"JSON has string keys only", "1: a", "f.sls:1: the key 1 is not a string (quote it)"},
		"BigInt":     {"it would lose its last digits", "a: 9223372036854775808", "f.sls:1: 9223372036854775808 is too large for a 64-bit integer (quote it)"},
		"Duplicate":  {"the last would win", "a: 1\nb:\n  c: 1\n  c: 2\n", "f.sls:4: key \"c\" is there twice, first in line 3 (remove one)"},
		"Merge":      {"YAML 1.1 only", "a: &x {b: 1}\nc:\n  <<: *x\n", "f.sls:3: the merge key << is not supported (write the keys out)"},
		"Tag":        {"a type by name", "a: !!binary aGk=\n", "f.sls:1: the tag !!binary is not supported (quote the value instead)"},
		"Documents":  {"the second would be lost", "a: 1\n---\nb: 1\n", "f.sls:3: has more than one YAML document (keep one, without ---)"},
		"List":       {"not a mapping", "- a\n", "f.sls:1: the file is not a mapping (write key: value)"},
		"Bomb":       {"ten billion x", bomb, "f.sls:1: holds more than 200000 values (split the file, or use fewer aliases)"},
		"Indent":     {"the line that breaks, not the block's", "a: 1\nb:\n  c: 1\n d: 2\ne: 3\n", "f.sls:4: not valid YAML: did not find expected key, near `d: 2` (check the indentation and the quotes around it)"},
		"Quote":      {"the line that opens it, not the end", "a: 1\nb: \"x\nc: 1\nd: 2\n", "f.sls:2: not valid YAML: found unexpected end of stream, near `b: \"x` (check the indentation and the quotes around it)"},
		"Bracket":    {"the same for brackets", "a: 1\nb: [x\nc: 1\n", "f.sls:2: not valid YAML: did not find expected ',' or ']', near `b: [x` (check the indentation and the quotes around it)"},
		"Tab":        {"no tabs", "a:\n\tb: 1\n", "f.sls:2: not valid YAML: found character that cannot start any token, near `b: 1` (check the indentation and the quotes around it)"},
		"UTF8":       {"not a text", "a: 1\nb: \xff\n", "f.sls:2: not valid UTF-8 (save the file as UTF-8)"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m, err := one(tc.in)
			if err == nil {
				t.Fatalf("it is read as %v; reason: %s", m.Keys(), tc.reason)
			}
			if err.Error() != tc.want {
				t.Errorf("got  %s\nwant %s\nreason: %s", err, tc.want, tc.reason)
			}
		})
	}
}

func TestReads(t *testing.T) {
	m, err := one("a: true\nb: -3\nc: 1.5\nd: text\ne: null\nf: ~\ng:\nh: \"yes\"\ni: '0644'\nj: [1, {k: v}]\nk: |\n  yes\nl: &x {m: k}\no: *x\np: 0\nq: 10.0.0.1\nr: 1.2.3\ns: 12:ab\nt: True\n")
	if err != nil {
		t.Fatal(err)
	}
	tpl, err := jinja.Parse("t", []byte("{{ m|json }}"))
	if err != nil {
		t.Fatal(err)
	}
	out, err := tpl.Render(map[string]any{"m": m})
	if err != nil {
		t.Fatal(err)
	}
	const want = `{"a": true, "b": -3, "c": 1.5, "d": "text", "e": null, "f": null, "g": null, "h": "yes", "i": "0644", "j": [1, {"k": "v"}], "k": "yes\n", "l": {"m": "k"}, "o": {"m": "k"}, "p": 0, "q": "10.0.0.1", "r": "1.2.3", "s": "12:ab", "t": true}`
	if diff := cmp.Diff(want, string(out.Text)); diff != "" {
		t.Error(diff)
	}
	if got := m.Origin("o"); got != (jinja.Origin{File: "f.sls", Line: 14}) {
		t.Errorf("o is said to be at %v", got)
	}
}

// A plain scalar is read as Kubernetes' own reader reads it, or not at all.
func TestAgreesWithKubernetes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[-+]?(0[box]?)?[0-9._eE:]{0,5}|[yYnNoO][eEfFoOsS]{0,2}|[a-zA-Z0-9.~-]{1,6}`).Draw(t, "scalar")
		m, err := one("a: " + s + "\n")
		if err != nil {
			return
		}
		ours, _ := m.Get("a")
		var theirs struct{ A any }
		if err := yaml.Unmarshal([]byte("a: "+s+"\n"), &theirs); err != nil {
			return
		}
		if n, ok := ours.(int64); ok {
			ours = float64(n)
		}
		if diff := cmp.Diff(theirs.A, ours, cmp.FilterValues(func(a, b any) bool { _, m1 := a.(map[string]any); _, m2 := b.(*jinja.Map); return m1 || m2 }, cmp.Ignore())); diff != "" {
			t.Fatalf("%q: %s", s, diff)
		}
	})
}

func FuzzDocuments(f *testing.F) {
	for _, s := range []string{"a: 1\n---\nb: [x, {y: z}]\n", "&a [*a]", "a: &x [b]\nc: *x\n", "a: 'b\n", "- - - -", "? [a]\n: b\n", "%YAML 1.1\n---\na: 1\n"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		file := &pyyaml.File{Name: "f.sls", Output: jinja.Plain([]byte(s))}
		docs, err := pyyaml.Documents(file)
		for _, d := range docs {
			if err == nil {
				_, err = d.Value()
			}
		}
		var e *strictyaml.Error
		if err != nil && (!errors.As(err, &e) || e.File != "f.sls" || strings.Contains(err.Error(), "\n")) {
			t.Fatalf("the error %q has no file, or two lines", err)
		}
	})
}
