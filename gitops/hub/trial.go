package hub

import (
	"context"
	"fmt"
	"time"

	"holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/rollout"
)

const (
	// A cluster that refused, or could not say, is asked again after so long,
	// doubled each time.
	askAgain    = 5 * time.Second
	askAgainMax = time.Minute
	// maxShownRefusals bounds what a status names of one cluster.
	maxShownRefusals = 20
)

// trial is the hub's own question to one cluster: would its API server take the
// bundle that is to be published next? It is in memory alone. A hub that is
// killed asks again and publishes nothing before it is answered; that a cluster
// refused is in the rollout's state.
type trial struct {
	id                   string
	digest, base, commit string
	files                protocol.PlanFiles
	had                  map[string]bool // paths of base
	retained             []fleet.Retention
	offer                time.Time // again not before; zero until it is taken
	asked, deadline      time.Time
	attempts             int

	answer   *rollout.Trial // nil until there is one
	refusals []protocol.PlanChange
	again    time.Time // not before
}

// of is true when the question is about exactly this.
func (t *trial) of(digest, base, commit string) bool {
	return t != nil && t.digest == digest && t.base == base && t.commit == commit
}

// offerTrial is the hub's own question that the cluster is to take now, if any. One
// that was taken may have been lost with its agent, or its answer: without an answer
// it is offered again. The caller holds h.mu.
func (h *Hub) offerTrial(cluster string, now time.Time) string {
	t := h.trials[cluster]
	if t == nil || t.answer != nil || now.Before(t.offer) {
		return ""
	}
	if !t.offer.IsZero() { // an agent that is still at work on it says nothing
		t.offer = now.Add(protocol.PlanWait)
	}
	return t.id
}

// trialOf is what is known of the cluster's trial now; the caller holds h.mu.
func (h *Hub) trialOf(cluster string, now time.Time) *rollout.Trial {
	t := h.trials[cluster]
	if t == nil {
		return nil
	}
	if t.answer == nil && !now.Before(t.deadline) {
		h.answered(t, now, &rollout.Trial{Unknown: fmt.Sprintf("its agent did not answer within %s", t.deadline.Sub(t.asked))})
	}
	return t.answer
}

// answered takes in an answer; the caller holds h.mu.
func (h *Hub) answered(t *trial, now time.Time, a *rollout.Trial) {
	a.Digest, a.Base, a.At = t.digest, t.base, now
	t.answer, t.again = a, time.Time{}
	if a.Refused != "" || a.Unknown != "" {
		t.again = now.Add(min(askAgainMax, askAgain<<min(t.attempts, 10)))
	}
}

// ask puts the question to the clusters that the rollout is to be told about, but
// for those that have it already or answered a moment ago.
func (h *Hub) ask(ctx context.Context, rev *revision, clusters []string) error {
	asked := false
	for _, name := range clusters {
		now := h.now()
		h.mu.Lock()
		b, was, base := rev.result.Bundles[name], h.trials[name], h.heads[name].tip
		same := was.of(b.Index.Digest, base, rev.commit)
		h.mu.Unlock()
		if same && (was.answer == nil || now.Before(was.again)) {
			continue
		}
		next := &trial{digest: b.Index.Digest, base: base, commit: rev.commit, files: b.Files, retained: rev.result.Retained[name], asked: now, deadline: now.Add(protocol.TrialWait(len(b.Files)))}
		if same && !was.again.IsZero() {
			next.attempts, next.refusals = was.attempts+1, was.refusals
		}
		var err error
		if next.id, err = newPlanID(); err != nil {
			return err
		}
		next.had, err = h.pathsOf(ctx, base)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		h.mu.Lock()
		if err != nil { // nobody is asked; it holds this cluster and stops no other
			h.answered(next, now, &rollout.Trial{Unknown: "the hub cannot read what it has: " + err.Error()})
		}
		h.trials[name], asked = next, true
		h.mu.Unlock()
	}
	if asked {
		h.mu.Lock()
		h.announce()
		h.mu.Unlock()
	}
	return nil
}

// pathsOf lists the files of a published commit; none for no commit.
func (h *Hub) pathsOf(ctx context.Context, commit string) (map[string]bool, error) {
	paths := map[string]bool{}
	if commit == "" {
		return paths, nil
	}
	entries, err := h.repo.List(ctx, commit)
	for _, e := range entries {
		paths[e.Path] = true
	}
	return paths, err
}

// hearTrial takes in an agent's answer; false when it answers no question of the
// hub's. The caller holds h.mu.
func (h *Hub) hearTrial(cluster, id string, rep protocol.PlanReport) bool {
	t := h.trials[cluster]
	if t == nil || t.id != id {
		return false
	}
	if t.answer != nil && t.answer.Unknown == "" {
		return true // twice
	}
	judge(&rep, t.had, t.retained)
	t.refusals = nil
	a := &rollout.Trial{Unknown: rep.Error}
	for _, c := range rep.Changes {
		if c.Action == protocol.PlanRefused {
			t.refusals = append(t.refusals, c)
		}
	}
	if n := len(t.refusals); n > 0 && a.Unknown == "" {
		a.Refused = t.refusals[0].Object + ": " + t.refusals[0].Message
		if n > 1 {
			a.Refused += fmt.Sprintf(" (and %d more)", n-1)
		}
	}
	h.answered(t, h.now(), a)
	return true
}

// nextTrial is when a cluster that the rollout is to be told about is asked again,
// or has not answered in time; zero for never. The caller holds h.mu.
func (h *Hub) nextTrial() (next time.Time) {
	for _, name := range h.decision.Ask {
		t := h.trials[name]
		if t == nil {
			continue
		}
		at := t.deadline
		if t.answer != nil {
			at = t.again
		}
		if !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next = at
		}
	}
	return next
}

// forgetTrials drops what is about no cluster or about what is published already;
// the caller holds h.mu.
func (h *Hub) forgetTrials() {
	for name, t := range h.trials {
		if h.accepted == nil || h.accepted.result.Bundles[name] == nil || h.heads[name].digest == t.digest {
			delete(h.trials, name)
		}
	}
}

// trialStatus is what people see of a cluster's trial; the caller holds h.mu.
func (h *Hub) trialStatus(cluster, want string) *protocol.TrialStatus {
	st := &protocol.TrialStatus{State: protocol.TrialAsked}
	t := h.trials[cluster]
	if t != nil && t.digest != want {
		t = nil
	}
	if t != nil {
		st.AskedAt, st.Refusals = t.asked, t.refusals[:min(len(t.refusals), maxShownRefusals)]
	}
	switch {
	case t != nil && t.answer != nil:
		st.AnsweredAt, st.AgainAt = t.answer.At, t.again
		switch {
		case t.answer.Unknown != "":
			st.State, st.Message = protocol.TrialUnknown, t.answer.Unknown
		case t.answer.Refused != "":
			st.State, st.Message = protocol.TrialRefuses, t.answer.Refused
		default:
			st.State = protocol.TrialTakes
		}
	case h.state != nil && h.state.Clusters[cluster].Refused == want: // it stands until the cluster says another thing
		st.State, st.Message = protocol.TrialRefuses, h.state.Clusters[cluster].Why
	case t == nil:
		return nil
	}
	return st
}
