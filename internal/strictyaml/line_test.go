package strictyaml_test

import (
	"testing"

	"holdfast.dev/internal/strictyaml"
)

func TestLine(t *testing.T) {
	root, err := strictyaml.Node("f", []byte("a: 1\nb:\n- {c: 1,\n   d: 2}\n- e\nz: &x\n  y: 1\nw: *x\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		path []any
		want int
	}{
		{nil, 1}, {[]any{"b"}, 2}, {[]any{"b", 0}, 3}, {[]any{"b", 0, "d"}, 4}, {[]any{"b", 1}, 5}, {[]any{"w", "y"}, 7},
		{[]any{"b", 0, "gone"}, 3}, {[]any{"b", 9, "c"}, 2}, {[]any{"a", "c"}, 1}, {[]any{"gone"}, 1},
	} {
		if got := strictyaml.Line(root, tc.path...); got != tc.want {
			t.Errorf("%v is in line %d, want %d", tc.path, got, tc.want)
		}
	}
}
