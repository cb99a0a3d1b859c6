package wipe

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// File is an open block device.
type File struct {
	f    *os.File
	size int64
}

// ErrBusy means that something has the device mounted or holds it, in whatever
// mount namespace: the kernel does not give it to a second exclusive opener
// (block/bdev.c bd_prepare_to_claim).
var ErrBusy = errors.New("the device is in use")

// Open opens the block device at path exclusively and past the page cache. It
// must be the device major:minor, which a link or a node in /dev cannot promise.
func Open(path string, major, minor uint32) (*File, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_EXCL|unix.O_DIRECT|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.EBUSY) {
		return nil, fmt.Errorf("open %s: %w", path, ErrBusy)
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	d := &File{f: os.NewFile(uintptr(fd), path)}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", path, err), d.f.Close())
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK || unix.Major(st.Rdev) != major || unix.Minor(st.Rdev) != minor {
		return nil, errors.Join(fmt.Errorf("open %s: it is not the block device %d:%d", path, major, minor), d.f.Close())
	}
	if err := d.measure(); err != nil {
		return nil, errors.Join(err, d.f.Close())
	}
	return d, nil
}

// Of is a block device that is open already: exclusively, for reading and writing.
func Of(f *os.File) (*File, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, fmt.Errorf("look at %s: %w", f.Name(), err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return nil, fmt.Errorf("look at %s: it is no block device", f.Name())
	}
	d := &File{f: f}
	return d, d.measure()
}

func (d *File) measure() error {
	if err := d.ioctl(unix.BLKGETSIZE64, unsafe.Pointer(&d.size)); err != nil {
		return fmt.Errorf("read size of %s: %w", d.f.Name(), err)
	}
	return nil
}

// Size is the device's, in bytes.
func (d *File) Size() int64 { return d.size }

// File is the open file, for a program that inherits it.
func (d *File) File() *os.File { return d.f }

// Erase is one ioctl (linux/fs.h). BLKZEROOUT lets the device write the zeros itself
// where it can, writes them where it cannot, and never unmaps (block/ioctl.c
// blk_ioctl_zeroout, BLKDEV_ZERO_NOUNMAP).
func (d *File) Erase(how Method, off, n int64) error {
	op, ok := map[Method]uint{Discard: unix.BLKDISCARD, Zero: unix.BLKZEROOUT, SecureDiscard: unix.BLKSECDISCARD}[how]
	if !ok {
		return fmt.Errorf("erase: unknown method %q", how)
	}
	r := [2]uint64{uint64(off), uint64(n)}
	err := d.ioctl(op, unsafe.Pointer(&r))
	if errors.Is(err, unix.EOPNOTSUPP) {
		return fmt.Errorf("%w: %s", ErrUnsupported, how)
	}
	return err
}

// ReadAt reads from the device.
func (d *File) ReadAt(p []byte, off int64) (int, error) { return d.f.ReadAt(p, off) }

// Sync flushes the device's own cache.
func (d *File) Sync() error { return d.f.Sync() }

// Close lets the device go.
func (d *File) Close() error { return d.f.Close() }

func (d *File) ioctl(op uint, arg unsafe.Pointer) error {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.f.Fd(), uintptr(op), uintptr(arg)); errno != 0 {
		return errno
	}
	return nil
}

// aligned is memory that O_DIRECT takes: whole pages.
func aligned(n int) ([]byte, func(), error) {
	buf, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		return nil, nil, fmt.Errorf("get memory for a chunk: %w", err)
	}
	return buf, func() { _ = unix.Munmap(buf) }, nil // it cannot fail for what Mmap gave
}

var zeros [4096]byte

func allZero(p []byte) bool {
	for len(p) > 0 {
		n := min(len(p), len(zeros))
		if !bytes.Equal(p[:n], zeros[:n]) {
			return false
		}
		p = p[n:]
	}
	return true
}
