package rollout_test

import (
	"fmt"

	"holdfast.dev/gitops/rollout"
)

// The rules, written apart from the code: what no decision may do, whatever the hub knows.

// violation is a rule that was broken.
type violation struct{ text string }

func (v violation) Error() string { return v.text }

func broken(format string, args ...any) error { return violation{fmt.Sprintf(format, args...)} }

// settleTruth updates what is really so, before the hub decides.
func (w *world) settleTruth() {
	for i := range w.members {
		m, r := &w.members[i], &w.f.rings[w.f.ring[i]]
		if m.taken == w.want && m.cond == well && w.now-m.wellSince >= int(r.Soak/tick) {
			m.vouched = true
		}
		if m.published == w.want && (m.taken == w.want && m.cond == failing ||
			(m.taken != w.want || m.cond != well) && w.now-m.publishedAt >= int(r.Timeout/tick) || !m.up && m.taken == w.want || m.heard && m.heardOf == w.want && m.heardCond == failing) {
			w.trouble |= 1 << w.want
		}
	}
	anyone := false
	for i, r := range w.f.rings {
		all := true
		for _, name := range r.Clusters {
			m := &w.members[w.f.index[name]]
			silent := !m.up && w.now-max(m.downSince, w.since) >= silentAfter
			// One that is silent vouches by what it proved with this digest before.
			anyone = anyone || m.vouched || silent && m.published == w.want && m.good&(1<<w.want) != 0
			excused := silent && (m.published != w.want || m.taken == 0 || m.good&(1<<w.want) != 0)
			all = all && (m.vouched || excused)
		}
		if w.passed[w.want]&(1<<i) == 0 && (!all || !anyone) {
			break // what has passed stays so for those that come late
		}
		w.passed[w.want] |= 1 << i
		for _, name := range r.Clusters {
			if m := &w.members[w.f.index[name]]; m.vouched {
				m.good |= 1 << w.want
			}
		}
	}
}

// down counts a ring's clusters that are on their way or sick, and not silent.
func (w *world) down(ring int) (n int) {
	for _, name := range w.f.rings[ring].Clusters {
		m := &w.members[w.f.index[name]]
		has := m.published
		if m.lost {
			has = m.taken
		}
		if c := w.contact(m); c == rollout.Silent || c == rollout.Present && m.heardCond == well && m.heardOf == has {
			continue
		}
		if w.state.Rollback != nil && digest(m.published) == w.state.Clusters[name].Good && w.now-m.changedAt >= int(w.f.rings[ring].Timeout/tick) {
			continue // what does not recover keeps no other at what is bad
		}
		if w.state.Rollback != nil && w.noWayBack(name) && w.now-max(m.publishedAt, w.since) >= int(w.f.rings[ring].Timeout/tick) {
			continue // nor does what cannot go back
		}
		n++
	}
	return n
}

// check checks one decision against the rules.
func (w *world) check(d rollout.Decision) error {
	if len(d.Publish) > 0 && w.frozen {
		return broken("published %v in a freeze", d.Publish)
	}
	for _, p := range d.Publish {
		i := w.f.index[p.Cluster]
		m, ring := &w.members[i], w.f.ring[i]
		r := &w.f.rings[ring]
		if p.Revision != "" {
			switch back, history := commits[p.Revision][0], commits[p.Revision][1]; {
			case digest(back) != p.Digest:
				return broken("%s goes back to %s by the revision of another", p.Cluster, p.Digest)
			case history != m.history && m.has&(1<<back) != 0:
				return broken("%s goes back to %s by a commit that is not in the history of its branch, and one that is has it, too", p.Cluster, p.Digest)
			case m.good&(1<<back) == 0:
				return broken("%s goes back to %s, which its ring never passed with", p.Cluster, p.Digest)
			case w.trouble&(1<<w.want) == 0:
				return broken("%s goes back to %s, and nothing failed", p.Cluster, p.Digest)
			}
			continue
		}
		if p.Digest != digest(w.want) {
			return broken("%s is given %s, wanted is %d", p.Cluster, p.Digest, w.want)
		}
		if d.State.Rollback != nil {
			return broken("%s is given %s while the rollout is taken back", p.Cluster, p.Digest)
		}
		if m.published != 0 && w.contact(m) != rollout.Present {
			return broken("%s is given %s and nobody is there", p.Cluster, p.Digest)
		}
		if t := m.trial; w.contact(m) == rollout.Present && t != (trial{digest: w.want, base: m.head(), at: w.now}) {
			return broken("%s is given %s, and its API server said no word or another: %+v", p.Cluster, p.Digest, t)
		}
		if r.Approval && w.approved[ring]&(1<<w.want) == 0 {
			return broken("%s is given %s without an approval", p.Cluster, p.Digest)
		}
		if len(r.Windows) > 0 && at(w.now).Hour()%2 != 0 {
			return broken("%s is given %s outside the window", p.Cluster, p.Digest)
		}
		for j := range ring {
			for _, name := range w.f.rings[j].Clusters {
				if e := &w.members[w.f.index[name]]; w.contact(e) == rollout.Present && e.published != w.want && d.State.Clusters[name].Refused == p.Digest {
					return broken("%s is given %s, which %s of the ring before refuses", p.Cluster, p.Digest, name)
				}
			}
			if w.passed[w.want]&(1<<j) == 0 {
				return broken("%s is given %s before the ring %s passed", p.Cluster, p.Digest, w.f.rings[j].Name)
			}
			for _, name := range w.f.rings[j].Clusters {
				e := &w.members[w.f.index[name]]
				if e.heard && e.heardCurrent && e.heardCond == failing && e.heardOf == w.want && e.published == w.want {
					return broken("%s is given %s while %s is known to fail with it", p.Cluster, p.Digest, name)
				}
				if w.contact(e) == rollout.Unknown {
					return broken("%s is given %s and of %s nothing is known", p.Cluster, p.Digest, name)
				}
			}
		}
	}
	return nil
}
