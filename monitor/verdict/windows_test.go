package verdict_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/verdict"
)

var began = time.Unix(1_000_000, 0)

// said is a line of a class after so many seconds; place may be empty.
func said(class v1alpha1.FaultClass, text, place string, seconds ...int) verdict.Line {
	l := verdict.Line{Class: class, Severity: v1alpha1.SeverityWarning, Text: text, Count: int64(len(seconds))}
	for _, s := range seconds {
		l.Seen = append(l.Seen, verdict.Sighting{At: began.Add(time.Duration(s) * time.Second), Place: place})
	}
	return l
}

// outcomes weighs lines one after the other: "Warning ×4 from 0s until 690s".
func outcomes(th *verdict.Thresholds, lines ...verdict.Line) []string {
	var r verdict.Recent
	var out []string
	for i := range lines {
		var o verdict.Outcome
		r, o = th.Weigh(r, &lines[i])
		switch {
		case o.Echo:
			out = append(out, "echo")
		case o.Severity == "":
			out = append(out, "")
		case o.Until.IsZero():
			out = append(out, fmt.Sprintf("%s ×%d from %s for good", o.Severity, o.Count, o.First.Sub(began)))
		default:
			out = append(out, fmt.Sprintf("%s ×%d from %s until %s", o.Severity, o.Count, o.First.Sub(began), o.Until.Sub(began)))
		}
	}
	return out
}

func TestWeigh(t *testing.T) {
	const reset = "ata1: hard resetting link"
	link := func(at ...int) verdict.Line { return said(v1alpha1.FaultLink, reset, "", at...) }
	critical := func(l verdict.Line) verdict.Line { l.Severity = v1alpha1.SeverityCritical; return l }
	above := func(l verdict.Line) verdict.Line { l.Above = true; return l }
	var places []verdict.Line
	for i := range 20 {
		places = append(places, said(v1alpha1.FaultMedium, "md/raid1:md0: read error corrected (8 sectors at 1 on sda)", fmt.Sprint(i), 30*i))
	}
	cases := map[string]struct {
		reason string
		lines  []verdict.Line
		want   string // of the last line
	}{
		"One":        {"any spin-up resets the link once", []verdict.Line{link(0)}, ""},
		"Burst":      {"one error handling prints many lines", []verdict.Line{link(0, 1, 2, 3, 9)}, ""},
		"Four":       {"four errors within ten minutes", []verdict.Line{link(0), link(30), link(60), link(90)}, "Warning ×4 from 0s until 11m30s"},
		"Storm":      {"the same that came together", []verdict.Line{link(0, 30, 60, 90)}, "Warning ×4 from 0s until 11m30s"},
		"Slow":       {"one every five minutes is no fault", []verdict.Line{link(0), link(300), link(600), link(900), link(1200)}, ""},
		"GoesOn":     {"once it is one, one more keeps it: it does not flap", []verdict.Line{link(0), link(30), link(60), link(90), link(680)}, "Warning ×1 from 11m20s until 21m20s"},
		"Over":       {"after ten minutes without any it takes four again", []verdict.Line{link(0), link(30), link(60), link(90), link(690)}, ""},
		"Telling":    {"the kernel's own conclusion counts at once", []verdict.Line{said(v1alpha1.FaultLink, "ata1: limiting SATA link speed to 1.5 Gbps", "", 0)}, "Warning ×1 from 0s until 24h0m0s"},
		"Critical":   {"lost data is no matter of numbers", []verdict.Line{critical(said(v1alpha1.FaultMedium, "x", "", 0))}, "Critical ×1 from 0s for good"},
		"Aside":      {"what is beside the disk ends by itself", []verdict.Line{critical(said(v1alpha1.FaultPath, "x", "", 0))}, "Critical ×1 from 0s until 24h0m0s"},
		"Recovered":  {"one place that the disk has repaired", []verdict.Line{said(v1alpha1.FaultMedium, "Recovered Error", "", 0)}, "Warning ×1 from 0s until 24h0m0s"},
		"Places":     {"twenty of them within an hour", places, "Critical ×1 from 9m30s for good"},
		"PlaceAgain": {"nineteen, one of them twice", append(append([]verdict.Line{}, places[:19]...), places[3]), "Warning ×1 from 1m30s until 24h9m0s"},
		"Echo":       {"the volume on the disk says the same again", []verdict.Line{critical(said(v1alpha1.FaultMedium, "x", "", 0)), above(said(v1alpha1.FaultBufferIO, "dm-0", "", 1))}, "echo"},
		"GivenUp":    {"that the file system has given up was not said yet", []verdict.Line{critical(said(v1alpha1.FaultBlockIO, "x", "", 0)), critical(above(said(v1alpha1.FaultFilesystem, "Aborting journal on device dm-0-8.", "", 1)))}, "Critical ×1 from 1s for good"},
		"NoEcho":     {"the volume has failed by itself", []verdict.Line{above(said(v1alpha1.FaultBufferIO, "dm-0", "", 1))}, "Warning ×1 from 1s until 24h0m1s"},
		"LateEcho":   {"and so it has when the disk's own line is long past", []verdict.Line{critical(said(v1alpha1.FaultMedium, "x", "", 0)), above(said(v1alpha1.FaultBufferIO, "dm-0", "", 60))}, "Warning ×1 from 1m0s until 24h1m0s"},
		"Back":       {"a disk that was pulled and put back", []verdict.Line{said(v1alpha1.FaultFlapping, "it has come back", "", 0)}, ""},
		"Seated":     {"nor is one that is seated anew three times", []verdict.Line{said(v1alpha1.FaultFlapping, "it has come back", "", 0, 60, 120)}, ""},
		"Flaps":      {"four times within ten minutes, and over ten minutes after the last", []verdict.Line{said(v1alpha1.FaultFlapping, "it has come back", "", 0, 12, 24, 36)}, "Critical ×4 from 0s until 10m36s"},
		"EchoOfNone": {"a reset that counts for nothing explains nothing", []verdict.Line{link(0), above(said(v1alpha1.FaultBufferIO, "dm-0", "", 1))}, "Warning ×1 from 1s until 24h0m1s"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := outcomes(verdict.DefaultThresholds(), tc.lines...)
			if d := cmp.Diff(tc.want, got[len(got)-1]); d != "" {
				t.Errorf("%s\nall: %q\nreason: %s", d, got, tc.reason)
			}
		})
	}
}

func TestForget(t *testing.T) {
	th := verdict.DefaultThresholds()
	var r verdict.Recent
	l := said(v1alpha1.FaultLink, "ata1: hard resetting link", "", 0, 30, 60)
	r, _ = th.Weigh(r, &l)
	next := said(v1alpha1.FaultLink, "ata1: hard resetting link", "", 90)
	if _, o := th.Weigh(r, &next); o.Severity == "" {
		t.Fatal("the fourth is a fault")
	}
	if _, o := th.Weigh(r.Forget(began.Add(time.Minute)), &next); o.Severity != "" {
		t.Errorf("what somebody has looked at counts: %+v", o)
	}
	if _, o := th.Weigh(r.Forget(began), &next); o.Severity == "" {
		t.Error("what came later must count")
	}
}

// fact is one thing that happens to the disk of TestLinesAreTheReference.
type fact struct {
	after time.Duration // since the fact before
	kind  int           // of kinds
	place string
}

var kinds = []verdict.Line{
	{Class: v1alpha1.FaultLink, Severity: v1alpha1.SeverityWarning, Text: "reset"},
	{Class: v1alpha1.FaultLink, Severity: v1alpha1.SeverityWarning, Text: "slowed down"},
	{Class: v1alpha1.FaultMedium, Severity: v1alpha1.SeverityWarning, Text: "repaired"},
	{Class: v1alpha1.FaultPath, Severity: v1alpha1.SeverityCritical, Text: "lost"},
	{Class: v1alpha1.FaultBufferIO, Severity: v1alpha1.SeverityWarning, Text: "dm-0", Above: true},
}

// anyFacts are few kinds and few pauses, so that windows fill up.
func anyFacts() *rapid.Generator[[]fact] {
	return rapid.Custom(func(t *rapid.T) []fact {
		pauses := rapid.SliceOfN(rapid.SampledFrom([]int{0, 1, 5, 9, 10, 11, 29, 30, 31, 59, 60, 61, 110, 119, 120, 121, 299, 300, 301, 86400}), 1, 3).Draw(t, "pauses")
		some := rapid.SliceOfN(rapid.IntRange(0, len(kinds)-1), 1, 2).Draw(t, "kinds")
		return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) fact {
			return fact{
				after: time.Duration(rapid.SampledFrom(pauses).Draw(t, "after")) * time.Second,
				kind:  rapid.SampledFrom(some).Draw(t, "kind"), place: rapid.SampledFrom([]string{"", "1", "2", "3", "4"}).Draw(t, "place"),
			}
		}), 5, 20).Draw(t, "some")
	})
}

// windowed are the kinds that windows are about, and each window's length and number.
var windowed = []struct {
	kind   int
	within time.Duration
	number int
}{{0, 2 * time.Minute, 3}, {2, time.Minute, 2}, {2, 5 * time.Minute, 3}}

// edge is a pause of d, or as good as that.
func edge(t *rapid.T, d time.Duration) time.Duration {
	return d + rapid.SampledFrom([]time.Duration{-time.Second, 0, time.Second}).Draw(t, "edge")
}

// fullWindow comes to a window's number, spread out so that the last comes in time or
// just too late, and says one more when the window's length is just over, or not quite.
func fullWindow() *rapid.Generator[[]fact] {
	return rapid.Custom(func(t *rapid.T) []fact {
		w := rapid.SampledFrom(windowed).Draw(t, "window")
		out := []fact{{after: 24 * time.Hour, kind: w.kind, place: "1"}}
		left := edge(t, rapid.SampledFrom([]time.Duration{10 * time.Second * time.Duration(w.number-1), w.within}).Draw(t, "spread"))
		for i := 2; i <= w.number; i++ {
			pause := left
			if i < w.number {
				pause = min(left, edge(t, 10*time.Second))
			}
			left -= pause
			out = append(out, fact{after: pause, kind: w.kind, place: fmt.Sprint(i)})
		}
		return append(out, fact{after: edge(t, w.within), kind: w.kind, place: "1"})
	})
}

// echoed is a device on the disk that speaks as long after the disk's own fault as
// still is an echo, or just is none, and a line that counts for nothing when the
// disk's own fault has ended.
func echoed() *rapid.Generator[[]fact] {
	return rapid.Custom(func(t *rapid.T) []fact {
		const reset, stacked = 0, 4
		return []fact{
			{after: 24 * time.Hour, kind: reset}, {after: 20 * time.Second, kind: reset}, {after: 20 * time.Second, kind: reset},
			{after: edge(t, 30*time.Second), kind: stacked}, {after: 5 * time.Minute, kind: reset},
		}
	})
}

// Whatever is said in whatever order, the state at every moment is that of a
// reference which keeps everything and counts it again each time.
func TestLinesAreTheReference(t *testing.T) {
	th, err := verdict.ParseThresholds("t", []byte(`windows:
- {name: link-errors, class: Link, lines: reset, atLeast: 3, within: 2m, severity: Warning, why: w}
- {name: md-read-errors, class: Medium, distinct: true, atLeast: 3, within: 5m, severity: Critical, why: w}
- {name: medium, class: Medium, atLeast: 2, within: 1m, severity: Warning, why: w}
`))
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		var facts []fact
		for _, piece := range rapid.SliceOfN(rapid.OneOf(anyFacts(), fullWindow(), echoed()), 1, 4).Draw(t, "facts") {
			facts = append(facts, piece...)
		}
		var r verdict.Recent
		faults := map[v1alpha1.FaultClass]v1alpha1.Fault{}
		until := map[v1alpha1.FaultClass]time.Time{}
		now := began
		for i, f := range facts {
			now = now.Add(f.after)
			l := kinds[f.kind]
			l.Count, l.Seen = 1, []verdict.Sighting{{At: now, Place: f.place}}
			var o verdict.Outcome
			r, o = th.Weigh(r, &l)
			for class, fault := range faults { // as the report keeps them
				if !verdict.Fails(&fault) && !now.Before(until[class]) {
					delete(faults, class)
				}
			}
			if o.Severity != "" {
				have := faults[l.Class]
				have.Class = l.Class
				if have.Severity != v1alpha1.SeverityCritical {
					have.Severity = o.Severity
				}
				faults[l.Class] = have
				if o.Until.After(until[l.Class]) {
					until[l.Class] = o.Until
				}
			}
			var list []v1alpha1.Fault
			for _, fault := range faults {
				list = append(list, fault)
			}
			got := verdict.State(verdict.Facts{Present: true, Whole: true, Faults: list})
			if want := remembered(facts[:i+1]); got != want {
				t.Fatalf("after %s: %s, want %s", facts[:i+1], got, want)
			}
		}
	})
}

func (f fact) String() string { return fmt.Sprintf("+%s %s %q", f.after, kinds[f.kind].Text, f.place) }

// history is all that happened, and when.
type history struct {
	facts []fact
	at    []time.Duration
}

// remembered is the state at the last of the facts, by walking all of them.
func remembered(facts []fact) v1alpha1.DiskState {
	h := history{facts: facts, at: make([]time.Duration, len(facts))}
	var now time.Duration
	for i, f := range facts {
		now += f.after
		h.at[i] = now
	}
	own := time.Duration(-1 << 60)
	state := v1alpha1.DiskHealthy
	for i := range facts {
		ends, fails := h.outcome(i, own)
		if kinds[facts[i].kind].Text != "dm-0" && (fails || ends > h.at[i]) {
			own = h.at[i]
		}
		if fails {
			state = v1alpha1.DiskFailed
		} else if ends > now {
			state = verdict.Worse(state, v1alpha1.DiskDegraded)
		}
	}
	return state
}

// outcome is until when the fact i degrades the disk, and whether it fails it; own
// is when the disk itself last had a fault.
func (h history) outcome(i int, own time.Duration) (ends time.Duration, fails bool) {
	ends = h.at[i]
	switch text := kinds[h.facts[i].kind].Text; text {
	case "reset":
		if h.held(h.said(i, text), 2*time.Minute, 3, h.bursts) {
			ends += 2 * time.Minute
		}
	case "repaired":
		if h.held(h.said(i, text), time.Minute, 2, h.bursts) {
			ends += time.Minute
		}
		fails = h.held(h.said(i, text), 5*time.Minute, 3, h.places)
	case "dm-0":
		if h.at[i]-own > 30*time.Second {
			ends += 24 * time.Hour
		}
	default:
		ends += 24 * time.Hour
	}
	return ends, fails
}

// said are the facts of a kind, i and before.
func (h history) said(i int, text string) (out []int) {
	for j := range h.facts[:i+1] {
		if strings.HasPrefix(kinds[h.facts[j].kind].Text, text) {
			out = append(out, j)
		}
	}
	return out
}

// bursts counts times, those within ten seconds of the last that counted once.
func (h history) bursts(js []int, since time.Duration) (n int) {
	last := time.Duration(-1 << 60)
	for _, j := range js {
		if h.at[j]-last >= 10*time.Second {
			last = h.at[j]
			if h.at[j] > since {
				n++
			}
		}
	}
	return n
}

func (h history) places(js []int, since time.Duration) int {
	seen := map[string]bool{}
	for _, j := range js {
		if h.at[j] > since && h.facts[j].place != "" {
			seen[h.facts[j].place] = true
		}
	}
	return len(seen)
}

// held says whether a window holds at the last of js: it has come to its number
// at some time, and there was no pause of its length since.
func (h history) held(js []int, within time.Duration, atLeast int, count func([]int, time.Duration) int) bool {
	from, holds := 0, false
	for k, j := range js {
		if k > 0 && h.at[j]-h.at[js[k-1]] >= within {
			from, holds = k, false
		}
		holds = holds || count(js[from:k+1], h.at[j]-within) >= atLeast
	}
	return holds
}

// Who takes the window of returns out takes it all out: a return is no fault by itself.
func TestReturnsWithoutAWindow(t *testing.T) {
	th, err := verdict.ParseThresholds("t", []byte("windows: [{name: flapping, remove: true}]"))
	if err != nil {
		t.Fatal(err)
	}
	l := said(v1alpha1.FaultFlapping, "it has come back", "", 0, 12, 24, 36, 48)
	if got := outcomes(th, l, l); got[1] != "" {
		t.Errorf("it is a fault: %s", got[1])
	}
}
