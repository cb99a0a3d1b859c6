// Package rollout decides which clusters receive a new bundle now. It is pure:
// what is wanted, what is published, what the clusters report and the time go
// in; a decision comes out. It keeps nothing, so that a hub that was killed
// decides the same after its next start, only later: a soak begins anew.
package rollout

import (
	"fmt"
	"time"
)

// Ring is the clusters that receive a change together.
type Ring struct {
	Name     string
	Clusters []string
	// Soak is how long every cluster must be healthy before the next ring starts.
	Soak time.Duration
	// MaxUnavailable is how many clusters of the ring may be on their way at once; at least 1.
	MaxUnavailable int
	// Timeout is how long a cluster may take from publication to healthy before the rollout halts.
	Timeout time.Duration
}

// Cluster is what is known of one cluster.
type Cluster struct {
	// Want is the digest of the bundle that the newest accepted commit gives the cluster.
	Want string
	// Published is the digest at the head of the cluster's rendered branch; empty before the first.
	Published string
	// PublishedAt is when that was.
	PublishedAt time.Time
	// Report is the last that the cluster's agent said; nil when it has not said anything.
	Report *Report
}

// Report is what an agent says.
type Report struct {
	// Applied is the digest of the bundle whose every addon is applied.
	Applied string
	// Healthy is true when every addon of Applied is healthy, at this digest, UID and generation.
	Healthy bool
	// HealthySince is when the hub first heard so without interruption.
	HealthySince time.Time
	// Failing says what is wrong with the bundle that the agent is busy with; empty when nothing is.
	Failing string
	// FailingDigest is that bundle.
	FailingDigest string
	// Waiting says what is not healthy yet; empty when nothing is.
	Waiting string
}

// Phase of a ring or a cluster in the present rollout.
type Phase string

// Phases. Halted stops everything after it; Waiting has not begun.
const (
	Waiting Phase = "Waiting"
	Rolling Phase = "Rolling"
	Soaking Phase = "Soaking"
	Passed  Phase = "Passed"
	Halted  Phase = "Halted"
)

// RingStatus is a ring's phase with the reason for a person.
type RingStatus struct {
	Name    string `json:"name"`
	Phase   Phase  `json:"phase"`
	Message string `json:"message,omitempty"`
}

// Decision is what to do now.
type Decision struct {
	// Publish names the clusters whose wanted bundle is to be published, in order.
	Publish []string
	// Rings has the status of every ring, in order.
	Rings []RingStatus
	// Recheck is when time alone may change the decision; zero when it cannot.
	Recheck time.Time
}

// Decide decides. A ring starts when every ring before it has passed: each of
// its clusters published, applied and healthy at exactly the wanted digest, for
// the ring's soak. A cluster that fails, or is not healthy in time, halts the
// rollout: nothing more is published until it recovers or another commit comes.
func Decide(now time.Time, rings []Ring, clusters map[string]Cluster) Decision {
	var d Decision
	open := true // every ring so far has passed
	for _, r := range rings {
		st := RingStatus{Name: r.Name, Phase: Waiting}
		if open {
			var publish []string
			st, publish = decideRing(now, r, clusters, &d)
			d.Publish = append(d.Publish, publish...)
		}
		d.Rings = append(d.Rings, st)
		open = open && st.Phase == Passed
	}
	return d
}

func decideRing(now time.Time, r Ring, clusters map[string]Cluster, d *Decision) (RingStatus, []string) {
	st := RingStatus{Name: r.Name}
	var publish []string
	var soakUntil time.Time
	unavailable, healthy := 0, 0
	var sick, well []string // not published yet
	for _, name := range r.Clusters {
		c := clusters[name]
		if c.Published != c.Want {
			switch {
			case c.Published == "" || c.runs(c.Published):
				well = append(well, name)
			case c.Report != nil:
				sick = append(sick, name)
				unavailable++
			default: // nothing was heard of it since the hub started
				unavailable++
			}
			continue
		}
		switch reason := c.failure(now, r.Timeout); {
		case reason != "":
			st.Phase = Halted
			st.Message = fmt.Sprintf("cluster %s: %s; push a repair, or git revert", name, reason)
			return st, nil
		case c.healthy():
			healthy++
			soakUntil = later(soakUntil, c.Report.HealthySince.Add(r.Soak))
		default:
			unavailable++
			if r.Timeout > 0 {
				d.recheck(c.PublishedAt.Add(r.Timeout))
			}
		}
	}
	// A cluster that is sick already may get its repair at once; a healthy one
	// waits for room.
	publish = append(publish, sick...)
	for _, name := range well {
		if unavailable < max(1, r.MaxUnavailable) {
			publish = append(publish, name)
			unavailable++
		}
	}
	switch {
	case healthy < len(r.Clusters):
		st.Phase = Rolling
		st.Message = fmt.Sprintf("%d of %d clusters healthy at the new digest", healthy, len(r.Clusters))
	case now.Before(soakUntil):
		st.Phase = Soaking
		st.Message = "until " + soakUntil.UTC().Format(time.RFC3339)
		d.recheck(soakUntil)
	default:
		st.Phase = Passed
	}
	return st, publish
}

// healthy is true only for a report about exactly the wanted digest.
func (c Cluster) healthy() bool { return c.runs(c.Want) }

// runs is true when the cluster is healthy at exactly this digest.
func (c Cluster) runs(digest string) bool {
	return c.Report != nil && c.Report.Healthy && c.Report.Applied == digest
}

func (c Cluster) failure(now time.Time, timeout time.Duration) string {
	if c.healthy() {
		return ""
	}
	if c.Report != nil && c.Report.Failing != "" && c.Report.FailingDigest == c.Want {
		return c.Report.Failing
	}
	if timeout <= 0 || now.Before(c.PublishedAt.Add(timeout)) {
		return ""
	}
	if c.Report == nil {
		return fmt.Sprintf("no word from its agent within %s", timeout)
	}
	reason := fmt.Sprintf("not healthy within %s", timeout)
	if c.Report.Applied != c.Want {
		reason = fmt.Sprintf("not applied within %s", timeout)
	}
	if c.Report.Waiting != "" {
		reason += ": " + c.Report.Waiting
	}
	return reason
}

func (d *Decision) recheck(t time.Time) {
	if d.Recheck.IsZero() || t.Before(d.Recheck) {
		d.Recheck = t
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
