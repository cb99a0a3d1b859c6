package verdict_test

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"holdfast.dev/monitor/verdict"
)

// Silence against a reference that keeps every look and counts anew each time.
func TestSilence(t *testing.T) {
	type look struct {
		at time.Time
		verdict.Traffic
		there bool
	}
	// steps are the whole steps that the last look's silence has had by then.
	steps := func(looks []look, step time.Duration) int {
		n := len(looks) - 1
		last := looks[n]
		if !last.there || last.Waiting == 0 {
			return 0
		}
		first := n
		for first > 0 && looks[first-1].there && looks[first-1].Waiting > 0 && looks[first-1].Answered == last.Answered {
			first--
		}
		return int(last.at.Sub(looks[first].at) / step)
	}
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		s := verdict.Silence{Step: 30 * time.Second}
		now := time.Unix(1e9, 0)
		var looks []look
		told := 0
		for range 60 {
			// Looks at the very boundary, and the kernel's announcements between them.
			now = now.Add([]time.Duration{time.Millisecond, 10 * time.Second, 30*time.Second - 1, 30 * time.Second, 95 * time.Second}[r.IntN(5)])
			l := look{at: now, there: r.IntN(12) > 0}
			if len(looks) > 0 {
				l.Traffic = looks[len(looks)-1].Traffic
			}
			switch r.IntN(6) {
			case 0:
				l.Answered++
			case 1:
				l.Waiting = uint64(r.IntN(3))
			}
			looks = append(looks, l)
			disks := map[string]verdict.Traffic{}
			if l.there {
				disks["a"] = l.Traffic
			}
			found := s.Look(disks, now)
			want := steps(looks, s.Step)
			if want == 0 || want < told {
				told = 0
			}
			if len(looks) > 1 && want > 0 && steps(looks[:len(looks)-1], s.Step) == 0 {
				told = 0 // another silence, or the first step of this one
			}
			f, ok := found["a"]
			if ok != (want > told) || len(f.Steps) != want-told {
				t.Fatalf("seed %d: %d steps, want %d\n%+v", seed, len(f.Steps), want-told, looks)
			}
			for _, end := range f.Steps {
				if end.After(now) || !end.After(f.Since) {
					t.Fatalf("seed %d: a step of the silence since %s ends at %s, now is %s", seed, f.Since, end, now)
				}
			}
			told = want
		}
	}
}

// Two minutes of silence within ten are critical; they degrade the disk all the same,
// and all of it is over ten minutes later: an adapter that is reset silences its disks.
func TestSilenceByTheDefaultThresholds(t *testing.T) {
	th := verdict.DefaultThresholds()
	var recent verdict.Recent
	start := time.Unix(1e9, 0)
	for i, want := range []string{"Warning", "Warning", "Warning", "Critical"} {
		at := start.Add(time.Duration(i+1) * verdict.SilenceStep)
		var o verdict.Outcome
		recent, o = th.Weigh(recent, &verdict.Line{Class: "NoAnswer", Severity: "Warning", Text: "x", Count: 1, Seen: []verdict.Sighting{{At: at}}})
		got := fmt.Sprint(o.Severity)
		if got != want || !o.Until.Equal(at.Add(10*time.Minute)) {
			t.Errorf("after %s it is %s until %s, want %s", at.Sub(start), got, o.Until, want)
		}
	}
}
