// Package rollout decides which clusters receive which bundle now. It is pure:
// what is wanted, what is published, what the clusters report, the time and the
// remembered [State] go in; a decision with the next state comes out. The caller
// stores the state, then publishes, and may be killed between any two of these:
// what it decides after its next start is the same or comes later, never earlier.
//
// The rules, in order of weight:
//
//   - A ring begins when every ring before it is healthy at exactly the wanted
//     digest, for its soak. Absence is no evidence: at least one cluster must vouch.
//   - A cluster that fails halts its ring and all after it, and, where the ring says
//     so, sends every cluster back to the digest with which its ring last passed.
//   - A cluster is given a bundle only after its API server said, in a trial without
//     effect, that it would take it. One that refuses keeps what it has, and the
//     rings after it wait. A rollback is not tried: the cluster had it before.
//   - A cluster whose agent is silent delays nobody, unless it fell silent with the
//     bundle that is being rolled out: then the bundle may be why, and it has failed
//     when its time is over. One that comes back goes through its own ring's limits.
//   - Freezes hold everything, windows and approvals only what is new.
package rollout

import (
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
	// Timeout is how long a cluster may take from publication to healthy before it has failed.
	Timeout time.Duration
	// Windows in which clusters may receive a change; none means always.
	Windows []Window
	// Freezes of the ring, the fleet's included.
	Freezes []Freeze
	// Approval is true when a person must approve each change of the ring.
	Approval bool
	// Rollback is true when a failure takes the rollout back, and not only halts it.
	// A failure that a cluster reports must stand for RollbackAfter.
	Rollback      bool
	RollbackAfter time.Duration
}

// Contact is what is known of an agent's presence.
type Contact int

// Contacts.
const (
	// Unknown: the hub has just started, or the agent has just come back and is yet
	// to report. The caller must tell one of the others after a while.
	Unknown Contact = iota
	// Present: it said something lately.
	Present
	// Silent: it has said nothing for longer than any agent that could would.
	Silent
)

// Cluster is what is known of one cluster.
type Cluster struct {
	// Want is the digest of the bundle that the newest accepted commit gives the cluster.
	Want string
	// Published is the digest at the head of the cluster's rendered branch, Revision
	// that commit, PublishedAt when it was made; empty before the first. Published
	// alone is empty when what the branch has is not to be trusted, or read: the
	// cluster has something, and nobody knows what.
	Published, Revision string
	PublishedAt         time.Time
	// NoWayBack is a revision that the cluster cannot go back to, as the caller found when
	// it was told to; empty when none is known.
	NoWayBack string
	Contact   Contact
	// PresentSince is when the agent came, or came back; HeardAt is when it last said anything.
	PresentSince, HeardAt time.Time
	// Report is the last that the cluster's agent said; nil when it has not said
	// anything since the hub started.
	Report *Report
	// Trial is its answer when it was last asked whether it would take a bundle; nil
	// when it has not answered since the hub started.
	Trial *Trial
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
	// FailingDigest is that bundle, as it was published last; FailingSince is when
	// the hub first heard so without interruption.
	FailingDigest string
	FailingSince  time.Time
	// Waiting says what is not healthy yet; empty when nothing is.
	Waiting string
}

// Input is all that a decision depends on.
type Input struct {
	Now time.Time
	// Since is when the hub began to listen; it knows nothing of before but State.
	Since    time.Time
	Rings    []Ring
	Clusters map[string]Cluster
	// Acts are what people did about the present commit, in any order.
	Acts  []Act
	State State
}

// Phase of a ring in the present rollout.
type Phase string

// Phases. Halted stops everything after it; Waiting has not begun; Held may not
// publish now.
const (
	Waiting     Phase = "Waiting"
	Held        Phase = "Held"
	Rolling     Phase = "Rolling"
	Soaking     Phase = "Soaking"
	Passed      Phase = "Passed"
	Halted      Phase = "Halted"
	RollingBack Phase = "RollingBack"
	RolledBack  Phase = "RolledBack"
)

// RingStatus is a ring's phase with what it waits for.
type RingStatus struct {
	Name    string `json:"name"`
	Phase   Phase  `json:"phase"`
	Message string `json:"message,omitempty"`
	// WaitsFor is one word: ring, freeze, window, approval, plan, health, soak, repair.
	WaitsFor string `json:"waitsFor,omitempty"`
	// Until is when that ends, or what follows if it does not; zero when time alone ends nothing.
	Until time.Time `json:"until,omitzero"`
	// Action is what a person can do.
	Action string `json:"action,omitempty"`
	// Clusters counts the ring's clusters, Healthy those at the wanted digest,
	// Silent those that are passed over because their agents say nothing.
	Clusters int `json:"clusters"`
	Healthy  int `json:"healthy"`
	Silent   int `json:"silent,omitempty"`
}

// Publication is what one cluster is to receive now.
type Publication struct {
	Cluster, Digest string
	// Revision is the published commit whose content is to be published again: a
	// rollback renders nothing. Empty for the wanted bundle.
	Revision string
}

// Decision is what to do now.
type Decision struct {
	// State replaces the input's if Changed; it must be stored before anything is published.
	State   State
	Changed bool
	// Publish is in order.
	Publish []Publication
	// Ask names the clusters whose API servers are to try the wanted bundle, each
	// once. How soon one that has answered is asked again is the caller's business.
	Ask []string
	// Rings has the status of every ring, in order.
	Rings []RingStatus
	// Recheck is when time alone may change the decision; zero when it cannot.
	Recheck time.Time
}

// Decide decides; see the package's rules.
func Decide(in Input) Decision {
	d := &decider{in: in, state: in.State}
	d.out.Rings = make([]RingStatus, 0, len(in.Rings))
	d.settle()
	views := make([]view, len(in.Rings))
	for i, r := range in.Rings {
		views[i] = d.look(r)
	}
	if d.state.Rollback == nil {
		d.beginRollback(views)
	}
	if d.state.Rollback != nil {
		d.rollback()
	} else {
		d.forward(views)
	}
	d.out.State = d.state
	return d.out
}

// forward takes each ring as far as it may go.
func (d *decider) forward(views []view) {
	open, vouched, before := true, false, ""
	for i, r := range d.in.Rings {
		v := &views[i]
		vouched = vouched || v.vouched > 0
		st := RingStatus{Name: r.Name, Phase: Waiting, Clusters: len(r.Clusters), Healthy: v.healthy, Silent: v.silent}
		switch {
		case v.failure != "":
			st.Phase, st.WaitsFor = Halted, "repair"
			st.Message = "cluster " + v.failed + ": " + v.failure
			st.Action = "push a repair, or git revert"
		case open:
			d.roll(r, v, vouched, &st)
		case v.pending() == 0 && v.healthy+v.silent == len(r.Clusters):
			st.Phase = Passed // nothing in it changes
		default:
			st.WaitsFor, st.Message = "ring", "waits for the ring "+before
		}
		if open && !v.gate(d.in.Now, vouched) {
			open, before = false, r.Name
		}
		d.out.Rings = append(d.out.Rings, st)
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
