package verdict_test

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"pgregory.net/rapid"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/verdict"
)

var (
	medium  = v1alpha1.Fault{Class: v1alpha1.FaultMedium, Severity: v1alpha1.SeverityCritical}
	link    = v1alpha1.Fault{Class: v1alpha1.FaultLink, Severity: v1alpha1.SeverityWarning}
	kicked  = v1alpha1.Fault{Class: v1alpha1.FaultArray, Severity: v1alpha1.SeverityCritical}
	missing = v1alpha1.Fault{Class: v1alpha1.FaultMissing, Severity: v1alpha1.SeverityCritical}
	flaps   = v1alpha1.Fault{Class: v1alpha1.FaultFlapping, Severity: v1alpha1.SeverityCritical}
)

func TestState(t *testing.T) {
	faults := func(f ...v1alpha1.Fault) []v1alpha1.Fault { return f }
	cases := map[string]struct {
		reason string
		facts  verdict.Facts
		want   v1alpha1.DiskState
	}{
		"Healthy":     {"present, nothing against it", verdict.Facts{Present: true, Whole: true}, v1alpha1.DiskHealthy},
		"Warning":     {"works, with warnings", verdict.Facts{Present: true, Whole: true, Faults: faults(link)}, v1alpha1.DiskDegraded},
		"Critical":    {"the worst fault decides", verdict.Facts{Present: true, Whole: true, Faults: faults(link, medium)}, v1alpha1.DiskFailed},
		"Missing":     {"absent for long enough", verdict.Facts{Whole: true, Settled: true, Previous: v1alpha1.DiskFailed, Faults: faults(medium)}, v1alpha1.DiskMissing},
		"NotSettled":  {"a blink is no loss", verdict.Facts{Whole: true, Previous: v1alpha1.DiskHealthy}, v1alpha1.DiskHealthy},
		"NeverSeen":   {"at the start nothing is concluded yet", verdict.Facts{Whole: true}, v1alpha1.DiskUnknown},
		"StaysGone":   {"a restart does not make it less missing", verdict.Facts{Whole: true, Previous: v1alpha1.DiskMissing, Faults: faults(missing)}, v1alpha1.DiskMissing},
		"Back":        {"presence ends Missing, whatever was recorded", verdict.Facts{Present: true, Whole: true, Previous: v1alpha1.DiskMissing, Faults: faults(missing)}, v1alpha1.DiskHealthy},
		"BackBroken":  {"evidence about this very disk stays", verdict.Facts{Present: true, Whole: true, Previous: v1alpha1.DiskMissing, Faults: faults(missing, medium)}, v1alpha1.DiskFailed},
		"Flaps":       {"one that comes and goes is closed while it is there", verdict.Facts{Present: true, Whole: true, Previous: v1alpha1.DiskMissing, Faults: faults(flaps)}, v1alpha1.DiskFailed},
		"FlapsGone":   {"and its state does not change while it is not", verdict.Facts{Whole: true, Settled: true, Previous: v1alpha1.DiskFailed, Faults: faults(flaps, missing)}, v1alpha1.DiskFailed},
		"FlapsABit":   {"where the thresholds call it a warning, it may be missing", verdict.Facts{Whole: true, Settled: true, Faults: faults(v1alpha1.Fault{Class: v1alpha1.FaultFlapping, Severity: v1alpha1.SeverityWarning})}, v1alpha1.DiskMissing},
		"Blind":       {"a look that failed shows no absence", verdict.Facts{Settled: true, Previous: v1alpha1.DiskHealthy}, v1alpha1.DiskUnknown},
		"BlindGone":   {"nor does it confirm one", verdict.Facts{Previous: v1alpha1.DiskMissing, Faults: faults(missing)}, v1alpha1.DiskUnknown},
		"BlindFailed": {"evidence needs no look", verdict.Facts{Faults: faults(medium)}, v1alpha1.DiskFailed},
		"Silent":      {"no answer is no health", verdict.Facts{Present: true, Whole: true, Silent: true}, v1alpha1.DiskUnknown},
		"SilentBad":   {"evidence needs no answer", verdict.Facts{Present: true, Whole: true, Silent: true, Faults: faults(link)}, v1alpha1.DiskDegraded},
		"PartlySeen":  {"what a partial look shows is there", verdict.Facts{Present: true}, v1alpha1.DiskHealthy},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if got := verdict.State(tc.facts); got != tc.want {
				t.Errorf("got %s, want %s; reason: %s", got, tc.want, tc.reason)
			}
		})
	}
}

// reference says the rules of State one by one, slowly.
func reference(f verdict.Facts) v1alpha1.DiskState {
	has := func(ok func(v1alpha1.Fault) bool) bool {
		for _, x := range f.Faults {
			if ok(x) {
				return true
			}
		}
		return false
	}
	crit := has(func(x v1alpha1.Fault) bool { return x.Class == v1alpha1.FaultMedium })
	warn := has(func(x v1alpha1.Fault) bool { return x.Class == v1alpha1.FaultLink || x.Class == v1alpha1.FaultArray })
	comesAndGoes := has(func(x v1alpha1.Fault) bool { return x.Class == v1alpha1.FaultFlapping })
	gone := has(func(x v1alpha1.Fault) bool { return x.Class == v1alpha1.FaultMissing })
	absent := !f.Present && f.Whole
	kept := f.Previous
	if kept == "" || kept == v1alpha1.DiskMissing {
		kept = v1alpha1.DiskUnknown
	}
	switch {
	case comesAndGoes:
		return v1alpha1.DiskFailed
	case absent && (f.Settled || gone):
		return v1alpha1.DiskMissing
	case crit || absent && kept == v1alpha1.DiskFailed:
		return v1alpha1.DiskFailed
	case warn || absent && kept == v1alpha1.DiskDegraded:
		return v1alpha1.DiskDegraded
	case f.Present && !f.Silent || absent && kept == v1alpha1.DiskHealthy:
		return v1alpha1.DiskHealthy
	}
	return v1alpha1.DiskUnknown
}

func TestStateIsTheReference(t *testing.T) {
	states := []v1alpha1.DiskState{"", v1alpha1.DiskHealthy, v1alpha1.DiskUnknown, v1alpha1.DiskDegraded, v1alpha1.DiskFailed, v1alpha1.DiskMissing}
	rapid.Check(t, func(t *rapid.T) {
		f := verdict.Facts{
			Present:  rapid.Bool().Draw(t, "present"),
			Whole:    rapid.Bool().Draw(t, "whole"),
			Settled:  rapid.Bool().Draw(t, "settled"),
			Silent:   rapid.Bool().Draw(t, "silent"),
			Previous: rapid.SampledFrom(states).Draw(t, "previous"),
			Faults:   rapid.SliceOfN(rapid.SampledFrom([]v1alpha1.Fault{medium, link, kicked, missing, flaps}), 0, 3).Draw(t, "faults"),
		}
		got, want := verdict.State(f), reference(f)
		if got != want {
			t.Errorf("%+v: got %s, want %s", f, got, want)
		}
		if got == v1alpha1.DiskMissing && (f.Present || !f.Whole) {
			t.Errorf("%+v: Missing without a whole look that lacks it", f)
		}
	})
}

func TestAbsence(t *testing.T) {
	t0 := time.Unix(100, 0)
	var a verdict.Absence
	a.Look([]string{"x", "y"}, true, t0)
	if a.Settled("x", time.Second) {
		t.Error("one look settles nothing")
	}
	a.Look([]string{"x"}, true, t0.Add(time.Second))
	if a.Settled("x", 2*time.Second) || !a.Pending(2*time.Second) {
		t.Error("settled too early")
	}
	a.Look([]string{"x", "y"}, true, t0.Add(2*time.Second))
	if !a.Settled("x", 2*time.Second) {
		t.Error("two seconds and three looks must do")
	}
	if a.Settled("y", 0) {
		t.Error("y was there in between")
	}
	// Half a look is no look at what it does not show, and as good as any at what it shows: a disk that
	// only such a look had shown was Missing with the next that did not.
	a.Look([]string{"y"}, false, t0.Add(3*time.Second))
	if a.Settled("y", 0) {
		t.Error("half a look has confirmed an absence")
	}
	a.Look([]string{"x", "y"}, true, t0.Add(4*time.Second))
	if a.Settled("x", 0) {
		t.Error("x was there in between, by half a look")
	}
	if !a.Settled("y", 0) {
		t.Error("half a look has ended the absence of a disk that it does not show")
	}
}

// The matching fills as many places as trying every assignment does.
func TestCompareIsBest(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var groups []v1alpha1.FlavorDisks
		for i := range rapid.IntRange(1, 3).Draw(t, "groups") {
			groups = append(groups, v1alpha1.FlavorDisks{
				Name: fmt.Sprint("g", i), Count: int32(rapid.IntRange(1, 2).Draw(t, "count")),
				Media:   rapid.SampledFrom([]v1alpha1.Media{"", "ssd", "hdd"}).Draw(t, "media"),
				MinSize: resource.NewQuantity(int64(rapid.IntRange(0, 2).Draw(t, "min")), resource.BinarySI),
			})
		}
		var disks []verdict.Sight
		for range rapid.IntRange(0, 5).Draw(t, "disks") {
			disks = append(disks, verdict.Sight{ReadOnly: rapid.IntRange(0, 3).Draw(t, "readOnly") == 0, Disk: v1alpha1.Disk{
				Device: "x", SizeBytes: int64(rapid.IntRange(0, 2).Draw(t, "size")),
				Media: rapid.SampledFrom([]v1alpha1.Media{"ssd", "hdd"}).Draw(t, "media"),
				Group: rapid.SampledFrom([]string{"", "", "g0", "g1"}).Draw(t, "group"),
			}})
		}
		left := make([]int32, len(groups))
		for i := range groups {
			left[i] = groups[i].Count
		}
		var full func(d int) bool // every place filled, with disks d and after
		full = func(d int) bool {
			done := true
			for _, n := range left {
				done = done && n == 0
			}
			if done || d == len(disks) {
				return done
			}
			for i, g := range groups {
				x := disks[d]
				if left[i] > 0 && !x.ReadOnly && (x.Group == "" || x.Group == g.Name) && (g.Media == "" || g.Media == x.Media) && x.SizeBytes >= g.MinSize.Value() {
					left[i]--
					ok := full(d + 1)
					left[i]++
					if ok {
						return true
					}
				}
			}
			return full(d + 1)
		}
		reason, _ := verdict.Compare(groups, disks, true)
		if got, want := reason == verdict.Satisfied, full(0); got != want {
			t.Errorf("satisfied %t, want %t: %+v %+v", got, want, groups, disks)
		}
	})
}

// "holdfast disks" gave as the reason of a failed disk the first of its faults by the alphabet, such as a hung task.
func TestDecisive(t *testing.T) {
	const crit, warn = v1alpha1.SeverityCritical, v1alpha1.SeverityWarning
	fault := func(class v1alpha1.FaultClass, severity v1alpha1.Severity) v1alpha1.Fault {
		return v1alpha1.Fault{Class: class, Severity: severity}
	}
	for name, tc := range map[string]struct {
		reason string
		faults []v1alpha1.Fault
		want   v1alpha1.FaultClass
	}{
		"None":    {"a disk without a fault", nil, ""},
		"Fails":   {"what degrades it comes first in the alphabet, and is as critical", []v1alpha1.Fault{fault(v1alpha1.FaultHungIO, crit), fault(v1alpha1.FaultMedium, crit), fault(v1alpha1.FaultSCSI, crit)}, v1alpha1.FaultMedium},
		"Aside":   {"nothing fails it", []v1alpha1.Fault{fault(v1alpha1.FaultATA, warn), fault(v1alpha1.FaultNoAnswer, crit)}, v1alpha1.FaultNoAnswer},
		"Warning": {"the first will do", []v1alpha1.Fault{fault(v1alpha1.FaultATA, warn), fault(v1alpha1.FaultLink, warn)}, v1alpha1.FaultATA},
		"Missing": {"it is not there, whatever it was before", []v1alpha1.Fault{fault(v1alpha1.FaultMedium, crit), fault(v1alpha1.FaultMissing, crit), fault(v1alpha1.FaultSMART, crit)}, v1alpha1.FaultMissing},
	} {
		t.Run(name, func(t *testing.T) {
			got := v1alpha1.FaultClass("")
			if f := verdict.Decisive(&v1alpha1.Disk{Faults: tc.faults}); f != nil {
				got = f.Class
			}
			if got != tc.want {
				t.Errorf("%q, want %q: %s", got, tc.want, tc.reason)
			}
		})
	}
}
