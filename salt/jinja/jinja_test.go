package jinja_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
)

// The texts that a person sees, each at the line of the fault.
func TestFaultsNameFileAndLine(t *testing.T) {
	cases := map[string]struct {
		reason string
		in     string
		want   string
	}{
		"Undefined":       {"the line is the expression's, not the block's", "a\n{% if true %}\nb\n{{ replicas }}\n{% endif %}\n", "t.jinja:4: \"replicas\" is not defined, in `{{ replicas }}` (define it with {% set %}, or with context: in the state)"},
		"UndefinedInList": {"Jinja2 prints [Undefined] here", "{{ [zz] }}", "t.jinja:1: \"zz\" is not defined, in `{{ [zz] }}` (define it with {% set %}, or with context: in the state)"},
		"UndefinedInTag":  {"a tag over several lines has lines of its own", "{{ 'a' ~\n\n   zz }}", "t.jinja:3: \"zz\" is not defined, in `zz }}` (define it with {% set %}, or with context: in the state)"},
		"Unclosed":        {"the line is where the tag opens", "a\n\n{{ n\nb\n", "t.jinja:3: the tag is not closed, in `{{ n` (add }})"},
		"UnclosedIf":      {"the line is where the block opens", "a\n{% if n %}\nb\n", "t.jinja:2: {% if %} is not closed, in `{% if n %}` (add {% endif %})"},
		"WrongEnd":        {"blocks must nest", "{% if n %}\n{% endfor %}\n", "t.jinja:2: {% endfor %} stands where {% endif %} is needed, in `{% endfor %}` (check how the blocks nest)"},
		"Statement":       {"what is not known is refused", "\n{% bogus x %}", "t.jinja:2: the statement \"bogus\" is not known, in `{% bogus x %}`"},
		"Filter":          {"a filter is refused when parsed, even where it never runs", "{% if false %}\n{{ n|bogus }}{% endif %}", "t.jinja:2: the filter \"bogus\" is not known, in `{{ n|bogus }}{% endif %}` (see salt/README.md for those that are)"},
		"None":            {"Python's None is no value of YAML", "{{ none }}", "t.jinja:1: prints None, in `{{ none }}` (give it a value, or use | json to print null)"},
		"List":            {"Python's repr is YAML only by luck", "{{ l }}", "t.jinja:1: prints a list as Python writes it, in `{{ l }}` (use | json)"},
		"Method":          {"a forgotten pair of parentheses", "{{ d.items }}", "t.jinja:1: prints a function, as Python writes it, in `{{ d.items }}` (call it, or read a value from it; | list makes a list of a generator)"},
		"Semicolon":       {"some engines drop what they do not know", "{{ n; }}", "t.jinja:1: unexpected character \";\", in `{{ n; }}`"},
		"NoComma":         {"two values need one between", "{{ d.get('a' n) }}", "t.jinja:1: \",\" or \")\" is needed, not \"n\", in `{{ d.get('a' n) }}`"},
		"AddTypes":        {"a string and a number have no sum", "{{ 'a' + 1 }}", "t.jinja:1: \"+\" between a string and an int, in `{{ 'a' + 1 }}` (use two numbers; ~ joins strings)"},
		"Loop":            {"break needs a loop", "{% break %}", "t.jinja:1: break stands outside a loop, in `{% break %}`"},
		"Slice":           {"a step of 0 never ends", "{{ l[::0] }}", "t.jinja:1: a slice's step is an integer other than 0, in `{{ l[::0] }}`"},
		"Macro":           {"the line is the one inside the macro", "{% macro m() %}\n{{ zz }}\n{% endmacro %}\n\n{{ m() }}", "t.jinja:2: \"zz\" is not defined, in `{{ zz }}` (define it with {% set %}, or with context: in the state)"},
		"ForPairs":        {"a dict without .items()", "{% for k, v in d %}{% endfor %}", "t.jinja:1: 2 names for 1 values, in `{% for k, v in d %}{% endfor %}` (use .items() to loop over a dict's keys and values)"},
		"Octal":           {"Python has no such literal", "{{ 0644 }}", "t.jinja:1: unexpected \"644\", in `{{ 0644 }}`"},
		"Overflow":        {"Python's integers have no end, ours do", "{{ 2 ** 100000 }}", "t.jinja:1: the integer is too large, in `{{ 2 ** 100000 }}`"},
		"Comment":         {"the line is where it opens", "a\n{# b\nc\n", "t.jinja:2: the comment is not closed, in `{# b` (add #})"},
		"UTF8":            {"not a text", "a\n\xff", "t.jinja:2: not valid UTF-8 (save the file as UTF-8)"},
	}
	names := map[string]any{"n": int64(1), "l": []any{int64(1)}, "d": mapOf("a", "b")}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			out, err := render(tc.in, names)
			if err == nil {
				t.Fatalf("renders to %q; reason: %s", out.Text, tc.reason)
			}
			if diff := cmp.Diff(tc.want, err.Error()); diff != "" {
				t.Errorf("%s; reason: %s", diff, tc.reason)
			}
		})
	}
}

func mapOf(pairs ...any) *jinja.Map {
	m := jinja.NewMap()
	for i := 0; i < len(pairs); i += 2 {
		m.Set(pairs[i].(string), pairs[i+1], jinja.Origin{})
	}
	return m
}

// A template cannot take the renderer with it.
func TestBounds(t *testing.T) {
	cases := map[string]string{
		"Loops":       "{% for a in l %}{% for b in l %}{% for c in l %}{% for d in l %}{% endfor %}{% endfor %}{% endfor %}{% endfor %}",
		"Output":      "{% set s = 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' %}{% for a in l %}{% for b in l %}{{ s }}{{ s }}{{ s }}{{ s }}{{ s }}{% endfor %}{% endfor %}",
		"Parentheses": strings.Repeat("{{ (", 1) + strings.Repeat("(", 5000) + "1",
		"Nots":        "{{ " + strings.Repeat("not ", 5000) + "1 }}",
		"Minuses":     "{{ " + strings.Repeat("-", 5000) + "1 }}",
		"Blocks":      strings.Repeat("{% if true %}", 5000),
		"Power":       "{{ 2 ** 100000 }}",
		"Repeat":      "{{ 'x' * 100000000 }}",
		"Recursion":   "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
		"Growing":     "{% set l = [1] %}{% for i in range(60) %}{% do l.extend(l) %}{% endfor %}",
		"Product":     "{{ range(1000)|product(repeat=8)|list }}",
		"Chain":       "{{ 1" + strings.Repeat(" + 1", 5000) + " }}",
		"Format":      "{{ '%99999999999d' % 1 }}",
		"Self":        "{% block a %}{{ self.a() }}{% endblock %}",
		"Join":        "{% set s = ['" + strings.Repeat("x", 100000) + "']|join %}{% for a in [1,2,3,4,5,6,7,8] %}" + strings.Repeat("{% set s = s ~ s %}", 10) + "{{ s }}{% endfor %}",
	}
	var l []any
	for range 300 {
		l = append(l, int64(1))
	}
	for name, in := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := render(in, map[string]any{"l": l}); err == nil {
				t.Error("renders without end")
			}
		})
	}
}

// Every line of the output knows the template line that it came from.
func TestLines(t *testing.T) {
	src := "a: 1\n{% for x in [1, 2] %}\n- {{ x }}\n{% endfor %}\n{{ two }}\nend\n"
	out, err := render(src, map[string]any{"two": "p\nq"})
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	lines := strings.Split(strings.TrimSuffix(string(out.Text), "\n"), "\n")
	for i := range lines {
		got = append(got, out.Line(i+1))
	}
	want := []string{"a: 1", "", "- 1", "", "- 2", "", "p", "q", "end"}
	if diff := cmp.Diff(want, lines); diff != "" {
		t.Fatal(diff)
	}
	if diff := cmp.Diff([]int{1, 2, 3, 2, 3, 4, 5, 5, 6}, got); diff != "" {
		t.Error(diff)
	}
}

// Text without tags stays as it is, and each line is its own.
func TestTextIsKept(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		src := rapid.StringMatching(`([a-z:\- ]{0,6}\n){0,6}[a-z]{0,3}`).Draw(t, "src")
		out, err := render(src, nil)
		if err != nil {
			t.Fatal(err)
		}
		if string(out.Text) != src {
			t.Fatalf("%q became %q", src, out.Text)
		}
		for i := range strings.Count(src, "\n") {
			if got := out.Line(i + 1); got != i+1 {
				t.Fatalf("line %d is said to come from %d", i+1, got)
			}
		}
	})
}

// Two values hash alike only when no template can tell them apart.
func TestHash(t *testing.T) {
	values := []any{nil, true, false, int64(1), int64(0), 1.0, "", "1", "true", []any{}, []any{nil}, []any{"a", "b"}, []any{"ab"}, []any{[]any{"a"}, "b"},
		mapOf(), mapOf("a", "b"), mapOf("a", nil), mapOf("a", "b", "c", "d"), mapOf("c", "d", "a", "b"), mapOf("a", mapOf("b", "c")), []any{mapOf("a", "b")}}
	seen := map[string]any{}
	for _, v := range values {
		h := jinja.Hash(v)
		if other, ok := seen[h]; ok {
			t.Errorf("%v and %v have the same hash", v, other)
		}
		seen[h] = v
	}
	one, same := mapOf("a", []any{int64(1)}), mapOf("a", []any{int64(1)})
	if jinja.Hash(one) != jinja.Hash(same) {
		t.Error("equal values have different hashes")
	}
}

func FuzzRender(f *testing.F) {
	c, names := readCorpus(f)
	for _, tc := range c.Cases {
		f.Add(tc.Template)
	}
	f.Fuzz(func(t *testing.T, src string) {
		out, err := render(src, names)
		if err != nil {
			var e *strictyaml.Error
			if !errors.As(err, &e) || e.File != "t.jinja" || strings.Contains(err.Error(), "\n") {
				t.Fatalf("the error %q has no file, or two lines", err)
			}
			return
		}
		again, err := render(src, names)
		if err != nil || string(again.Text) != string(out.Text) {
			t.Fatalf("the second rendering differs: %v", err)
		}
	})
}
