package rollout

import (
	"fmt"
	"time"
)

// TrialFresh is how long the answer of a cluster that would take a bundle is good
// for: what is published later is tried again first.
const TrialFresh = 2 * time.Minute

// Trial is what a cluster's API server said when its agent tried a bundle
// without effect.
type Trial struct {
	// Digest is of the bundle that was tried, Base the published commit that it
	// was to follow.
	Digest, Base string
	At           time.Time
	// Refused says what the API server would not take, Unknown why there is no
	// whole answer. Both are empty when it would take everything.
	Refused, Unknown string
}

// answers is true when the trial speaks of what the cluster is wanted at now.
func (t *Trial) answers(c Cluster) bool {
	return t != nil && t.Digest == c.Want && t.Base == c.Revision
}

// settleTrials remembers refusals, so that they outlive the process, and forgets
// those that no longer hold.
func (d *decider) settleTrials() {
	for _, r := range d.in.Rings {
		for _, name := range r.Clusters {
			c, rec := d.in.Clusters[name], d.state.Clusters[name]
			switch t := c.Trial; {
			case c.Published == c.Want || (rec.Refused != "" && rec.Refused != c.Want):
				rec.Refused, rec.Why = "", ""
			case !t.answers(c) || t.Unknown != "":
				continue
			case t.Refused != "":
				rec.Refused, rec.Why = c.Want, t.Refused
			default:
				rec.Refused, rec.Why = "", ""
			}
			d.setRecord(name, rec)
		}
	}
}

// refuses is true when the cluster is known to refuse the wanted bundle.
func (d *decider) refuses(name string) bool {
	rec := d.state.Clusters[name]
	return rec.Refused != "" && rec.Refused == d.in.Clusters[name].Want
}

// mayTake is true when the wanted bundle may be published to the cluster as far
// as its API server is concerned; if not, it is to be asked. A cluster whose agent
// is not there is given only the first bundle that it ever has (see
// [view.lookPending]), and there is nothing yet that it could break; but none that
// it has refused.
func (d *decider) mayTake(name string) bool {
	c := d.in.Clusters[name]
	if c.Contact != Present {
		return !d.refuses(name)
	}
	if t := c.Trial; t.answers(c) && t.Refused == "" && t.Unknown == "" && d.in.Now.Sub(t.At) < TrialFresh {
		return true
	}
	d.out.Ask = append(d.out.Ask, name)
	return false
}

// foresee asks clusters that cannot be published to yet, each once for what it is
// wanted at, so that people and later turns know what is refused.
func (d *decider) foresee(names ...string) {
	for _, name := range names {
		if c := d.in.Clusters[name]; c.Contact == Present && (!c.Trial.answers(c) || c.Trial.Refused != "" || c.Trial.Unknown != "") {
			d.out.Ask = append(d.out.Ask, name)
		}
	}
}

// lacks is what a cluster waits for that does not have the wanted digest yet.
func (d *decider) lacks(name string) string {
	switch c := d.in.Clusters[name]; {
	case c.Contact == Silent:
		return "is silent, and what was published to it is not known: its branch is not what the hub wrote (bring it back, or take it out of fleet.yaml)"
	case d.refuses(name):
		return "refuses the change: " + d.state.Clusters[name].Why
	case c.Contact == Present && c.Trial.answers(c) && c.Trial.Unknown != "":
		return "cannot say whether it would take the change: " + c.Trial.Unknown
	default:
		return "does not have the new digest yet"
	}
}

// roomless counts the healthy clusters that get no room: what is sick, and refuses what
// would mend it, takes up all of it.
func (d *decider) roomless(r Ring, v *view) (n int) {
	down := 0
	for _, name := range v.sick {
		if d.refuses(name) {
			down++
		}
	}
	if down < max(1, r.MaxUnavailable) {
		return 0
	}
	for _, name := range v.well {
		if !d.refuses(name) {
			n++
		}
	}
	return n
}

// refused says so in a ring's status, when nothing else is waited for.
func (d *decider) refused(v *view, roomless int, st *RingStatus) {
	st.Phase, st.WaitsFor, st.Until = Held, "plan", time.Time{}
	st.Message = "cluster " + v.refused[0] + " " + d.lacks(v.refused[0])
	if n := len(v.refused) - 1; n > 0 {
		st.Message += fmt.Sprintf(" (and %d more clusters of the ring)", n)
	}
	if roomless > 0 {
		st.Message += fmt.Sprintf("; what is sick and refuses takes up the room (maxUnavailable) that %d healthy clusters wait for", roomless)
	}
	st.Action = "push a repair, or mend the cluster, which is asked again; holdfast plan shows every refusal"
}
