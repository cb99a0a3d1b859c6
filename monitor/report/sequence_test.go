package report_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/inventory"
	"holdfast.dev/monitor/report"
	"holdfast.dev/monitor/verdict"
)

const settle = 10 * time.Second

// fact is something that happens to a disk, or to who watches it; an empty one is that time has passed.
type fact struct {
	at   time.Time
	what string
}

// looks are what a look at the host shows.
var looks = map[string]struct{ present, whole bool }{
	"present": {true, true}, "absent": {false, true}, "half, present": {true, false}, "half, absent": {false, false},
}

// lines are of the kernel's log, with what each makes of the disk.
var lines = map[string]struct {
	class    v1alpha1.FaultClass
	severity v1alpha1.Severity
	state    v1alpha1.DiskState
}{
	"link reset":    {v1alpha1.FaultLink, v1alpha1.SeverityWarning, v1alpha1.DiskDegraded},
	"data repaired": {v1alpha1.FaultMedium, v1alpha1.SeverityWarning, v1alpha1.DiskDegraded},
	"data lost":     {v1alpha1.FaultMedium, v1alpha1.SeverityCritical, v1alpha1.DiskFailed},
	"array broken":  {v1alpha1.FaultArray, v1alpha1.SeverityCritical, v1alpha1.DiskDegraded},
}

// answers are the disk's own, with what each makes of it.
var answers = map[string]struct {
	findings []verdict.Finding
	state    v1alpha1.DiskState
}{
	"SMART sound":    {nil, v1alpha1.DiskHealthy},
	"SMART warning":  {[]verdict.Finding{{Severity: v1alpha1.SeverityWarning, Text: "w"}}, v1alpha1.DiskDegraded},
	"SMART critical": {[]verdict.Finding{{Severity: v1alpha1.SeverityCritical, Text: "c"}}, v1alpha1.DiskFailed},
}

// requests are those to forget what was said before now, or before another time.
var requests = map[string]time.Duration{"clear": 0, "clear the past": -settle, "clear the second to come": time.Second}

const silent, restart = "no answer", "restart"

// watched is a disk with what a monitor keeps of it.
type watched struct {
	status  *v1alpha1.ComputeNodeStatus
	absence verdict.Absence
	view    report.View
	health  report.Health
	recent  verdict.Recent
}

// take does with a fact what the monitor does.
func (w *watched) take(f fact) {
	if look, ok := looks[f.what]; ok {
		w.view.Snapshot, w.view.Looked = inventory.Snapshot{}, true
		absent := []string{"a"}
		if look.present {
			w.view.Snapshot, absent = present("a"), nil
		}
		if !look.whole {
			w.view.Snapshot.Err = errors.New("half")
		}
		w.absence.Look(absent, look.whole, f.at)
		for _, l := range report.Returned(w.status, &w.view.Snapshot, f.at) {
			w.weigh(&l)
		}
	}
	if l, ok := lines[f.what]; ok {
		at := metav1.NewTime(f.at)
		fault := v1alpha1.Fault{Class: l.class, Severity: l.severity, FirstSeen: at, LastSeen: at, Count: 1}
		if !verdict.Fails(&fault) {
			until := metav1.NewTime(f.at.Add(verdict.WarningTTL))
			fault.Until = &until
		}
		report.AddFault(&w.status.Disks[0], fault)
	}
	if a, ok := answers[f.what]; ok {
		w.health = report.Health{Read: true, Findings: a.findings}
	}
	if before, ok := requests[f.what]; ok {
		w.view.Node = &v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{
			v1alpha1.AnnotationClearFaults: "a@" + f.at.Add(before).Format(time.RFC3339),
		}}}
	}
	switch f.what {
	case silent:
		w.health.Silent = true
	case restart:
		w.absence, w.health, w.recent = verdict.Absence{}, report.Health{}, verdict.Recent{}
	}
	w.view.Now, w.view.Health = f.at, map[string]report.Health{"a": w.health}
	w.view.Settled = func(id string) bool { return w.absence.Settled(id, settle) }
	w.status = report.Next(w.status, &w.view)
	if id, before := report.ClearRequest(w.view.Node); id != "" {
		w.recent = w.recent.Forget(before)
	}
}

// weigh puts what was said of the disk into its faults.
func (w *watched) weigh(l *verdict.Line) {
	var o verdict.Outcome
	if w.recent, o = verdict.DefaultThresholds().Weigh(w.recent, l); o.Severity == "" {
		return
	}
	until := metav1.NewTime(o.Until)
	report.AddFault(&w.status.Disks[0], v1alpha1.Fault{
		Class: l.Class, Severity: o.Severity, FirstSeen: metav1.NewTime(o.First), LastSeen: metav1.NewTime(l.Seen[0].At), Until: &until, Count: o.Count,
	})
}

// said is what the lines of a class make of the disk, by all that has happened.
func said(all []fact, class v1alpha1.FaultClass) v1alpha1.DiskState {
	state := v1alpha1.DiskHealthy
	var last, forget time.Time
	for _, f := range all {
		if state == v1alpha1.DiskDegraded && f.at.Sub(last) >= verdict.WarningTTL {
			state = v1alpha1.DiskHealthy
		}
		if l := lines[f.what]; l.class == class {
			state, last = verdict.Worse(state, l.state), f.at
		}
		if before, ok := requests[f.what]; ok {
			forget = f.at.Add(before)
		}
		if last.Before(forget) {
			state = v1alpha1.DiskHealthy
		}
	}
	return state
}

// What flaps: four returns, ten seconds apart at least, within ten minutes. It is over when there was none for as long.
const (
	often   = 4
	within  = 10 * time.Minute
	atLeast = 10 * time.Second
)

// flaps says whether the disk comes and goes too often, by all that has happened; states are those before.
func flaps(all []fact, states []v1alpha1.DiskState) bool {
	var absences, returns []time.Time  // looks that lack it; returns that whoever watches now remembers
	var forget, noted, until time.Time // noted is the last return that was a fault
	gone, flapped := false, false      // it was not there long enough; it flapped by the fact before
	missing := false                   // it was Missing since it was last there, whatever failed looks have made of that
	for i, f := range all {
		missing = missing || i > 0 && states[i-1] == v1alpha1.DiskMissing
		if look, ok := looks[f.what]; ok && look.present {
			if gone && (missing || flapped) {
				if returns = append(returns, f.at); tooOften(returns) {
					noted, until = f.at, f.at.Add(within)
				}
			}
			absences, gone, missing = nil, false, false
		} else if ok && look.whole {
			absences = append(absences, f.at)
			gone = gone || len(absences) > 1 && f.at.Sub(absences[0]) >= settle
		}
		if before, ok := requests[f.what]; ok {
			forget = f.at.Add(before)
		}
		if f.what == restart {
			absences, returns = nil, nil
		}
		if noted.Before(forget) {
			until = time.Time{}
		}
		if n := len(returns); n > 0 && !returns[n-1].After(forget) {
			returns = nil
		}
		flapped = f.at.Before(until)
	}
	return flapped
}

// tooOften says whether returns have come to the number at some time since the last pause in which all is over.
func tooOften(returns []time.Time) bool {
	for i, r := range returns {
		if i > 0 && r.Sub(returns[i-1]) >= within {
			return tooOften(returns[i:])
		}
	}
	for i, end := range returns {
		var counted []time.Time
		for _, r := range returns[:i+1] {
			if len(counted) == 0 || r.Sub(counted[len(counted)-1]) >= atLeast {
				counted = append(counted, r)
			}
		}
		n := 0
		for _, c := range counted {
			if c.After(end.Add(-within)) {
				n++
			}
		}
		if n >= often {
			return true
		}
	}
	return false
}

// reference is the disk's state by all that has happened; states are those before.
func reference(all []fact, states []v1alpha1.DiskState) v1alpha1.DiskState {
	state := v1alpha1.DiskHealthy
	for _, class := range []v1alpha1.FaultClass{v1alpha1.FaultLink, v1alpha1.FaultMedium, v1alpha1.FaultArray} {
		state = verdict.Worse(state, said(all, class))
	}
	var here, whole, missing bool
	var first, last time.Time // whole looks that lack it
	own, answered, absences := v1alpha1.DiskHealthy, true, 0
	for i, f := range all {
		if a, ok := answers[f.what]; ok {
			own, answered = a.state, true
		}
		if look, ok := looks[f.what]; ok {
			here, whole = look.present, look.whole
			if !here && whole {
				if absences++; absences == 1 {
					first = f.at
				}
				last = f.at
			}
		}
		switch f.what {
		case silent:
			answered = false
		case restart:
			answered, absences = true, 0
		}
		if here {
			absences, missing = 0, false
		} else if i < len(states) {
			missing = missing || states[i] == v1alpha1.DiskMissing
		}
	}
	state = verdict.Worse(state, own)
	if flaps(all, states) { // there or not
		return v1alpha1.DiskFailed
	}
	switch {
	case here && answered:
		return state
	case here, !whole:
		return verdict.Worse(state, v1alpha1.DiskUnknown)
	case missing, absences >= 2 && last.Sub(first) >= settle:
		return v1alpha1.DiskMissing
	}
	return verdict.Worse(state, states[len(states)-1]) // no better than it was
}

// Whatever happens in whatever order, the state at every moment is that of a reference which keeps
// all that has happened and goes through it each time. report.Next keeps the status alone.
func TestNextIsTheReference(t *testing.T) {
	whats := slices.Concat(slices.Sorted(maps.Keys(looks)), slices.Sorted(maps.Keys(lines)), slices.Sorted(maps.Keys(answers)), slices.Sorted(maps.Keys(requests)), []string{silent, restart})
	rapid.Check(t, func(t *rapid.T) {
		w := watched{status: &v1alpha1.ComputeNodeStatus{}, view: report.View{Prepared: prepared("a")}}
		var all []fact
		var states []v1alpha1.DiskState
		now := t0
		take := func(what string) {
			all = append(all, fact{now, what})
			want := reference(all, states)
			w.take(fact{now, what})
			states = append(states, want)
			if got := w.status.Disks[0].State; got != want {
				story := ""
				for i, f := range all {
					story += fmt.Sprintf("\n%10s %-25s %s", f.at.Sub(t0), f.what, states[i])
				}
				t.Fatalf("%s, want %s:%s", got, want, story)
			}
		}
		take("half, absent")
		comeAndGo := func() {
			pause := rapid.SampledFrom([]time.Duration{0, time.Second, settle, time.Minute, 3 * time.Minute}).Draw(t, "between absences")
			for range rapid.IntRange(1, 7).Draw(t, "absences") {
				for _, f := range []struct {
					after time.Duration
					what  string
				}{{pause, "absent"}, {settle, "absent"}, {0, "present"}} {
					now = now.Add(f.after)
					take(f.what)
				}
			}
			now = now.Add(rapid.SampledFrom([]time.Duration{0, within - settle - time.Second, within - settle, within - time.Second, within}).Draw(t, "over"))
			take("")
		}
		for range rapid.IntRange(1, 3).Draw(t, "pieces") { // of few kinds of facts each, so that they meet
			some := rapid.SliceOfN(rapid.SampledFrom(whats), 1, 4).Draw(t, "some")
			if rapid.IntRange(0, 2).Draw(t, "comes and goes") == 0 {
				comeAndGo()
			}
			for range rapid.IntRange(1, 12).Draw(t, "facts") {
				now = now.Add(rapid.SampledFrom([]time.Duration{0, time.Second, settle - time.Second, settle, within - time.Second, within, verdict.WarningTTL - time.Second, verdict.WarningTTL}).Draw(t, "pause"))
				take("")
				take(rapid.SampledFrom(some).Draw(t, "what"))
			}
		}
	})
}
