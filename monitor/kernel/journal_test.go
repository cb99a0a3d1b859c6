package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast.dev/internal/hostexec"
)

// fakeJournalctl is a program that prints a file and then what is said, as
// journalctl does: its arguments are kept beside it.
func fakeJournalctl(t *testing.T, script string) (program, dir string) {
	t.Helper()
	dir = t.TempDir()
	program = filepath.Join(dir, "journalctl")
	if err := os.WriteFile(program, []byte("#!/bin/sh\nprintf '%s ' \"$@\" > "+dir+"/args\n"+script+"\n"), 0o700); err != nil { //nolint:gosec // a program must be executable
		t.Fatal(err)
	}
	return program, dir
}

// follow runs a reader on a journal until so many records were read, or it fails.
func followJournal(t *testing.T, program string, from Position, records int) (*log, Position, error) {
	t.Helper()
	j, err := openJournal("/", program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, j.Stop)()
	l := &log{}
	r := Reader{Source: j, Handler: counter{l, records, cancel}, Now: time.Now, Boot: time.Now().Add(-time.Hour), Position: from}
	err = r.Run(ctx)
	return l, r.Position, err
}

// counter ends the reading after so many records.
type counter struct {
	*log
	most int
	stop func()
}

func (c counter) Record(r *Record, at time.Time, p Position) {
	c.log.Record(r, at, p)
	if len(c.got)+len(c.old) >= c.most {
		c.stop()
	}
}

// What journald 252 has of a real kernel (Linux 6.18), recorded.
func TestJournalRecorded(t *testing.T) {
	recorded, err := filepath.Abs("testdata/journal.json")
	if err != nil {
		t.Fatal(err)
	}
	program, dir := fakeJournalctl(t, "cat "+recorded+"; exec sleep 60")
	j, err := openJournal("/", program)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	buf := make([]byte, 1<<20)
	for idle := false; !idle; {
		ctx, cancel := context.WithCancel(t.Context())
		stop := context.AfterFunc(ctx, j.Stop)
		n, err := j.Read(buf, func() {
			if len(got) > 0 { // the program may be slow to begin
				idle = true
				cancel()
			}
		})
		stop()
		for rest := buf[:n]; len(rest) > 0; {
			var rec Record
			if rec, rest, err = ParseRecord(rest); err != nil {
				t.Fatal(err)
			}
			got = append(got, fmt.Sprintf("<%d> facility %d, %s %q %q %.60s", rec.Level, rec.Facility, rec.Time, rec.Subsystem, rec.Device, rec.Message))
		}
		if err != nil && !idle {
			t.Fatal(err)
		}
		cancel()
	}
	if err := j.Close(); err != nil {
		t.Error(err)
	}
	all := strings.Join(got, "\n")
	for _, want := range []string{
		`<5> facility 0, 403.734ms "virtio" "+virtio:virtio1" virtio_blk virtio1: [vda] 536870912 512-byte logical blocks`,
		`<3> facility 1, 51m39.884407s "" "" I/O error, dev sdz, sector 8`, // a program's: no evidence
	} {
		if !strings.Contains(all, want) {
			t.Errorf("no %s in\n%s", want, all)
		}
	}
	args, err := os.ReadFile(filepath.Join(dir, "args"))
	if err != nil || !strings.Contains(string(args), "--boot --follow --no-tail") || !strings.Contains(string(args), "_TRANSPORT=kernel + _TRANSPORT=driver") {
		t.Errorf("arguments %s, %v", args, err)
	}
}

func entryJSON(micros int, msg string) string {
	return fmt.Sprintf(`{"_TRANSPORT":"kernel","PRIORITY":"3","SYSLOG_FACILITY":"0","_SOURCE_MONOTONIC_TIMESTAMP":"%d","MESSAGE":%s}`+"\n", micros, msg)
}

func TestJournalReader(t *testing.T) {
	a, b, c := entryJSON(5, `"a"`), entryJSON(5, `"b"`), entryJSON(9, `"c"`)
	missed := `{"_TRANSPORT":"driver","MESSAGE":"Missed 41 kernel messages","PRIORITY":"4"}` + "\n"
	cases := map[string]struct {
		reason  string
		entries string
		from    Position
		records int
		want    []string
		old     []int64
		lost    int64
		bad     int
	}{
		"Numbers": {"two in one microsecond are two", a + b + c, Position{Journal: true}, 3, []string{"5000 a", "5001 b", "9000 c"}, nil, 0, 0},
		"Resume":  {"what was dealt with comes as old, and no gap is a loss", a + b + c, Position{Journal: true, Started: true, Sequence: 5000, Lost: 2}, 3, []string{"5001 b", "9000 c"}, []int64{5000}, 2, 0},
		"Missed":  {"journald says what it has lost", a + missed + c, Position{Journal: true}, 2, []string{"5000 a", "9000 c"}, nil, 41, 0},
		"Bytes":   {"what is no UTF-8 comes as numbers, several values as a list", entryJSON(5, `[100,255,10]`) + entryJSON(6, `["x","y"]`), Position{Journal: true}, 2, []string{"5000 d\xff\n", "6000 x"}, nil, 0, 0},
		"Bad":     {"what is no entry is counted and skipped", "{\n" + `{"_TRANSPORT":"kernel","PRIORITY":"x"}` + "\n" + a, Position{Journal: true}, 1, []string{"5000 a"}, nil, 0, 2},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			program, dir := fakeJournalctl(t, "cat $(dirname $0)/entries; exec sleep 60")
			if err := os.WriteFile(filepath.Join(dir, "entries"), []byte(tc.entries), 0o600); err != nil {
				t.Fatal(err)
			}
			l, pos, err := followJournal(t, program, tc.from, tc.records)
			if d := cmp.Diff(tc.want, l.got) + cmp.Diff(tc.old, l.old); d != "" || pos.Lost != tc.lost || l.bad != tc.bad || err != nil {
				t.Errorf("lost %d, bad %d, %v; %s; reason: %s", pos.Lost, l.bad, err, d, tc.reason)
			}
		})
	}
}

// A journalctl that ends, or is not there, is an error that says so.
func TestJournalEnds(t *testing.T) {
	program, _ := fakeJournalctl(t, "echo no such boot >&2; exit 1")
	if _, _, err := followJournal(t, program, Position{}, 1); err == nil || !strings.Contains(err.Error(), "no such boot") {
		t.Errorf("the end is told as %v", err)
	}
	var e *hostexec.Error
	if _, err := openJournal("/", "/nowhere/journalctl"); !errors.As(err, &e) {
		t.Errorf("got %v", err)
	}
}

// From one source to the other, everything up to the last record is old.
func TestPositionInAnother(t *testing.T) {
	boot := time.Now().Add(-time.Hour)
	kmsg := Position{Started: true, Sequence: 100, Lost: 3, After: boot.Add(10 * time.Second)}
	if got := kmsg.In(false); got != kmsg {
		t.Errorf("the same source: %+v", got)
	}
	program, dir := fakeJournalctl(t, "cat $(dirname $0)/entries; exec sleep 60")
	if err := os.WriteFile(filepath.Join(dir, "entries"), []byte(entryJSON(9_000_000, `"before"`)+entryJSON(11_000_000, `"after"`)), 0o600); err != nil {
		t.Fatal(err)
	}
	j, err := openJournal("/", program)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = j.Close() }()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	defer context.AfterFunc(ctx, j.Stop)()
	l := &log{}
	r := Reader{Source: j, Handler: counter{l, 2, cancel}, Now: time.Now, Boot: boot, Position: kmsg.In(true)}
	if err := r.Run(ctx); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]string{"11000000000 after"}, l.got); d != "" || r.Position.Lost != 3 || !r.Position.Journal {
		t.Errorf("%+v %s", r.Position, d)
	}
}

// What is written for the reader is read as it was.
func TestJournalEscapes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		msg := rapid.SliceOf(rapid.Byte()).Draw(t, "msg")
		rec, rest, err := ParseRecord(append(escaped([]byte("3,1,1,-;"), msg), '\n'))
		if err != nil || len(rest) > 0 || !bytes.Equal(rec.Message, msg) {
			t.Errorf("%q became %q, %v", msg, rec.Message, err)
		}
	})
}

// FuzzJournalEntry: whatever journalctl prints, what the reader gets is records.
func FuzzJournalEntry(f *testing.F) {
	data, err := os.ReadFile("testdata/journal.json")
	if err != nil {
		f.Fatal(err)
	}
	for line := range bytes.Lines(data) {
		f.Add(line)
	}
	f.Add([]byte(entryJSON(5, `[100,255,10]`)))
	f.Fuzz(func(t *testing.T, line []byte) {
		j := &Journal{}
		j.entry(line)
		if n := bytes.Count(j.out, []byte("\n")); n > 3 {
			t.Errorf("%d lines from one entry: %q", n, j.out)
		}
		for rest := j.out; len(rest) > 0; {
			if _, after, err := ParseRecord(rest); errors.Is(err, ErrIncomplete) {
				t.Fatalf("incomplete: %q", j.out)
			} else {
				rest = after
			}
		}
	})
}
