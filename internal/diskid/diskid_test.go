package diskid_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/util/validation"

	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostfs"
)

func host(t *testing.T, files map[string]string) *hostfs.FS {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	f, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func TestFromSysfs(t *testing.T) {
	cases := map[string]struct {
		reason, dev string
		files       map[string]string
		want        string
		weak        bool
		err         error
	}{
		"SCSI":     {"a SAS or SATA drive has a WWN", "sda", map[string]string{"device/wwid": "naa.5000C500A1B2C3D4\n"}, "5000c500a1b2c3d4", false, nil},
		"NVMe":     {"NVMe has it on the namespace", "nvme0n1", map[string]string{"wwid": "eui.0025385b71b0a2c4\n", "device/serial": "S1"}, "0025385b71b0a2c4", false, nil},
		"T10":      {"a vendor's own designator is as good", "sdb", map[string]string{"device/wwid": "t10.ATA     QEMU HARDDISK   QM00001"}, "t10.ata-qemu-harddisk-qm00001", false, nil},
		"Zero":     {"a WWN of zeros is what firmware writes that has none", "sdc", map[string]string{"device/wwid": "naa.0000000000000000", "device/model": "ST4000 ", "device/vpd_pg80": "\x00\x80\x00\x04 Z1F "}, "st4000-z1f", false, nil},
		"Virtio":   {"virtio-blk has a serial and no model", "vda", map[string]string{"serial": "DISK 1"}, "virtio-disk-1", false, nil},
		"Place":    {"nothing names the drive", "vdb", map[string]string{"size": "1", "serial": ""}, "path-block-vdb", true, nil},
		"Loop":     {"a loop device is its file", "loop3", map[string]string{"loop/backing_file": "/var/lib/Disk 0.img\n"}, "loop-var-lib-disk-0.img", true, nil},
		"Deleted":  {"its id stays when the file's last name goes", "loop3", map[string]string{"loop/backing_file": "/var/lib/Disk 0.img (deleted)\n"}, "loop-var-lib-disk-0.img", true, nil},
		"Free":     {"a free loop device is no disk", "loop4", map[string]string{"size": "0"}, "", false, diskid.ErrNoDisk},
		"Mapper":   {"dm-0 is not a drive", "dm-0", map[string]string{"size": "1"}, "", false, diskid.ErrNoDisk},
		"Array":    {"an array may have a name of letters", "md_home", map[string]string{"size": "1"}, "", false, diskid.ErrNoDisk},
		"ArrayD":   {"and that of one that was made for partitions begins so", "md_d0", map[string]string{"size": "1"}, "", false, diskid.ErrNoDisk},
		"Flash":    {"the board's own flash is no drive", "mtdblock0", map[string]string{"size": "1"}, "", false, diskid.ErrNoDisk},
		"Hidden":   {"a leg of a multipath NVMe namespace is not a second disk", "nvme0c0n1", map[string]string{"hidden": "1", "wwid": "eui.01"}, "", false, diskid.ErrNoDisk},
		"EMMC":     {"a card that tells no serial is named by its place", "mmcblk0", map[string]string{"size": "1"}, "path-block-mmcblk0", true, nil},
		"Boot":     {"what an eMMC boots from is a part of it, and no second disk of its id", "mmcblk0boot1", map[string]string{"size": "1"}, "", false, diskid.ErrNoDisk},
		"General":  {"so is what it has for a general purpose", "mmcblk12gp3", map[string]string{"size": "1"}, "", false, diskid.ErrNoDisk},
		"NotThere": {"absence is told apart from every other fault", "sdz", nil, "", false, fs.ErrNotExist},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			files := map[string]string{"sys/block/.keep": ""}
			for k, v := range tc.files {
				files["sys/block/"+tc.dev+"/"+k] = v
			}
			id, weak, err := diskid.FromSysfs(host(t, files), tc.dev)
			if id != tc.want || weak != tc.weak || !errors.Is(err, tc.err) {
				t.Errorf("got %q %t %v, want %q %t %v; reason: %s", id, weak, err, tc.want, tc.weak, tc.err, tc.reason)
			}
		})
	}
}

// An attribute that cannot be read must not lead to a lesser id: the disk
// would be taken for another one.
func TestFromSysfsUnreadable(t *testing.T) {
	f := host(t, map[string]string{"sys/block/sda/device/wwid/x": "", "sys/block/sda/device/model": "M", "sys/block/sda/serial": "S"})
	if id, _, err := diskid.FromSysfs(f, "sda"); err == nil || errors.Is(err, diskid.ErrNoDisk) {
		t.Errorf("got id %q, error %v", id, err)
	}
}

func TestLabel(t *testing.T) {
	long := strings.Repeat("a", 100)
	cases := map[string]struct{ reason, id, want string }{
		"Same":  {"a valid value is not touched", "5000c500a1b2c3d4", "5000c500a1b2c3d4"},
		"Long":  {"63 characters is the limit", long, strings.Repeat("a", 54) + "-28165978"},
		"Colon": {"':' may be in an id and not in a label", "a:b", "a-b-6783a31e"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := diskid.Label(tc.id)
			if got != tc.want || len(validation.IsValidLabelValue(got)) > 0 {
				t.Errorf("got %q, want %q; reason: %s", got, tc.want, tc.reason)
			}
		})
	}
	if diskid.Label(long+"1") == diskid.Label(long+"2") {
		t.Error("two ids have one label")
	}
}

var slugRE = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,198}[a-z0-9])?$`)

func FuzzSlug(f *testing.F) {
	for _, s := range []string{"", "naa.5000C500", "/tmp/a b/c.img", "--x--", "..", strings.Repeat("x-", 200), "K\u212a\u0130", "\xff\xfe"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := diskid.Slug(s)
		if got == "" {
			if regexp.MustCompile(`[a-zA-Z0-9]`).MatchString(s) {
				t.Errorf("Slug(%q) is empty", s)
			}
			return
		}
		if !slugRE.MatchString(got) {
			t.Errorf("Slug(%q) = %q is not valid", s, got)
		}
		if again := diskid.Slug(got); again != got {
			t.Errorf("Slug(%q) = %q, not itself", got, again)
		}
		if l := diskid.Label(s); len(validation.IsValidLabelValue(l)) > 0 || l == "" {
			t.Errorf("Label(%q) = %q is not valid", s, l)
		}
	})
}

// Two nodes have a disk in the same place; no two have the same drive.
func TestKey(t *testing.T) {
	for _, id := range []string{"path-devices-pci0000-00-nvme0", "loop-var-lib-disk-0.img", "iscsi-iqn.2003-01.org.example-lun-0", "rbd-kube-vol", "nvmeof-nqn.2014-08.org.example-ns-1"} {
		if !diskid.Weak(id) || diskid.Key("a", id) == diskid.Key("b", id) {
			t.Errorf("%s: %q and %q", id, diskid.Key("a", id), diskid.Key("b", id))
		}
	}
	for _, id := range []string{"5000c500a1b2c3d4", "pathfinder-x1-99"} {
		if diskid.Weak(id) || diskid.Key("a", id) != id {
			t.Errorf("%s: %q", id, diskid.Key("a", id))
		}
	}
}
