package rollout

import (
	"fmt"
	"slices"
	"time"
)

// view is one ring as it stands.
type view struct {
	sticky  bool // it has passed with this content before
	healthy int  // at the wanted digest
	vouched int  // of these, and of those that proved the wanted digest before
	silent  int  // passed over
	// What is not at the wanted digest, by what may be done about it: sick is not
	// healthy anyway, well is, first never had anything and nobody is there to take it.
	sick, well, first []string
	refused           []string // of these, those that would not take the wanted digest
	held              int      // not at the wanted digest, and not known how it is
	unavailable       int      // on their way, or sick
	blocking          int      // clusters for which the next ring must wait
	waiting           string   // one of them, with what it lacks
	deadline          time.Time
	soakUntil         time.Time
	failed, failure   string // the first cluster that failed
	back, backReason  string // the first that failed and must go back
}

func (v *view) pending() int { return len(v.sick) + len(v.well) + len(v.first) + v.held }

// gate is true when the next ring may go on.
func (v *view) gate(now time.Time, vouched bool) bool {
	return v.failure == "" && vouched && v.blocking == 0 && (v.sticky || !now.Before(v.soakUntil))
}

func (d *decider) look(r Ring) view {
	v := view{sticky: d.state.Passed[r.Name] != ""} // settle dropped it when the content differs
	for _, name := range r.Clusters {
		c, rec := d.in.Clusters[name], d.state.Clusters[name]
		switch {
		case c.Published != c.Want:
			v.lookPending(d, name, c)
		case c.healthy():
			v.healthy++
			v.vouched++
			soaked := c.Report.HealthySince.Add(r.Soak)
			switch {
			case !v.sticky:
				v.soakUntil = later(v.soakUntil, soaked)
			case !d.in.Now.Before(soaked):
				d.good(name) // it came late
			case rec.Good != c.Want:
				d.recheck(soaked)
			}
		case c.Contact == Silent && (rec.Away == c.Want || rec.Good == c.Want):
			v.silent++
			if rec.Good == c.Want {
				v.vouched++
			}
		default:
			v.lookOnItsWay(d, r, name, c, rec)
		}
	}
	return v
}

// lookPending looks at a cluster that does not have the wanted digest yet.
func (v *view) lookPending(d *decider, name string, c Cluster) {
	rec := d.state.Clusters[name]
	// A branch that was deleted is no sign that the cluster has nothing.
	first := c.Published == "" && c.Revision == "" && rec.Good == ""
	switch {
	case first && c.Contact == Silent:
		if !d.refuses(name) {
			v.first = append(v.first, name)
		}
		v.silent++
		return
	case c.Contact == Silent && (c.Published != "" || rec.Away == c.Want || rec.Good == c.Want):
		v.silent++ // it takes nothing now, and goes through its ring when it is back
		return
	case c.Contact == Silent:
		v.held++ // it may have fallen silent with the wanted digest
	case first || c.steady():
		v.well = append(v.well, name)
	case c.Contact == Present:
		v.sick = append(v.sick, name)
		v.unavailable++
	default:
		v.held++
		v.unavailable++
	}
	if d.refuses(name) {
		v.refused = append(v.refused, name)
	}
	if !v.sticky || c.Contact != Present || d.refuses(name) {
		v.block(name, d.lacks(name))
	}
}

// lookOnItsWay looks at a cluster that has the wanted digest and is not healthy.
func (v *view) lookOnItsWay(d *decider, r Ring, name string, c Cluster, rec Record) {
	v.unavailable++
	proved := rec.Good == c.Want
	// What was before the agent came back, or before the hub listened, was not its
	// time; one that fell silent has as long to come back.
	deadline := later(later(c.PublishedAt, d.in.Since), c.PresentSince)
	if c.Contact == Silent {
		deadline = later(deadline, c.HeardAt)
	}
	deadline = deadline.Add(r.Timeout)
	if reason, since := c.failure(d.in.Now, deadline, r.Timeout, proved); reason != "" {
		if v.failed == "" {
			v.failed, v.failure = name, reason
		}
		if rec.Good != "" && !proved && r.Rollback {
			switch at := since.Add(r.RollbackAfter); {
			case d.in.Now.Before(at):
				d.recheck(at)
			case v.back == "":
				v.back, v.backReason = name, reason
			}
		}
		return
	}
	if !proved {
		d.recheck(deadline)
		if v.deadline.IsZero() || deadline.Before(v.deadline) {
			v.deadline = deadline
		}
	}
	if !v.sticky || proved || c.Contact != Present {
		lacks := "is not healthy yet"
		switch {
		case c.Contact == Silent:
			lacks = "has fallen silent"
		case c.Report == nil:
			lacks = "has not said anything yet"
		case c.Report.Waiting != "":
			lacks = c.Report.Waiting
		}
		v.block(name, lacks)
	}
}

func (v *view) block(name, lacks string) {
	v.blocking++
	if v.waiting == "" {
		v.waiting = "cluster " + name + ": " + lacks
	}
}

// roll publishes what may be published in an open ring.
func (d *decider) roll(r Ring, v *view, vouched bool, st *RingStatus) {
	var h *hold
	if len(v.sick)+len(v.well)+len(v.first) > 0 {
		if h = d.held(r); h == nil {
			d.promote(r, v)
		} else if h.waits != "freeze" {
			d.foresee(slices.Concat(v.sick, v.well)...)
		}
	}
	changed := v.pending() > 0 || v.blocking > 0
	roomless := d.roomless(r, v)
	stuck := len(v.refused) // for them, and those behind them, only a person can do something
	if !v.sticky {
		stuck += roomless
	}
	switch {
	case h != nil:
		st.Phase, st.Message, st.WaitsFor, st.Until, st.Action = Held, h.message, h.waits, h.until, h.action
	case len(v.refused) > 0 && v.blocking == stuck:
		d.refused(v, roomless, st)
	case changed:
		st.Phase, st.WaitsFor, st.Until = Rolling, "health", v.deadline
		st.Message = fmt.Sprintf("%d of %d clusters healthy at the new digest", v.healthy, len(r.Clusters))
		if v.waiting != "" {
			st.Message += "; " + v.waiting
		}
		if n := len(v.refused); n > 0 {
			st.Message += fmt.Sprintf("; %d refuse the change", n)
		}
	case !vouched:
		st.Phase, st.WaitsFor = Rolling, "health"
		st.Message = "no agent of the ring says anything, and nobody vouches for the change"
		st.Action = "bring one of its clusters back, or give the ring another in fleet.yaml"
	case !v.sticky && d.in.Now.Before(v.soakUntil):
		st.Phase, st.WaitsFor, st.Until = Soaking, "soak", v.soakUntil
		st.Message = "until " + v.soakUntil.UTC().Format(time.RFC3339)
		d.recheck(v.soakUntil)
	default:
		st.Phase = Passed
		d.pass(r, v)
	}
	if v.silent > 0 {
		if st.Message != "" {
			st.Message += "; "
		}
		st.Message += fmt.Sprintf("%d silent, passed over", v.silent)
	}
}

// promote publishes: a cluster that is sick already gets its repair at once, a
// healthy one waits for room.
func (d *decider) promote(r Ring, v *view) {
	for _, name := range v.sick {
		if d.mayTake(name) {
			d.publish(name)
		}
	}
	for _, name := range v.first {
		d.publish(name)
	}
	for _, name := range v.well {
		switch {
		case v.unavailable >= max(1, r.MaxUnavailable):
			d.foresee(name)
		case d.mayTake(name):
			d.publish(name)
			v.unavailable++
		}
	}
}

func (d *decider) publish(name string) {
	c, rec := d.in.Clusters[name], d.state.Clusters[name]
	if c.Contact != Present && rec.Away != c.Want {
		rec.Away = c.Want
		d.setRecord(name, rec)
	}
	d.out.Publish = append(d.out.Publish, Publication{Cluster: name, Digest: c.Want})
}

// pass notes that the ring has passed, and what its clusters have proved.
func (d *decider) pass(r Ring, v *view) {
	if v.sticky {
		return
	}
	d.write().Passed[r.Name] = d.contents[r.Name]
	v.sticky = true
	for _, name := range r.Clusters {
		if c := d.in.Clusters[name]; c.Published == c.Want && c.healthy() {
			d.good(name)
		}
	}
}

// healthy is true only for a report about exactly the wanted digest.
func (c Cluster) healthy() bool { return c.runs(c.Want) }

// runs is true when the cluster is healthy at exactly this digest.
func (c Cluster) runs(digest string) bool {
	return c.Contact == Present && c.Report != nil && c.Report.Healthy && c.Report.Applied == digest
}

// steady is true when the cluster is healthy at what is published to it or, when
// that is not known, at what it says that it has.
func (c Cluster) steady() bool {
	if c.Published == "" {
		return c.Contact == Present && c.Report != nil && c.Report.Healthy
	}
	return c.runs(c.Published)
}

// failure is why a cluster that is not healthy has failed, and since when; what
// had its timeout has failed for long enough. One that proved this digest before
// is late for nothing.
func (c Cluster) failure(now, deadline time.Time, timeout time.Duration, proved bool) (string, time.Time) {
	if c.Report != nil && c.Report.Failing != "" && c.Report.FailingDigest == c.Want {
		return c.Report.Failing, c.Report.FailingSince
	}
	if proved || c.Contact == Unknown || timeout <= 0 || now.Before(deadline) {
		return "", time.Time{}
	}
	if c.Report == nil || c.Contact == Silent {
		return fmt.Sprintf("no word from its agent within %s", timeout), time.Time{}
	}
	reason := fmt.Sprintf("not healthy within %s", timeout)
	if c.Report.Applied != c.Want {
		reason = fmt.Sprintf("not applied within %s", timeout)
	}
	if c.Report.Waiting != "" {
		reason += ": " + c.Report.Waiting
	}
	return reason, time.Time{}
}
