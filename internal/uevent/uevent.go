// Package uevent hears the kernel say that block devices come, go or change
// (NETLINK_KOBJECT_UEVENT, lib/kobject_uevent.c). Nothing has to look at them in
// between.
package uevent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Listener hears the events. Its socket is the calling process's network
// namespace's: the kernel sends events of devices to every one.
type Listener struct {
	f    *os.File
	conn syscall.RawConn
}

const kernelGroup = 1 // group 2 is udev's

// Listen opens the socket.
func Listen() (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open uevent socket: %w", err)
	}
	u := &Listener{f: os.NewFile(uintptr(fd), "uevent")}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		_ = u.f.Close() // the first error counts
		return nil, fmt.Errorf("bind uevent socket: %w", err)
	}
	if u.conn, err = u.f.SyscallConn(); err != nil {
		_ = u.f.Close() // the first error counts
		return nil, fmt.Errorf("open uevent socket: %w", err)
	}
	return u, nil
}

// Event is an event of a block device, or of the NVMe controller that is named:
// it has sent an asynchronous event (drivers/nvme/host/core.c nvme_aen_uevent),
// such as that its health has changed.
type Event struct{ Controller string }

// Run calls changed for each event until the context ends. It also calls it, as
// for a block device, when events were lost.
func (u *Listener) Run(ctx context.Context, changed func(Event)) error {
	stop := context.AfterFunc(ctx, func() {
		// The only errors are of a closed socket.
		_ = u.f.SetReadDeadline(time.Unix(1, 0))
	})
	defer stop()
	defer func() { _ = u.f.Close() }() // read only
	buf := make([]byte, 8<<10)         // UEVENT_BUFFER_SIZE is 2 KiB
	for {
		n, from, err := u.receive(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			changed(Event{})
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("read uevent: %w", err)
		case fromKernel(from):
			if e, ok := parseUevent(buf[:n]); ok {
				changed(e)
			}
		}
	}
}

func (u *Listener) receive(buf []byte) (n int, from unix.Sockaddr, err error) {
	waitErr := u.conn.Read(func(fd uintptr) bool {
		n, from, err = unix.Recvfrom(int(fd), buf, 0)
		return err != unix.EAGAIN
	})
	if waitErr != nil {
		return 0, nil, waitErr
	}
	return n, from, err
}

// fromKernel is false for messages that a program sent to the group.
func fromKernel(from unix.Sockaddr) bool {
	a, ok := from.(*unix.SockaddrNetlink)
	return ok && a.Pid == 0
}

// parseUevent reads "action@devpath\0KEY=value\0…". It is false for events that
// are neither of a block device nor an NVMe controller's own.
func parseUevent(msg []byte) (e Event, ok bool) {
	fields := bytes.Split(msg, []byte{0})
	var subsystem string
	told := false
	for _, field := range fields {
		if v, ok := bytes.CutPrefix(field, []byte("SUBSYSTEM=")); ok {
			subsystem = string(v)
		}
		told = told || bytes.HasPrefix(field, []byte("NVME_AEN="))
	}
	switch {
	case subsystem == "block":
		return Event{}, true
	case subsystem == "nvme" && told:
		return Event{Controller: path.Base(string(fields[0]))}, true
	}
	return Event{}, false
}
