package hub

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/rollout"
)

// StateRef names the blob with what the rollout remembers (rollout.State).
const StateRef = "refs/holdfast/rollout"

// stored is the state as it is in the repository.
type stored struct {
	rollout.State
	object string // name of the blob
}

// readState reads the state once; from then on the hub is its only writer. One
// that cannot be read stops the hub: to begin anew could undo a rollback.
func (h *Hub) readState(ctx context.Context) error {
	h.stateMu.Lock()
	defer h.stateMu.Unlock()
	if h.state != nil {
		return nil
	}
	data, object, err := h.repo.ReadRefBlob(ctx, StateRef)
	if err != nil {
		return fmt.Errorf("read rollout state: %w", err)
	}
	st := &stored{object: object}
	if object != "" {
		if err := json.Unmarshal(data, &st.State); err != nil {
			return fmt.Errorf("read rollout state: %s is not valid: %w (to begin anew, which forgets rollbacks and approvals: git update-ref -d %s)", StateRef, err, StateRef)
		}
	}
	h.mu.Lock()
	h.state = st
	h.mu.Unlock()
	return nil
}

// writeState stores the state; the caller holds h.stateMu.
func (h *Hub) writeState(ctx context.Context, s rollout.State) error {
	data, err := json.Marshal(s)
	if err != nil {
		return fmt.Errorf("write rollout state: %w", err)
	}
	object, err := h.repo.WriteRefBlob(ctx, StateRef, data, h.state.object)
	if err != nil {
		return fmt.Errorf("write rollout state: %w", err)
	}
	h.mu.Lock()
	h.state = &stored{s, object}
	h.mu.Unlock()
	return nil
}

// taking notes, durably, that a cluster is about to take its bundle: from here on
// its silence can be the bundle's fault. Of clusters that come together, one writes
// for all.
func (h *Hub) taking(ctx context.Context, cluster string) error {
	ctx = context.WithoutCancel(ctx) // who hangs up must not end git between two of its steps
	h.mu.Lock()
	h.takers = append(h.takers, cluster)
	h.mu.Unlock()
	h.stateMu.Lock()
	defer h.stateMu.Unlock()
	h.mu.Lock()
	takers := append(h.takers, cluster) // it may have been one of those before, who could not write
	h.takers = nil
	h.mu.Unlock()
	if h.state == nil {
		return nil
	}
	takers = slices.DeleteFunc(takers, func(name string) bool { return h.state.Clusters[name].Away == "" })
	if len(takers) == 0 {
		return nil
	}
	s := h.state.State
	s.Clusters = maps.Clone(s.Clusters)
	for _, name := range takers {
		rec := s.Clusters[name]
		rec.Away = ""
		s.Clusters[name] = rec
	}
	return h.writeState(ctx, s)
}

// Names of the tags by which people act on a rollout: approve.RING.ID, retry.ID.
const (
	approveTag = "approve"
	retryTag   = "retry"
)

// parseAct reads the name of such a tag; ok is false for any other.
func parseAct(tag string) (ring string, ok bool) {
	parts := strings.Split(tag, ".")
	switch {
	case len(parts) == 3 && parts[0] == approveTag && parts[1] != "" && parts[2] != "":
		return parts[1], true
	case len(parts) == 2 && parts[0] == retryTag && parts[1] != "":
		return "", true
	}
	return "", false
}

// readActs reads what people said about the accepted commit. What is not signed as it
// must be says nothing; when nobody knows who may sign, what was said before stands.
func (h *Hub) readActs(ctx context.Context) error {
	tags, err := h.repo.Tags(ctx, approveTag+".*", retryTag+".*")
	if err != nil {
		return err
	}
	h.mu.Lock()
	rev := h.accepted
	h.mu.Unlock()
	var acts []rollout.Act
	for _, t := range tags {
		ring, ok := parseAct(t.Name)
		if !ok || rev == nil || t.Target != rev.commit {
			continue
		}
		var refused *RefusedError
		switch err := checkActSigned(ctx, h.repo, h.opts.Signers, t.Name, "refs/tags/"+t.Name, t.Target); {
		case errors.As(err, &refused):
			if !h.unheeded[t.Name] {
				h.unheeded[t.Name] = true
				h.log.Info("approval or retry not heeded", "tag", t.Name, "error", err.Error())
			}
		case err != nil:
			return err
		default:
			acts = append(acts, rollout.Act{Ring: ring, Ref: t.Name, By: t.By, At: t.At, Message: t.Message})
		}
	}
	h.mu.Lock()
	h.acts, h.actsOf = acts, rev
	h.mu.Unlock()
	return nil
}

// publish asks the pure core and does what it says, until it says nothing more:
// first the new state, then the branches. A cluster that cannot be published to
// delays no other.
func (h *Hub) publish(ctx context.Context) error {
	turns := map[string]error{}
	err := h.takeTurns(ctx, turns)
	h.mu.Lock()
	h.turns = turns
	h.mu.Unlock()
	for _, cluster := range slices.Sorted(maps.Keys(turns)) {
		if turns[cluster] != nil {
			err = errors.Join(err, fmt.Errorf("publish %s: %w", cluster, turns[cluster]))
		}
	}
	return err
}

// takeTurns fills in what came of each cluster's turn. It has one: what the core says
// of it again, it would say for ever.
func (h *Hub) takeTurns(ctx context.Context, turns map[string]error) error {
	for {
		rev, d, err := h.decideAndStore(ctx)
		if err != nil || rev == nil {
			return err
		}
		if err := h.ask(ctx, rev, d.Ask); err != nil {
			return fmt.Errorf("ask clusters whether they would take their bundles: %w", err)
		}
		next := slices.DeleteFunc(slices.Clone(d.Publish), func(p rollout.Publication) bool {
			_, had := turns[p.Cluster]
			return had
		})
		if len(next) == 0 {
			return nil
		}
		for batch := range slices.Chunk(next, publishAtOnce) {
			h.publishAll(ctx, rev, batch, turns)
		}
		if err := h.readHeads(ctx); err != nil {
			return err
		}
	}
}

func (h *Hub) decideAndStore(ctx context.Context) (*revision, rollout.Decision, error) {
	h.stateMu.Lock()
	defer h.stateMu.Unlock()
	for {
		was := h.state.Rollback
		rev, d := h.decide()
		if !d.Changed {
			return rev, d, nil
		}
		if err := h.writeState(ctx, d.State); err != nil {
			return nil, d, err
		}
		if rb := d.State.Rollback; rb != nil && rb != was {
			h.log.Info("rollout taken back", "ring", rb.Ring, "cluster", rb.Cluster, "digest", rb.Digest, "reason", rb.Reason)
		}
		if was == nil || d.State.Rollback == was {
			return rev, d, nil
		}
		// A person ended that rollback, and what was lost may be there again. The same
		// decision may have begun another, by what was known before.
		h.mu.Lock()
		clear(h.noWayBack)
		h.mu.Unlock()
	}
}

// publishAtOnce is how many bundles git takes in one go: the first clusters of a large
// ring need not wait for the last.
const publishAtOnce = 100

func (h *Hub) publishAll(ctx context.Context, rev *revision, all []rollout.Publication, turns map[string]error) {
	var next []gitrepo.Publication
	var clusters []string
	for _, p := range all {
		pub, err := h.publishOne(ctx, rev, p)
		turns[p.Cluster] = err
		if none := (*noWayBackError)(nil); errors.As(err, &none) {
			h.mu.Lock()
			h.noWayBack[p.Cluster] = none
			h.mu.Unlock()
		}
		if pub != nil {
			next, clusters = append(next, *pub), append(clusters, p.Cluster)
		}
	}
	for i, done := range h.repo.Publish(ctx, next...) {
		cluster, err := clusters[i], done.Err
		if err == nil {
			h.log.Info("bundle published", "cluster", cluster, "commit", rev.commit, "digest", rev.result.Bundles[cluster].Index.Digest)
			err = h.remember(cluster, done.Commit)
		}
		turns[cluster] = err
	}
}

// publishOne publishes an earlier bundle again, or returns what to publish.
func (h *Hub) publishOne(ctx context.Context, rev *revision, p rollout.Publication) (*gitrepo.Publication, error) {
	if p.Revision != "" {
		pub, err := h.wayBack(ctx, p.Cluster, p.Revision, fmt.Sprintf("%s back to %.12s\n\ndigest: %s\nrollback-of: %s\n", p.Cluster, p.Revision, p.Digest, rev.commit))
		if err == nil {
			err = h.checkDigest(ctx, p)
		}
		if err == nil {
			err = h.republish(ctx, p.Cluster, pub, p.Revision)
		}
		if err != nil {
			return nil, err
		}
		h.log.Info("earlier bundle published", "cluster", p.Cluster, "revision", p.Revision, "digest", p.Digest)
		return nil, nil
	}
	b := rev.result.Bundles[p.Cluster]
	pub, err := h.next(ctx, p.Cluster, fmt.Sprintf("%s at %.12s\n\ndigest: %s\nsource: %s\n", p.Cluster, rev.commit, b.Index.Digest, rev.commit))
	if err != nil {
		return nil, err
	}
	pub.Files = b.Files
	return &pub, nil
}

// checkDigest makes sure that what a cluster is to go back to is there: what the state
// says is signed by nobody.
func (h *Hub) checkDigest(ctx context.Context, p rollout.Publication) error {
	digest, err := h.digestOf(ctx, p.Cluster, p.Revision)
	if err == nil && digest == p.Digest {
		return nil
	}
	said := fmt.Errorf("the bundle %.12s to go back to is not at %.12s any more (push a repair, git revert, or holdfast retry): %w", p.Digest, p.Revision, cmp.Or(err, errors.New("it has "+digest)))
	if foreign := (*foreignError)(nil); err == nil || errors.As(err, &foreign) {
		return &noWayBackError{p.Revision, said}
	}
	return said
}

func (h *Hub) decide() (*revision, rollout.Decision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.accepted == nil || h.state == nil {
		return nil, rollout.Decision{}
	}
	now := h.now()
	h.forgetTrials()
	in := rollout.Input{Now: now, Since: h.since, Rings: h.accepted.rings, Clusters: map[string]rollout.Cluster{}, State: h.state.State}
	if h.actsOf == h.accepted {
		in.Acts = h.acts
	}
	for name, b := range h.accepted.result.Bundles {
		head := h.heads[name]
		c := rollout.Cluster{Want: b.Index.Digest, Published: head.digest, Revision: head.tip, PublishedAt: head.at}
		if none := h.noWayBack[name]; none != nil {
			c.NoWayBack = none.revision
		}
		c.Contact, c.PresentSince, c.HeardAt = h.contact(name, now)
		if rep, ok := h.reports[name]; ok {
			c.Report = rep.forRollout(b.Index, head.tip)
		}
		c.Trial = h.trialOf(name, now)
		in.Clusters[name] = c
	}
	h.decision = rollout.Decide(in)
	return h.accepted, h.decision
}
