package nodedisks_test

import (
	"strings"
	"testing"

	"holdfast.dev/internal/nodedisks"
)

const good = `apiVersion: holdfast.dev/v1alpha1
kind: NodeDisks
disks:
- id: 0x5000c500a1b2c3d4
  group: data
  role: static
  media: ssd
  partitions:
  - {uuid: 0fc63daf-8483-4772-8e79-3d69d8477de4, filesystem: ext4, mountPoint: /mnt/holdfast/a, storageClass: local-ssd}
- {id: 0x5000c500a1b2c3d5, group: db, role: lvm, media: ssd, volumeGroup: hf-db-1}
volumeGroups:
- {name: hf-db-1, uuid: F2jxEO-2Eo9-4dCj-1gQ8-8K5k-zDXA-Ab12cd, pool: db, thinPool: pool0}
`

func TestParse(t *testing.T) {
	f, err := nodedisks.Parse("disks.yaml", []byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if got := f.Disks[0].Partitions[0].MountPoint; got != "/mnt/holdfast/a" {
		t.Errorf("mount point %q", got)
	}
}

func TestParseRefuses(t *testing.T) {
	cases := map[string]struct{ reason, old, new, want string }{
		"Field":     {"a misspelt field would drop a mount point", "mountPoint", "mountpoint", `disks.yaml:9: unknown field "mountpoint"`},
		"Kind":      {"another kind of file", "NodeDisks", "Fleet", "not holdfast.dev/v1alpha1 NodeDisks"},
		"UUID":      {"identity must be exact", "0fc63daf-8483", "0FC63DAF-8483", "is not a lower-case UUID"},
		"Escape":    {"a mount point must not climb", "/mnt/holdfast/a", "/mnt/../etc", "is not a clean absolute path"},
		"Root":      {"the root file system is never a volume", "/mnt/holdfast/a", "/", "is not a clean absolute path"},
		"ID":        {"an id goes into names and labels", "0x5000c500a1b2c3d4", "../sda", "disk id"},
		"Role":      {"roles are a closed set", "static", "stattic", `role "stattic" is not`},
		"NoGroup":   {"a disk must not be lost from sight", "volumeGroup: hf-db-1", "volumeGroup: hf-db-2", `volume group "hf-db-2" is not listed`},
		"GroupName": {"a name goes into commands", "name: hf-db-1", `name: "-f"`, `volume group "-f": the name`},
		"GroupUUID": {"names recur, the UUID does not", "F2jxEO-", "F2jxE-", "is not one of LVM's"},
		"GroupRole": {"only disks of role lvm have one", "group: db, role: lvm", "group: db, role: raw", "of role raw has a volume group"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := nodedisks.Parse("disks.yaml", []byte(strings.Replace(good, tc.old, tc.new, 1)))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q; reason: %s", err, tc.want, tc.reason)
			}
		})
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte("disks: [[["))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := nodedisks.Parse("disks.yaml", data)
		if err == nil && file == nil {
			t.Fatal("neither a file nor an error")
		}
		if err != nil && !strings.HasPrefix(err.Error(), "disks.yaml") {
			t.Errorf("error does not name the file: %v", err)
		}
	})
}
