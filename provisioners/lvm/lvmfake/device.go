package lvmfake

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"holdfast.dev/provisioners/lvm"
)

// page is as much as a mark of a volume's content takes.
const page = 4096

// content is what a volume holds, as marks in its first page, in one in the middle and in
// its last one. A copy that lacks one of them is none.
type content struct {
	FS, Data string
	Grown    int64
	Size     int64 // of the volume
	seen     map[int64]bool
}

// marks are the pages that are not zero, by offset.
func (c content) marks() map[int64][]byte {
	if c.FS == "" && c.Data == "" {
		return nil
	}
	head, err := json.Marshal(c)
	if err != nil {
		panic(err) // it is two strings and two numbers
	}
	return map[int64][]byte{0: head, c.Size / 2 / page * page: []byte("middle of " + c.Data), c.Size - page: []byte("end of " + c.Data)}
}

func unpad(p []byte) string { return strings.TrimRight(string(p), "\x00") }

// device is a volume's device that is open.
type device struct {
	h     *Host
	l     *LV
	name  string
	write bool
}

// wake lets the calls that hang go on. The caller holds the lock.
func (h *Host) wake() {
	close(h.hung)
	h.hung = make(chan struct{})
}

// step is one call of a device, which can die and hang like a program.
func (h *Host) step(program, name string, f func() error) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return ErrKilled
	}
	c := Call{N: len(h.calls) + 1, Program: program, Args: []string{name}}
	h.calls = append(h.calls, c)
	mode := Honest
	if h.misbehave != nil {
		mode = h.misbehave(c)
	}
	switch mode {
	case KillBefore:
		h.dead = true
		return ErrKilled
	case Fail:
		return fmt.Errorf("%s %s: input/output error", program, name)
	case Hang, HangAfter:
		hung := h.hung
		h.mu.Unlock()
		<-hung
		h.mu.Lock()
		if h.dead {
			return ErrKilled
		}
	}
	err := f()
	if mode == KillAfter {
		h.dead = true
		return ErrKilled
	}
	return err
}

// Open is lvm.Host's.
func (h *Host) Open(name string, write bool) (lvm.RawDevice, error) {
	d := &device{h: h, name: name, write: write}
	err := h.step("open", name, func() error {
		_, d.l = h.volume(name)
		switch {
		case d.l == nil || !d.l.Active:
			return fmt.Errorf("open %s: %w", name, os.ErrNotExist)
		case write && d.l.ReadOnly, h.exclusive(name) != nil:
			return fmt.Errorf("open %s: device or resource busy", name)
		}
		d.l.opened++
		return nil
	})
	return d, err
}

func (d *device) Size() int64 { return d.l.Size }

func (d *device) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.l.Size || off%512 != 0 || len(p)%512 != 0 {
		return 0, io.ErrUnexpectedEOF
	}
	return len(p), d.h.step("read", d.name, func() error {
		clear(p)
		for at, mark := range (content{FS: d.l.FS, Data: d.l.Data, Grown: d.l.Grown, Size: d.l.Size}).marks() {
			if at >= off && at < off+int64(len(p)) {
				copy(p[at-off:], mark)
			}
		}
		return nil
	})
}

func (d *device) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.l.Size || off%512 != 0 || len(p)%512 != 0 {
		return 0, io.ErrShortWrite
	}
	return len(p), d.h.step("write", d.name, func() error {
		if !d.write {
			return os.ErrPermission
		}
		d.l.overwrite(off, int64(len(p)))
		d.l.Unsynced = true
		return d.take(p, off)
	})
}

// take takes what is written for the content of another volume.
func (d *device) take(p []byte, off int64) error {
	if off == 0 {
		c := &content{seen: map[int64]bool{}}
		if err := json.Unmarshal([]byte(unpad(p[:page])), c); err != nil {
			return fmt.Errorf("what is written is no content: %w", err)
		}
		d.l.FS, d.l.Data, d.l.incoming = c.FS, "part of "+c.Data, c
	}
	c := d.l.incoming
	if c == nil {
		return fmt.Errorf("what is written at %d has no beginning", off)
	}
	marks := c.marks()
	for at, mark := range marks {
		if at >= off && at < off+int64(len(p)) && unpad(p[at-off:at-off+page]) == string(mark) {
			c.seen[at] = true
		}
	}
	if len(c.seen) == len(marks) {
		d.l.Data, d.l.Grown = c.Data, c.Grown
	}
	return nil
}

func (d *device) Zero(off, n int64) error {
	return d.h.step("zero", d.name, func() error {
		if !d.write || off < 0 || n <= 0 || off+n > d.l.Size {
			return os.ErrInvalid
		}
		d.l.overwrite(off, n)
		d.l.Unsynced = true
		return nil
	})
}

func (d *device) Sync() error {
	return d.h.step("sync", d.name, func() error {
		d.l.Unsynced = false
		return nil
	})
}

// Close is no step: a process that dies closes too.
func (d *device) Close() error {
	d.h.mu.Lock()
	defer d.h.mu.Unlock()
	d.l.opened = max(0, d.l.opened-1)
	return nil
}
