package kernel

import (
	"context"
	"strings"
	"sync/atomic"
	"time"
)

// Update is what was found in one stretch of the log. The attaches come
// before the events.
type Update struct {
	Attaches []Attach
	Events   []Event
	Position Position // of the last record that is dealt with
	// Caught is set on the update that ends the backlog.
	Caught bool
}

// Stats counts; it may be read at any time.
type Stats struct {
	Records, Malformed, Lost atomic.Int64
}

const (
	batchSize = 256
	batchTime = 20 * time.Millisecond
	// backlogTime is the longest that the backlog is collected before anything is handed on.
	backlogTime = 10 * time.Second
)

// Tail follows a source and hands on what the patterns find. Lines that were
// logged before Tail caught up are the backlog: of these, what speaks against
// a name that was attached anew later in the log is marked as outdated, since it may
// speak of another disk. The backlog ends when everything has been read, at the
// first line that was logged after the start, for a storm has no pause, and after
// backlogTime, for the kernel's clock may run behind the host's.
type Tail struct {
	Matcher *Matcher
	Stats   *Stats
	Now     func() time.Time
	// Out receives each update, in order, by one goroutine. It may block.
	Out func(Update)

	batch   batch
	started time.Time
	caught  bool
	since   time.Time // of the oldest event in the batch
}

// Run follows src from pos until the context ends, which is no error, or the
// source fails. Boot is when the host started, as far as it is known.
func (t *Tail) Run(ctx context.Context, src Source, pos Position, boot time.Time) error {
	t.batch, t.caught, t.started = batch{}, false, t.Now()
	r := Reader{Source: src, Handler: t, Now: t.Now, Boot: boot, Position: pos}
	return r.Run(ctx)
}

// Record implements Handler.
func (t *Tail) Record(rec *Record, at time.Time, pos Position) {
	if !rec.Old {
		t.Stats.Records.Add(1)
	}
	t.Stats.Lost.Store(pos.Lost)
	if !t.caught && !rec.Old && (at.After(t.started) || t.Now().Sub(t.started) > backlogTime) {
		t.caught = true
		u := t.batch.take()
		u.Position, u.Caught = pos, true
		u.Position.Sequence-- // this record is not dealt with
		t.Out(u)
	}
	ev, att := t.Matcher.Match(rec, at)
	if ev == nil && att == nil {
		return
	}
	if att != nil {
		if t.caught {
			// Events before the attach and after it must not be summed up.
			before := pos
			before.Sequence--
			t.flush(before)
		} else {
			t.batch.outdate(att.Devices, rec.Old)
		}
		t.batch.attaches = append(t.batch.attaches, *att)
	}
	if ev != nil {
		if t.batch.empty() {
			t.since = t.Now()
		}
		t.batch.add(*ev)
	}
	if t.caught && (len(t.batch.events) >= batchSize || t.Now().Sub(t.since) > batchTime) {
		t.flush(pos)
	}
}

// Idle implements Handler.
func (t *Tail) Idle(pos Position) {
	first := !t.caught
	t.caught = true
	u := t.batch.take()
	u.Position, u.Caught = pos, first
	t.Out(u)
}

// Malformed implements Handler.
func (t *Tail) Malformed(error) { t.Stats.Malformed.Add(1) }

func (t *Tail) flush(pos Position) {
	if t.batch.empty() {
		return
	}
	u := t.batch.take()
	u.Position = pos
	t.Out(u)
}

// batch sums events up by pattern and device, so that a storm stays small.
type batch struct {
	attaches []Attach
	events   []Event
	index    map[key]int
}

// key tells which events are summed up.
type key struct {
	pattern  *Pattern
	devices  string
	old      bool
	outdated bool
}

func keyOf(ev *Event) key { return key{ev.pattern, strings.Join(ev.Devices, " "), ev.Old, ev.Outdated} }

func (b *batch) empty() bool { return len(b.events) == 0 && len(b.attaches) == 0 }

func (b *batch) take() Update {
	u := Update{Attaches: b.attaches, Events: b.events}
	*b = batch{}
	return u
}

func (b *batch) add(ev Event) {
	k := keyOf(&ev)
	i, ok := b.index[k]
	if !ok {
		if b.index == nil {
			b.index = map[key]int{}
		}
		b.index[k] = len(b.events)
		b.events = append(b.events, ev)
		return
	}
	b.events[i].merge(ev)
}

// merge adds a later event of the same pattern and device. The evidence is the
// latest line.
func (e *Event) merge(later Event) {
	e.Count += later.Count
	e.Sequence, e.Last, e.Evidence = later.Sequence, later.Last, later.Evidence
	const most = 1024 // of a storm in the backlog; the latest count
	for _, s := range later.Seen {
		if last := e.Seen[len(e.Seen)-1]; s.Place == last.Place && s.At.Sub(last.At) < time.Second {
			continue
		}
		e.Seen = append(e.Seen[max(0, len(e.Seen)-most+1):], s)
	}
}

// outdate marks what was found about devices of these names. When the attach is old,
// which the stored status was written after, it forgets it: that has been counted.
func (b *batch) outdate(names []string, old bool) {
	events := b.events
	b.events, b.index = nil, nil
	for _, ev := range events {
		if refers(ev.Devices, names) {
			if old {
				continue
			}
			ev.Outdated = true
		}
		b.add(ev)
	}
}

func refers(devices, names []string) bool {
	for _, d := range devices {
		for _, n := range names {
			if Within(d, n) {
				return true
			}
		}
	}
	return false
}

// Within says whether the kernel's name d is disk, a partition of it, a
// namespace of it (an NVMe controller) or the port of it (an ATA device).
func Within(d, disk string) bool {
	if port, _, ok := strings.Cut(disk, "."); ok && strings.HasPrefix(disk, "ata") && d == port {
		return true
	}
	rest, ok := strings.CutPrefix(d, disk)
	if !ok || rest == "" {
		return ok
	}
	if strings.HasPrefix(disk, "nvme") && !strings.Contains(disk[4:], "n") {
		return rest[0] == 'n' || rest[0] == 'c'
	}
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		if rest[0] != 'p' {
			return false
		}
		rest = rest[1:]
	}
	return rest != "" && strings.Trim(rest, "0123456789") == ""
}
