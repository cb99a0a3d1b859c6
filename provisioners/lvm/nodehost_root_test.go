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

// node is a host of one device node that the kernel knows by names of the test's.
type node struct {
	t      *testing.T
	host   *NodeHost
	device string // its path
	name   string // the file of its name in sysfs
}

// newNode makes the node for a device number.
func newNode(t *testing.T, number uint64) *node {
	t.Helper()
	dir := t.TempDir()
	root, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	n := &node{t: t, host: NewNodeHost(root), device: filepath.Join(dir, "hf-a", "hfv-x"),
		name: filepath.Join(dir, fmt.Sprintf("sys/dev/block/%d:%d/dm/name", unix.Major(number), unix.Minor(number)))}
	if there, err := n.host.Present(n.device); err != nil || there {
		t.Errorf("no node: %v, %v", there, err)
	}
	if err := os.MkdirAll(filepath.Dir(n.device), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(n.device, unix.S_IFBLK|0o600, int(number)); err != nil {
		t.Fatal(err)
	}
	return n
}

// called has the kernel call the device so.
func (n *node) called(name string) {
	n.t.Helper()
	if err := os.MkdirAll(filepath.Dir(n.name), 0o700); err != nil {
		n.t.Fatal(err)
	}
	if err := os.WriteFile(n.name, []byte(name+"\n"), 0o600); err != nil {
		n.t.Fatal(err)
	}
}

// What is read for another node is opened alone: who mounts it by hand in the middle would
// make a copy of two moments.
func TestDeviceThatIsReadIsOpenedAlone(t *testing.T) {
	number, err := rdev(loop(t, make([]byte, 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	n := newNode(t, number)
	n.called("hf--a-hfv--x")
	first, err := n.host.Open(n.device, false)
	if err != nil {
		t.Fatal(err)
	}
	for _, write := range []bool{false, true} {
		if second, err := n.host.Open(n.device, write); err == nil {
			t.Errorf("it is opened twice, write %v: %v", write, second.Close())
		}
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
}

// A killed command of LVM leaves nodes behind. Their number may be another volume's by now,
// and what is done to the node is done to that one.
func TestPresentAsksTheKernelForTheName(t *testing.T) {
	n := newNode(t, unix.Mkdev(240, 7))
	if there, err := n.host.Present(n.device); err != nil || there {
		t.Errorf("a number that no device has: %v, %v", there, err)
	}
	for is, want := range map[string]bool{"hf--a-hfv--x": true, "hf--a-hfv--y": false, "hf-a-hfv-x": false, "": false} {
		n.called(is)
		if there, err := n.host.Present(n.device); err != nil || there != want {
			t.Errorf("the kernel calls it %q: %v, %v", is, there, err)
		}
	}
	if err := os.WriteFile(n.device+"-file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := n.host.Present(n.device + "-file"); err == nil {
		t.Error("a file is taken for a device")
	}
}
