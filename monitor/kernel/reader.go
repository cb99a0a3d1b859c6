package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"
)

// Source is where records come from. Read fills p with whole or partial
// records; it calls idle before it waits for more. Its error may be
// syscall.EPIPE (records were overwritten before they were read; the next Read
// starts at the oldest one left) or syscall.EINVAL (p is too small).
type Source interface {
	Read(p []byte, idle func()) (int, error)
	// Replays is true when opening starts again at the oldest record.
	Replays() bool
}

// Position is how far the log has been read. The zero value is its beginning.
type Position struct {
	Started  bool
	Sequence int64 // of the last record
	Lost     int64 // records that were overwritten before they were read, since boot
	// Journal says that the numbers are those of a Journal. After is a time up to which
	// everything has been dealt with, for a source of other numbers.
	Journal bool
	After   time.Time
}

// missing is a Source whose numbers have gaps; it counts what is missing itself.
type missing interface{ Missed() int64 }

// In is the position to go on from in a source of the one or the other numbers.
func (p Position) In(journal bool) Position {
	if p.Started && p.Journal != journal {
		return Position{Lost: p.Lost, Journal: journal, After: p.After}
	}
	p.Journal = journal
	return p
}

// Handler is told what the reader reads, in order, by one goroutine.
type Handler interface {
	// Record is one record of the kernel; at is when it was logged. The record
	// is valid until Record returns. Those that were dealt with before a restart
	// come first, and are Old.
	Record(rec *Record, at time.Time, pos Position)
	// Idle says that everything there is has been read.
	Idle(pos Position)
	// Malformed is a record that could not be parsed.
	Malformed(err error)
}

const (
	firstBuffer = 16 << 10 // the kernel's longest record is 8 KiB, CONSOLE_EXT_LOG_MAX
	maxBuffer   = 1 << 20
)

// A storm takes the reader less than a core, whatever else runs on the node: after busyTurn without a wait it
// rests for restTurn. The kernel keeps what comes meanwhile, or the gap is counted.
const (
	busyTurn = 8 * time.Millisecond
	restTurn = 2 * time.Millisecond
)

// Reader turns a source into records. It is used by one goroutine.
type Reader struct {
	// Source, Handler and Now are required.
	Source  Source
	Handler Handler
	Now     func() time.Time
	// Boot is when the host started. It dates records until the first one that
	// arrives while the reader waits shows how the kernel's clock runs.
	Boot time.Time
	// Position is where reading goes on, and how far it has come.
	Position Position

	buf   []byte
	have  int
	idled bool      // the reader has waited since the last record
	began time.Time // of this turn; zero while nothing is read

	old    int64 // number after the last record, if that was dealt with before; else 0
	others bool  // the log is not the one that Position is of
}

// ErrOtherLog is a log that ends before the position where reading is to go on, such as
// that of a machine that was set back to a snapshot. Only the times of its records tell
// what has been dealt with.
var ErrOtherLog = errors.New("the kernel log ends before the place up to which it has been read")

// Anew is the position from which to read a log that is not the one that p is of.
func (p Position) Anew() Position { return Position{Journal: p.Journal, After: p.After} }

// Run reads until the context ends, which is no error, or the source fails.
func (r *Reader) Run(ctx context.Context) error {
	r.buf = make([]byte, firstBuffer)
	r.have, r.old, r.others = 0, 0, false
	for ctx.Err() == nil && !r.others {
		n, err := r.Source.Read(r.buf[r.have:], r.idle)
		switch {
		case err == nil && n > 0:
			r.take(n)
			r.pause()
		case r.others || ctx.Err() != nil:
		case err == nil:
			return fmt.Errorf("read kernel log: %w", io.ErrUnexpectedEOF)
		case errors.Is(err, syscall.EPIPE), errors.Is(err, syscall.EAGAIN), errors.Is(err, syscall.EINTR):
			// After EPIPE the kernel has moved this reader to the oldest record
			// (devkmsg_read); the gap in the sequence tells how many are lost.
			// Seeking to the end here would throw the storm's records away.
		case errors.Is(err, syscall.EINVAL) && len(r.buf) < maxBuffer:
			r.grow()
		default:
			return fmt.Errorf("read kernel log: %w", err)
		}
	}
	if r.others {
		return ErrOtherLog
	}
	return nil
}

// pause ends a turn that has been long enough.
func (r *Reader) pause() {
	switch now := time.Now(); {
	case r.began.IsZero():
		r.began = now
	case now.Sub(r.began) >= busyTurn:
		time.Sleep(restTurn)
		r.began = time.Time{}
	}
}

func (r *Reader) idle() {
	r.began = time.Time{}
	_, counts := r.Source.(missing) // a journal may be slow: its pause is not its end
	if source, ok := r.Source.(interface{ Stop() }); ok && !counts && r.Position.Started && r.old > 0 && r.old <= r.Position.Sequence {
		r.others = true
		source.Stop() // else the Read that calls this waits for the next record
		return
	}
	r.idled = true
	r.Handler.Idle(r.Position)
}

// take parses the n bytes that have come, and keeps the start of a record
// whose end has not: a pipe gives several records in one read, cut anywhere.
func (r *Reader) take(n int) {
	r.have += n
	rest := r.buf[:r.have]
	for len(rest) > 0 {
		rec, after, err := ParseRecord(rest)
		if errors.Is(err, ErrIncomplete) {
			break
		}
		rest = after
		if err != nil {
			r.Handler.Malformed(err)
			continue
		}
		r.record(&rec)
	}
	r.have = copy(r.buf, rest)
	switch {
	case r.have < len(r.buf):
	case len(r.buf) < maxBuffer:
		r.grow()
	default:
		r.Handler.Malformed(fmt.Errorf("%w: longer than %d bytes", ErrMalformed, maxBuffer))
		r.have = 0
	}
}

func (r *Reader) grow() {
	b := make([]byte, 2*len(r.buf))
	copy(b, r.buf[:r.have])
	r.buf = b
}

func (r *Reader) record(rec *Record) {
	p := &r.Position
	counting, counts := r.Source.(missing)
	if counts {
		p.Lost += counting.Missed()
	}
	switch {
	case !p.Started && !p.After.IsZero() && r.Source.Replays() && !r.Boot.Add(rec.Time).After(p.After):
		rec.Old, r.old = true, rec.Sequence+1
		r.Handler.Record(rec, r.Boot.Add(rec.Time), *p)
		return
	case p.Started && rec.Sequence <= p.Sequence && r.Source.Replays():
		rec.Old, r.old = true, rec.Sequence+1
		r.Handler.Record(rec, r.Boot.Add(rec.Time), *p)
		return
	case counts:
	case p.Started && rec.Sequence > p.Sequence+1:
		p.Lost += rec.Sequence - p.Sequence - 1
	case !p.Started && r.Source.Replays():
		p.Lost += max(0, rec.Sequence-r.old) // numbered from 0 at boot, and overwritten by now
	}
	p.Started, p.Sequence, r.old = true, rec.Sequence, 0

	now := r.Now()
	if r.idled && !counts || r.Boot.IsZero() {
		// It was waited for, so it was logged just now. The kernel's local
		// clock is not steered and drifts from the host's.
		r.Boot = now.Add(-rec.Time)
		r.idled = false
	}
	at := r.Boot.Add(rec.Time)
	if at.After(now) {
		at = now
	}
	if at.After(p.After) {
		p.After = at
	}
	r.Handler.Record(rec, at, *p)
}
