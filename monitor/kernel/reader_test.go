package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"holdfast.dev/internal/hostfs"
)

// script is a source that gives its steps one after another: text, an error,
// or "idle".
type script struct {
	steps  []any
	replay bool
	stop   context.CancelFunc
}

func (s *script) Replays() bool { return s.replay }

func (s *script) Read(p []byte, idle func()) (int, error) {
	if len(s.steps) == 0 {
		idle()
		s.stop()
		return 0, context.Canceled
	}
	step := s.steps[0]
	switch v := step.(type) {
	case error:
		s.steps = s.steps[1:]
		return 0, v
	case string:
		if v == "idle" {
			s.steps = s.steps[1:]
			idle()
			return s.Read(p, idle)
		}
		if len(v) > len(p) {
			return 0, syscall.EINVAL // as the kernel does for a record that does not fit
		}
		s.steps = s.steps[1:]
		return copy(p, v), nil
	}
	panic("bad step")
}

type log struct {
	got  []string
	idle []Position
	bad  int
	at   []time.Time
	old  []int64
}

func (l *log) Record(r *Record, at time.Time, _ Position) {
	if r.Old {
		l.old = append(l.old, r.Sequence)
		return
	}
	l.got = append(l.got, fmt.Sprintf("%d %.20s", r.Sequence, r.Message))
	l.at = append(l.at, at)
}
func (l *log) Idle(p Position) { l.idle = append(l.idle, p) }
func (l *log) Malformed(error) { l.bad++ }

// deluge always has a record, each of which takes a while.
type deluge struct {
	left  int
	each  time.Duration
	waits bool // before each record
	stop  context.CancelFunc
}

func (*deluge) Replays() bool { return true }

func (f *deluge) Read(p []byte, idle func()) (int, error) {
	if f.left--; f.left < 0 {
		f.stop()
		return 0, context.Canceled
	}
	if f.waits {
		idle()
	}
	time.Sleep(f.each)
	return copy(p, fmt.Sprintf("6,%d,1,-;x\n", f.left)), nil
}

// A storm leaves a fifth of the time to others, and costs one that waits for each record none of it.
func TestReaderRests(t *testing.T) {
	for name, tc := range map[string]struct {
		waits    bool
		min, max time.Duration
	}{
		"Storm": {false, 1200 * time.Millisecond, 1300 * time.Millisecond},
		"Calm":  {true, time.Second, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				r := &Reader{Source: &deluge{left: 1000, each: time.Millisecond, waits: tc.waits, stop: cancel}, Handler: &log{}, Now: time.Now}
				began := time.Now()
				if err := r.Run(ctx); err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took < tc.min || took > tc.max {
					t.Errorf("a thousand records took %s, want %s to %s", took, tc.min, tc.max)
				}
			})
		})
	}
}

func TestReader(t *testing.T) {
	long := "6,0,1,-;" + strings.Repeat("x", firstBuffer+10) + "\n"
	cases := map[string]struct {
		reason string
		steps  []any
		replay bool
		from   Position
		want   []string
		lost   int64
		bad    int
		err    error
	}{
		"Several":   {"a pipe gives several records, cut anywhere", []any{"6,0,1,-;a\n K=v\n6,1,1,-;b\n6,2", ",1,-;c\n"}, true, Position{}, []string{"0 a", "1 b", "2 c"}, 0, 0, nil},
		"Gap":       {"what the kernel overwrote is counted", []any{"6,0,1,-;a\n", "6,10,1,-;b\n"}, true, Position{}, []string{"0 a", "10 b"}, 9, 0, nil},
		"Overrun":   {"reading goes on with the oldest record still there (NPD #1168 lost the storm)", []any{"6,0,1,-;a\n", syscall.EPIPE, "6,57,1,-;b\n", "6,58,1,-;c\n"}, true, Position{}, []string{"0 a", "57 b", "58 c"}, 56, 0, nil},
		"Wrapped":   {"os.File wraps EPIPE", []any{&os.PathError{Op: "read", Path: "/dev/kmsg", Err: syscall.EPIPE}, "6,1,1,-;b\n"}, true, Position{}, []string{"1 b"}, 1, 0, nil},
		"Small":     {"EINVAL asks for a larger buffer", []any{long, "6,1,1,-;b\n"}, true, Position{}, []string{"0 xxxxxxxxxxxxxxxxxxxx", "1 b"}, 0, 0, nil},
		"Resume":    {"what was dealt with before a restart is skipped", []any{"6,4,1,-;a\n", "6,5,1,-;b\n", "6,6,1,-;c\n"}, true, Position{Started: true, Sequence: 5, Lost: 3}, []string{"6 c"}, 3, 0, nil},
		"ResumeGap": {"records lost while nobody read", []any{"6,9,1,-;c\n"}, true, Position{Started: true, Sequence: 5}, []string{"9 c"}, 3, 0, nil},
		"LateStart": {"records lost before the first start", []any{"6,100,1,-;c\n"}, true, Position{}, []string{"100 c"}, 100, 0, nil},
		"PipeAnew":  {"a pipe shows nothing twice: a lower number is a new writer", []any{"6,1,1,-;c\n"}, false, Position{Started: true, Sequence: 5}, []string{"1 c"}, 0, 0, nil},
		"Bad":       {"a bad record is counted and skipped", []any{"x\n6,1,1,-;c\n"}, false, Position{}, []string{"1 c"}, 0, 1, nil},
		"Again":     {"an interrupted call is no fault", []any{syscall.EINTR, syscall.EAGAIN, "6,0,1,-;c\n"}, true, Position{}, []string{"0 c"}, 0, 0, nil},
		"Broken":    {"another error ends reading", []any{syscall.EIO}, true, Position{}, nil, 0, 0, syscall.EIO},
		"End":       {"a log has no end", []any{""}, true, Position{}, nil, 0, 0, io.ErrUnexpectedEOF},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var l log
			r := Reader{Source: &script{steps: tc.steps, replay: tc.replay, stop: cancel}, Handler: &l, Now: time.Now, Position: tc.from}
			err := r.Run(ctx)
			if name == "Resume" && !slices.Equal(l.old, []int64{4, 5}) {
				t.Errorf("old ones are %v", l.old)
			}
			if d := cmp.Diff(tc.want, l.got); d != "" || r.Position.Lost != tc.lost || l.bad != tc.bad || !errors.Is(err, tc.err) {
				t.Errorf("lost %d, bad %d, %v; %s; reason: %s", r.Position.Lost, l.bad, err, d, tc.reason)
			}
		})
	}
}

// stoppable is a source that Stop ends.
type stoppable struct {
	script
	stopped bool
}

func (s *stoppable) Stop() { s.stopped = true }

func (s *stoppable) Read(p []byte, idle func()) (int, error) {
	if s.stopped {
		return 0, os.ErrClosed
	}
	n, err := s.script.Read(p, idle)
	if s.stopped { // as a device that waits
		return 0, os.ErrDeadlineExceeded
	}
	return n, err
}

// A machine that is set back to a snapshot has a log that ends before the stored position:
// each of its lines was taken for one that had been dealt with, until the numbers came by.
func TestReaderOtherLog(t *testing.T) {
	boot := time.Now().Add(-time.Hour)
	log1 := []any{"6,10,1000000,-;a\n", "6,11,2000000,-;b\n", "6,12,3000000,-;c\n", "idle", "6,13,4000000,-;d\n"}
	read := func(pos Position) (l log, end Position, err error) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		r := Reader{Source: &stoppable{script: script{steps: slices.Clone(log1), replay: true, stop: cancel}}, Handler: &l, Now: time.Now, Boot: boot, Position: pos}
		err = r.Run(ctx)
		return l, r.Position, err
	}
	stored := Position{Started: true, Sequence: 100, Lost: 7, After: boot.Add(1500 * time.Millisecond)}
	if _, _, err := read(stored); !errors.Is(err, ErrOtherLog) {
		t.Fatalf("read with %v", err)
	}
	l, end, err := read(stored.Anew())
	if want := []string{"11 b", "12 c", "13 d"}; err != nil || !slices.Equal(l.got, want) || !slices.Equal(l.old, []int64{10}) || end.Sequence != 13 || end.Lost != 0 {
		t.Errorf("read %v, old %v, to %+v, %v", l.got, l.old, end, err)
	}
	// Nothing new since the stored position is no other log.
	if l, _, err := read(Position{Started: true, Sequence: 12}); err != nil || !slices.Equal(l.got, []string{"13 d"}) {
		t.Errorf("read %v, %v", l.got, err)
	}
}

func TestReaderDatesRecords(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	now := time.Unix(10_000, 0)
	var l log
	// The kernel's clock is 100 s behind: a machine that slept.
	r := Reader{
		Source:  &script{steps: []any{"6,0,1000000,-;old\n", "idle", "6,1,9000000000,-;new\n", "6,2,8999000000,-;second before\n", "6,3,9999000000,-;future\n"}, replay: true, stop: cancel},
		Handler: &l, Now: func() time.Time { return now }, Boot: now.Add(-9100 * time.Second),
	}
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	want := []time.Time{now.Add(-9099 * time.Second), now, now.Add(-time.Second), now}
	if d := cmp.Diff(want, l.at); d != "" {
		t.Error(d)
	}
}

func TestDevicePipe(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "dev/kmsg")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	host, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	d, err := OpenDevice(host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = d.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	updates := make(chan Update, 10)
	tail := Tail{Matcher: NewMatcher(), Stats: &Stats{}, Now: time.Now, Out: func(u Update) { updates <- u }}
	done := make(chan error, 1)
	go func() { done <- tail.Run(ctx, d, Position{}, time.Now()) }()
	if u := receive(t, updates); !u.Caught {
		t.Errorf("first update %+v", u)
	}
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 { // the pipe stays open when a writer leaves
		if _, err := fmt.Fprintf(w, "3,%d,1,-;I/O error, dev loop%d, sector 1 op 0x0:(READ) flags 0x0\n", i, i); err != nil {
			t.Fatal(err)
		}
		if u := receive(t, updates); len(u.Events) != 1 || u.Events[0].Devices[0] != fmt.Sprint("loop", i) {
			t.Errorf("update %+v", u)
		}
		if i == 0 {
			_ = w.Close()
			if w, err = os.OpenFile(path, os.O_WRONLY, 0); err != nil {
				t.Fatal(err)
			}
		}
	}
	_ = w.Close()
	cancel()
	d.Stop()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Stop does not end the wait")
	}
}

func receive(t *testing.T, c <-chan Update) Update {
	t.Helper()
	select {
	case u := <-c:
		return u
	case <-time.After(5 * time.Second):
		t.Fatal("no update")
		return Update{}
	}
}

func fault(seq int, dev string) string {
	return fmt.Sprintf("3,%d,%d,-;I/O error, dev %s, sector 1 op 0x0:(READ) flags 0x0\n", seq, seq*1_000_000, dev)
}

func TestTailBacklog(t *testing.T) {
	attach := func(seq int, dev string) string {
		return fmt.Sprintf("6,%d,1,-;%s: detected capacity change from 0 to 2048\n", seq, dev)
	}
	cases := map[string]struct {
		reason string
		steps  []any
		from   Position
		want   []string
	}{
		"Sum":       {"a storm is one event with a count", []any{fault(0, "loop1"), fault(1, "loop1"), fault(2, "loop2")}, Position{}, []string{"0 loop1 x2", "2 loop2 x1"}},
		"Reattach":  {"an old line about a name that another disk has since is of no use", []any{fault(0, "loop1"), fault(1, "loop1p1"), fault(2, "loop12"), attach(3, "loop1")}, Position{}, []string{"0 loop1 x1 outdated", "1 loop1p1 x1 outdated", "2 loop12 x1"}},
		"Flapping":  {"and once more is no more", []any{fault(0, "loop1"), attach(1, "loop1"), fault(2, "loop1"), attach(3, "loop1")}, Position{}, []string{"1 loop1 x2 outdated"}},
		"After":     {"what comes after the attach counts", []any{fault(0, "loop1"), attach(1, "loop1"), fault(2, "loop1")}, Position{}, []string{"0 loop1 x1 outdated", "2 loop1 x1"}},
		"Counted":   {"what had been dealt with before the attach is no warning of the new one", []any{fault(0, "loop1"), attach(1, "loop1"), fault(2, "loop1"), fault(3, "loop1")}, Position{Started: true, Sequence: 2}, []string{"2 loop1 x1", "3 loop1 x1"}},
		"LiveAfter": {"once caught up, nothing is dropped: the inventory tells the owners apart", []any{"idle", fault(0, "loop1"), attach(1, "loop1"), fault(2, "loop1")}, Position{}, []string{"0 loop1 x1", "2 loop1 x1"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var got []string
			tail := Tail{Matcher: NewMatcher(), Stats: &Stats{}, Now: time.Now, Out: func(u Update) {
				for _, e := range u.Events {
					s := fmt.Sprintf("%d %s x%d", e.Sequence-e.Count+1, e.Devices[0], e.Count)
					if e.Outdated {
						s += " outdated"
					}
					got = append(got, s)
				}
			}}
			if err := tail.Run(ctx, &script{steps: slices.Clone(tc.steps), replay: true, stop: cancel}, tc.from, time.Now().Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("%s; reason: %s", d, tc.reason)
			}
		})
	}
}

// storm is a source that never pauses.
type storm struct {
	n, most int
	first   time.Duration // when the first record was logged, since boot
}

func (s *storm) Replays() bool { return true }

func (s *storm) Read(p []byte, _ func()) (int, error) {
	if s.n == s.most {
		return 0, syscall.EIO
	}
	s.n++
	return copy(p, fmt.Sprintf("3,%d,%d,-;I/O error, dev sda, sector 1 op 0x0:(READ) flags 0x0\n", s.n-1, s.first.Microseconds()+int64(s.n))), nil
}

// A storm that has begun before the monitor has no pause in which it would have caught
// up: its lines are handed on all the same, and all of them.
func TestTailStorm(t *testing.T) {
	const n = 50_000
	cases := map[string]struct {
		reason string
		first  time.Duration
		within int64 // how many lines may be held back
	}{
		"Later":  {"a line that was logged after the start is no backlog", 101 * time.Second, 0},
		"Behind": {"the kernel's clock is behind: no line is later than the start", 50 * time.Second, 10_100},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			now := time.Unix(1e9, 0)
			boot := now.Add(-100 * time.Second)
			var updates, caught int
			var count int64
			firstAt := int64(-1)
			tail := Tail{Matcher: NewMatcher(), Stats: &Stats{}, Now: func() time.Time { now = now.Add(time.Millisecond); return now }}
			tail.Out = func(u Update) {
				updates++
				if u.Caught {
					caught++
					firstAt = tail.Stats.Records.Load() - 1
				}
				for _, e := range u.Events {
					count += e.Count
				}
			}
			// What remains in the batch when the source fails is read again when it is opened.
			if err := tail.Run(t.Context(), &storm{most: n, first: tc.first}, Position{}, boot); !errors.Is(err, syscall.EIO) {
				t.Fatal(err)
			}
			if caught != 1 || firstAt < 0 || firstAt > tc.within || count < n-batchSize {
				t.Errorf("caught up %d times, first after %d lines, %d of %d handed on in %d updates; reason: %s", caught, firstAt, count, n, updates, tc.reason)
			}
		})
	}
}

// The flood of NPD #1168: 100,000 records, all of a disk. Each must be counted.
func TestTailFlood(t *testing.T) {
	const n = 100_000
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	steps := make([]any, 0, n)
	for i := range n {
		steps = append(steps, fault(i, "sdc"))
	}
	var count, updates int64
	tail := Tail{Matcher: NewMatcher(), Stats: &Stats{}, Now: time.Now, Out: func(u Update) {
		updates++
		for _, e := range u.Events {
			count += e.Count
		}
	}}
	start := time.Now()
	if err := tail.Run(ctx, &script{steps: append([]any{"idle"}, steps...), replay: true, stop: cancel}, Position{}, time.Now()); err != nil {
		t.Fatal(err)
	}
	if count != n || tail.Stats.Records.Load() != n {
		t.Errorf("counted %d of %d", count, n)
	}
	t.Logf("%d records in %s, %d updates", n, time.Since(start).Round(time.Millisecond), updates)
}

// What was dealt with before a restart comes once more, as old, for the windows; a
// storm keeps its times and places in short.
func TestTailOld(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var got []string
	tail := Tail{Matcher: NewMatcher(), Stats: &Stats{}, Now: time.Now, Out: func(u Update) {
		for _, e := range u.Events {
			got = append(got, fmt.Sprintf("%s x%d old %t, %d sightings, first of place %s", e.Devices[0], e.Count, e.Old, len(e.Seen), e.Seen[0].Place))
		}
	}}
	steps := []any{fault(0, "loop1"), fault(1, "loop1"), fault(2, "loop1"), "3,3,2000001,-;I/O error, dev loop1, sector 7 op 0x0:(READ) flags 0x0\n", "3,4,2000002,-;I/O error, dev loop1, sector 7 op 0x0:(READ) flags 0x0\n"}
	if err := tail.Run(ctx, &script{steps: steps, replay: true, stop: cancel}, Position{Started: true, Sequence: 1}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	want := []string{"loop1 x2 old true, 2 sightings, first of place 1", "loop1 x3 old false, 2 sightings, first of place 1"}
	if d := cmp.Diff(want, got); d != "" || tail.Stats.Records.Load() != 3 {
		t.Errorf("%d records; %s", tail.Stats.Records.Load(), d)
	}
}
