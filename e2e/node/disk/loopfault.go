package disk

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// readSize is one page: what O_DIRECT can always read.
	readSize = 4096
	// logWait is how long the kernel's line may take; it is written before the read returns.
	logWait = 50 * time.Millisecond
	// retryWait is between reads while the kernel suppresses its lines.
	retryWait = 500 * time.Millisecond
)

// readError empties the backing file and reads the last page of the partition
// past the page cache, until the kernel has logged the error. The file is
// emptied before each read: writes of the file system make it grow again, and
// the hole before them would read as zeros.
func (l *loopBackend) readError(ctx context.Context, b *bay) (Fault, error) {
	d, ok := b.dev.(*loopDisk)
	if !ok {
		return Fault{}, fmt.Errorf("disk %s is not attached: %w", b.Name, ErrState)
	}
	dev, err := os.OpenFile(filepath.Join(l.root, "dev", d.name), os.O_RDONLY|unix.O_DIRECT, 0)
	if err != nil {
		return Fault{}, err
	}
	defer func() { _ = dev.Close() }() // read only
	size, err := dev.Seek(0, 2)
	if err != nil {
		return Fault{}, fmt.Errorf("size of %s: %w", d.name, err)
	}
	at := (partitionStart+int64(partitionSectors(size)))*sectorSize - readSize
	klog, err := openKernelLog()
	if err != nil {
		l.log.Debug("kernel log cannot be read, faults are not confirmed", "error", err)
	}
	defer klog.close()
	f := Fault{Disk: b.Name, ID: b.ID, Device: d.name, Sector: uint64(at) / sectorSize}
	buf := alignedPage()
	for {
		if err := os.Truncate(b.Image, 0); err != nil {
			return f, err
		}
		_, err := dev.ReadAt(buf, at)
		f.Time = time.Now()
		f.Reads++
		if err == nil {
			return f, fmt.Errorf("read from emptied disk %s without an error", b.Name)
		}
		if !errors.Is(err, unix.EIO) {
			return f, fmt.Errorf("read from emptied disk %s: %w", b.Name, err)
		}
		if klog == nil {
			return f, nil
		}
		if f.Record = klog.find(fmt.Sprintf("I/O error, dev %s, sector %d ", d.name, f.Sector)); f.Record != "" {
			return f, nil
		}
		select {
		case <-ctx.Done():
			return f, fmt.Errorf("%d reads from disk %s failed and the kernel logged none (it logs 10 in 5 seconds): %w", f.Reads, b.Name, ctx.Err())
		case <-time.After(retryWait):
		}
	}
}

// alignedPage is memory that O_DIRECT accepts.
func alignedPage() []byte {
	buf := make([]byte, 2*readSize)
	skip := -uintptr(unsafe.Pointer(&buf[0])) & (readSize - 1)
	return buf[skip : skip+readSize]
}

// kernelLog reads the records that are written from its opening on. A nil one
// is closed and finds nothing.
type kernelLog struct{ fd int }

func openKernelLog() (*kernelLog, error) {
	fd, err := unix.Open("/dev/kmsg", unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if _, err := unix.Seek(fd, 0, unix.SEEK_END); err != nil {
		return nil, errors.Join(err, unix.Close(fd))
	}
	return &kernelLog{fd: fd}, nil
}

// find returns the first new record with text in it, or "" when none came in time.
func (k *kernelLog) find(text string) string {
	buf := make([]byte, 8<<10) // a record is at most PRINTKRB_RECORD_MAX and its prefix
	for deadline := time.Now().Add(logWait); ; {
		n, err := unix.Read(k.fd, buf)
		switch {
		case err == nil:
			if line, _, _ := bytes.Cut(buf[:n], []byte("\n")); bytes.Contains(line, []byte(text)) {
				return string(line)
			}
			continue
		case errors.Is(err, unix.EPIPE), errors.Is(err, unix.EINTR):
			continue // overwritten before it was read; the next one is there
		case !errors.Is(err, unix.EAGAIN):
			return ""
		}
		left := time.Until(deadline)
		if left <= 0 {
			return ""
		}
		// An interrupted wait is taken up again by the loop.
		_, _ = unix.Poll([]unix.PollFd{{Fd: int32(k.fd), Events: unix.POLLIN}}, int(left.Milliseconds())+1)
	}
}

func (k *kernelLog) close() {
	if k != nil {
		_ = unix.Close(k.fd) // read only
	}
}
