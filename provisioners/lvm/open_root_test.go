//go:build root

package lvm

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/hostfs"
)

// What is read for another node is opened alone: who mounts it by hand in the middle would
// make a copy of two moments.
func TestDeviceThatIsReadIsOpenedAlone(t *testing.T) {
	dir := t.TempDir()
	root, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	number, err := rdev(loop(t, make([]byte, 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	device := filepath.Join(dir, "g", "v")
	name := filepath.Join(dir, fmt.Sprintf("sys/dev/block/%d:%d/dm/name", unix.Major(number), unix.Minor(number)))
	for _, d := range []string{filepath.Dir(device), filepath.Dir(name)} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(name, []byte("g-v\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(device, unix.S_IFBLK|0o600, int(number)); err != nil {
		t.Fatal(err)
	}
	first, err := NewNodeHost(root).Open(device, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, write := range []bool{false, true} {
		if second, err := NewNodeHost(root).Open(device, write); err == nil {
			t.Errorf("it is opened twice, write %v: %v", write, second.Close())
		}
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
}
