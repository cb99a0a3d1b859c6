package image

import (
	"maps"
	"testing"
	"testing/fstest"
)

// TestKey: an image is built anew when anything that it is made of is another, and for
// nothing else.
func TestKey(t *testing.T) {
	file := func(data string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(data)} }
	was := fstest.MapFS{"build.sh": file("a"), "packages.txt": file("b"), "overlay/etc/x": file("c")}
	of := func(fs fstest.MapFS) string {
		t.Helper()
		k, err := key(fs)
		if err != nil || k == "" {
			t.Fatalf("key %q: %v", k, err)
		}
		return k
	}
	if of(was) != of(maps.Clone(was)) {
		t.Error("the same source has two keys")
	}
	for name, change := range map[string]func(fstest.MapFS){
		"Package":  func(m fstest.MapFS) { m["packages.txt"] = file("b\n") },
		"Script":   func(m fstest.MapFS) { m["build.sh"] = file("A") },
		"Overlay":  func(m fstest.MapFS) { m["overlay/etc/x"] = file("") },
		"NewFile":  func(m fstest.MapFS) { m["overlay/etc/y"] = file("") },
		"Renamed":  func(m fstest.MapFS) { m["overlay/etc/z"] = m["overlay/etc/x"]; delete(m, "overlay/etc/x") },
		"Boundary": func(m fstest.MapFS) { m["build.sh"], m["packages.txt"] = file("ab"), file("") },
	} {
		now := maps.Clone(was)
		change(now)
		if of(now) == of(was) {
			t.Errorf("%s: the image is not built anew", name)
		}
	}
	if _, err := key(source); err != nil {
		t.Error(err)
	}
}
