package nodeprep

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/moby/sys/mountinfo"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/mounttable"
)

// immutable is FS_IMMUTABLE_FL of linux/fs.h, what chattr +i sets.
const immutable = 0x10

// MountFacts reads what is at the mount point of one partition.
func (h *Host) MountFacts(disk string, p *TablePartition) MountFacts {
	var f MountFacts
	if err := h.mountFacts(disk, p, &f); err != nil {
		f.Err = err.Error()
	}
	return f
}

func (h *Host) mountFacts(disk string, p *TablePartition, f *MountFacts) error {
	data, err := h.FS.ReadFile(unitPath(p.MountPoint))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read mount unit: %w", err)
	}
	f.Unit = string(data) == p.unitFile(disk)
	switch info, err := h.FS.Lstat(linkPath(p.MountPoint)); {
	case err == nil:
		f.Linked = info.Mode()&fs.ModeSymlink != 0
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("read mount unit: %w", err)
	}
	infos, err := mounttable.Read(h.FS, "1")
	if err != nil {
		return err
	}
	infos = slices.DeleteFunc(infos, func(m *mountinfo.Info) bool { return m.Mountpoint != p.MountPoint })
	if len(infos) > 0 {
		m := infos[len(infos)-1] // the topmost
		dir, err := h.FS.Resolve("/sys/dev/block/" + mounttable.Number(m))
		if err != nil || m.Root != "/" || m.FSType != string(p.Filesystem) {
			f.Other = fmt.Sprintf("%s %s of %s", m.FSType, m.Root, m.Source)
			return nil
		}
		f.Device = path.Base(dir)
		return nil
	}
	return h.directory(p.MountPoint, f)
}

func (h *Host) directory(point string, f *MountFacts) error {
	x, err := h.FS.OpenFile(point, os.O_RDONLY|unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read mount point: %w", err)
	}
	defer func() { _ = x.Close() }() // read only
	names, err := x.Readdirnames(1)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read mount point: %w", err)
	}
	f.Dir, f.Files = true, len(names) > 0
	f.Immutable, err = h.Flags.Immutable(point)
	return err
}

// Flags makes directories immutable.
type Flags interface {
	// Immutable says whether the directory is immutable. One that cannot be is said to be.
	Immutable(dir string) (bool, error)
	// SetImmutable makes it so.
	SetImmutable(dir string) error
}

// HostFlags are those of a host's own directories.
type HostFlags struct{ FS *hostfs.FS }

// Immutable asks for FS_IMMUTABLE_FL.
func (h HostFlags) Immutable(dir string) (bool, error) {
	x, err := h.FS.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return false, fmt.Errorf("read flags of %s: %w", dir, err)
	}
	defer func() { _ = x.Close() }() // read only
	flags, err := unix.IoctlGetUint32(int(x.Fd()), unix.FS_IOC_GETFLAGS)
	if unsupported(err) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("read flags of %s: %w", dir, err)
	}
	return flags&immutable != 0, nil
}

// unsupported says that the root's file system has no such flag: an overlay in
// a container, an older tmpfs. The directory is then merely empty.
func unsupported(err error) bool {
	return errors.Is(err, unix.ENOTTY) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL)
}

// SetImmutable sets FS_IMMUTABLE_FL, so that nobody, the kubelet included, fills
// the host's root while the disk is not there.
func (h HostFlags) SetImmutable(dir string) error {
	x, err := h.FS.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return fmt.Errorf("make %s immutable: %w", dir, err)
	}
	defer func() { _ = x.Close() }() // the flag is the inode's
	flags, err := unix.IoctlGetUint32(int(x.Fd()), unix.FS_IOC_GETFLAGS)
	if unsupported(err) {
		return nil
	}
	if err == nil {
		err = unix.IoctlSetPointerInt(int(x.Fd()), unix.FS_IOC_SETFLAGS, int(flags|immutable))
	}
	if err != nil && !unsupported(err) {
		return fmt.Errorf("make %s immutable: %w", dir, err)
	}
	return nil
}

// mount does what is left until the file system is mounted. c is what is on the disk.
func (p *Preparer) mount(ctx context.Context, disk string, part *TablePartition, c *Content) error {
	do, refused := part.nextMount(c, p.Host.MountFacts(disk, part), p.UnitsOnly)
	if refused != "" {
		return errors.New(refused)
	}
	for _, step := range do {
		p.tell("disk %s: %s: %s", disk, part.MountPoint, step)
		if err := p.mountStep(ctx, step, disk, part); err != nil {
			return fmt.Errorf("mount %s: %w", part.MountPoint, err)
		}
	}
	do, refused = part.nextMount(c, p.Host.MountFacts(disk, part), p.UnitsOnly)
	if refused != "" || len(do) > 0 {
		return fmt.Errorf("mount %s: it is not mounted after its unit was started: %s%v (look at: systemctl status %s)", part.MountPoint, refused, do, unitName(part.MountPoint))
	}
	return nil
}

func (p *Preparer) mountStep(ctx context.Context, step, disk string, part *TablePartition) error {
	switch step {
	case mountDir:
		return p.Files.MkdirAll(part.MountPoint, 0o755)
	case mountLock:
		return p.Host.Flags.SetImmutable(part.MountPoint)
	case mountUnit:
		if err := p.Files.MkdirAll(unitLink, 0o755); err != nil {
			return err
		}
		if err := p.Files.WriteFile(unitPath(part.MountPoint), []byte(part.unitFile(disk)), 0o644); err != nil {
			return err
		}
		if err := p.Files.Symlink("../"+unitName(part.MountPoint), linkPath(part.MountPoint)); err != nil || p.UnitsOnly {
			return err
		}
		_, err := p.Host.run(ctx, mountWait, "", "systemctl", "daemon-reload")
		return err
	case mountStart:
		_, err := p.Host.run(ctx, mountWait, "", "systemctl", "start", unitName(part.MountPoint))
		return err
	}
	return fmt.Errorf("unknown step %q", step)
}

// unmountUnit takes away the unit of a disk whose place another one took; the
// disk itself is not touched.
func (p *Preparer) unmountUnit(ctx context.Context, part *TablePartition) error {
	if err := p.Files.Remove(linkPath(part.MountPoint)); err != nil {
		return err
	}
	if err := p.Files.Remove(unitPath(part.MountPoint)); err != nil || p.UnitsOnly {
		return err
	}
	_, err := p.Host.run(ctx, mountWait, "", "systemctl", "daemon-reload")
	return err
}
