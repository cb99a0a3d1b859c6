package lab

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/uuid"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/lab/machine"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

// deviceTimeout is how long a kernel may take to find a disk that was plugged in. It
// takes seconds, and a minute where emulated machines share their processors.
const deviceTimeout = 2 * time.Minute

// prepared is a disk of a node and what node preparation has made of it.
type prepared struct {
	Disk
	id            string // disk id; empty before preparation
	partitionUUID string
	groupUUID     string   // of its volume group, when it has a Pool
	stacked       string   // disk id while it has a layer, see Stack
	gone          []string // partitions of disks that were in this place before, which the node may know yet
}

func (p *prepared) mountPoint() string { return mountPoint(p.partitionUUID) }

func mountPoint(partitionUUID string) string { return "/mnt/holdfast/" + partitionUUID }

// MountPoint is where a prepared disk is mounted in the node.
func (n *Node) MountPoint(name string) (string, error) {
	p, err := n.disk(name)
	if err != nil {
		return "", err
	}
	if p.id == "" {
		return "", fmt.Errorf("disk %s of node %s is not prepared", name, n.Name)
	}
	return p.mountPoint(), nil
}

func (n *Node) disk(name string) (*prepared, error) {
	for _, p := range n.disks {
		if p.Name == name {
			return p, nil
		}
	}
	return nil, fmt.Errorf("node %s has no disk %q", n.Name, name)
}

// DiskID is the disk id of a prepared disk, as everything in the cluster names it.
func (n *Node) DiskID(name string) (string, error) {
	p, err := n.disk(name)
	if err != nil {
		return "", err
	}
	if p.id == "" {
		return "", fmt.Errorf("disk %s of node %s is not prepared", name, n.Name)
	}
	return p.id, nil
}

// Identify is the disk id of any disk that the node's kernel knows.
func (n *Node) Identify(ctx context.Context, name string) (string, error) {
	dev, err := n.AwaitDevice(ctx, name)
	if err != nil {
		return "", err
	}
	return n.identify(ctx, dev)
}

// PreparedDisks names the disks that are prepared now, with a partition.
func (n *Node) PreparedDisks() []string {
	var names []string
	for _, p := range n.disks {
		if p.id != "" && p.Pool == "" {
			names = append(names, p.Name)
		}
	}
	return names
}

// Prepare does to the node's disks what node preparation does when a node is
// made: a GPT partition, a file system and a mount for each that has a
// StorageClass, a volume group for each that has a Pool, and /etc/holdfast/disks.yaml. Disks that are prepared already
// are left alone.
func (n *Node) Prepare(ctx context.Context) error {
	for _, p := range n.disks {
		if err := n.forget(ctx, p); err != nil {
			return fmt.Errorf("forget the disk that was %s of node %s: %w", p.Name, n.Name, err)
		}
		prepare := n.prepare
		switch {
		case p.id != "" || p.StorageClass == "" && p.Pool == "":
			continue
		case p.Pool != "":
			prepare = n.prepareGroup
		}
		if err := prepare(ctx, p); err != nil {
			return fmt.Errorf("prepare disk %s of node %s: %w", p.Name, n.Name, err)
		}
	}
	return n.writeDisksFile(ctx)
}

// forget unmounts what is mounted of disks that are gone: ghosts.
func (n *Node) forget(ctx context.Context, p *prepared) error {
	for _, uuid := range p.gone {
		if _, err := n.Run(ctx, fmt.Sprintf("sed -i /%[1]s/d /etc/fstab\n! mountpoint -q %[2]s || umount --lazy %[2]s", uuid, mountPoint(uuid))); err != nil {
			return err
		}
	}
	p.gone = nil
	return nil
}

func (n *Node) prepare(ctx context.Context, p *prepared) error {
	dev, err := n.AwaitDevice(ctx, p.Name)
	if err != nil {
		return err
	}
	id, err := n.identify(ctx, dev)
	if err != nil {
		return err
	}
	p.partitionUUID = string(uuid.NewUUID())
	// wipefs without options only looks: nothing is formatted that is not blank.
	_, err = n.Run(ctx, fmt.Sprintf(`
dev=/dev/%[1]s uuid=%[2]s fs=%[3]s dir=%[4]s
[ -z "$(wipefs "$dev")" ] || { echo "$dev is not blank"; exit 1; }
sgdisk --new=1:2048:0 --typecode=1:8300 --partition-guid=1:$uuid "$dev" >/dev/null
udevadm settle --timeout=20
part=/dev/disk/by-partuuid/$uuid
mkfs.$fs -q "$part"
udevadm settle --timeout=20
mkdir -p "$dir"
echo "PARTUUID=$uuid $dir $fs nofail,noatime,x-systemd.device-timeout=60s 0 0" >> /etc/fstab
mount "$dir"`, dev, p.partitionUUID, p.Filesystem, p.mountPoint()))
	if err != nil {
		return err
	}
	p.id = id
	return nil
}

// thinPool is the name of the thin pool in each volume group.
const thinPool = "thin"

func groupName(disk string) string { return "hf-" + disk }

// prepareGroup makes the disk a volume group.
func (n *Node) prepareGroup(ctx context.Context, p *prepared) error {
	dev, err := n.AwaitDevice(ctx, p.Name)
	if err != nil {
		return err
	}
	id, err := n.identify(ctx, dev)
	if err != nil {
		return err
	}
	out, err := n.Run(ctx, fmt.Sprintf(`set -e
dev=/dev/%[1]s group=%[2]s
[ -z "$(wipefs "$dev")" ] || { echo "$dev is not blank"; exit 1; }
vgcreate -q "$group" "$dev" >/dev/null
lvcreate -q --yes --type thin-pool --name %[3]s --extents 50%%VG "$group" >/dev/null 2>&1
vgs --noheadings -o vg_uuid "$group"`, dev, groupName(p.Name), thinPool))
	if err != nil {
		return err
	}
	p.id, p.groupUUID = id, strings.TrimSpace(out)
	return nil
}

// writeDisksFile writes what Prepare did, whole or not at all.
func (n *Node) writeDisksFile(ctx context.Context) error {
	f := nodedisks.File{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeDisks"}
	for _, p := range n.disks {
		switch {
		case p.stacked != "":
			f.Disks = append(f.Disks, nodedisks.Disk{ID: p.stacked, Group: "stacked", Role: v1alpha1.RoleSystem, Slot: p.Name})
			continue
		case p.id == "":
			continue
		case p.Pool != "":
			f.Disks = append(f.Disks, nodedisks.Disk{ID: p.id, Group: p.Pool, Role: v1alpha1.RoleLVM, Slot: p.Name, VolumeGroup: groupName(p.Name)})
			f.VolumeGroups = append(f.VolumeGroups, nodedisks.VolumeGroup{Name: groupName(p.Name), UUID: p.groupUUID, Pool: p.Pool, ThinPool: thinPool})
			continue
		}
		f.Disks = append(f.Disks, nodedisks.Disk{
			ID: p.id, Group: Group, Role: v1alpha1.RoleStatic, Slot: p.Name,
			Partitions: []nodedisks.Partition{{UUID: p.partitionUUID, Filesystem: p.Filesystem, MountPoint: p.mountPoint(), StorageClass: p.StorageClass}},
		})
	}
	data, err := yaml.Marshal(f)
	if err != nil {
		return err
	}
	if _, err := nodedisks.Parse(nodedisks.Path, data); err != nil {
		return fmt.Errorf("check the new disks.yaml: %w", err)
	}
	_, err = n.Run(ctx, fmt.Sprintf("mkdir -p %[1]s\ncat > %[2]s.new <<'END'\n%[3]sEND\nsync %[2]s.new\nmv %[2]s.new %[2]s\nsync %[1]s", filepath.Dir(nodedisks.Path), nodedisks.Path, data))
	return err
}

// Device is what the node's kernel calls a disk now, such as sda; empty when it does not know it.
func (n *Node) Device(ctx context.Context, name string) (string, error) {
	d, err := n.Disk(name)
	if err != nil {
		return "", err
	}
	out, err := n.Run(ctx, "lsblk --nodeps --noheadings --raw --output NAME,SERIAL")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 2 && f[1] == d.Serial {
			return f[0], nil
		}
	}
	return "", nil
}

// AwaitDevice waits until the node's kernel and udev know a disk, and returns its device.
func (n *Node) AwaitDevice(ctx context.Context, name string) (string, error) {
	var dev string
	_, err := wait.Until(ctx, deviceTimeout, "device of disk "+name+" in node "+n.Name, func() (bool, error) {
		var err error
		dev, err = n.Device(ctx, name)
		return dev != "", err
	})
	return dev, err
}

// identify gives a device of the node its disk id, from the attributes that its
// sysfs has, by the product's own code.
func (n *Node) identify(ctx context.Context, dev string) (string, error) {
	attrs := []string{"wwid", "device/wwid", "device/model", "serial", "device/serial", "device/vpd_pg80"}
	out, err := n.Run(ctx, fmt.Sprintf(`cd /sys/block/%s; for a in %s; do [ ! -r $a ] || echo "$a $(base64 -w0 $a 2>/dev/null)"; done`, dev, strings.Join(attrs, " ")))
	if err != nil {
		return "", err
	}
	root, err := os.MkdirTemp(n.lab.dir, "sysfs-")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(root) }() // the lab's directory is removed anyway
	for line := range strings.Lines(out) {
		name, encoded, _ := strings.Cut(strings.TrimSpace(line), " ")
		data, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			return "", fmt.Errorf("read %s of %s: %w", name, dev, err)
		}
		file := filepath.Join(root, "sys/block", dev, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return "", err
		}
		if err := os.WriteFile(file, data, 0o644); err != nil {
			return "", err
		}
	}
	host, err := hostfs.Open(root)
	if err != nil {
		return "", err
	}
	id, _, err := diskid.FromSysfs(host, dev)
	return id, err
}

// patience is how long the node's kernel waits for an answer of a disk, which it is told in a file below
// /sys/block/DEV: usually (drivers/scsi/sd.h, SD_TIMEOUT; nvme_core.io_timeout), and while the disk hangs.
type patience struct {
	file        string
	unit        time.Duration
	usual, hung time.Duration
}

// patiences of the buses whose reset would stop the whole emulated machine until the request is answered, which
// is never: that of an ATA port at the first timeout, and of an NVMe controller at the second one, when the
// request that it could not abort has as much time again.
var patiences = map[machine.Bus]patience{
	machine.ATA:  {"device/timeout", time.Second, 30 * time.Second, 24 * time.Hour},
	machine.NVMe: {"queue/io_timeout", time.Millisecond, 30 * time.Second, 90 * time.Second},
}

// SetFault makes a disk bad, or good again; see machine.Machine.SetFault. While an ATA disk hangs, the node's
// kernel waits for it without end, and of an NVMe disk it tells after 90 s: do not let that hang for 180 (see
// patiences). For the same reason undo it before a Reboot; a PowerCut works.
func (n *Node) SetFault(ctx context.Context, name string, f machine.Fault) error {
	d, err := n.Disk(name)
	if err != nil {
		return err
	}
	before, err := n.Fault(name)
	if err != nil {
		return err
	}
	p, ok := patiences[d.Bus]
	changes := ok && before.Hung != f.Hung && n.Running()
	if changes && f.Hung {
		if err := n.wait(ctx, name, p, p.hung); err != nil {
			return err
		}
	}
	if err := n.Machine.SetFault(ctx, name, f); err != nil {
		return err
	}
	if changes && !f.Hung {
		return n.wait(ctx, name, p, p.usual)
	}
	return nil
}

func (n *Node) wait(ctx context.Context, name string, p patience, as time.Duration) error {
	dev, err := n.Device(ctx, name)
	if err != nil || dev == "" {
		return err
	}
	_, err = n.Run(ctx, fmt.Sprintf("echo %d > /sys/block/%s/%s", as/p.unit, dev, p.file))
	return err
}

// Pull takes a disk out of its place in the running node.
func (n *Node) Pull(ctx context.Context, name string) error {
	err := n.Machine.Pull(ctx, name)
	if !errors.Is(err, machine.ErrNoHotPlug) || !n.Running() {
		return err
	}
	// The emulated controller cannot let a disk go; the kernel can be told that
	// it has, and takes the same way from there.
	dev, err := n.Device(ctx, name)
	if err != nil || dev == "" {
		return err
	}
	_, err = n.Run(ctx, fmt.Sprintf("echo 1 > /sys/block/%s/device/delete", dev))
	return err
}

// SmartJSON is what "disk-monitor smart -o json" says of a device of the node, such
// as sda: natively when through is empty, else of what smartctl -d tells it.
func (n *Node) SmartJSON(ctx context.Context, dev, through string) ([]byte, error) {
	if through != "" {
		through = "-d " + through
	}
	out, err := n.Run(ctx, fmt.Sprintf("%s/disk-monitor smart -o json %s /dev/%s 2>/dev/null || true # what failed is in the JSON", PayloadDir, through, dev))
	return []byte(out), err
}

// Insert puts a disk back that was pulled, and mounts what is on it.
func (n *Node) Insert(ctx context.Context, name string) error {
	if err := n.Machine.Insert(ctx, name); err != nil {
		return err
	}
	if !n.Running() {
		return nil
	}
	p, err := n.disk(name)
	if err != nil {
		return err
	}
	if p.Bus == machine.ATA {
		if _, err := n.Run(ctx, "for h in /sys/class/scsi_host/*/scan; do echo '- - -' > $h; done"); err != nil {
			return err
		}
	}
	if _, err := n.AwaitDevice(ctx, name); err != nil {
		return err
	}
	if p.id == "" {
		return nil
	}
	// What is still mounted there is of the device that has gone; its dead file
	// system does not come back with the disk.
	_, err = n.Run(ctx, fmt.Sprintf("udevadm settle --timeout=20\n! mountpoint -q %[1]s || umount --lazy %[1]s\nmount %[1]s", p.mountPoint()))
	return err
}

// Swap puts a new disk with another serial in the place of one that was
// pulled, and prepares it as node preparation does; the old one is in
// disks.yaml no more. When the node is off, call Prepare after its start.
func (n *Node) Swap(ctx context.Context, name, serial string, wwn uint64) error {
	if err := n.Machine.Swap(ctx, name, serial, wwn); err != nil {
		return err
	}
	p, err := n.disk(name)
	if err != nil {
		return err
	}
	if p.id != "" {
		p.gone = append(p.gone, p.partitionUUID)
		p.id, p.partitionUUID = "", ""
	}
	if !n.Running() {
		return nil
	}
	return n.Prepare(ctx)
}

// BadSectors makes the first sector of a file unreadable, and returns it, as the
// disk counts. The file is on a file system on that disk, whatever lies between
// the two; see sectorOf.
func (n *Node) BadSectors(ctx context.Context, name, file string) (int64, error) {
	sector, err := n.firstSector(ctx, name, file)
	if err != nil {
		return 0, err
	}
	f, err := n.Fault(name)
	if err != nil {
		return 0, err
	}
	f.BadSectors = append(f.BadSectors, sector)
	return sector, n.SetFault(ctx, name, f)
}
