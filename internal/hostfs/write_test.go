package hostfs_test

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWriteStaysBelowRoot(t *testing.T) {
	f, outside := tree(t)
	if err := f.MkdirAll("/etc/a/b", 0o755); err != nil {
		t.Fatal(err)
	}
	for range 2 { // again is no error, and leaves no temporary file
		if err := f.WriteFile("/etc/a/b/c", []byte("x"), 0o640); err != nil {
			t.Fatal(err)
		}
		if err := f.Symlink("b/c", "/etc/a/l"); err != nil {
			t.Fatal(err)
		}
	}
	if s, err := f.ReadString("/etc/a/l"); err != nil || s != "x" {
		t.Errorf("read %q, %v", s, err)
	}
	if names, err := f.ReadDir("/etc/a/b"); err != nil || len(names) != 1 {
		t.Errorf("the directory has %v, %v", names, err)
	}
	if info, err := f.Lstat("/etc/a/b/c"); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if err := f.Symlink("other", "/etc/a/l"); err == nil {
		t.Error("a link to something else was replaced")
	}
	if err := f.Remove("/etc/a/l"); err != nil {
		t.Error(err)
	}
	if err := f.Remove("/etc/a/l"); err != nil {
		t.Error(err)
	}
	// A name that climbs, and a directory that is a link out of the root.
	if err := f.WriteFile("/../../.."+outside+"/secret", []byte("y"), 0o600); err == nil {
		t.Error("wrote outside by a climbing name")
	}
	if err := f.Symlink(outside, "/etc/out"); err != nil {
		t.Fatal(err)
	}
	if err := f.WriteFile("/etc/out/secret", []byte("y"), 0o600); err == nil {
		t.Error("wrote outside through a link")
	}
	if data, err := os.ReadFile(filepath.Join(outside, "secret")); err != nil || string(data) != "s" {
		t.Errorf("the file outside is %q, %v", data, err)
	}
}
