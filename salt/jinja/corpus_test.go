package jinja_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

// corpus is testdata/corpus.json, recorded from Jinja2 by testdata/record.py.
type corpus struct {
	Names json.RawMessage `json:"names"`
	Cases []struct {
		Template string  `json:"template"`
		Output   *string `json:"output"`
		Error    string  `json:"error"`
	} `json:"cases"`
}

func readCorpus(t testing.TB) (corpus, map[string]any) {
	t.Helper()
	data, err := os.ReadFile("testdata/corpus.json")
	if err != nil {
		t.Fatal(err)
	}
	var c corpus
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	m, err := pyyaml.One(&pyyaml.File{Name: "names", Output: jinja.Plain(c.Names)})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]any{}
	for _, k := range m.Keys() {
		names[k], _ = m.Get(k)
	}
	return c, names
}

func render(src string, names map[string]any) (*jinja.Output, error) {
	tpl, err := jinja.Parse("t.jinja", []byte(src))
	if err != nil {
		return nil, err
	}
	return tpl.Render(names)
}

// What Jinja2 renders, this renders to the same bytes; what Jinja2 refuses, this
// refuses.
func TestSameAsJinja2(t *testing.T) {
	c, names := readCorpus(t)
	if len(c.Cases) < 90 {
		t.Fatalf("the corpus has only %d cases", len(c.Cases))
	}
	for _, tc := range c.Cases {
		out, err := render(tc.Template, names)
		switch {
		case tc.Output == nil && err == nil:
			t.Errorf("%q renders to %q, Jinja2 has a %s", tc.Template, out.Text, tc.Error)
		case tc.Output != nil && err != nil:
			t.Errorf("%q: %v, Jinja2 renders %q", tc.Template, err, *tc.Output)
		case tc.Output != nil && string(out.Text) != *tc.Output:
			t.Errorf("%q renders to %q, Jinja2 to %q", tc.Template, out.Text, *tc.Output)
		}
		if err != nil && (!strings.HasPrefix(err.Error(), "t.jinja:") || strings.Contains(err.Error(), "\n")) {
			t.Errorf("%q: the error %q does not begin with file and line, or has two lines", tc.Template, err)
		}
	}
}
