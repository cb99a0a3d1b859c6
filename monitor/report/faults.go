package report

import (
	"slices"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/verdict"
)

// AddFault adds an event to the disk's fault of that class. The evidence is
// the latest of the worst severity.
func AddFault(d *v1alpha1.Disk, f v1alpha1.Fault) {
	for i := range d.Faults {
		have := &d.Faults[i]
		if have.Class != f.Class {
			continue
		}
		have.Count += f.Count
		if f.FirstSeen.Before(&have.FirstSeen) {
			have.FirstSeen = f.FirstSeen
		}
		if have.LastSeen.Before(&f.LastSeen) {
			have.LastSeen = f.LastSeen
		}
		if f.Until != nil && (have.Until == nil || have.Until.Before(f.Until)) {
			have.Until = f.Until
		}
		if f.Severity == v1alpha1.SeverityCritical || have.Severity == f.Severity {
			have.Severity, have.Evidence = f.Severity, f.Evidence
		}
		return
	}
	d.Faults = append(d.Faults, f)
	slices.SortFunc(d.Faults, func(a, b v1alpha1.Fault) int { return strings.Compare(string(a.Class), string(b.Class)) })
}

// keep drops the faults that count no more.
func (b *builder) keep(d *v1alpha1.Disk, present bool) []v1alpha1.Fault {
	var keep []v1alpha1.Fault
	for _, f := range d.Faults {
		notAhead(&f, b.view.Now)
		switch {
		case stands(&f): // see health, readOnly, overNetwork
		case f.Class == v1alpha1.FaultMissing:
			if present {
				continue
			}
		case !lasts(&f) && !b.view.Now.Before(ends(&f)):
			continue
		case d.ID == b.clearID && f.LastSeen.Time.Truncate(time.Second).Before(b.clearBefore):
			continue
		}
		keep = append(keep, f)
	}
	return keep
}

// notAhead brings a fault that was seen when the clock was ahead to now, as if it was seen now for the last time. It
// would last until the clock is there again, which may be years, and nobody could clear it. All by the wall's clock:
// that is what the status has.
func notAhead(f *v1alpha1.Fault, now time.Time) {
	now = now.Round(0)
	last := f.LastSeen.Round(0)
	if last.Sub(now) < time.Minute {
		return
	}
	if f.Until != nil {
		f.Until = &metav1.Time{Time: now.Add(f.Until.Time.Round(0).Sub(last))}
	}
	f.LastSeen = metav1.NewTime(now)
	if f.FirstSeen.After(now) {
		f.FirstSeen = f.LastSeen
	}
}

// stands says whether a fault is there exactly as long as what it tells of: it has no end of its own.
// A line about a network has one.
func stands(f *v1alpha1.Fault) bool {
	return f.Class == v1alpha1.FaultSMART || f.Class == v1alpha1.FaultReadOnly || f.Class == v1alpha1.FaultNetwork && f.Until == nil
}

// lasts says whether a fault stands until somebody clears it.
func lasts(f *v1alpha1.Fault) bool { return verdict.Lasts(f) || f.Class == v1alpha1.FaultShrunken }

// ends is when a fault that does not last is over.
func ends(f *v1alpha1.Fault) time.Time {
	if f.Until != nil {
		return f.Until.Time
	}
	return f.LastSeen.Add(verdict.WarningTTL) // of a monitor that did not say
}

// NextEnd is when the first fault of a status ends by itself; zero when none does.
func NextEnd(s *v1alpha1.ComputeNodeStatus) (first time.Time) {
	for i := range s.Disks {
		for j := range s.Disks[i].Faults {
			f := &s.Disks[i].Faults[j]
			if stands(f) || f.Class == v1alpha1.FaultMissing || lasts(f) {
				continue
			}
			if at := ends(f); first.IsZero() || at.Before(first) {
				first = at
			}
		}
	}
	return first
}

// ClearRequest reads v1alpha1.AnnotationClearFaults. A value of another form asks for nothing.
func ClearRequest(n *v1alpha1.ComputeNode) (id string, before time.Time) {
	if n == nil {
		return "", time.Time{}
	}
	id, at, ok := strings.Cut(n.Annotations[v1alpha1.AnnotationClearFaults], "@")
	t, err := time.Parse(time.RFC3339, at)
	if !ok || err != nil {
		return "", time.Time{}
	}
	return id, t
}
