package local

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/uuid"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

const testNode = "node-1"

// world is a node as it really is, and what disks.yaml says of it. It is
// written as a tree of plain files, as recorded from a host.
type world struct {
	disks      []wDisk
	iscsi      string // the disk that is reached by iSCSI; empty for none
	unplaced   bool   // there is an NVMe disk, of another id, without a controller
	parts      []wPart
	links      map[string]string // partition UUID to device name, as udev links
	mounts     []wMount          // in the order they were made: a later one covers an earlier
	file       nodedisks.File
	quarantine Quarantine
	cleaned    map[string]bool
	certified  map[string]int64 // bytes, by partition UUID
	existing   map[string]*corev1.PersistentVolume
}

type wDisk struct{ dev, wwid string }

type wPart struct {
	dev, disk, number string
	kernelUUID        string // in uevent; empty on kernels before 6.10
	bytes             int64
	whole             bool // no partition at all: a whole disk
	holder            string
	files             []string // in the root of its file system
}

type wMount struct{ number, root, point, fs, options string }

// The partitions of a good world.
const (
	uuidA   = "aaaaaaaa-0000-4000-8000-000000000001"
	uuidRaw = "aaaaaaaa-0000-4000-8000-000000000002"
	uuidB   = "bbbbbbbb-0000-4000-8000-000000000001"
	diskA   = "5000c500a0000001"
	diskB   = "5000c500b0000001"
	mib     = int64(1 << 20)
)

// goodWorld has disk A with a file system and a raw partition, and disk B with
// a file system; everything is as disks.yaml says.
func goodWorld() *world {
	return &world{
		disks: []wDisk{{"sda", "naa." + diskA}, {"sdb", "naa." + diskB}},
		parts: []wPart{
			{dev: "sda1", disk: "sda", number: "8:1", kernelUUID: uuidA, bytes: 64*mib + 512},
			{dev: "sda2", disk: "sda", number: "8:2", kernelUUID: uuidRaw, bytes: 32 * mib},
			{dev: "sdb1", disk: "sdb", number: "8:17", kernelUUID: uuidB, bytes: 128 * mib},
		},
		links: map[string]string{uuidA: "sda1", uuidRaw: "sda2", uuidB: "sdb1"},
		mounts: []wMount{
			{"8:1", "/", "/mnt/holdfast/a", "ext4", "rw"},
			{"8:17", "/", "/mnt/holdfast/b", "xfs", "rw"},
		},
		file: nodedisks.File{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeDisks", Disks: []nodedisks.Disk{
			{ID: diskA, Group: "data", Role: v1alpha1.RoleStatic, Media: v1alpha1.MediaSSD, Partitions: []nodedisks.Partition{
				{UUID: uuidA, Filesystem: "ext4", MountPoint: "/mnt/holdfast/a", StorageClass: "local-ssd"},
				{UUID: uuidRaw, StorageClass: "local-raw"},
			}},
			{ID: diskB, Group: "data", Role: v1alpha1.RoleStatic, Media: v1alpha1.MediaSSD, Partitions: []nodedisks.Partition{
				{UUID: uuidB, Filesystem: "xfs", MountPoint: "/mnt/holdfast/b", StorageClass: "local-ssd"},
			}},
		}},
		existing:  map[string]*corev1.PersistentVolume{},
		certified: map[string]int64{uuidRaw: 32 * mib},
	}
}

// seen is the mount that the path leads to: the last on it or on a directory above.
func (w *world) seen(point string) *wMount {
	var seen *wMount
	for i := range w.mounts {
		if m := &w.mounts[i]; strings.HasPrefix(point+"/", m.point+"/") {
			seen = m
		}
	}
	return seen
}

// shown are the files that are seen at a mount point: those of what is mounted
// there, or those of the directory below.
func (w *world) shown(point string) []string {
	if m := w.seen(point); m != nil && m.point == point {
		for _, p := range w.parts {
			if p.number == m.number {
				return p.files
			}
		}
		return nil
	}
	return []string{"old-data"}
}

// writeContents makes what is seen at every mount point, anew.
func (w *world) writeContents(t interface{ Fatal(...any) }, dir string) {
	for _, d := range w.file.Disks {
		for _, p := range d.Partitions {
			if p.MountPoint == "" {
				continue
			}
			point := filepath.Join(dir, p.MountPoint)
			if err := os.RemoveAll(point); err != nil {
				t.Fatal(err)
			}
			if err := os.MkdirAll(point, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, name := range w.shown(p.MountPoint) {
				if err := os.WriteFile(filepath.Join(point, name), []byte("data of an earlier owner"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
}

// certify writes the certificate of a raw partition as node preparation does.
func certify(t interface{ Fatal(...any) }, dir, disk, partition string, bytes int64) {
	certs := filepath.Join(dir, nodedisks.CertificateDir)
	for _, d := range []string{certs, filepath.Join(dir, OfferedDir)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := nodedisks.WriteCertificate(certs, nodedisks.Certificate{
		ID: string(uuid.NewUUID()), Disk: disk, Partition: partition, Bytes: bytes, By: "node-preparation", Time: time.Now(),
	}); err != nil {
		t.Fatal(err)
	}
}

// table is the mount table, with a root and a /proc as on any host.
func (w *world) table() string {
	var b strings.Builder
	b.WriteString("1 0 252:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw\n2 1 0:5 / /proc rw,nosuid - proc proc rw\n")
	top := map[string]int{}
	for i, m := range w.mounts {
		id, parent := 10+i, 1
		for p, n := range top { // the mount that covers the point when this one is made
			if strings.HasPrefix(m.point+"/", p+"/") && n > parent {
				parent = n
			}
		}
		top[m.point] = id
		fmt.Fprintf(&b, "%d %d %s %s %s %s,relatime shared:9 - %s /dev/x rw\n", id, parent, m.number, m.root, m.point, m.options, m.fs)
	}
	return b.String()
}

// write makes the tree of files below dir.
func (w *world) write(t interface{ Fatal(...any) }, dir string) {
	write := func(name, data string) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(target, p); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range w.disks {
		device := "sys/devices/pci/" + d.dev + "/device"
		if d.dev == w.iscsi {
			write("sys/class/iscsi_session/session1/targetname", "iqn.2003-01.org.example:a\n")
			link("../../platform/host3/session1/target3:0:0/3:0:0:0", device)
			device = "sys/devices/platform/host3/session1/target3:0:0/3:0:0:0"
		}
		write(device+"/wwid", d.wwid+"\n")
		link("../devices/pci/"+d.dev, "sys/block/"+d.dev)
	}
	if w.unplaced {
		const subsystem = "sys/devices/virtual/nvme-subsystem/nvme-subsys1"
		write(subsystem+"/subsysnqn", "nqn.a\n")
		write(subsystem+"/nvme1n1/nsid", "1\n")
		write(subsystem+"/nvme1n1/wwid", "uuid.77\n")
		link("../../nvme-subsys1", subsystem+"/nvme1n1/device")
		link("../devices/virtual/nvme-subsystem/nvme-subsys1/nvme1n1", "sys/block/nvme1n1")
	}
	for _, p := range w.parts {
		base := "sys/devices/pci/" + p.disk + "/" + p.dev
		uevent := "DEVNAME=" + p.dev + "\nDEVTYPE=partition\n"
		if p.kernelUUID != "" {
			uevent += "PARTUUID=" + p.kernelUUID + "\n"
		}
		write(base+"/uevent", uevent)
		write(base+"/dev", p.number+"\n")
		write(base+"/size", fmt.Sprint(p.bytes/512)+"\n")
		if !p.whole {
			write(base+"/partition", "1\n")
		}
		if p.holder != "" {
			write(base+"/holders/"+p.holder, "")
		}
		link("../../devices/pci/"+p.disk+"/"+p.dev, "sys/dev/block/"+p.number)
		write("dev/"+p.dev, "")
	}
	for uuid, dev := range w.links {
		link("../../"+dev, "dev/disk/by-partuuid/"+uuid)
	}
	write(mountTable, w.table())
	w.writeContents(t, dir)
	for _, d := range w.file.Disks {
		for _, p := range d.Partitions {
			if bytes, ok := w.certified[p.UUID]; ok {
				certify(t, dir, d.ID, p.UUID, bytes)
			}
		}
	}
}

// host writes the world and opens it.
func (w *world) host(t testing.TB) (*Host, string) {
	t.Helper()
	dir := t.TempDir()
	w.write(t, dir)
	f, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return NewHost(f, 5*time.Second), dir
}

// decide reads the world through h and decides.
func (w *world) decide(t testing.TB, h *Host) Decision {
	t.Helper()
	ev, present := h.Look(t.Context(), &w.file, func(volume string) bool { return w.existing[volume] != nil })
	return Decide(Input{
		Node: testNode, Disks: &w.file, Evidence: ev, Present: present, Existing: w.existing, Quarantine: w.quarantine, Cleaned: w.cleaned,
	})
}

func (w *world) part(dev string) *wPart {
	for i := range w.parts {
		if w.parts[i].dev == dev {
			return &w.parts[i]
		}
	}
	panic("no part " + dev)
}

func (w *world) noKernelUUIDs() {
	for i := range w.parts {
		w.parts[i].kernelUUID = ""
	}
}
