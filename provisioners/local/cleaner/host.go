package cleaner

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/hostexec"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/mounttable"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local"
	"holdfast.dev/provisioners/local/wipe"
)

const (
	mkfsTimeout   = 10 * time.Minute
	maxSuperblock = 64 << 10
)

// Machine is the node: its files below a root, which is the host's own mount tree
// and shares mounts with it, so that an unmount here is one there.
type Machine struct {
	fs   *hostfs.FS
	host *local.Host
}

// NewMachine reads and acts below f.
func NewMachine(f *hostfs.FS, h *local.Host) *Machine { return &Machine{f, h} }

// Sight looks at one partition.
func (m *Machine) Sight(ctx context.Context, d nodedisks.Disk, p nodedisks.Partition) (Sight, error) {
	mounts, err := m.host.Mounts(ctx)
	if err != nil {
		return Sight{}, err
	}
	ev, disks, err := m.host.Find(ctx, d.ID, p, mounts)
	if err != nil || ev.Device == nil {
		return Sight{Disks: disks}, err
	}
	s := Sight{Device: ev.Device, Disks: disks, Points: ev.UsedAt}
	s.Pinned, err = m.pinned(ctx, ev.Device, p.MountPoint)
	return s, err
}

// pinned finds mounts of a device in mount namespaces other than the host's. One
// that gets its mounts and unmounts from the host's own mount point goes with it
// (mount_namespaces(7), shared:N and master:N); any other keeps the device.
func (m *Machine) pinned(ctx context.Context, device *local.Device, point string) ([]string, error) {
	dev := device.Number
	host, err := mounttable.Read(m.fs, "1")
	if err != nil {
		return nil, err
	}
	peers := mounttable.Peers{}
	for _, in := range host {
		if mounttable.Number(in) == dev && in.Mountpoint == point {
			peers.Add(in)
		}
	}
	pids, err := m.fs.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	seen := map[string]bool{}
	if ns, err := os.Readlink(m.fs.Path("/proc/1/ns/mnt")); err == nil { // without it the host's own mounts may count, and nothing is cleaned
		seen[ns] = true
	}
	var found []string
	for _, pid := range pids {
		if _, err := strconv.Atoi(pid); err != nil || pid == "1" {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		ns, err := os.Readlink(m.fs.Path(path.Join("/proc", pid, "ns/mnt")))
		if mounttable.Gone(err) || seen[ns] {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("find mount namespace of process %s: %w", pid, err)
		}
		table, err := mounttable.Read(m.fs, pid)
		if mounttable.Gone(err) {
			continue // another process of the namespace may still be met
		}
		if err != nil {
			return nil, err
		}
		seen[ns] = true
		for _, in := range table {
			node, isNode := mounttable.Node(in)
			if mounttable.Number(in) == dev && !peers.Follow(in, point) || isNode && node == device.Name {
				comm, _ := m.fs.ReadString(path.Join("/proc", pid, "comm")) // only for people
				found = append(found, fmt.Sprintf("process %s (%s) at %s", pid, comm, in.Mountpoint))
			}
		}
	}
	return found, nil
}

// device is where the kernel's name of j's partition lies in /dev.
func (m *Machine) device(j Job) string {
	return m.fs.Path("/dev/" + strings.ReplaceAll(j.Device, "!", "/")) // sysfs writes '/' so
}

func (j Job) majorMinor() (major, minor uint32, err error) {
	a, b, _ := strings.Cut(j.Number, ":")
	ma, err1 := strconv.ParseUint(a, 10, 32)
	mi, err2 := strconv.ParseUint(b, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return 0, 0, fmt.Errorf("device number %q: %w", j.Number, err)
	}
	return uint32(ma), uint32(mi), nil
}

// Open opens the partition exclusively.
func (m *Machine) Open(_ context.Context, j Job) (Opened, error) {
	d, err := m.open(j)
	if err != nil {
		return nil, err
	}
	return d, nil
}

func (m *Machine) open(j Job) (*wipe.File, error) {
	major, minor, err := j.majorMinor()
	if err != nil {
		return nil, err
	}
	return wipe.Open(m.device(j), major, minor)
}

// Shape reads the superblock and the options of the mount.
func (m *Machine) Shape(_ context.Context, j Job) (Shape, error) {
	f, err := os.Open(m.device(j))
	if err != nil {
		return Shape{}, fmt.Errorf("read superblock: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	buf := make([]byte, maxSuperblock)
	n, err := f.ReadAt(buf, 0)
	if n < len(buf) {
		return Shape{}, fmt.Errorf("read superblock of %s: %w", j.Device, err)
	}
	s := shape(j.Filesystem, buf)
	table, err := mounttable.Read(m.fs, "1")
	if err != nil {
		return Shape{}, err
	}
	for _, in := range table {
		if mounttable.Number(in) == j.Number && in.Mountpoint == j.MountPoint {
			s.MountFlags, s.MountData = mountFlags(in.Options), mountData(in.VFSOptions)
		}
	}
	return s, nil
}

// mountFlags are the flags of mount(2) that a mount table shows.
func mountFlags(options string) uintptr {
	known := map[string]uintptr{
		"nosuid": unix.MS_NOSUID, "nodev": unix.MS_NODEV, "noexec": unix.MS_NOEXEC, "noatime": unix.MS_NOATIME,
		"nodiratime": unix.MS_NODIRATIME, "relatime": unix.MS_RELATIME, "nosymfollow": unix.MS_NOSYMFOLLOW,
	}
	var flags uintptr
	for o := range strings.SplitSeq(options, ",") {
		flags |= known[o]
	}
	return flags
}

// mountData are the options of the file system itself.
func mountData(options string) string {
	var kept []string
	for o := range strings.SplitSeq(options, ",") {
		switch o {
		case "rw", "ro", "seclabel", "": // flags of the superblock, and of SELinux
		default:
			kept = append(kept, o)
		}
	}
	return strings.Join(kept, ",")
}

// mountedAt says whether what is seen at the mount point is the partition.
func (m *Machine) mountedAt(j Job) (target string, mounted bool, err error) {
	real, err := m.fs.Resolve(j.MountPoint)
	if err != nil {
		return "", false, fmt.Errorf("find mount point: %w", err)
	}
	target = m.fs.Path(real)
	var st unix.Stat_t
	if err := unix.Stat(target, &st); err != nil {
		return "", false, fmt.Errorf("look at %s: %w", j.MountPoint, err)
	}
	return target, fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)) == j.Number, nil
}

// Unmount unmounts the partition; neither by force nor lazily, for who uses it
// must be seen.
func (m *Machine) Unmount(_ context.Context, j Job) error {
	target, mounted, err := m.mountedAt(j)
	if err != nil {
		return err
	}
	if !mounted {
		return nil
	}
	err = unix.Unmount(target, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		return refuse(ReasonInUse, "a process has files open below %s (lsof says which)", j.MountPoint)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", j.MountPoint, err)
	}
	return nil
}

// Format runs mkfs on the partition and on nothing else: mkfs gets an open file
// and no name that could come to lead elsewhere. That nobody has the partition is
// asked by an exclusive open right before; mkfs asks again itself.
func (m *Machine) Format(ctx context.Context, j Job, s Shape) error {
	d, err := m.open(j)
	if err != nil {
		return err
	}
	if err := d.Close(); err != nil { // or mkfs would find it taken
		return err
	}
	f, err := os.OpenFile(m.device(j), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // mkfs has flushed its own
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return err
	}
	if fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev)) != j.Number {
		return fmt.Errorf("%s is not the device %s any more", j.Device, j.Number)
	}
	name, args, err := mkfs(j.Filesystem, s)
	if err != nil {
		return err
	}
	_, err = hostexec.Run(ctx, mkfsTimeout, hostexec.Command{Path: name, Args: append(args, "/proc/self/fd/3"), Files: []*os.File{f}})
	return err
}

// Mount mounts the file system where it was. That it is pristine is asked of what
// the host's first process sees, too, by whoever offers it.
func (m *Machine) Mount(_ context.Context, j Job, s Shape) error {
	target, mounted, err := m.mountedAt(j)
	if err != nil {
		return err
	}
	if !mounted {
		err := unix.Mount(m.device(j), target, j.Filesystem, s.MountFlags, s.MountData)
		if errors.Is(err, unix.EINVAL) && s.MountData != "" { // an option that is shown and not taken
			err = unix.Mount(m.device(j), target, j.Filesystem, s.MountFlags, "")
		}
		if err != nil {
			return fmt.Errorf("mount %s at %s: %w", j.Device, j.MountPoint, err)
		}
	}
	residue, err := m.host.Pristine(j.MountPoint)
	if err == nil && residue != "" {
		err = fmt.Errorf("the file system at %s is not as mkfs leaves it: %s", j.MountPoint, residue)
	}
	return err
}
