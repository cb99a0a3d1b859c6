package agent

import (
	"errors"
	"testing"
	"time"
)

// TestRefusedIsLookedAtAgain: an agent that had refused a revision never looked at
// it again before it was restarted, whatever was mended.
func TestRefusedIsLookedAtAgain(t *testing.T) {
	start := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	bad := fetched{revision: "r1", signers: "old", err: errors.New("of nobody who may sign")}
	now, r := start, refusal{}
	for _, want := range []time.Duration{time.Minute, 2 * time.Minute, 4 * time.Minute, 8 * time.Minute, 16 * time.Minute, 30 * time.Minute, 30 * time.Minute} {
		r = r.next(bad, now)
		if r.due("old", now.Add(want-time.Second)) || !r.due("old", now.Add(want)) {
			t.Errorf("refused %d times: not due after %s", r.times+1, want)
		}
		if !r.due("new", now) {
			t.Error("other keys change nothing")
		}
		now = now.Add(want)
	}
	if r = r.next(fetched{revision: "r2", signers: "old", err: bad.err}, now); !r.due("old", now.Add(time.Minute)) {
		t.Error("another revision waits for as long as the one before")
	}
	if r = r.next(fetched{revision: "r3", signers: "old"}, now); r.due("new", now.Add(time.Hour)) {
		t.Error("a revision that was taken is looked at again")
	}
}
