package inventory

import (
	"slices"
	"sort"
	"strings"
	"time"

	"holdfast.dev/internal/diskid"
	"holdfast.dev/monitor/kernel"
)

// Names remembers which disks the kernel's names meant, and when, so that a
// line about sdc is put down to the right disk even after sdc is gone or is
// another one. It is not safe for concurrent use.
type Names struct {
	spans    map[string][]span
	attached map[string]time.Time // by name: the log's last line that says so
	seen     bool
}

// How a name is a disk's.
type How int

// Ways. Itself: the disk, or a part of it. Member: the same, and one of several
// members of a file system. Path: one way among several to the disk. Above: what
// is stacked on it. Network: a disk that is reached over a network.
const (
	Itself How = iota
	Member
	Path
	Above
	Network
)

// span is a time in which a name meant the same disks; none when what it meant
// was of no disk that is known.
type span struct {
	ids  []string
	how  How
	from time.Time // first seen so; zero for what the process found at its start
	last time.Time // last seen so
}

const maxSpans = 4

// Update takes in a look at the host that began at the given time.
func (n *Names) Update(s *Snapshot, at time.Time) {
	if n.spans == nil {
		n.spans = map[string][]span{}
	}
	now := map[string]*span{}
	add := func(name, id string, how How) {
		sp := now[name]
		if sp == nil {
			sp = &span{}
			now[name] = sp
		}
		sp.how = max(sp.how, how)
		if id != "" {
			sp.ids = append(sp.ids, id)
		}
	}
	for i := range s.Disks {
		d := &s.Disks[i]
		for _, name := range d.Names {
			if diskid.Networked(d.ID, d.Weak) {
				add(name, d.ID, Network)
			} else {
				add(name, d.ID, Itself)
			}
		}
		for _, name := range d.Members {
			add(name, d.ID, Member)
		}
		for _, name := range d.Paths {
			add(name, d.ID, Path)
		}
		for _, name := range d.Above {
			add(name, d.ID, Above)
		}
	}
	for _, name := range s.Shared {
		add(name, "", Above)
	}
	for name, sp := range now {
		sort.Strings(sp.ids)
		sp.ids = slices.Compact(sp.ids)
		list := n.spans[name]
		if k := len(list); k > 0 && slices.Equal(list[k-1].ids, sp.ids) && list[k-1].how == sp.how {
			list[k-1].last = at
			continue
		}
		// What is stacked comes and goes without a line in the log: its owner of
		// today may not have been it before.
		sp.from, sp.last = at, at
		if !n.seen && sp.how != Above {
			sp.from = time.Time{}
		}
		n.spans[name] = append(list[max(0, len(list)-maxSpans+1):], *sp)
	}
	n.forget(now, at)
	n.seen = n.seen || s.Err == nil
}

// forget drops names that have been nobody's for a day: volumes come and go.
func (n *Names) forget(now map[string]*span, at time.Time) {
	const long = 24 * time.Hour
	for name, list := range n.spans {
		if now[name] == nil && at.Sub(list[len(list)-1].last) > long {
			delete(n.spans, name)
			delete(n.attached, name)
		}
	}
}

// Attached notes that the log says that a device came under name. What the disk of that
// name was called besides (numbers, partitions, addresses, an NVMe controller's namespaces) is
// no longer sure to be its own either. A way among several may come back to the same disk.
func (n *Names) Attached(name string, at time.Time) {
	if n.attached == nil {
		n.attached = map[string]time.Time{}
	}
	note := func(name string) {
		if at.After(n.attached[name]) {
			n.attached[name] = at
		}
	}
	note(name)
	own := func(name string) []string {
		list := n.spans[name]
		if len(list) == 0 || list[len(list)-1].how == Above || list[len(list)-1].how == Path {
			return nil
		}
		return list[len(list)-1].ids
	}
	ids := own(name)
	for other := range n.spans {
		if kernel.Within(other, name) || slices.ContainsFunc(own(other), func(id string) bool { return slices.Contains(ids, id) }) {
			note(other)
		}
	}
}

// Answer is what a name meant.
type Answer int

// Answers. Stale: the log says that the name was given anew after the last
// look; look again.
const (
	Unknown Answer = iota
	Stale
	Known
)

// Resolve tells which disks name meant at that time, and how: the owner then, and after
// the owner went, still the owner, until another one is seen. A time before
// the first sight of an owner is given to it only if the log shows that it had
// come by then.
func (n *Names) Resolve(name string, at time.Time) ([]string, How, Answer) {
	list := n.spans[name]
	if len(list) == 0 {
		if disk := parent(name); disk != "" && len(n.spans[disk]) > 0 {
			return n.Resolve(disk, at)
		}
		return nil, Itself, Unknown
	}
	came := n.came(name)
	if last := list[len(list)-1]; came.After(last.last) && !at.Before(came) {
		return nil, Itself, Stale
	}
	for i := len(list) - 1; i >= 0; i-- {
		sp := list[i]
		if !at.Before(sp.from) {
			return sp.ids, sp.how, Known
		}
		before := time.Time{}
		if i > 0 {
			before = list[i-1].last
		}
		if came.After(before) && !at.Before(came) && !came.After(sp.from) {
			return sp.ids, sp.how, Known
		}
	}
	return nil, Itself, Unknown
}

// came is when the log last said that something came under name, or under that of
// which name is a part: the disk of a partition, the controller of a namespace.
func (n *Names) came(name string) time.Time {
	t := n.attached[name]
	for whole, at := range n.attached {
		if at.After(t) && kernel.Within(name, whole) {
			t = at
		}
	}
	return t
}

// parent is the disk of a partition's name, or empty.
func parent(name string) string {
	base := strings.TrimRight(name, "0123456789")
	if base == name || base == "" {
		return ""
	}
	if p, ok := strings.CutSuffix(base, "p"); ok && p != "" && p[len(p)-1] >= '0' && p[len(p)-1] <= '9' {
		return p // nvme0n1p1, loop3p1
	}
	if strings.HasPrefix(base, "sd") || strings.HasPrefix(base, "vd") {
		return base
	}
	return ""
}
