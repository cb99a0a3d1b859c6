// Package lvmfake is a machine with LVM that is all in memory, for tests: it takes
// the command lines of lvm, mkfs, blkid, blkdiscard, mount and umount and answers
// as they do, and it can die, lie and hang at any of them. What is modelled is what
// the driver relies on: names, tags, extents, thin pools, selections, signatures,
// mounts, and what is left on extents that were in use before.
package lvmfake

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"holdfast.dev/provisioners/lvm"
)

// ErrKilled is what every call returns once the process is dead.
var ErrKilled = errors.New("the process was killed")

// Mode is how a call misbehaves.
type Mode int

// Modes.
const (
	Honest      Mode = iota
	KillBefore       // the process dies before the program runs
	KillAfter        // the process dies when the program has ended
	Fail             // exit code 5, nothing done
	Empty            // exit code 0, nothing printed, nothing done
	Garbage          // exit code 0, half an answer, nothing done
	Hang             // no answer until the deadline, nothing done
	HangAfter        // no answer until the deadline, but it was done
	LieNotFound      // exit code 0 and a whole report, but for the rows of the volumes
)

// rows are a report's of the volumes and their segments. No field has a bracket.
var rows = regexp.MustCompile(`"(lv|seg)":\[[^]]*\]`)

// Call is one program that was run.
type Call struct {
	N       int // from 1
	Program string
	Args    []string
}

// Sub is the subcommand of lvm, else the program's name.
func (c Call) Sub() string {
	if c.Program == "lvm" && len(c.Args) > 0 {
		return c.Args[0]
	}
	return c.Program
}

// Line is the whole command line.
func (c Call) Line() string { return c.Program + " " + strings.Join(c.Args, " ") }

// LV is a logical volume and what is in it.
type LV struct {
	Name, UUID     string
	Created        time.Time // lv_time; the zero time is one that LVM does not know
	Size           int64
	Tags           []string
	Pool, Origin   string
	ThinPool       bool
	ReadOnly, Skip bool
	Unzeroed       bool // a thin pool that does not zero what it hands out
	Active         bool
	Open           bool // something has it open
	// FS is the file system on it, Signature what else blkid sees, Data what a
	// workload wrote, Residue what earlier owners of its extents left.
	FS, Signature, Data string
	Residue             []string
	Grown               int64 // size of the file system
	Used                int64 // bytes of its file system that are in use; 0 for a tenth
	Formats             int   // how often mkfs ran on it
	Areas               []Area
	zeroed              int64 // so many bytes from the front on were written over
	opened              int   // devices that the driver has open
	Unsynced            bool  // something was written and not synced
	incoming            *content
}

// Group is a volume group.
type Group struct {
	Info       lvm.GroupInfo
	ExtentSize int64
	Extents    int64
	Missing    bool // its physical volume is gone
	Seqno      int64
	LVs        map[string]*LV
	Residue    []string // what was left on free extents
	Serial     int
	// PoolData is how full the thin pool is, in percent.
	PoolData, PoolMeta float64
	clean              []Area // free extents that were zeroed
}

type mount struct {
	device, target, fs string
	readOnly           bool
}

// Host is the machine. The zero value is not usable; see New.
type Host struct {
	mu     sync.Mutex
	groups map[string]*Group // by name
	mounts []mount
	calls  []Call
	dead   bool
	// misbehave says how each call goes; nil is honest.
	misbehave func(Call) Mode
	// hung is closed when calls of devices that hang go on.
	hung chan struct{}
	// Latency is how long each call takes.
	Latency time.Duration
	// Network is what Devices says of the disks of every group.
	Network string
}

// New makes a machine with groups of so many bytes each. A group with a thin pool has
// one that fills nine tenths of it.
func New(size int64, infos ...lvm.GroupInfo) *Host {
	h := &Host{groups: map[string]*Group{}, hung: make(chan struct{})}
	for _, in := range infos {
		const extent = 4 << 20
		g := &Group{Info: in, ExtentSize: extent, Extents: size / extent, Seqno: 1, LVs: map[string]*LV{}, PoolData: 1.5, PoolMeta: 2.5}
		if in.ThinPool != "" {
			g.LVs[in.ThinPool] = &LV{Name: in.ThinPool, UUID: uuid(in.Name, 0), Size: size / extent * 9 / 10 * extent, ThinPool: true, Active: true,
				Areas: []Area{{0, size / extent * 9 / 10}}}
		}
		h.groups[in.Name] = g
	}
	return h
}

func uuid(name string, n int) string {
	s := fmt.Sprintf("%s%032d", strings.Map(func(r rune) rune {
		if r == '-' || r == '_' || r == '.' {
			return 'x'
		}
		return r
	}, name), n)
	s = s[len(s)-32:]
	return strings.Join([]string{s[:6], s[6:10], s[10:14], s[14:18], s[18:22], s[22:26], s[26:]}, "-")
}

// Misbehave sets how calls go from now on; nil is honest.
func (h *Host) Misbehave(f func(Call) Mode) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.misbehave = f
	h.wake()
}

// Revive is the start of a new process on the machine, with honest programs.
func (h *Host) Revive() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.dead, h.misbehave = false, nil
	h.wake()
	for _, g := range h.groups {
		for _, l := range g.LVs {
			l.opened = 0 // the kernel closed them
		}
	}
}

// Dead says whether the process was killed.
func (h *Host) Dead() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dead
}

// Calls are the programs that were run since the last time it was asked.
func (h *Host) Calls() []Call {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.calls
	h.calls = nil
	return c
}

// With runs f on a group's insides.
func (h *Host) With(group string, f func(*Group)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h.groups[group])
}

// Volumes are the volumes of a group without its thin pool, by name.
func (h *Host) Volumes(group string) []LV {
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []LV
	for _, l := range h.groups[group].LVs {
		if !l.ThinPool {
			all = append(all, *l)
		}
	}
	slices.SortFunc(all, func(a, b LV) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// Run is lvm.Host's.
func (h *Host) Run(ctx context.Context, timeout time.Duration, program string, args ...string) ([]byte, error) {
	h.mu.Lock()
	if h.dead {
		h.mu.Unlock()
		return nil, ErrKilled
	}
	c := Call{N: len(h.calls) + 1, Program: program, Args: slices.Clone(args)}
	h.calls = append(h.calls, c)
	mode := Honest
	if h.misbehave != nil {
		mode = h.misbehave(c)
	}
	var out string
	var err error
	switch mode {
	case KillBefore:
		h.dead = true
		h.mu.Unlock()
		return nil, ErrKilled
	case Honest, KillAfter, HangAfter:
		out, err = h.run(c)
	case Fail:
		err = exit(5, "Input/output error")
	case Garbage:
		out = `  {"report": [ {"vg": [ {"vg_name":"x"`
	case LieNotFound:
		out, err = h.run(c)
		out = rows.ReplaceAllString(out, `"$1":[]`)
	}
	if mode == KillAfter {
		h.dead = true
		out, err = "", ErrKilled
	}
	h.mu.Unlock()
	if mode == Hang || mode == HangAfter {
		t := time.NewTimer(timeout)
		defer t.Stop()
		select {
		case <-t.C:
			return nil, fmt.Errorf("no answer within %s: %w", timeout, context.DeadlineExceeded)
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if h.Latency > 0 {
		time.Sleep(h.Latency)
	}
	return []byte(out), err
}

// exitError is a program that ended by itself with a code.
type exitError struct {
	code int
	msg  string
}

func (e *exitError) Error() string   { return fmt.Sprintf("exit status %d: %s", e.code, e.msg) }
func (e *exitError) ExitStatus() int { return e.code }

func exit(code int, format string, args ...any) error {
	return &exitError{code: code, msg: fmt.Sprintf(format, args...)}
}

// Devices is lvm.Host's.
func (h *Host) Devices(_ context.Context, g lvm.GroupInfo) (lvm.Devices, error) {
	return lvm.Devices{Paths: []string{"/dev/disk/by-id/" + g.Name}, Network: h.Network}, nil
}

// volume finds the volume of a device node.
func (h *Host) volume(device string) (*Group, *LV) {
	p := strings.Split(strings.TrimPrefix(device, "/dev/"), "/")
	if len(p) != 2 || h.groups[p[0]] == nil {
		return nil, nil
	}
	g := h.groups[p[0]]
	return g, g.LVs[p[1]]
}

// Exclusive is lvm.Host's.
func (h *Host) Exclusive(device string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.exclusive(device)
}

func (h *Host) exclusive(device string) error {
	_, l := h.volume(device)
	switch {
	case h.dead:
		return ErrKilled
	case l == nil || !l.Active:
		return fmt.Errorf("open %s: %w", device, os.ErrNotExist)
	case l.Open || l.opened > 0 || h.mounted(device):
		return fmt.Errorf("open %s: device or resource busy", device)
	}
	return nil
}

func (h *Host) mounted(device string) bool {
	return slices.ContainsFunc(h.mounts, func(m mount) bool { return m.device == device })
}

// Present is lvm.Host's.
func (h *Host) Present(device string) (bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return false, ErrKilled
	}
	_, l := h.volume(device)
	return l != nil && l.Active, nil
}

// Of is lvm.Mounts'.
func (h *Host) Of(device string) ([]lvm.Mount, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return nil, ErrKilled
	}
	var all []lvm.Mount
	for _, m := range h.mounts {
		if m.device == device {
			all = append(all, lvm.Mount{Target: m.target, Filesystem: m.fs, ReadOnly: m.readOnly})
		}
	}
	return all, nil
}

// At is lvm.Mounts'.
func (h *Host) At(target, device string) (*lvm.Mount, bool, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.dead {
		return nil, false, ErrKilled
	}
	for _, m := range slices.Backward(h.mounts) {
		if m.target == target {
			return &lvm.Mount{Target: target, Filesystem: m.fs, ReadOnly: m.readOnly}, m.device == device, nil
		}
	}
	return nil, false, nil
}

// Usage is lvm.Mounts'.
func (h *Host) Usage(_ context.Context, path string) (lvm.Usage, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range h.mounts {
		if m.target != path {
			continue
		}
		_, l := h.volume(m.device)
		if m.fs == "devtmpfs" {
			return lvm.Usage{Total: l.Size, Block: true}, nil
		}
		used := l.Used
		if used == 0 {
			used = l.Grown / 10
		}
		return lvm.Usage{Total: l.Grown, Used: used, Available: l.Grown - used, Inodes: 1000, InodesUsed: 3, InodesFree: 997}, nil
	}
	return lvm.Usage{}, os.ErrNotExist
}
