package disk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/hostexec"
)

// loopBackend makes disks of loop devices. All its mounts are in the mount
// namespace of this process, which must be a private one: they vanish with it,
// and so do the loop devices, which clear themselves when their last user ends.
type loopBackend struct {
	root   string
	log    *slog.Logger
	mkfs   string
	mounts *mountTable
	tmpfs  []string
	// control is /dev/loop-control.
	control *os.File
}

// loopDisk is one attached loop device.
type loopDisk struct {
	number  int
	name    string   // loop7007
	part    string   // loop7007p1
	whole   *os.File // holds the device against autoclear
	dev     uint64
	partDev uint64
}

func newLoopBackend(root string, log *slog.Logger) (_ *loopBackend, err error) {
	mkfs, err := findProgram("mkfs.ext4")
	if err != nil {
		return nil, fmt.Errorf("loop disks need mkfs.ext4 (package e2fsprogs), or run with --simulate: %w", err)
	}
	control, err := openLoopControl()
	if err != nil {
		return nil, err
	}
	l := &loopBackend{root: root, log: log, mkfs: mkfs, control: control}
	defer func() {
		if err != nil {
			err = errors.Join(err, l.close())
		}
	}()
	// A tmpfs each: device nodes work in it whatever the root lies on, and
	// nothing of it is left on disk.
	for _, dir := range []string{"sys", "dev"} {
		dir = filepath.Join(root, dir)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NOEXEC, "size=1m,mode=755"); err != nil {
			return nil, fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
		l.tmpfs = append(l.tmpfs, dir)
	}
	for _, dir := range []string{"sys/block", "sys/dev/block", "sys/class/block", "sys/devices/virtual/block", "dev/disk/by-partuuid", "mnt/holdfast"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	for _, name := range []string{"dev/kmsg", "proc/uptime"} {
		if err := l.bindFile("/"+name, filepath.Join(root, name)); err != nil {
			return nil, err
		}
	}
	if err := copyProc(root, "sys/kernel/random/boot_id"); err != nil {
		return nil, err
	}
	l.mounts, err = watchMounts(root, log)
	return l, err
}

func (l *loopBackend) bindFile(src, dst string) error {
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(dst, nil, 0o644); err != nil {
		return fmt.Errorf("bind %s: %w", src, err)
	}
	if err := unix.Mount(src, dst, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", src, dst, err)
	}
	l.tmpfs = append(l.tmpfs, dst)
	return nil
}

func copyProc(root, name string) error {
	data, err := os.ReadFile(filepath.Join("/proc", name))
	if err != nil {
		return err
	}
	return WriteFile(filepath.Join(root, "proc", name), data, 0o444)
}

func (l *loopBackend) attach(ctx context.Context, b *bay) (err error) {
	d, err := configureLoop(ctx, b.Image)
	if err != nil {
		return err
	}
	b.dev, b.Device = d, d.name
	defer func() {
		if err != nil {
			err = errors.Join(err, l.detach(b))
			b.Device = ""
		}
	}()
	info, err := os.Stat(b.Image)
	if err != nil {
		return err
	}
	if err := d.addPartition(info.Size()); err != nil {
		return err
	}
	if err := l.expose(d, b.PartitionUUID); err != nil {
		return err
	}
	part := filepath.Join(l.root, "dev", d.part)
	if !b.formatted {
		_, err := hostexec.Run(ctx, time.Minute, hostexec.Command{Path: l.mkfs, Args: []string{
			"-q", "-F", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", part,
		}})
		if err != nil {
			return err
		}
	}
	target := filepath.Join(l.root, b.MountPoint)
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	// noinit_itable: no background writes to a disk that tests look at.
	if err := unix.Mount(part, target, "ext4", 0, "noinit_itable"); err != nil {
		return fmt.Errorf("mount %s on %s: %w", d.part, b.MountPoint, err)
	}
	return l.mounts.write()
}

// detach is safe on a half-attached disk. Who still has a file open on it
// keeps the kernel's device busy until then, but it is gone from this node.
func (l *loopBackend) detach(b *bay) error {
	d, ok := b.dev.(*loopDisk)
	if !ok {
		return nil
	}
	b.dev = nil
	var errs []error
	lazily := func(target string) {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", target, err))
		}
	}
	lazily(filepath.Join(l.root, b.MountPoint))
	errs = append(errs, l.hide(d, b.PartitionUUID, lazily))
	// With other users left the kernel clears the device at its last close.
	if err := unix.IoctlSetInt(int(d.whole.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		errs = append(errs, fmt.Errorf("clear %s: %w", d.name, err))
	}
	errs = append(errs, d.whole.Close(), l.mounts.write())
	sweepLoop(l.control, d.number)
	return errors.Join(errs...)
}

// expose shows the device in the node's /sys and /dev, as the kernel and udev would.
func (l *loopBackend) expose(d *loopDisk, partitionUUID string) error {
	dir := filepath.Join(l.root, "sys/devices/virtual/block", d.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(filepath.Join("/sys/devices/virtual/block", d.name), dir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind sysfs of %s: %w", d.name, err)
	}
	for link, target := range l.links(d, partitionUUID) {
		if err := os.Symlink(target, filepath.Join(l.root, link)); err != nil {
			return err
		}
	}
	for name, dev := range map[string]uint64{d.name: d.dev, d.part: d.partDev} {
		if err := unix.Mknod(filepath.Join(l.root, "dev", name), unix.S_IFBLK|0o660, int(dev)); err != nil {
			return fmt.Errorf("make device node %s: %w", name, err)
		}
	}
	return nil
}

func (l *loopBackend) hide(d *loopDisk, partitionUUID string, unmount func(string)) error {
	var errs []error
	names := []string{"dev/" + d.name, "dev/" + d.part}
	for link := range l.links(d, partitionUUID) {
		names = append(names, link)
	}
	for _, name := range names {
		if err := os.Remove(filepath.Join(l.root, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	dir := filepath.Join(l.root, "sys/devices/virtual/block", d.name)
	unmount(dir)
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// links are the symbolic links that lead to a disk.
func (l *loopBackend) links(d *loopDisk, partitionUUID string) map[string]string {
	text := func(dev uint64) string { return fmt.Sprintf("%d:%d", unix.Major(dev), unix.Minor(dev)) }
	return diskLinks(d.name, d.part, text(d.dev), text(d.partDev), partitionUUID)
}

func diskLinks(disk, part, diskNumber, partNumber, partitionUUID string) map[string]string {
	dir := "../devices/virtual/block/" + disk
	return map[string]string{
		"sys/block/" + disk:                     dir,
		"sys/class/block/" + disk:               "../" + dir,
		"sys/class/block/" + part:               "../" + dir + "/" + part,
		"sys/dev/block/" + diskNumber:           "../" + dir,
		"sys/dev/block/" + partNumber:           "../" + dir + "/" + part,
		"dev/disk/by-partuuid/" + partitionUUID: "../../" + part,
	}
}

func (l *loopBackend) settle(b *bay) error {
	dir, err := os.Open(filepath.Join(l.root, b.MountPoint))
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // read only
	if err := unix.Syncfs(int(dir.Fd())); err != nil {
		return fmt.Errorf("write out %s: %w", b.MountPoint, err)
	}
	return nil
}

func (l *loopBackend) close() error {
	var errs []error
	if l.mounts != nil {
		l.mounts.stop()
	}
	for i := len(l.tmpfs) - 1; i >= 0; i-- {
		if err := unix.Unmount(l.tmpfs[i], unix.MNT_DETACH); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", l.tmpfs[i], err))
		}
	}
	l.tmpfs = nil
	return errors.Join(append(errs, l.control.Close())...)
}

// findProgram looks in the usual directories too: those of the administrator
// are in no user's PATH.
func findProgram(name string) (string, error) {
	path, err := hostexec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin", "/usr/local/sbin"} {
		if path, err := hostexec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}
