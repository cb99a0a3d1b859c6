//go:build root

package lvm_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/provisioners/lvm"
)

// A killed command of LVM leaves nodes behind. Their number may be another volume's by now,
// and what is done to the node is done to that one.
func TestPresentAsksTheKernelForTheName(t *testing.T) {
	dir := t.TempDir()
	root, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	host := lvm.NewNodeHost(root)
	device := filepath.Join(dir, "hf-a", "hfv-x")
	if there, err := host.Present(device); err != nil || there {
		t.Errorf("no node: %v, %v", there, err)
	}
	if err := os.MkdirAll(filepath.Dir(device), 0o700); err != nil {
		t.Fatal(err)
	}
	const major, minor = 240, 7
	if err := unix.Mknod(device, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		t.Fatal(err)
	}
	if there, err := host.Present(device); err != nil || there {
		t.Errorf("a number that no device has: %v, %v", there, err)
	}
	name := filepath.Join(dir, fmt.Sprintf("sys/dev/block/%d:%d/dm/name", major, minor))
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	for is, want := range map[string]bool{"hf--a-hfv--x": true, "hf--a-hfv--y": false, "hf-a-hfv-x": false, "": false} {
		if err := os.WriteFile(name, []byte(is+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		if there, err := host.Present(device); err != nil || there != want {
			t.Errorf("the kernel calls it %q: %v, %v", is, there, err)
		}
	}
	if err := os.WriteFile(device+"-file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := host.Present(device + "-file"); err == nil {
		t.Error("a file is taken for a device")
	}
}
