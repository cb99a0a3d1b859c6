// Package verdict decides what a disk's state is. It is pure: facts and faults
// in, a state out.
package verdict

import (
	"slices"
	"time"

	"holdfast.dev/api/v1alpha1"
)

// WarningTTL is how long a fault that degrades counts after its last record. A
// reset of last month is no reason to call a disk degraded; what fails a disk is
// never forgotten by itself (Lasts).
const WarningTTL = 24 * time.Hour

// aside are the classes that tell of what is beside the disk, before it or above
// it: however bad that is, the disk itself may be sound. They degrade it.
var aside = []v1alpha1.FaultClass{
	v1alpha1.FaultArray, v1alpha1.FaultPath, v1alpha1.FaultMapper, v1alpha1.FaultHungIO, v1alpha1.FaultNoAnswer,
	v1alpha1.FaultController, v1alpha1.FaultPCIe, v1alpha1.FaultNetwork,
}

// Fails says whether a fault fails the disk; else it degrades it.
func Fails(f *v1alpha1.Fault) bool {
	return f.Severity == v1alpha1.SeverityCritical && !slices.Contains(aside, f.Class)
}

// Lasts says whether a fault stands until somebody clears it. That a disk comes and goes is over when it
// has stayed, and most often is its slot's fault, or its cable's.
func Lasts(f *v1alpha1.Fault) bool { return Fails(f) && f.Class != v1alpha1.FaultFlapping }

// Decisive is the fault that made the disk what it is; nil when it has none. That it is missing decides
// before all, then the first that fails it, then the first critical one.
func Decisive(d *v1alpha1.Disk) (decisive *v1alpha1.Fault) {
	weight := func(f *v1alpha1.Fault) int {
		switch {
		case f.Class == v1alpha1.FaultMissing:
			return 3
		case Fails(f):
			return 2
		case f.Severity == v1alpha1.SeverityCritical:
			return 1
		}
		return 0
	}
	for i := range d.Faults {
		if f := &d.Faults[i]; decisive == nil || weight(f) > weight(decisive) {
			decisive = f
		}
	}
	return decisive
}

// Facts is what is known of one disk.
type Facts struct {
	// Present: the last look at the host shows it.
	Present bool
	// Whole: that look would have shown it. While false, absence says nothing.
	Whole bool
	// Settled: it has been absent for so long that the absence counts.
	Settled bool
	// Silent: it is there and does not answer when it is asked for its health.
	Silent bool
	// Previous is the state before; empty for a disk that is new.
	Previous v1alpha1.DiskState
	// Faults are what speaks against it.
	Faults []v1alpha1.Fault
}

// rank orders states from good to bad.
var rank = map[v1alpha1.DiskState]int{
	v1alpha1.DiskHealthy: 0, v1alpha1.DiskUnknown: 1, v1alpha1.DiskDegraded: 2, v1alpha1.DiskFailed: 3, v1alpha1.DiskMissing: 4,
}

// Worse is the worse one of two states. An empty state is better than all.
func Worse(a, b v1alpha1.DiskState) v1alpha1.DiskState {
	if a == "" || b != "" && rank[b] > rank[a] {
		return b
	}
	return a
}

// State is the verdict. A fault that Fails fails the disk for as long as it is
// there, any other degrades it. Absence makes it Missing only when
// the look was whole and the absence settled; a disk that was Missing stays so
// until it is seen. One that comes and goes so often that it fails is Failed, whether it is there at the moment
// or not: else each return would open it, and begin the waiting for its repair anew. Of one that does not
// answer nothing good is concluded.
func State(f Facts) v1alpha1.DiskState {
	state, missing, flaps := v1alpha1.DiskHealthy, false, false
	for i := range f.Faults {
		switch fault := &f.Faults[i]; {
		case fault.Class == v1alpha1.FaultMissing:
			missing = true
		case Fails(fault):
			state, flaps = Worse(state, v1alpha1.DiskFailed), flaps || fault.Class == v1alpha1.FaultFlapping
		default:
			state = Worse(state, v1alpha1.DiskDegraded)
		}
	}
	switch {
	case f.Present && f.Silent:
		return Worse(state, v1alpha1.DiskUnknown)
	case f.Present:
		return state
	case !f.Whole:
		return Worse(state, v1alpha1.DiskUnknown)
	case flaps:
		return state
	case f.Settled || missing:
		return v1alpha1.DiskMissing
	case f.Previous == "" || f.Previous == v1alpha1.DiskMissing:
		return Worse(state, v1alpha1.DiskUnknown)
	}
	return Worse(state, f.Previous)
}

// Absence remembers since when disks have been absent.
type Absence struct{ looks map[string]span }

// span is the first and the last whole look that has not shown a disk.
type span struct{ first, last time.Time }

// Look takes in a look at the host, made at the given time, that does not show
// these disks. All others are there: their absence is over. One that was not
// whole confirms no absence.
func (a *Absence) Look(absent []string, whole bool, at time.Time) {
	looks := map[string]span{}
	for _, id := range absent {
		s, ok := a.looks[id]
		switch {
		case !whole && ok:
			looks[id] = s
		case whole && ok:
			looks[id] = span{s.first, at}
		case whole:
			looks[id] = span{at, at}
		}
	}
	a.looks = looks
}

// Settled says whether id has been absent in two looks or more, the last of
// them at least settle after the first. Time in which nobody looks settles nothing.
func (a *Absence) Settled(id string, settle time.Duration) bool {
	s, ok := a.looks[id]
	return ok && s.last.After(s.first) && s.last.Sub(s.first) >= settle
}

// Pending is true while a disk is absent and not settled.
func (a *Absence) Pending(settle time.Duration) bool {
	for id := range a.looks {
		if !a.Settled(id, settle) {
			return true
		}
	}
	return false
}
