package inventory

import (
	"os"
	"path/filepath"
	"testing"

	"holdfast.dev/internal/hostfs"
)

// A disk whose name another one got while it was read was listed with the half that was left of it.
func TestStayed(t *testing.T) {
	root := t.TempDir()
	dir := filepath.Join(root, sysBlock, "sdc")
	plug := func() {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	plug()
	host, err := hostfs.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	was, err := host.Lstat(sysBlock + "/sdc")
	if err != nil {
		t.Fatal(err)
	}
	if !stayed(host, "sdc", was) || !stayed(host, "sdc", nil) {
		t.Error("a disk that is there counts as gone")
	}
	if err := os.Rename(dir, filepath.Join(t.TempDir(), "gone")); err != nil {
		t.Fatal(err)
	}
	if stayed(host, "sdc", was) {
		t.Error("a disk that is gone counts as there")
	}
	plug()
	if stayed(host, "sdc", was) {
		t.Error("its successor counts as the disk")
	}
}
