package inventory_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/monitor/inventory"
)

// host makes a tree: a value that begins with "-> " is a symbolic link.
func host(t testing.TB, files map[string]string) (*hostfs.FS, string) {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(data, "-> "); ok {
			err = os.Symlink(target, p)
		} else if strings.HasSuffix(name, "/") {
			err = os.MkdirAll(p, 0o755)
		} else {
			err = os.WriteFile(p, []byte(data), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	f, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, dir
}

const (
	sata = "sys/devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/"
	nvme = "sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0/"
	sub  = "sys/devices/virtual/nvme-subsystem/nvme-subsys1/"
)

func realTree() map[string]string {
	return map[string]string{
		// A SATA disk with a partition, as sysfs lays it out.
		"sys/block/sda":                           "-> ../devices/pci0000:00/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda",
		sata + "block/sda/device":                 "-> ../../../2:0:0:0",
		sata + "wwid":                             "naa.5000c500a1b2c3d4\n",
		sata + "model":                            "ST4000NM0035-1V4\n",
		sata + "vpd_pg80":                         "\x00\x80\x00\x14            ZC1ABCDE",
		sata + "block/sda/dev":                    "8:0\n",
		sata + "block/sda/size":                   "7814037168\n",
		sata + "block/sda/ro":                     "0\n",
		sata + "block/sda/queue/rotational":       "1\n",
		sata + "block/sda/sda1/partition":         "1\n",
		sata + "block/sda/sda1/dev":               "8:1\n",
		"dev/disk/by-path/pci-0000:00:1f.2-ata-3": "-> ../../sda",
		"dev/sda":                                 "",
		// NVMe without and with native multipath.
		"sys/block/nvme0n1":     "-> ../devices/pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0/nvme0n1",
		nvme + "nvme0n1/device": "-> ../../nvme0",
		nvme + "model":          "SAMSUNG MZ\n", nvme + "serial": "S4\n",
		nvme + "nvme0n1/wwid": "eui.0025385b71b0a2c4\n", nvme + "nvme0n1/size": "1000\n", nvme + "nvme0n1/dev": "259:0\n",
		"sys/block/nvme1n1":    "-> ../devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1",
		sub + "nvme1n1/device": "-> ../../nvme-subsys1",
		sub + "nvme1n1/wwid":   "uuid.1234\n", sub + "nvme1n1/size": "2000\n", sub + "nvme1n1/dev": "259:1\n",
		sub + "nvme4": "-> ../../../pci/nvme4", "sys/devices/pci/nvme4/transport": "pcie\n",
		sub + "model":                "KIOXIA\n",
		"sys/block/nvme1c4n1/hidden": "1\n", "sys/block/nvme1c4n1/wwid": "uuid.1234\n",
		// What is no disk.
		"sys/block/dm-0/size": "1\n", "sys/block/sr0/size": "1\n", "sys/block/loop0/size": "0\n", "sys/block/zram0/size": "1\n",
		// A loop device.
		"sys/block/loop3/loop/backing_file": "/var/d.img\n", "sys/block/loop3/size": "4\n", "sys/block/loop3/dev": "7:3\n", "sys/block/loop3/loop3p1/partition": "1\n", "sys/block/loop3/ro": "1\n",
	}
}

func TestScan(t *testing.T) {
	f, _ := host(t, realTree())
	s := inventory.Scan(f)
	if s.Err != nil {
		t.Fatal(s.Err)
	}
	want := []inventory.Disk{
		{ID: "0025385b71b0a2c4", Device: "nvme0n1", Model: "SAMSUNG MZ", Serial: "S4", Media: v1alpha1.MediaNVMe, Size: 512000, Slot: "pci0000:00/0000:00:01.0/0000:01:00.0/nvme/nvme0", Names: []string{"nvme0n1", "259:0", "nvme0", "0000:01:00.0"}},
		{ID: "5000c500a1b2c3d4", Device: "sda", Model: "ST4000NM0035-1V4", Serial: "ZC1ABCDE", Media: v1alpha1.MediaHDD, Size: 4000787030016, Slot: "pci-0000:00:1f.2-ata-3", Names: []string{"sda", "8:0", "sda1", "8:1", "ata3", "2:0:0:0", "ata3.00"}},
		{ID: "loop-var-d.img", Weak: true, Device: "loop3", Media: v1alpha1.MediaVirtual, Size: 2048, RO: true, Slot: "/var/d.img", Names: []string{"loop3", "7:3", "loop3p1"}},
		{ID: "uuid.1234", Device: "nvme1n1", Model: "KIOXIA", Media: v1alpha1.MediaNVMe, Size: 1024000, Slot: "pci/nvme4", Names: []string{"nvme1n1", "259:1", "nvme4", "nvme1c4n1"}},
	}
	if d := cmp.Diff(want, s.Disks, cmpopts.EquateEmpty()); d != "" {
		t.Error(d)
	}
	if d, ok := s.Find("uuid.1234"); !ok || d.Device != "nvme1n1" {
		t.Errorf("find: %v %t", d, ok)
	}
	if _, ok := s.Find("zz"); ok {
		t.Error("found a disk that is not there")
	}
}

// A card's hardware partitions are block devices of its own place: each was taken for a disk
// of the card's id, so that the host's disks could never be listed whole.
func TestScanEMMC(t *testing.T) {
	m := map[string]string{}
	const card = "../devices/platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:0001/block/mmcblk0"
	put := func(dev, place, number, device string) {
		m["sys/block/"+dev] = "-> " + place
		dir := "sys/" + strings.TrimPrefix(place, "../")
		m[dir+"/device"], m[dir+"/size"], m[dir+"/dev"] = "-> "+device, "8192\n", number+"\n"
	}
	put("mmcblk0", card, "179:0", "../../../mmc0:0001")
	put("mmcblk0boot0", card+"/mmcblk0boot0", "179:8", "../../mmcblk0")
	put("mmcblk0boot1", card+"/mmcblk0boot1", "179:16", "../../mmcblk0")
	put("mmcblk0gp0", card+"/mmcblk0gp0", "179:24", "../../mmcblk0")
	dir := "sys/" + strings.TrimPrefix(card, "../")
	m[dir+"/mmcblk0p1/partition"], m[dir+"/mmcblk0gp0/mmcblk0gp0p1/partition"] = "1\n", "1\n"
	m["sys/devices/platform/soc/fe340000.mmc/mmc_host/mmc0/mmc0:0001/serial"] = "0x1234abcd\n"
	f, _ := host(t, m)
	s := inventory.Scan(f)
	if s.Err != nil || len(s.Disks) != 1 {
		t.Fatalf("%d disks, %v", len(s.Disks), s.Err)
	}
	want := []string{"mmcblk0", "179:0", "mmcblk0boot0", "179:8", "mmcblk0boot1", "179:16", "mmcblk0gp0", "179:24", "mmcblk0gp0p1", "mmcblk0p1"}
	if d := cmp.Diff(want, s.Disks[0].Names); d != "" {
		t.Error(d)
	}
}

// Absence is never evidence: each of these must be an error, and what can be
// read is listed all the same.
func TestScanUnreadable(t *testing.T) {
	cases := map[string]struct {
		reason string
		edit   func(map[string]string)
		disks  int
		err    string
	}{
		"NoSysfs":   {"sysfs is not mounted", func(m map[string]string) { clear(m); m["etc/x"] = "" }, 0, "list disks"},
		"Empty":     {"an empty directory is mounted in its place", func(m map[string]string) { clear(m); m["sys/block/"] = "" }, 0, "no block device at all"},
		"NotADir":   {"a file in the directory's place", func(m map[string]string) { clear(m); m["sys/block"] = "x" }, 0, "list disks"},
		"BadSize":   {"an attribute that cannot be", func(m map[string]string) { m[sata+"block/sda/size"] = "-5" }, 3, `size is "-5"`},
		"Attribute": {"an attribute that cannot be read", func(m map[string]string) { delete(m, nvme+"model"); m[nvme+"model/x"] = "" }, 3, "read disk nvme0n1"},
		"Twins":     {"two drives with one WWN: nobody can tell whose fault it is", func(m map[string]string) { m["sys/block/sdz/device/wwid"] = "naa.5000c500a1b2c3d4" }, 3, "same id"},
		"Multipath": {"two paths to one drive, which multipath holds", func(m map[string]string) {
			m["sys/block/sdz/device/wwid"], m["sys/block/sdz/holders/dm-0"], m[sata+"block/sda/holders/dm-0"] = "naa.5000c500a1b2c3d4", "-> x", "-> x"
			m["sys/block/dm-0/dm/uuid"] = "mpath-35000c500a1b2c3d4"
		}, 4, ""},
		"PathOut": {"multipath has taken one path out of its map", func(m map[string]string) {
			m["sys/block/sdz/device/wwid"], m["sys/block/sdz/holders/"], m[sata+"block/sda/holders/dm-0"] = "naa.5000c500a1b2c3d4", "", "-> x"
			m["sys/block/dm-0/dm/uuid"] = "mpath-35000c500a1b2c3d4"
		}, 4, ""},
		"NoPathIn": {"multipath holds neither", func(m map[string]string) {
			m["sys/block/sdz/device/wwid"], m["sys/block/sdz/holders/"], m[sata+"block/sda/holders/"] = "naa.5000c500a1b2c3d4", "", ""
		}, 3, "same id"},
		"Elsewhere": {"the other one is held by somebody else", func(m map[string]string) {
			m["sys/block/sdz/device/wwid"], m["sys/block/sdz/holders/dm-1"], m[sata+"block/sda/holders/dm-0"] = "naa.5000c500a1b2c3d4", "-> x", "-> x"
			m["sys/block/dm-0/dm/uuid"], m["sys/block/dm-1/dm/uuid"] = "mpath-35000c500a1b2c3d4", "LVM-abc"
		}, 3, "same id"},
		"TwoMaps": {"two maps are two drives", func(m map[string]string) {
			m["sys/block/sdz/device/wwid"], m["sys/block/sdz/holders/dm-1"], m[sata+"block/sda/holders/dm-0"] = "naa.5000c500a1b2c3d4", "-> x", "-> x"
			m["sys/block/dm-0/dm/uuid"], m["sys/block/dm-1/dm/uuid"] = "mpath-35000c500a1b2c3d4", "mpath-35000c500a1b2c3d5"
		}, 3, "same id"},
		"NotPaths": {"two drives with one WWN below one logical volume are not one drive", func(m map[string]string) {
			m["sys/block/sdz/device/wwid"], m["sys/block/sdz/holders/dm-0"], m[sata+"block/sda/holders/dm-0"] = "naa.5000c500a1b2c3d4", "-> x", "-> x"
			m["sys/block/dm-0/dm/uuid"] = "LVM-abc"
		}, 3, "same id"},
		"TwoLoops": {"two loop devices of one file are one disk", func(m map[string]string) { m["sys/block/loop9/loop/backing_file"] = "/var/d.img" }, 4, ""},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m := realTree()
			tc.edit(m)
			f, _ := host(t, m)
			s := inventory.Scan(f)
			if len(s.Disks) != tc.disks || (s.Err == nil) != (tc.err == "") || s.Err != nil && !strings.Contains(s.Err.Error(), tc.err) {
				t.Errorf("%d disks, error %v; want %d, %q; reason: %s", len(s.Disks), s.Err, tc.disks, tc.err, tc.reason)
			}
		})
	}
}

// The disks that the host lives on, through whatever lies between; data that is
// mounted for pods is none of it.
func TestSystem(t *testing.T) {
	const sda, n1 = "5000c500a1b2c3d4", "0025385b71b0a2c4"
	line := func(number, point, kind, source string) string {
		return "22 1 " + number + " / " + point + " rw - " + kind + " " + source + " rw\n"
	}
	cases := map[string]struct {
		reason string
		mounts string
		want   []string
	}{
		"Partition":  {"the root is a partition", line("8:1", "/", "ext4", "/dev/root") + line("259:0", "/mnt/data", "ext4", "/dev/nvme0n1"), []string{sda}},
		"Btrfs":      {"btrfs has a number of its own", line("0:31", "/", "btrfs", "/dev/sda1"), []string{sda}},
		"Volume":     {"a logical volume over two disks", line("253:7", "/var", "xfs", "/dev/mapper/vg-var"), []string{n1, sda}},
		"Network":    {"a root that is on no disk", line("0:20", "/", "nfs", "server:/root"), []string{}},
		"Empty":      {"every host has a root: nothing was read", "", nil},
		"Unreadable": {"nobody knows", "x", nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			m := realTree()
			m["proc/1/mountinfo"] = tc.mounts
			m["sys/dev/block/8:1"], m["dev/sda1"] = "-> ../../block/sda/sda1", ""
			m["sys/dev/block/259:0"] = "-> ../../block/nvme0n1"
			m["sys/block/dm-7/slaves/sda1/x"], m["sys/block/dm-7/slaves/nvme0n1/x"] = "", ""
			m["sys/dev/block/253:7"] = "-> ../../block/dm-7"
			f, _ := host(t, m)
			if d := cmp.Diff(tc.want, inventory.Scan(f).System); d != "" {
				t.Errorf("%s; reason: %s", d, tc.reason)
			}
		})
	}
}

// Names of stacked devices are the disk's that they lie on, when it is one.
func TestScanStacks(t *testing.T) {
	m := realTree()
	on := func(dev, number string, slaves ...string) {
		m["sys/block/"+dev+"/dev"] = number + "\n"
		for _, s := range slaves {
			m["sys/block/"+dev+"/slaves/"+s] = "-> x"
		}
	}
	on("dm-0", "253:0", "sda1") // LV on a partition
	m["sys/block/dm-0/dm/name"] = "vg-rows\n"
	on("dm-1", "253:1", "dm-0")            // dm-crypt on it
	on("dm-2", "253:2", "sda1", "nvme0n1") // LV over two disks
	on("dm-3", "253:3", "dm-2")            // and what is on that
	on("dm-4", "253:4", "sda1", "sdx")     // half of it is nobody's
	on("md0", "9:0", "sda1", "nvme1n1")    // mirror
	on("md1", "9:1", "nvme0n1")            // mirror that has lost a half
	on("md_home", "9:127", "nvme0n1")      // its name is of letters
	on("bcache0", "252:0", "loop3")        // its cache is not among them
	m["sys/fs/btrfs/features/x"] = ""
	m["sys/fs/btrfs/1/devices/sda1"], m["sys/fs/btrfs/1/devices/loop3p1"] = "-> x", "-> x"
	m["sys/fs/btrfs/2/devices/nvme1n1"] = "-> x" // alone
	on("dm-5", "253:5", "dm-5")                  // cannot be; must end
	f, _ := host(t, m)
	s := inventory.Scan(f)
	if s.Err != nil {
		t.Fatal(s.Err)
	}
	owners := map[string]string{}
	for _, d := range s.Disks {
		for _, n := range slices.Concat(d.Above, d.Members) {
			owners[n] = d.Device
		}
	}
	for _, n := range s.Shared {
		owners[n] = "shared"
	}
	for name, want := range map[string]string{
		"dm-0": "sda", "253:0": "sda", "vg-rows": "sda", "dm-1": "sda", "253:1": "sda", "dm-2": "shared", "dm-3": "shared", "dm-4": "shared", "253:4": "shared",
		"md0": "shared", "md1": "nvme0n1", "9:1": "nvme0n1", "md_home": "nvme0n1", "bcache0": "", "dm-5": "shared", "sda1": "sda", "loop3p1": "loop3", "nvme1n1": "",
	} {
		if owners[name] != want {
			t.Errorf("%s is %q, want %q", name, owners[name], want)
		}
	}
}

// An array may have partitions, which have no slaves of their own: the host's own disks were
// not found below one, and a logical volume on one was nobody's.
func TestScanPartitionedArray(t *testing.T) {
	const sda, n1 = "5000c500a1b2c3d4", "0025385b71b0a2c4"
	for name, tc := range map[string]struct {
		members []string
		system  []string
		above   string // of the disk that all lies on
	}{
		"Mirror": {[]string{"sda1", "nvme0n1"}, []string{n1, sda}, ""},
		"OfOne":  {[]string{"sda1"}, []string{sda}, "dm-7 md126 md126p2 259:7 md126p3 9:126"},
	} {
		t.Run(name, func(t *testing.T) {
			m := realTree()
			const md = "sys/devices/virtual/block/md126/"
			m["sys/block/md126"], m[md+"dev"] = "-> ../devices/virtual/block/md126", "9:126\n"
			for _, member := range tc.members {
				m[md+"slaves/"+member] = "-> x"
			}
			m[md+"md126p2/partition"], m[md+"md126p2/dev"], m[md+"md126p3/partition"] = "2\n", "259:7\n", "3\n"
			for _, dev := range []string{"md126p2", "md126p3"} {
				m["sys/class/block/"+dev] = "-> ../../devices/virtual/block/md126/" + dev
			}
			m["sys/dev/block/259:7"] = "-> ../../devices/virtual/block/md126/md126p2"
			m["sys/block/dm-7/slaves/md126p3"] = "-> x"
			m["proc/1/mountinfo"] = "26 1 259:7 / / rw - ext4 /dev/md126p2 rw\n"
			f, _ := host(t, m)
			s := inventory.Scan(f)
			if d := cmp.Diff(tc.system, s.System); d != "" {
				t.Error(d)
			}
			d, ok := s.Find(sda)
			if !ok || strings.Join(d.Above, " ") != tc.above && tc.above != "" {
				t.Errorf("above the disk are %v, want %s", d.Above, tc.above)
			}
			if tc.above == "" && !slices.Contains(s.Shared, "md126p3") {
				t.Errorf("the partition of an array of two disks is not shared: %v", s.Shared)
			}
		})
	}
}

// An adapter calls a disk that it loses by the SAS address alone, "mpt3sas_cm0: removing
// handle(0x0029), sas_addr(0x5000cca25492cd81)": that was a fault of no disk.
func TestScanSASAddress(t *testing.T) {
	const lun = "devices/pci0000:00/0000:01:00.0/host0/port-0:0/expander-0:0/port-0:0:3/end_device-0:0:3/target0:0:3/0:0:3:0"
	const port = "sys/class/sas_device/end_device-0:0:3/sas_address"
	for name, tc := range map[string]struct {
		reason string
		edit   func(map[string]string)
		want   string
	}{
		"Both":    {"adapter and transport tell the same", func(map[string]string) {}, "0x5000cca25492cd81 5000cca25492cd81"},
		"Adapter": {"not each adapter has the transport's devices", func(m map[string]string) { delete(m, port) }, "0x5000cca25492cd81 5000cca25492cd81"},
		"Port":    {"nor does each tell the address at the disk", func(m map[string]string) { delete(m, "sys/"+lun+"/sas_address") }, "0x5000cca25492cd81 5000cca25492cd81"},
		"None":    {"zeros are what an adapter has for what is on no SAS", func(m map[string]string) { m["sys/"+lun+"/sas_address"] = "0x0000000000000000\n"; delete(m, port) }, ""},
		"NotTold": {"one that cannot be read hides no disk", func(m map[string]string) {
			delete(m, "sys/"+lun+"/sas_address")
			m["sys/"+lun+"/sas_address/x"] = ""
			delete(m, port)
		}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			m := map[string]string{
				"sys/block/sdb":                    "-> ../" + lun + "/block/sdb",
				"sys/" + lun + "/block/sdb/device": "-> ../../../0:0:3:0", "sys/" + lun + "/block/sdb/size": "1000\n",
				"sys/" + lun + "/wwid": "naa.5000cca25492cd80\n", "sys/" + lun + "/sas_address": "0x5000cca25492cd81\n", port: "0x5000cca25492cd81\n",
			}
			tc.edit(m)
			f, _ := host(t, m)
			s := inventory.Scan(f)
			if s.Err != nil || len(s.Disks) != 1 {
				t.Fatalf("%d disks, %v", len(s.Disks), s.Err)
			}
			if got := strings.Join(s.Disks[0].Names, " "); got != strings.TrimSpace("sdb 0:0:3:0 "+tc.want) {
				t.Errorf("its names are %q; reason: %s", got, tc.reason)
			}
		})
	}
}

// The controllers of a disk with native multipath are where its subsystem's links lead: a
// line that names a PCI function of one found no disk, and nobody was told where the disk is.
func TestScanSubsystemPlaces(t *testing.T) {
	const port = "pci0000:00/0000:00:02.0/0000:02:00.0/nvme/nvme4"
	m := realTree()
	m[sub+"nvme4"], m["sys/devices/"+port+"/transport"] = "-> ../../../"+port, "pcie\n"
	f, _ := host(t, m)
	s := inventory.Scan(f)
	d, ok := s.Find("uuid.1234")
	if !ok || d.Slot != port || strings.Join(d.Names, " ") != "nvme1n1 259:1 nvme4 0000:02:00.0 nvme1c4n1" || len(d.Paths) != 0 {
		t.Errorf("one port: %+v, %v", d, s.Err)
	}
	second := strings.NewReplacer("0000:02:00.0", "0000:03:00.0", "nvme4", "nvme5").Replace(port)
	m[sub+"nvme5"], m["sys/devices/"+second+"/transport"] = "-> ../../../"+second, "pcie\n"
	f, _ = host(t, m)
	s = inventory.Scan(f)
	d, ok = s.Find("uuid.1234")
	if !ok || d.Slot != "virtual/nvme-subsystem/nvme-subsys1" || strings.Join(d.Paths, " ") != "nvme4 0000:02:00.0 nvme5 0000:03:00.0 nvme1c4n1" {
		t.Errorf("two ports: %+v, %v", d, s.Err)
	}
}

// Ways to a disk: one that is lost is not the disk.
func TestScanPaths(t *testing.T) {
	m := realTree()
	m["sys/block/sdz/device/wwid"], m["sys/block/sdz/holders/dm-0"], m[sata+"block/sda/holders/dm-0"] = "naa.5000c500a1b2c3d4", "-> x", "-> x"
	m["sys/block/dm-0/dm/uuid"], m["sys/block/dm-0/slaves/sda"], m["sys/block/dm-0/slaves/sdz"] = "mpath-35000c500a1b2c3d4", "-> x", "-> x"
	m[sub+"nvme5"], m["sys/devices/pci/nvme5/transport"] = "-> ../../../pci/nvme5", "pcie\n" // a second controller
	m["sys/block/nvme1c5n1/hidden"] = "1\n"
	// What is answered and what waits is counted on all ways; the disk above the legs counts wrongly.
	stat := func(reads, writes, waiting, discards, flushes int) string {
		return fmt.Sprintf("%d 0 0 0 %d 0 0 0 %d 0 0 %d 0 0 0 %d 0\n", reads, writes, waiting, discards, flushes)
	}
	m[sata+"block/sda/stat"], m["sys/block/sdz/stat"] = stat(1000, 200, 2, 30, 4), stat(1, 0, 1, 0, 0)
	m[sub+"nvme1n1/stat"], m["sys/block/nvme1c4n1/stat"], m["sys/block/nvme1c5n1/stat"] = stat(0, 0, 9, 0, 0), stat(5, 0, 1, 0, 0), stat(6, 0, 0, 0, 0)
	f, _ := host(t, m)
	s := inventory.Scan(f)
	if s.Err != nil {
		t.Fatal(s.Err)
	}
	traffic := map[string][2]uint64{}
	for _, d := range s.Disks {
		traffic[d.Device] = [2]uint64{d.Answered, d.Waiting}
	}
	if d := cmp.Diff(map[string][2]uint64{"sda": {1235, 3}, "nvme1n1": {11, 1}, "nvme0n1": {}, "loop3": {}}, traffic); d != "" {
		t.Errorf("answered and waiting: %s", d)
	}
	paths := map[string]string{}
	for _, d := range s.Disks {
		paths[d.Device] = strings.Join(d.Paths, " ")
		if d.Device == "sda" && !slices.Contains(d.Names, "dm-0") {
			t.Errorf("the multipath device is not among the disk's names: %v", d.Names)
		}
		if d.Device == "nvme1n1" && !slices.Contains(d.Names, "nvme1c4n1") {
			t.Errorf("names of the NVMe disk: %v", d.Names)
		}
	}
	want := map[string]string{"sda": "sda 8:0 sda1 8:1 ata3 2:0:0:0 ata3.00 sdz", "nvme1n1": "nvme4 nvme5 nvme1c4n1 nvme1c5n1", "nvme0n1": "", "loop3": ""}
	if d := cmp.Diff(want, paths); d != "" {
		t.Error(d)
	}
}

// What is sent to a partition waits for its disk, whether or not the kernel counts it as the disk's.
func TestScanTrafficOfPartitions(t *testing.T) {
	stat := func(reads, waiting int) string {
		return fmt.Sprintf("%d 0 0 0 0 0 0 0 %d 0 0 0 0 0 0 0 0\n", reads, waiting)
	}
	for name, tc := range map[string]struct {
		reason     string
		disk, part string
		want       [2]uint64
	}{
		"Both":    {"Linux 5.11 to 6.1: the disk's count has the partition's", stat(7, 3), stat(5, 2), [2]uint64{7, 3}},
		"Apart":   {"Linux 6.18: the disk's has none of them", stat(7, 0), stat(5, 12), [2]uint64{7, 12}},
		"Disk":    {"what is sent to the disk itself", stat(7, 4), stat(5, 0), [2]uint64{7, 4}},
		"Idle":    {"nothing waits", stat(7, 0), stat(5, 0), [2]uint64{7, 0}},
		"Unknown": {"a partition that is just made has no file yet", stat(7, 1), "", [2]uint64{7, 1}},
	} {
		t.Run(name, func(t *testing.T) {
			m := realTree()
			m[sata+"block/sda/stat"] = tc.disk
			if tc.part != "" {
				m[sata+"block/sda/sda1/stat"] = tc.part
			}
			f, _ := host(t, m)
			s := inventory.Scan(f)
			i := slices.IndexFunc(s.Disks, func(d inventory.Disk) bool { return d.Device == "sda" })
			if s.Err != nil || i < 0 {
				t.Fatal(s.Err, i)
			}
			if got := [2]uint64{s.Disks[i].Answered, s.Disks[i].Waiting}; got != tc.want {
				t.Errorf("answered and waiting %v, want %v: %s", got, tc.want, tc.reason)
			}
		})
	}
}
