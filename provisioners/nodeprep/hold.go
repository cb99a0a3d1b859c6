package nodeprep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostexec"
)

// inherited is how a program reaches the first file that it inherits: its open
// goes to the device number of that very node, whatever /dev calls it by then.
const inherited = "/proc/self/fd/3"

// Node is what the kernel says of an open block device.
type Node struct {
	Number string // major:minor
	// Seq is the disk's sequence number, which no other disk of this boot has, and the same loop
	// device with another file has not either. Linux before 5.15 has none: 0.
	Seq  uint64
	Size int64 // bytes; of a disk that is gone it is 0, block/genhd.c del_gendisk
}

// StatNode asks the kernel. A regular file, in a tree that stands for a host, has a size and no
// number; anything else than these is an error.
func StatNode(x *os.File) (Node, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(x.Fd()), &st); err != nil {
		return Node{}, fmt.Errorf("look at %s: %w", x.Name(), err)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFBLK:
	case unix.S_IFREG:
		return Node{Size: st.Size}, nil
	default:
		return Node{}, fmt.Errorf("look at %s: it is no block device", x.Name())
	}
	n := Node{Number: fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))}
	var size uint64
	for op, to := range map[uintptr]*uint64{unix.BLKGETSIZE64: &size, unix.BLKGETDISKSEQ: &n.Seq} {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, x.Fd(), op, uintptr(unsafe.Pointer(to)))
		if errno != 0 && (op != unix.BLKGETDISKSEQ || errno != unix.ENOTTY && errno != unix.EINVAL) {
			return Node{}, fmt.Errorf("look at %s: %w", x.Name(), errno)
		}
	}
	n.Size = int64(size)
	return n, nil
}

// held is a disk, or a partition of one, that is kept open from the look at it
// to the effect on it.
//
// The kernel's names move: sdb is free for another disk as soon as it is gone.
// But not while somebody has it open: a driver gives name and number back when
// the last opener has closed (drivers/scsi/sd.c scsi_disk_release, drivers/block/virtio_blk.c
// virtblk_free_disk, block/genhd.c disk_release). What is held is therefore dead and not
// another disk, if it is not the same. Programs get the open file and no name, and
// whoever is held is compared with the host right before each of them. It is open
// for reading and shared: held exclusively, mkfs, wipefs and pvcreate would find it
// taken, for they open it exclusively themselves, and so would the kernel when sfdisk
// tells it to read the partitions again (block/genhd.c disk_scan_partitions).
type held struct {
	file *os.File
	name string // sdb, sdb1
	disk string // sdb
	id   string
	node Node

	whole *wholeRead // since it is held and nothing was done to it
	given bool       // the token in use was given while it is held
}

func (d *held) close() {
	if d != nil {
		_ = d.file.Close() // nothing was written through it
	}
}

// hold opens a disk. id and size are what was read of the name before.
func (h *Host) hold(dev, id string, size int64) (*held, error) {
	d := &held{name: dev, disk: dev, id: id}
	return d, h.open(d, size)
}

// holdPartition opens a partition of a disk that is held.
func (h *Host) holdPartition(disk *held, p *Partition) (*held, error) {
	d := &held{name: p.Name, disk: disk.disk, id: disk.id}
	if err := h.open(d, p.Size); err != nil {
		return nil, err
	}
	start, err := h.FS.ReadString(path.Join(sysBlock, d.disk, d.name, "start"))
	switch {
	case err != nil:
		err = fmt.Errorf("read start of %s: %w", d.name, err)
	case start != strconv.FormatInt(p.Start/sysSector, 10):
		err = fmt.Errorf("%s begins at sector %s and not where it did (run again)", d.name, start)
	case d.node.Seq != disk.node.Seq:
		err = fmt.Errorf("%s is not on the disk that was looked at (run again)", d.name)
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (h *Host) open(d *held, size int64) error {
	x, err := h.FS.Open("/dev/" + d.name)
	if err != nil {
		return fmt.Errorf("open %s: %w", d.name, err)
	}
	d.file = x
	if d.node, err = h.Stat(x); err == nil {
		if d.node.Size != size {
			err = fmt.Errorf("%s has %d bytes and had %d (run again)", d.name, d.node.Size, size)
		} else {
			err = h.same(d)
		}
	}
	if err != nil {
		d.close()
		d.file = nil
	}
	return err
}

// same errs unless what is held is alive and is what the host calls by its name:
// in sysfs by number, sequence number and disk id, and in /dev.
func (h *Host) same(d *held) error {
	if d == nil {
		return errors.New("the disk could not be opened (run again)")
	}
	is, err := h.Stat(d.file)
	if err != nil {
		return err
	}
	if is != d.node {
		return fmt.Errorf("%s is %+v and was %+v when it was looked at (run again)", d.name, is, d.node)
	}
	dir := path.Join(sysBlock, d.disk)
	if d.name != d.disk {
		dir = path.Join(dir, d.name)
	}
	number, err := h.FS.ReadString(path.Join(dir, "dev"))
	if err != nil {
		return fmt.Errorf("read device number of %s: %w", d.name, err)
	}
	seq, err := diskid.Attr(h.FS, path.Join(sysBlock, d.disk, "diskseq"))
	if err != nil {
		return fmt.Errorf("read sequence number of %s: %w", d.disk, err)
	}
	id, _, err := diskid.FromSysfs(h.FS, d.disk)
	if err != nil {
		return err
	}
	named, err := h.FS.Resolve("/dev/" + d.name)
	if err != nil {
		return fmt.Errorf("find /dev/%s: %w", d.name, err)
	}
	there, err := h.FS.Lstat(named)
	if err != nil {
		return fmt.Errorf("find /dev/%s: %w", d.name, err)
	}
	mine, err := d.file.Stat()
	if err != nil {
		return fmt.Errorf("look at %s: %w", d.name, err)
	}
	if d.node.Number != "" && number != d.node.Number || seq != "" && seq != strconv.FormatUint(d.node.Seq, 10) || id != d.id || !sameNode(mine, there) {
		return fmt.Errorf("%s is another disk than was looked at: the kernel's name has moved (run again)", d.name)
	}
	return nil
}

func sameNode(a, b fs.FileInfo) bool {
	x, ok1 := a.Sys().(*syscall.Stat_t)
	y, ok2 := b.Sys().(*syscall.Stat_t)
	if ok1 && ok2 && a.Mode()&b.Mode()&fs.ModeDevice != 0 {
		return x.Rdev == y.Rdev
	}
	return os.SameFile(a, b)
}

// exclusive opens what is held once more, for this process alone. The kernel
// refuses that with EBUSY while it, a partition of it or the disk it is on is mounted, is
// swap or is held by a driver or another exclusive opener, block/bdev.c bd_may_claim.
func (d *held) exclusive(flag int) (*os.File, error) {
	return os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", d.file.Fd()), flag|unix.O_EXCL, 0)
}

// free errs unless what is held is still the same and nobody uses it.
func (h *Host) free(d *held) error {
	if err := h.same(d); err != nil {
		return err
	}
	x, err := d.exclusive(os.O_RDONLY)
	if errors.Is(err, unix.EBUSY) {
		return fmt.Errorf("%s is in use now (run again)", d.name)
	}
	if err != nil {
		return fmt.Errorf("open %s: %w", d.name, err)
	}
	return x.Close()
}

// on runs a program on what is held: it comes last of the arguments.
func (h *Host) on(ctx context.Context, d *held, timeout time.Duration, stdin, name string, args ...string) ([]byte, error) {
	return h.exec(ctx, timeout, hostexec.Command{Path: name, Args: append(args, inherited), Files: []*os.File{d.file}}, stdin)
}

// change runs a program that changes what is held.
func (h *Host) change(ctx context.Context, d *held, timeout time.Duration, stdin, name string, args ...string) error {
	if err := h.free(d); err != nil {
		return err
	}
	_, err := h.on(ctx, d, timeout, stdin, name, args...)
	return err
}
