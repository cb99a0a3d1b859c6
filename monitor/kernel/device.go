package kernel

import (
	"fmt"
	"io/fs"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/hostfs"
)

// DevicePath is the kernel log's device below the host's root.
const DevicePath = "/dev/kmsg"

// Device is the opened /dev/kmsg, or a pipe that stands for it.
type Device struct {
	f    *os.File
	conn syscall.RawConn
	pipe bool
}

// OpenDevice opens the kernel log at its oldest record.
func OpenDevice(host *hostfs.FS) (*Device, error) {
	f, err := host.OpenFile(DevicePath, os.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("open kernel log: %w", err)
	}
	d := &Device{f: f}
	info, err := f.Stat()
	if err == nil && info.Mode()&fs.ModeNamedPipe != 0 {
		// Open for writing too: else a pipe without a writer is at its end.
		_ = f.Close() // read only, nothing is lost
		d.pipe = true
		d.f, err = host.OpenFile(DevicePath, os.O_RDWR|unix.O_NONBLOCK)
	}
	if err != nil {
		return nil, fmt.Errorf("open kernel log: %w", err)
	}
	if d.conn, err = d.f.SyscallConn(); err != nil {
		_ = d.f.Close() // the first error counts
		return nil, fmt.Errorf("open kernel log: %w", err)
	}
	return d, nil
}

// Replays implements Source.
func (d *Device) Replays() bool { return !d.pipe }

// Read implements Source. The file is polled, so that Stop ends the wait.
func (d *Device) Read(p []byte, idle func()) (n int, err error) {
	idled := false
	waitErr := d.conn.Read(func(fd uintptr) bool {
		n, err = unix.Read(int(fd), p)
		if err != unix.EAGAIN {
			return true
		}
		if !idled {
			idled = true
			idle()
			// A record may have come meanwhile.
			n, err = unix.Read(int(fd), p)
		}
		return err != unix.EAGAIN
	})
	if waitErr != nil {
		return 0, waitErr
	}
	return n, err
}

// Stop ends a Read that waits, and every later one.
func (d *Device) Stop() {
	// The only errors are of files that cannot be polled or are closed.
	_ = d.f.SetReadDeadline(time.Unix(1, 0))
}

// Close closes the device.
func (d *Device) Close() error { return d.f.Close() }
