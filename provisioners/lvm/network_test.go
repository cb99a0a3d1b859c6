package lvm_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/vg"
)

// The devices of a group are its disks by their ids. One that is reached over a network has the id of
// where it is; where disks.yaml has it by that of a drive, its volumes go on, and nothing new comes.
func TestDevicesOverNetwork(t *testing.T) {
	dir := t.TempDir()
	write := func(name, data string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(data), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.Symlink(target, p)); err != nil {
			t.Fatal(err)
		}
	}
	for _, dev := range []string{"sda", "sdb"} {
		write("sys/block/"+dev+"/"+dev+"1/partition", "1\n")
		link("../../block/"+dev, "sys/class/block/"+dev)
	}
	write("sys/block/sda/device/wwid", "naa.5000c500a\n")
	link("../../devices/platform/host3/session1/target3:0:0/3:0:0:0", "sys/block/sdb/device")
	write("sys/devices/platform/host3/session1/target3:0:0/3:0:0:0/wwid", "naa.6001405b\n")
	write("sys/class/iscsi_session/session1/targetname", "iqn.a\n")
	root, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() }) // read only
	h := lvm.NewNodeHost(root)
	for name, tc := range map[string]struct {
		disks   []string
		want    []string
		network string
	}{
		"Host":    {[]string{"5000c500a"}, []string{"/dev/sda", "/dev/sda1"}, ""},
		"ByDrive": {[]string{"5000c500a", "6001405b"}, []string{"/dev/sda", "/dev/sda1", "/dev/sdb", "/dev/sdb1"}, "disk 6001405b is reached over a network (iSCSI) as iscsi-iqn.a-lun-0"},
	} {
		got, err := h.Devices(t.Context(), lvm.GroupInfo{Name: "g", Disks: tc.disks})
		if d := cmp.Diff(tc.want, got.Paths); d != "" || err != nil || !strings.HasPrefix(got.Network, tc.network) || (got.Network == "") != (tc.network == "") {
			t.Errorf("%s: %s%v, %q", name, d, err, got.Network)
		}
	}
	if _, err := h.Devices(t.Context(), lvm.GroupInfo{Name: "g", Disks: []string{"gone"}}); err == nil {
		t.Error("a group without a disk has devices")
	}
}

// A group on a disk of a network takes no new volume and no new extents; what is on it stays, can be
// used, and can be removed by who owns it.
func TestGroupOverNetworkTakesNothingNew(t *testing.T) {
	w := newWorld(t)
	v := w.must("old", thick, lvm.XFS, gib)
	w.host.Network = "disk-a is reached over a network"
	w.restart()
	_, err := w.engine.Create(t.Context(), w.request("new", thick, lvm.XFS, gib))
	if !errors.Is(err, vg.ErrNoRoom) || !strings.Contains(err.Error(), w.host.Network) {
		t.Errorf("a new volume: %v", err)
	}
	if _, err := w.engine.Expand(t.Context(), v.Handle, 2*gib, 0); !errors.Is(err, vg.ErrNoRoom) || !strings.Contains(err.Error(), w.host.Network) {
		t.Errorf("new extents: %v", err)
	}
	for _, c := range w.engine.Candidates(lvm.Quarantine{}) {
		if room := c.Room(vg.Want{Pool: "db", Stripes: 1}); room != 0 {
			t.Errorf("%d bytes are offered", room)
		}
	}
	if _, err := w.engine.Volume(t.Context(), v.Handle); err != nil || w.find("hf-a", v.LV.Name) == nil {
		t.Errorf("the old volume: %v", err)
	}
	if err := w.engine.Delete(t.Context(), v.Handle); err != nil || w.find("hf-a", v.LV.Name) != nil {
		t.Errorf("who owns the old volume deletes it: %v", err)
	}
	w.host.Network = ""
	w.restart()
	if _, err := w.engine.Create(t.Context(), w.request("new", thick, lvm.XFS, gib)); err != nil {
		t.Errorf("a disk of the node: %v", err)
	}
}
