package mounttable_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/mounttable"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	table := `22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
30 22 8:17 / /mnt/a rw,relatime - ext4 /dev/sdb1 ro
31 22 8:18 /sub /mnt/b ro,relatime - xfs /dev/sdb2 rw
32 22 0:5 / /dev rw - devtmpfs udev rw
33 22 0:5 /dm-3 /var/lib/kubelet/plugins/x rw - devtmpfs udev rw
`
	if err := errors.Join(os.MkdirAll(filepath.Join(dir, "proc/1"), 0o755), os.WriteFile(filepath.Join(dir, "proc/1/mountinfo"), []byte(table), 0o600)); err != nil {
		t.Fatal(err)
	}
	host, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = host.Close() })
	infos, err := mounttable.Read(host, "1")
	if err != nil {
		t.Fatal(err)
	}
	want := []struct {
		reason, number, node string
		readOnly             bool
	}{
		{"an option that has ro in its name is another one", "8:1", "", false},
		{"the file system went read-only", "8:17", "", true},
		{"the mount is read-only", "8:18", "", true},
		{"all of /dev is no device's node", "0:5", "", false},
		{"a raw volume", "0:5", "dm-3", false},
	}
	if len(infos) != len(want) {
		t.Fatalf("%d mounts, want %d", len(infos), len(want))
	}
	for i, w := range want {
		node, ok := mounttable.Node(infos[i])
		if mounttable.Number(infos[i]) != w.number || node != w.node || ok != (w.node != "") || mounttable.ReadOnly(infos[i]) != w.readOnly {
			t.Errorf("%s: number %s, node %q, read-only %v; reason: %s", infos[i].Mountpoint, mounttable.Number(infos[i]), node, mounttable.ReadOnly(infos[i]), w.reason)
		}
	}
	if _, err := mounttable.Read(host, "2"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v for a process that is not there", err)
	}
}

func TestBrokenTable(t *testing.T) {
	if _, err := mounttable.Parse([]byte("22 1 8:1 / /\n")); err == nil {
		t.Error("a line that is cut short must not pass for no mount")
	}
}
