package wipe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// memory is a device in memory.
type memory struct {
	data   []byte
	trims  func(off int64) bool // whether a discard of that chunk does anything
	cannot map[Method]bool
	erased []string
	short  bool // reads come back short
}

func (m *memory) Size() int64 { return int64(len(m.data)) }
func (m *memory) Sync() error { return nil }

func (m *memory) Erase(how Method, off, n int64) error {
	if m.cannot[how] {
		return fmt.Errorf("%w: %s", ErrUnsupported, how)
	}
	m.erased = append(m.erased, fmt.Sprintf("%s %d+%d", how, off, n))
	if how == Zero || m.trims == nil || m.trims(off) {
		clear(m.data[off : off+n])
	}
	return nil
}

func (m *memory) ReadAt(p []byte, off int64) (int, error) {
	if m.short {
		return len(p) - 1, nil
	}
	return copy(p, m.data[off:]), nil
}

func full(n int) []byte { return bytes.Repeat([]byte{0xA5}, n) }

func TestRun(t *testing.T) {
	const c = 4096
	cases := map[string]struct {
		reason string
		dev    *memory
		plan   Plan
		want   []string
		err    error
	}{
		"Discard":     {"a discard that works needs no writes; the last chunk is short", &memory{data: full(c + 512)}, Plan{Method: Discard}, []string{"discard 0+4096", "discard 4096+512"}, nil},
		"Ignored":     {"a discard that does nothing is made good", &memory{data: full(c), trims: func(int64) bool { return false }}, Plan{Method: Discard}, []string{"discard 0+4096", "zero 0+4096"}, nil},
		"NoDiscard":   {"a disk cannot discard", &memory{data: full(c), cannot: map[Method]bool{Discard: true}}, Plan{Method: Discard}, []string{"zero 0+4096"}, nil},
		"NoSecure":    {"what was asked for cannot be had: nothing else is done instead", &memory{data: full(c), cannot: map[Method]bool{SecureDiscard: true}}, Plan{Method: SecureDiscard}, nil, ErrUnsupported},
		"Resumed":     {"what lies before is not done again", &memory{data: append(make([]byte, c), full(c)...)}, Plan{Method: Zero, From: c}, []string{"zero 4096+4096"}, nil},
		"NoZero":      {"no zeros can be written", &memory{data: full(c), cannot: map[Method]bool{Zero: true}}, Plan{Method: Zero}, nil, ErrUnsupported},
		"NothingLeft": {"all was done before", &memory{data: make([]byte, c)}, Plan{Method: Zero, From: c}, nil, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.plan.Chunk = c
			err := Run(t.Context(), tc.dev, tc.plan, func(int64) error { return nil })
			if !errors.Is(err, tc.err) {
				t.Errorf("error %v; reason: %s", err, tc.reason)
			}
			if diff := cmp.Diff(tc.want, tc.dev.erased); diff != "" {
				t.Errorf("-want +got:\n%s\nreason: %s", diff, tc.reason)
			}
			if err == nil && !allZero(tc.dev.data) {
				t.Error("something is left")
			}
		})
	}
	if err := Run(t.Context(), &memory{data: full(c), short: true}, Plan{Method: Zero, Chunk: c}, func(int64) error { return nil }); err == nil {
		t.Error("a short read was taken for zeros")
	}
	for _, p := range []Plan{{Chunk: 0}, {Chunk: 5000}, {Chunk: c, From: 1}, {Chunk: c, From: -c}} {
		if err := Run(t.Context(), &memory{data: full(c)}, p, nil); err == nil {
			t.Errorf("plan %+v was taken", p)
		}
	}
}

// However often it is stopped, and whatever discards do, in the end all is zero, and
// what was told as done was zero when it was told.
func TestStopsAnywhere(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		works := rapid.Uint64().Draw(rt, "chunks that discard")
		m := &memory{data: full(rapid.IntRange(1, 40_000).Draw(rt, "size")), trims: func(off int64) bool { return works>>(off/4096%64)&1 == 1 }}
		p := Plan{Method: rapid.SampledFrom(Methods()[:2]).Draw(rt, "method"), Chunk: 4096}
		stop := errors.New("stopped")
		for {
			left := rapid.IntRange(1, 5).Draw(rt, "chunks of this life")
			var last int64
			err := Run(context.Background(), m, p, func(upTo int64) error {
				if !allZero(m.data[:upTo]) {
					rt.Fatalf("told %d, which is not zero", upTo)
				}
				if left--; left == 0 && upTo < m.Size() {
					last = upTo
					return stop
				}
				return nil
			})
			if err == nil {
				break
			}
			if !errors.Is(err, stop) {
				rt.Fatal(err)
			}
			p.From = last
		}
		if !allZero(m.data) {
			rt.Fatal("something is left")
		}
	})
}

func TestVerify(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		m := &memory{data: make([]byte, rapid.IntRange(1, 20_000).Draw(rt, "size"))}
		want := true
		if at := rapid.IntRange(-1, len(m.data)-1).Draw(rt, "byte"); at >= 0 {
			m.data[at], want = 1, false
		}
		clean, err := Verify(context.Background(), m, Plan{Chunk: 4096}, func(int64) error { return nil })
		if err != nil || clean != want || len(m.erased) > 0 {
			rt.Fatalf("clean %v, want %v, %v, erased %v", clean, want, err, m.erased)
		}
	})
}

// The rate is kept within what a timer allows, and a wait ends with its context.
func TestRate(t *testing.T) {
	m := &memory{data: full(64 << 10)}
	start := time.Now()
	if err := Run(t.Context(), m, Plan{Method: Zero, Chunk: 4096, Rate: 1 << 20}, func(int64) error { return nil }); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(start); took < 90*time.Millisecond { // 128 KiB at 1 MiB/s, less the debt of one timer
		t.Errorf("%s is faster than the rate", took)
	}
	ctx, cancel := context.WithCancel(t.Context())
	err := Run(ctx, &memory{data: full(64 << 10)}, Plan{Method: Zero, Chunk: 4096, Rate: 1}, func(int64) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
