package strictyaml_test

import (
	"bytes"
	"errors"
	"testing"

	"holdfast.dev/internal/strictyaml"
)

type config struct {
	Name  string   `yaml:"name"`
	Count int      `yaml:"count"`
	List  []config `yaml:"list"`
}

func TestDecodeNamesFileAndLine(t *testing.T) {
	cases := map[string]struct {
		reason string
		in     []byte
		want   string
	}{
		"Unknown":   {"a misspelt field must not be dropped", []byte("name: a\ncuont: 1\n"), `f.yaml:2: unknown field "cuont" (check its spelling and indentation)`},
		"Type":      {"a wrong type names its line", []byte("name: a\ncount: many\n"), "f.yaml:2: cannot unmarshal str `many` into int"},
		"Duplicate": {"the last of two must not win silently", []byte("name: a\nlist:\n- name: b\n  name: c\n"), `f.yaml:4: key "name" is there twice, first in line 3 (remove one)`},
		"Two":       {"a second document would be ignored", []byte("name: a\n---\nname: b\n"), "f.yaml: has more than one YAML document (keep one, without ---)"},
		"Empty":     {"nothing is not a configuration", []byte("# only a comment\n"), "f.yaml: the file is empty"},
		"Encoding":  {"Latin-1 is not UTF-8", []byte("name: a\n# caf\xe9\n"), "f.yaml:2: not valid UTF-8 (save the file as UTF-8)"},
		"Large":     {"a huge file is refused before it is parsed", bytes.Repeat([]byte("#"), strictyaml.MaxSize+1), "f.yaml: 1048577 bytes is too large, the limit is 1048576 (split the file)"},
		"Syntax":    {"the parser's own line is kept", []byte("name: a\n list: [\n"), "f.yaml:2: mapping values are not allowed in this context"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := strictyaml.Decode("f.yaml", tc.in, &config{})
			if err == nil {
				t.Fatalf("no error; reason: %s", tc.reason)
			}
			if err.Error() != tc.want {
				t.Errorf("got  %s\nwant %s\nreason: %s", err, tc.want, tc.reason)
			}
			var e *strictyaml.Error
			if !errors.As(err, &e) {
				t.Errorf("%T is not a strictyaml.Error", err)
			}
		})
	}
}

func TestDecodeGood(t *testing.T) {
	var c config
	if err := strictyaml.Decode("f.yaml", []byte("name: a\nlist: [{name: b, count: 2}]\n"), &c); err != nil {
		t.Fatal(err)
	}
	if c.Name != "a" || len(c.List) != 1 || c.List[0].Count != 2 {
		t.Errorf("decoded %+v", c)
	}
}
