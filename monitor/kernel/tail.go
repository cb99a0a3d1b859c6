package kernel

import (
	"context"
	"strings"
	"sync/atomic"
	"time"

	"holdfast.dev/api/v1alpha1"
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
)

// Tail follows a source and hands on what the patterns find. Lines that were
// logged before Tail caught up are the backlog: of these, what speaks against
// a name that was attached anew later in the log is dropped, since it may
// speak of another disk.
type Tail struct {
	Matcher *Matcher
	Stats   *Stats
	Now     func() time.Time
	// Out receives each update, in order, by one goroutine. It may block.
	Out func(Update)

	batch  batch
	caught bool
	since  time.Time // of the oldest event in the batch
}

// Run follows src from pos until the context ends, which is no error, or the
// source fails. Boot is when the host started, as far as it is known.
func (t *Tail) Run(ctx context.Context, src Source, pos Position, boot time.Time) error {
	t.batch, t.caught = batch{}, false
	r := Reader{Source: src, Handler: t, Now: t.Now, Boot: boot, Position: pos}
	return r.Run(ctx)
}

// Record implements Handler.
func (t *Tail) Record(rec *Record, at time.Time, pos Position) {
	t.Stats.Records.Add(1)
	t.Stats.Lost.Store(pos.Lost)
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
			t.batch.drop(att.Devices)
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

// batch sums events up by class and device, so that a storm stays small.
type batch struct {
	attaches []Attach
	events   []Event
	index    map[string]int
}

func (b *batch) empty() bool { return len(b.events) == 0 && len(b.attaches) == 0 }

func (b *batch) take() Update {
	u := Update{Attaches: b.attaches, Events: b.events}
	*b = batch{}
	return u
}

func (b *batch) add(ev Event) {
	key := string(ev.Class) + " " + strings.Join(ev.Devices, " ")
	i, ok := b.index[key]
	if !ok {
		if b.index == nil {
			b.index = map[string]int{}
		}
		b.index[key] = len(b.events)
		b.events = append(b.events, ev)
		return
	}
	b.events[i].merge(ev)
}

// merge adds a later event of the same class and device. The evidence is the
// latest line of the worst severity.
func (e *Event) merge(later Event) {
	e.Count += later.Count
	e.Sequence, e.Last = later.Sequence, later.Last
	if later.Severity == e.Severity || later.Severity == v1alpha1.SeverityCritical {
		e.Severity, e.Evidence = later.Severity, later.Evidence
	}
}

// drop forgets what was found about devices of these names.
func (b *batch) drop(names []string) {
	keep := b.events[:0]
	for _, ev := range b.events {
		if !refers(ev.Devices, names) {
			keep = append(keep, ev)
		}
	}
	b.events = keep
	b.index = map[string]int{}
	for i, ev := range keep {
		b.index[string(ev.Class)+" "+strings.Join(ev.Devices, " ")] = i
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
