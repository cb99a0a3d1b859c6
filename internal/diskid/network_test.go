package diskid_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostfs"
)

// tree is a host of files and links; a value that begins with "-> " is a link.
func tree(t *testing.T, files map[string]string) *hostfs.FS {
	t.Helper()
	dir := t.TempDir()
	for name, data := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		write := func() error { return os.WriteFile(p, []byte(data), 0o600) }
		if target, ok := strings.CutPrefix(data, "-> "); ok {
			write = func() error { return os.Symlink(target, p) }
		}
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	f, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() }) // read only
	return f
}

// A blank disk that a network leads to was a disk of the host for whoever prepared disks, and none for
// whoever watched them: it was given volumes, and was missing at once.
func TestNetwork(t *testing.T) {
	scsi := func(dir string) map[string]string {
		return map[string]string{
			"sys/block/sdb": "-> ../devices/" + dir + "/block/sdb", "sys/devices/" + dir + "/block/sdb/device": "-> ../../../" + filepath.Base(dir),
			"sys/devices/" + dir + "/wwid": "naa.6001405aa\n", "sys/class/iscsi_session/session1/targetname": "iqn.2003-01.org.example:a\n",
		}
	}
	const sub, ctl = "sys/devices/virtual/nvme-subsystem/nvme-subsys1/", "sys/devices/virtual/nvme-fabrics/ctl/"
	head := map[string]string{
		"sys/block/nvme1n1": "-> ../devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1", sub + "nvme1n1/device": "-> ../../nvme-subsys1",
		sub + "nvme1n1/nsid": "3\n", sub + "nvme1n1/wwid": "uuid.77\n", sub + "subsysnqn": "nqn.2014-08.org.example:a\n", sub + "subsystype": "nvm\n",
		sub + "nvme7": "-> ../../nvme-fabrics/ctl/nvme7", sub + "nvme8": "-> ../../nvme-fabrics/ctl/nvme8", ctl + "nvme7/transport": "rdma\n", ctl + "nvme8/transport": "rdma\n",
	}
	alone := map[string]string{
		"sys/block/nvme0n1": "-> ../devices/virtual/nvme-fabrics/ctl/nvme0/nvme0n1", ctl + "nvme0/nvme0n1/device": "-> ../../nvme0",
		ctl + "nvme0/nvme0n1/nsid": "1\n", ctl + "nvme0/nvme0n1/wwid": "eui.0025385b71b0a2c4\n", ctl + "nvme0/subsysnqn": "nqn.a\n", ctl + "nvme0/transport": "tcp\n",
	}
	with := func(m map[string]string, change ...string) map[string]string {
		m = maps.Clone(m)
		for i := 0; i < len(change); i += 2 {
			m[change[i]] = change[i+1]
		}
		return m
	}
	without := func(m map[string]string, names ...string) map[string]string {
		m = maps.Clone(m)
		for _, n := range names {
			delete(m, n)
		}
		return m
	}
	image := map[string]string{
		"sys/block/rbd7/size": "1", "sys/bus/rbd/devices/7/pool": "kube\n", "sys/bus/rbd/devices/7/pool_ns": "ns\n", "sys/bus/rbd/devices/7/name": "vol\n", "sys/bus/rbd/devices/7/current_snap": "s1\n",
	}
	const a, b = "nvmeof-nqn.2014-08.org.example-a-ns-3", "uuid.77"
	for name, tc := range map[string]struct {
		reason, dev string
		files       map[string]string
		want        diskid.Identity
		err         string
	}{
		"SAS":          {"a disk of the host", "sdb", scsi("pci0/0000:03:00.0/host0/port-0:3/end_device-0:3/target0:0:3/0:0:3:0"), diskid.Identity{ID: "6001405aa"}, ""},
		"ISCSI":        {"where it is, and what it would be", "sdb", scsi("platform/host3/session1/target3:0:0/3:0:0:4"), diskid.Identity{ID: "iscsi-iqn.2003-01.org.example-a-lun-4", Weak: true, Network: "iSCSI", Told: "6001405aa"}, ""},
		"NoTarget":     {"which target it is, is not guessed", "sdb", without(scsi("platform/host3/session1/target3:0:0/3:0:0:4"), "sys/class/iscsi_session/session1/targetname"), diskid.Identity{}, "no targetname"},
		"FibreChannel": {"by its own name, which its paths have in common", "sdb", scsi("pci0/0000:04:00.0/host5/rport-5:0-1/target5:0:1/5:0:1:0"), diskid.Identity{ID: "6001405aa", Network: "Fibre Channel"}, ""},
		"Nameless":     {"one that tells no name has that of its place", "sdb", with(scsi("pci0/0000:04:00.0/host5/rport-5:0-1/target5:0:1/5:0:1:0"), "sys/devices/pci0/0000:04:00.0/host5/rport-5:0-1/target5:0:1/5:0:1:0/wwid", "\n"), diskid.Identity{ID: "path-devices-pci0-0000-04-00.0-host5-rport-5-0-1-target5-0-1-5-0-1-0", Weak: true, Network: "Fibre Channel"}, ""},
		"TCP":          {"without native multipath", "nvme0n1", alone, diskid.Identity{ID: "nvmeof-nqn.a-ns-1", Weak: true, Network: "NVMe over tcp", Told: "0025385b71b0a2c4"}, ""},
		"PCIe":         {"a drive", "nvme0n1", with(alone, ctl+"nvme0/transport", "pcie\n"), diskid.Identity{ID: "0025385b71b0a2c4"}, ""},
		"OldKernel":    {"one that does not say is a drive", "nvme0n1", without(alone, ctl+"nvme0/transport"), diskid.Identity{ID: "0025385b71b0a2c4"}, ""},
		"Head":         {"all its controllers lead out of the host", "nvme1n1", head, diskid.Identity{ID: a, Weak: true, Network: "NVMe over rdma", Told: b}, ""},
		"OneIsIn":      {"one does not: it is the host's", "nvme1n1", with(head, ctl+"nvme8/transport", "pcie\n"), diskid.Identity{ID: b}, ""},
		// The head was a drive of the host for as long as it outlived its last controller.
		"LastIsGone": {"the attributes of a subsystem do not tell, and nobody guesses", "nvme1n1", without(head, sub+"nvme7", sub+"nvme8"), diskid.Identity{}, "has no controller now"},
		"Going":      {"nor does the link of one that has gone", "nvme1n1", without(head, sub+"nvme8", ctl+"nvme7/transport"), diskid.Identity{}, "has no controller now"},
		"NoNQN":      {"which subsystem it is, is not guessed", "nvme1n1", without(head, sub+"subsysnqn"), diskid.Identity{}, "no subsysnqn"},
		"NoNSID":     {"nor which namespace of it", "nvme1n1", without(head, sub+"nvme1n1/nsid"), diskid.Identity{}, "no nsid"},
		"Apple":      {"the drive of a Mac is no controller of PCIe", "nvme0n1", with(alone, ctl+"nvme0/transport", "apple-nvme\n"), diskid.Identity{ID: "0025385b71b0a2c4"}, ""},
		"Transport":  {"what cannot be read is not guessed", "nvme0n1", with(without(alone, ctl+"nvme0/transport"), ctl+"nvme0/transport/x", ""), diskid.Identity{}, "is a directory"},
		"Recorded":   {"neither a controller nor a subsystem", "nvme0n1", map[string]string{"sys/block/nvme0n1/wwid": "eui.0025385b71b0a2c4\n", "sys/block/nvme0n1/device": "-> ../../devices/recorded", "sys/devices/recorded/x": ""}, diskid.Identity{ID: "0025385b71b0a2c4"}, ""},
		"RBD":        {"a snapshot of an image in a namespace", "rbd7", image, diskid.Identity{ID: "rbd-kube-ns-vol-s1", Weak: true, Network: "RBD"}, ""},
		"RBDImage":   {"the image itself, in no namespace", "rbd7", with(image, "sys/bus/rbd/devices/7/pool_ns", "\n", "sys/bus/rbd/devices/7/current_snap", "-\n"), diskid.Identity{ID: "rbd-kube-vol", Weak: true, Network: "RBD"}, ""},
		"RBDNoPool":  {"which pool it is, is not guessed", "rbd7", without(image, "sys/bus/rbd/devices/7/pool"), diskid.Identity{}, "no pool"},
		"RBDNoName":  {"nor which image", "rbd7", without(image, "sys/bus/rbd/devices/7/name"), diskid.Identity{}, "no name"},
		"RBDUnread":  {"nor what cannot be read", "rbd7", with(without(image, "sys/bus/rbd/devices/7/pool_ns"), "sys/bus/rbd/devices/7/pool_ns/x", ""), diskid.Identity{}, "is a directory"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := diskid.Identify(tree(t, tc.files), tc.dev)
			unplaced, ok := errors.AsType[*diskid.UnplacedError](err)
			if ok != (tc.err == "has no controller now") || ok && (unplaced.ID != b || unplaced.Remote != a || unplaced.Device != tc.dev) {
				t.Errorf("what it may be: %+v; reason: %s", unplaced, tc.reason)
			}
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) || got != tc.want {
					t.Errorf("got %+v, %v, want %q; reason: %s", got, err, tc.err, tc.reason)
				}
				return
			}
			if d := cmp.Diff(tc.want, got); d != "" || err != nil {
				t.Errorf("%s%v; reason: %s", d, err, tc.reason)
			}
			if diskid.Networked(got.ID, got.Weak) != (got.Told != "" || got.Network == "RBD") || got.Weak != diskid.Weak(got.ID) {
				t.Errorf("its id alone says otherwise: %+v", got)
			}
			if diskid.Networked(got.ID, false) {
				t.Errorf("a drive of the name %s is taken for it", got.ID)
			}
		})
	}
	for want, files := range map[string]map[string]string{"kube/ns/vol@s1": image, "kube/vol": with(image, "sys/bus/rbd/devices/7/pool_ns", "\n", "sys/bus/rbd/devices/7/current_snap", "-\n")} {
		if got, err := diskid.Image(tree(t, files), "rbd7"); got != want || err != nil {
			t.Errorf("the image is %q, %v, want %q", got, err, want)
		}
	}
	_, err := diskid.Identify(tree(t, without(head, sub+"nvme7", sub+"nvme8", sub+"nvme1n1/wwid")), "nvme1n1")
	if u, ok := errors.AsType[*diskid.UnplacedError](err); !ok || !u.Weak || !diskid.Weak(u.ID) || u.Remote != a {
		t.Errorf("one that tells no name, and has no controller: %+v, %v", u, err)
	}
	for _, dev := range []string{"nbd0", "drbd0"} {
		if _, err := diskid.Identify(tree(t, map[string]string{"sys/block/" + dev + "/size": "1"}), dev); !errors.Is(err, diskid.ErrNoDisk) {
			t.Errorf("%s, which a client of a network makes: %v", dev, err)
		}
	}
	// They were no disks from one version to the next, and what had been prepared on them was missing.
	for dev, want := range map[string]diskid.Identity{
		"etherd!e0.1": {ID: "path-block-etherd-e0.1", Weak: true, Network: "ATA over Ethernet"},
		"rnbd3":       {ID: "path-block-rnbd3", Weak: true, Network: "RNBD"}, "ublkb2": {ID: "path-block-ublkb2", Weak: true, Network: "ublk"},
	} {
		got, err := diskid.Identify(tree(t, map[string]string{"sys/block/" + dev + "/size": "1"}), dev)
		if d := cmp.Diff(want, got); d != "" || err != nil || diskid.Networked(got.ID, got.Weak) {
			t.Errorf("%s: %s%v", dev, d, err)
		}
	}
}

// A disk that goes while it is looked at is no fault of the host's: all the other disks were not
// looked at either. An image without a pool is what is left of it for a moment.
func TestGoesMeanwhile(t *testing.T) {
	for name, tc := range map[string]struct {
		dev, asked string // asked is the attribute that is read while the disk goes
		files      map[string]string
	}{
		"RBD": {"rbd7", "sys/bus/rbd/devices/7/pool", map[string]string{"sys/block/rbd7/size": "1", "sys/bus/rbd/devices/7/name": "vol\n"}},
		"ISCSI": {"sdb", "sys/class/iscsi_session/session1/targetname", map[string]string{
			"sys/block/sdb": "-> ../devices/host3/session1/target3:0:0/3:0:0:4/block/sdb", "sys/devices/host3/session1/target3:0:0/3:0:0:4/block/sdb/device": "-> ../../../3:0:0:4",
			"sys/devices/host3/session1/target3:0:0/3:0:0:4/wwid": "naa.6001405aa\n", "sys/class/iscsi_session/.keep": "",
		}},
		"Drive": {"sdc", "sys/block/sdc/wwid", map[string]string{"sys/block/sdc/size": "1"}}, // it had another id, of its place
	} {
		t.Run(name, func(t *testing.T) {
			f := tree(t, tc.files)
			asked := f.Path(tc.asked)
			if err := errors.Join(os.MkdirAll(filepath.Dir(asked), 0o755), unix.Mkfifo(asked, 0o600)); err != nil {
				t.Fatal(err)
			}
			went := make(chan error, 1)
			go func() {
				w, err := os.OpenFile(asked, os.O_WRONLY, 0) // once it is asked for
				if err == nil {
					err = errors.Join(os.RemoveAll(f.Path("sys/block/"+tc.dev)), w.Close())
				}
				went <- err
			}()
			got, err := diskid.Identify(f, tc.dev)
			if !errors.Is(err, fs.ErrNotExist) || got != (diskid.Identity{}) {
				t.Errorf("got %+v, %v", got, err)
			}
			if err := <-went; err != nil {
				t.Fatal(err)
			}
		})
	}
}
