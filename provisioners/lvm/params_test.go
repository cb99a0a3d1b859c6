package lvm_test

import (
	"errors"
	"maps"
	"strings"
	"testing"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/lvm"
)

func TestParseSpecRefuses(t *testing.T) {
	cases := map[string]struct {
		reason, key, value, fs, want string
	}{
		"Unknown":    {"a misspelt parameter would do nothing", "tpye", "thin", "", `parameter tpye="thin": unknown; known are`},
		"Type":       {"types are a closed set", "type", "mirror", "", `parameter type="mirror": give linear, striped or thin`},
		"Pool":       {"a pool's name goes into messages", "pool", "a;b", "", `parameter pool="a;b": give the name`},
		"FS":         {"the program is not in the image", "type", "linear", "zfs", `parameter csi.storage.k8s.io/fstype="zfs": not installed; give xfs or ext4`},
		"Force":      {"mkfs must stop when it finds data", "mkfsOptions", "-f -i size=512", "", "nothing that forces"},
		"ForceExt4":  {"the same in a group of options", "mkfsOptions", "-qF", "ext4", "nothing that forces"},
		"Path":       {"an operand could be another disk", "mkfsOptions", "-l logdev=/dev/sda", "", "no paths"},
		"Device":     {"nor one by a name in /dev", "mkfsOptions", "-l logdev=sda", "", "names a file or another device"},
		"Copies":     {"mke2fs -d copies the driver's own files into a tenant's volume", "mkfsOptions", "-d run", "ext4", "\"-d\" is none"},
		"Prototype":  {"so does mkfs.xfs -p", "mkfsOptions", "-p etc", "", "\"-p\" is none"},
		"NoValue":    {"the device must not become a value", "mkfsOptions", "-i size=512 -L", "", "the flag -L has no value"},
		"Operand":    {"two values", "mkfsOptions", "-L a b", "", "\"b\" is none"},
		"Stripes":    {"a linear volume has none", "stripes", "4", "", `parameter stripes="4": only with type striped`},
		"StripeSize": {"LVM takes powers of two", "stripeSize", "100Ki", "", "power of two"},
		"Wipe":       {"what is not known wipes nothing", "wipe", "shred", "", "give zero, discard or none"},
		"Overcommit": {"only a pool can promise", "overcommit", "2", "", "only with type thin"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := lvm.ParseSpec(map[string]string{"pool": "db", tc.key: tc.value}, tc.fs)
			if !errors.Is(err, lvm.ErrInvalid) || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q; reason: %s", err, tc.want, tc.reason)
			}
		})
	}
	if _, err := lvm.ParseSpec(nil, ""); err == nil || !strings.Contains(err.Error(), `parameter pool="": it is missing`) {
		t.Errorf("without a pool: %v", err)
	}
}

func TestParseSpecTakes(t *testing.T) {
	for name, extra := range map[string]map[string]string{
		"Linear": {}, "Thin": {"type": "thin", "overcommit": "1.5", "wipe": "discard"}, "Striped": {"type": "striped", "stripes": "4", "stripeSize": "256Ki"},
		"Mkfs": {"mkfsOptions": "-m reflink=0,crc=1 -i size=512"}, "Sidecar": {"csi.storage.k8s.io/pvc/name": "a", "csi.storage.k8s.io/pvc/namespace": "b", "csi.storage.k8s.io/pv/name": "c"},
	} {
		params := map[string]string{"pool": "db"}
		maps.Copy(params, extra)
		if _, err := lvm.ParseSpec(params, ""); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestHandles(t *testing.T) {
	h := lvm.Handle{Group: groups()[0].UUID, LV: "hfv-pvc-1"}
	if got, err := lvm.ParseHandle(h.String()); err != nil || got != h {
		t.Errorf("got %v, %v", got, err)
	}
	for _, bad := range []string{"", "x", h.Group, h.Group + "/", h.Group + "/root", h.Group + "/hfv-a/b", h.Group + "/../x", "/dev/" + h.String(), h.Group + "/hfv--x;rm"} {
		if got, err := lvm.ParseHandle(bad); !errors.Is(err, lvm.ErrNotFound) {
			t.Errorf("%q: %v, %v", bad, got, err)
		}
	}
}

func TestGroupsOfDisks(t *testing.T) {
	f, err := nodedisks.Parse("disks.yaml", []byte(`apiVersion: holdfast.dev/v1alpha1
kind: NodeDisks
disks:
- {id: 0xa, group: db, role: lvm, media: ssd, volumeGroup: one}
- {id: 0xb, group: db, role: lvm, media: ssd, volumeGroup: two}
- {id: 0xc, group: db, role: lvm, media: hdd, volumeGroup: two}
volumeGroups:
- {name: one, uuid: F2jxEO-2Eo9-4dCj-1gQ8-8K5k-zDXA-Ab12cd, pool: db, thinPool: pool0}
- {name: two, uuid: F2jxEO-2Eo9-4dCj-1gQ8-8K5k-zDXA-Ab12ce, pool: db}
`))
	if err != nil {
		t.Fatal(err)
	}
	g := lvm.Groups(f)
	if len(g) != 2 || g[0].OneDisk() != "0xa" || g[0].Media != "ssd" || g[1].OneDisk() != "" || g[1].Media != "" || len(g[1].Disks) != 2 {
		t.Errorf("got %+v", g)
	}
}

// TestCapacityOfAClassAsItIs: external-provisioner asks with a class's own parameters, of
// which CreateVolume does not get those for the sidecars. It was refused, so that nothing
// was published for a class that names a file system.
func TestCapacityOfAClassAsItIs(t *testing.T) {
	w := newWorld(t, groups()...)
	if err := w.engine.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	s := lvm.NewService(w.engine, "test", nil)
	ask := func(params map[string]string) (int64, error) {
		got, err := s.GetCapacity(t.Context(), &csi.GetCapacityRequest{Parameters: params})
		return got.GetMaximumVolumeSize().GetValue(), err
	}
	plain, err := ask(map[string]string{"pool": "db"})
	if err != nil || plain == 0 {
		t.Fatalf("%d bytes (%v)", plain, err)
	}
	if got, err := ask(map[string]string{"pool": "db", "csi.storage.k8s.io/fstype": "ext4", "csi.storage.k8s.io/provisioner-secret-name": "s"}); err != nil || got != plain {
		t.Errorf("%d bytes (%v), want %d", got, err, plain)
	}
	if _, err := ask(map[string]string{"pool": "db", "csi.storage.k8s.io/fstype": "btrfs"}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("a file system that is not there: %v", err)
	}
}
