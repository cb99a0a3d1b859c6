package inventory_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/monitor/inventory"
)

// What trees are grown of: names of the kernel, the attributes that are read of them, and
// what may be in one.
var (
	devices = []string{"sda", "sdb", "sdaa", "nvme0n1", "nvme0n2", "nvme0c1n1", "nvme1n1", "vda", "loop0", "loop7", "rbd7", "dm-0", "dm-1", "dm-2", "md0", "md127", "sr0", "zram0", "mmcblk0", "nbd0", "a b", "..x"}
	attrs   = []string{
		"size", "dev", "ro", "hidden", "wwid", "removable", "queue/rotational", "device/wwid", "device/model", "device/serial", "device/vendor", "device/vpd_pg80", "device/vpd_pg83", "device/type",
		"loop/backing_file", "dm/uuid", "dm/name", "md/level", "backing_file", "serial",
	}
	contents = []string{
		"", "\n", "0\n", "1\n", "-5\n", "2048\n", "99999999999999999999\n", "9223372036854775807\n", "8:0\n", "8:16\n", "259:0\n", "x:y\n", "naa.5000c500a1b2c3d4\n", "naa.5000c500a1b2c3d4", "eui.0025385b71b0a2c4\n", "nvme.144d-53-4d-00000001\n",
		"t10.ATA     ST4000NM0035-1V4\n", "ST4000NM0035-1V4\n", "\x00\x80\x00\x14            ZC1ABCDE", "\x00\x80\xff\xffZ", "mpath-35000c500a1b2c3d4\n", "LVM-abc\n", "CRYPT-LUKS2-1\n", "/var/d.img\n", "/var/d.img (deleted)\n", strings.Repeat("x", 5000), "é\xff\n",
	}
	links = []string{
		"../../devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0", "../../devices/platform/host3/session1/target3:0:0/3:0:0:1", "../../devices/pci0000:00/0000:01:00.0/nvme/nvme0",
		"../..", "../../../../../../..", ".", "device", "/", "/sys/block/sda", "../sdb", "nowhere", "/proc/self/root",
	}
)

// grow makes a tree of a program: each three bytes are a file, a link, a directory, a stacked
// device's leg, a partition, or something that all disks of a bus share.
func grow(dir string, program []byte) error {
	put := func(name string, make func(p string) error) {
		p := filepath.Join(dir, name)
		if os.MkdirAll(filepath.Dir(p), 0o755) == nil { // else a file is in its way: the tree stays as it is
			_ = make(p) // the same
		}
	}
	file := func(data string) func(string) error {
		return func(p string) error { return os.WriteFile(p, []byte(data), 0o600) }
	}
	link := func(to string) func(string) error { return func(p string) error { return os.Symlink(to, p) } }
	if err := os.MkdirAll(filepath.Join(dir, "sys/block"), 0o755); err != nil {
		return err
	}
	for ; len(program) >= 3; program = program[3:] {
		op, a, b := program[0], int(program[1]), int(program[2])
		dev := devices[int(op>>3)%len(devices)]
		root := "sys/block/" + dev
		other := devices[b%len(devices)]
		switch op & 7 {
		case 0, 1:
			put(root+"/"+attrs[a%len(attrs)], file(contents[b%len(contents)]))
		case 2:
			put(root+"/device", link(links[b%len(links)]))
		case 3: // a directory in a file's place, or an entry of another device that leads here
			if a%2 == 0 {
				put(root+"/"+attrs[b%len(attrs)]+"/x", file(""))
			} else {
				put("sys/block/"+other, link(dev))
			}
		case 4:
			put(root+"/slaves/"+other, link("../../"+other))
			put("sys/block/"+other+"/holders/"+dev, link("../../"+dev))
		case 5:
			part := dev + []string{"1", "p1", "2", "p128", "x"}[a%5]
			put(root+"/"+part+"/partition", file(contents[b%len(contents)]))
			put(root+"/"+part+"/dev", file(contents[a%len(contents)]))
		case 6:
			put("dev/disk/by-path/"+[]string{"pci-0000:00:1f.2-ata-3", "pci-0000:01:00.0-nvme-1", "virtio-pci-0000:00:05.0", "x"}[a%4], link("../../"+other))
			put("dev/"+other, file(""))
		case 7:
			shared := []string{
				"sys/class/iscsi_session/session1/targetname", "sys/devices/platform/host3/session1/target3:0:0/3:0:0:1/model", "sys/bus/rbd/devices/7/pool", "sys/bus/rbd/devices/7/name",
				"sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/serial", "sys/devices/pci0000:00/0000:01:00.0/nvme/nvme0/model", "sys/devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/wwid", "sys/fs/btrfs/u/devices/" + other,
			}
			put(shared[a%len(shared)], file(contents[b%len(contents)]))
		}
	}
	return nil
}

// FuzzTree grows a sysfs from nothing: whatever it is, a look ends, is the same twice, lists
// disks with ids, each once and in order, whose texts are UTF-8, and puts no name down to a disk that is not listed.
func FuzzTree(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{0, 0, 5, 0, 8, 12, 4, 0, 11, 2, 0, 0, 5, 0, 3})
	f.Add([]byte{92, 0, 12, 100, 0, 11, 92, 0, 13, 108, 0, 11, 92, 0, 0})                   // device mapper devices in a circle
	f.Add([]byte{64, 8, 23, 64, 0, 5, 72, 8, 24, 72, 0, 5, 82, 0, 0, 87, 2, 17, 87, 3, 17}) // loop devices, RBD
	f.Add([]byte{0, 8, 26, 0, 9, 26, 8, 8, 26, 8, 11, 19})                                  // models and serial numbers of any bytes
	for i := range byte(8) {
		var all []byte
		for j := range byte(60) {
			all = append(all, j*37+i, j*11+i, j*7+3*i)
		}
		f.Add(all)
	}
	f.Fuzz(func(t *testing.T, program []byte) {
		if len(program) > 600 {
			return
		}
		dir := t.TempDir()
		if err := grow(dir, program); err != nil {
			t.Fatal(err)
		}
		h, err := hostfs.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = h.Close() }() // read only
		s := inventory.Scan(h)
		again := inventory.Scan(h)
		if d := cmp.Diff(s.Disks, again.Disks); d != "" || (s.Err == nil) != (again.Err == nil) {
			t.Errorf("another look is another: %s, %v and %v", d, s.Err, again.Err)
		}
		ids := map[string]bool{}
		for i, d := range s.Disks {
			if d.ID == "" || d.Device == "" || i > 0 && s.Disks[i-1].ID >= d.ID || !slices.Contains(d.Names, d.Device) || d.Size < 0 {
				t.Errorf("disk %d: %+v", i, d)
			}
			for _, label := range []string{d.ID, d.Device, d.Model, d.Serial, d.Slot} {
				if !utf8.ValidString(label) {
					t.Errorf("%q of disk %s is no UTF-8", label, d.ID)
				}
			}
			ids[d.ID] = true
		}
		var n inventory.Names
		now := time.Now()
		n.Update(&s, now)
		for _, name := range append(slices.Clone(devices), "8:0", "session1", "nvme0", "ata3", "sda1", "nvme0n1p1") {
			got, _, answer := n.Resolve(name, now)
			for _, id := range got {
				if !ids[id] || answer != inventory.Known {
					t.Errorf("%s is of %v (%v)", name, got, answer)
				}
			}
		}
	})
}
