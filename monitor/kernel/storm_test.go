//go:build storm

package kernel

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"holdfast.dev/internal/hostexec"
	"holdfast.dev/internal/hostfs"
)

// This test overwrites the kernel's log, which everything else on the machine reads: it has a
// build tag of its own, and "make test-root" runs it by itself.

const (
	stormLines = 100_000
	// A record without its newline may be continued, and is shown when the next one comes.
	stormLine  = "I/O error, dev loop4093, sector %d op 0x0:(READ) flags 0x80700 phys_seg 1 prio class 2\n"
	stormBegin = "holdfast storm begins"
	stormEnd   = "holdfast storm ends"
	// stormPrefix is user.debug: less than any console shows.
	stormPrefix = "<15>"
)

// unlimited has the kernel take every line that is written to /dev/kmsg: by default it
// drops those of a program that writes more than ten in five seconds, and says that it has
// taken them (devkmsg_write in kernel/printk/printk.c).
func unlimited(t *testing.T) {
	t.Helper()
	const file = "/proc/sys/kernel/printk_devkmsg"
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("on\n"), 0); err != nil {
		t.Fatalf("%v: it cannot be changed where the kernel was started with printk.devkmsg=", err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(file, before, 0); err != nil {
			t.Errorf("restore %s to %q: %v", file, before, err)
		}
	})
}

func logLine(t *testing.T, text string) {
	t.Helper()
	f, err := os.OpenFile(DevicePath, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // a record is one write
	if _, err := f.WriteString(stormPrefix + text + "\n"); err != nil {
		t.Fatal(err)
	}
}

// overruns counts what the kernel overwrote under a Device.
type overruns struct {
	*Device
	count int
}

func (o *overruns) Read(p []byte, idle func()) (int, error) {
	n, err := o.Device.Read(p, idle)
	if errors.Is(err, syscall.EPIPE) {
		o.count++
	}
	return n, err
}

// ledger accounts for each line of a storm, by its number and by the records' own.
type ledger struct {
	matcher *Matcher
	hold    <-chan struct{} // the reader stops at the first line until it is closed; may be nil

	idle, began, ended chan struct{}
	caught             atomic.Bool

	last        Position
	line        int   // number of the last line that was seen
	lost        int64 // records that were counted as lost since then
	seen, gone  int64 // lines that were seen, and lines in counted gaps
	unaccounted int64
	wrong       []string
}

func (l *ledger) Idle(Position) {
	if !l.caught.Swap(true) {
		close(l.idle)
	}
}

func (l *ledger) Malformed(err error) { l.fault("%v", err) }

func (l *ledger) fault(format string, args ...any) {
	if len(l.wrong) < 10 {
		l.wrong = append(l.wrong, fmt.Sprintf(format, args...))
	}
}

func (l *ledger) Record(rec *Record, at time.Time, pos Position) {
	if !l.caught.Load() {
		return
	}
	if l.last.Started {
		gap := rec.Sequence - l.last.Sequence - 1
		if got := pos.Lost - l.last.Lost; got != gap {
			l.fault("between the records %d and %d %d are counted as lost", l.last.Sequence, rec.Sequence, got)
		}
		l.lost += gap
	}
	switch text := string(rec.Message); {
	case text == stormBegin:
		l.last = pos
		close(l.began)
		return
	case !l.last.Started: // before the storm
		return
	case text == stormEnd:
		l.number(stormLines + 1)
		close(l.ended)
	case strings.Contains(text, " loop4093, "):
		if l.hold != nil {
			<-l.hold
		}
		kernels := *rec
		kernels.Facility = 0 // a program's own lines are no evidence
		ev, _ := l.matcher.Match(&kernels, at)
		if ev == nil || len(ev.Devices) != 1 || ev.Devices[0] != "loop4093" {
			l.fault("not a fault of the disk: %s", text)
			return
		}
		n, err := strconv.Atoi(ev.Seen[0].Place)
		if err != nil {
			l.fault("%v", err)
		}
		l.number(n)
		l.seen++
	}
	l.last = pos
}

// number takes in that line n was seen: those between it and the one before are gone,
// and the records that were counted as lost meanwhile are to be as many at least.
func (l *ledger) number(n int) {
	missing := int64(n - l.line - 1)
	switch {
	case missing < 0:
		l.fault("line %d after line %d", n, l.line)
	case missing > l.lost:
		l.unaccounted += missing - l.lost
		l.gone += l.lost
	default:
		l.gone += missing
	}
	l.line, l.lost = n, 0
}

// TestKernelLogStorm writes fault lines to the real /dev/kmsg as fast as that takes them, from
// another process, while the reader reads: once as fast as it can, and once held up
// until all are written, so that the kernel has overwritten the most under it (EPIPE). Each line is
// either seen or lies in a gap of the records' numbers that was counted.
func TestKernelLogStorm(t *testing.T) {
	unlimited(t)
	t.Run("Reading", func(t *testing.T) { flood(t, false) })
	t.Run("HeldUp", func(t *testing.T) {
		if n := flood(t, true); n == 0 {
			t.Error("nothing was overwritten under a reader that stood still: this storm proves nothing")
		}
	})
}

// flood returns how often the kernel said that it had overwritten what was next.
func flood(t *testing.T, hold bool) int {
	t.Helper()
	host, err := hostfs.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = host.Close() }() // read only
	device, err := OpenDevice(host)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = device.Close() }() // read only
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	context.AfterFunc(ctx, device.Stop)

	written := make(chan struct{})
	l := &ledger{matcher: NewMatcher(), idle: make(chan struct{}), began: make(chan struct{}), ended: make(chan struct{})}
	if hold {
		l.hold = written
	}
	source := &overruns{Device: device}
	done := make(chan error, 1)
	go func() {
		done <- (&Reader{Source: source, Handler: l, Now: time.Now}).Run(ctx)
	}()
	await := func(what string, c <-chan struct{}) {
		t.Helper()
		select {
		case <-c:
		case <-ctx.Done():
			t.Fatalf("%s: not within three minutes", what)
		}
	}
	await("the log's end", l.idle)
	logLine(t, stormBegin)
	await("the storm's begin", l.began)

	began, cpu := time.Now(), processorTime(t)
	writer, err := hostexec.Start(hostexec.Command{Path: "/proc/self/exe", Args: []string{"-test.run=^TestKernelLogStormWriter$"}, Env: append(os.Environ(), "HOLDFAST_STORM=yes")})
	if err != nil {
		t.Fatal(err)
	}
	defer writer.Stop(0)
	await("the writer", writer.Done())
	if err := writer.Err(); err != nil {
		t.Fatal(err)
	}
	wrote := time.Since(began)
	close(written)
	logLine(t, stormEnd)
	await("the storm's end", l.ended)
	took, used := time.Since(began), processorTime(t)-cpu
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}

	for _, w := range l.wrong {
		t.Error(w)
	}
	if l.unaccounted != 0 {
		t.Errorf("%d lines were neither seen nor in a gap that was counted", l.unaccounted)
	}
	if l.seen+l.gone+l.unaccounted != stormLines {
		t.Errorf("%d seen, %d gone and %d unaccounted for are not the %d lines", l.seen, l.gone, l.unaccounted, stormLines)
	}
	name := "kmsg_storm"
	if hold {
		name = "kmsg_storm_held_up"
	}
	t.Logf("%d lines written in %s and accounted for in %s: %d seen, %d in counted gaps, %d times overwritten (EPIPE), processor time of the reader %s",
		stormLines, wrote.Round(time.Millisecond), took.Round(time.Millisecond), l.seen, l.gone, source.count, used.Round(time.Millisecond))
	fmt.Fprintf(os.Stdout, "BENCH name=%s_unaccounted_lines value=%d unit=lines\nBENCH name=%s_overwritten_lines value=%d unit=lines\nBENCH name=%s_cores value=%.2f unit=cores\n",
		name, l.unaccounted, name, l.gone, name, used.Seconds()/took.Seconds())
	return source.count
}

func processorTime(t *testing.T) time.Duration {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// TestKernelLogStormWriter is the other process of TestKernelLogStorm.
func TestKernelLogStormWriter(t *testing.T) {
	if os.Getenv("HOLDFAST_STORM") == "" {
		return // it is no test
	}
	f, err := os.OpenFile(DevicePath, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // a record is one write
	for i := 1; i <= stormLines; i++ {
		if _, err := fmt.Fprintf(f, stormPrefix+stormLine, i); err != nil {
			t.Fatal(err)
		}
	}
}
