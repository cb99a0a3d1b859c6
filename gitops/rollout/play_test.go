package rollout_test

import (
	"fmt"
	"slices"

	"holdfast.dev/gitops/rollout"
)

// What happens in the model: what the hub, the agents and people do, and what goes wrong.

// hub decides and acts until nothing is left to do. After n durable effects it
// is killed; n < 0 is never. It tells how many effects there were.
func (w *world) hub(n int) (effects int, err error) {
	w.settleTruth()
	for range 200 {
		d := rollout.Decide(w.input())
		w.last = d
		w.decisions++
		w.wentBack = w.wentBack || d.State.Rollback != nil
		if err := w.check(d); err != nil {
			return effects, err
		}
		if d.Changed {
			if effects == n {
				w.restart()
				return effects, nil
			}
			effects++
			w.state = d.State
		}
		for other := range w.passed {
			if other != w.want {
				w.passed[other] = 0 // the hub has seen that it is no longer wanted
			}
		}
		learned := false
		d.Publish = slices.DeleteFunc(slices.Clone(d.Publish), func(p rollout.Publication) bool {
			refused := w.refusesToGoBack(p)
			if m := &w.members[w.f.index[p.Cluster]]; refused && m.noWayBack != p.Revision {
				m.noWayBack, learned = p.Revision, true
			}
			return refused
		})
		if len(d.Publish) == 0 {
			if learned || w.answer(d.Ask) {
				continue
			}
			return effects, nil
		}
		before := make([]int, len(w.f.rings))
		for i := range before {
			before[i] = w.down(i)
		}
		for _, p := range d.Publish {
			if effects == n {
				w.restart()
				return effects, nil
			}
			effects++
			m := &w.members[w.f.index[p.Cluster]]
			if p.Digest != digest(m.published) {
				m.changedAt = w.now
			}
			m.published, m.publishedAt, m.current, m.heardCurrent = slices.Index(digests, p.Digest), w.now, false, false
			if m.forgotten {
				m.history, m.has = m.history+1, 0
			}
			m.has |= 1 << m.published
			m.lost, m.forgotten = false, false
		}
		for i, r := range w.f.rings {
			if after := w.down(i); after > max(before[i], 1, r.MaxUnavailable) {
				return effects, broken("ring %s had %d clusters down and has %d now, %d allowed", r.Name, before[i], after, r.MaxUnavailable)
			}
		}
	}
	return effects, broken("the hub publishes without end")
}

// refusesToGoBack is true for what a hub does not do: it goes back to what is in the
// history of what it published itself, and to nothing else.
func (w *world) refusesToGoBack(p rollout.Publication) bool {
	if p.Revision == "" {
		return false
	}
	m := &w.members[w.f.index[p.Cluster]]
	commit := commits[p.Revision]
	return m.forgotten || commit[1] != m.history || m.has&(1<<commit[0]) == 0
}

// noWayBack is true for a cluster that cannot go where a rollback would take it.
func (w *world) noWayBack(name string) bool {
	rec := w.state.Clusters[name]
	return rec.Good != "" && w.refusesToGoBack(rollout.Publication{Cluster: name, Revision: rec.GoodRevision})
}

// answer lets the agents that are asked answer; false when nobody has anything new to say.
func (w *world) answer(asked []string) (answered bool) {
	for _, name := range asked {
		m := &w.members[w.f.index[name]]
		t := trial{digest: w.want, base: m.head(), at: w.now, refused: m.refuses&(1<<w.want) != 0, unknown: w.mute}
		if m.up && m.trial != t {
			m.trial, answered = t, true
		}
	}
	return answered
}

// restart is a hub that was killed and starts again: it knows what is stored.
func (w *world) restart() {
	w.since = w.now
	for i := range w.members {
		m := &w.members[i]
		m.heard, m.heardOf, m.heardCond, m.heardSince, m.presentFor, m.trial, m.noWayBack = false, 0, progressing, 0, w.now, trial{}, ""
	}
}

// say is the agent's report.
func (w *world) say(m *member) {
	if !m.heard || m.heardOf != m.taken || m.heardCond != m.cond {
		m.heardSince = w.now
	}
	m.heard, m.heardOf, m.heardCond, m.heardCurrent = true, m.taken, m.cond, m.current && !m.lost
}

// work is one step of an agent: it takes what is published, then becomes cond.
func (w *world) work(i int, cond condition) {
	m := &w.members[i]
	switch {
	case m.published == 0: // there is nothing to take
	case !m.current && !m.lost:
		if m.taken != m.published {
			m.taken, m.cond = m.published, progressing
		}
		m.current = true
	case m.cond == progressing:
		m.cond, m.wellSince = cond, w.now
	case m.cond == failing && cond == well:
		m.cond, m.wellSince = well, w.now
	}
	w.say(m)
}

// lose is a branch that the hub no longer knows for its own: another signing key, a
// write past it, a repository that cannot be read.
func (w *world) lose(i int) {
	m := &w.members[i]
	m.lost, m.heardCurrent = true, false
}

// forget is the same when the hub's memory of the branch went with its key.
func (w *world) forget(i int) {
	w.lose(i)
	w.members[i].forgotten = true
}

// signAgain is the hub that publishes what it did again, as it did.
func (w *world) signAgain(i int) {
	m := &w.members[i]
	m.lost, m.publishedAt, m.current, m.heardCurrent = false, w.now, false, false
}

// tick lets an hour pass: no agent that is there keeps quiet for so long.
func (w *world) tick() {
	for i := range w.members {
		if m := &w.members[i]; m.up && !m.heard {
			w.say(m)
		}
	}
	w.now++
}

func (w *world) setUp(i int, up bool) {
	m := &w.members[i]
	if m.up = up; !up {
		m.downSince = w.now
	} else {
		if m.heardSince < w.now {
			m.heardSince = w.now // the soak begins anew
		}
		m.presentFor = w.now
	}
}

func (w *world) push(want int) {
	w.want = want
	for i := range w.members {
		m := &w.members[i]
		m.vouched = m.published == want && m.taken == want && m.cond == well && w.now-m.wellSince >= int(w.f.rings[w.f.ring[i]].Soak/tick)
	}
	w.acts = nil // they were about another commit
}

func (w *world) approve(ring int) {
	w.approved[ring] |= 1 << w.want
	ref := fmt.Sprintf("approve/%s/%d", w.f.rings[ring].Name, w.want)
	if !slices.ContainsFunc(w.acts, func(a rollout.Act) bool { return a.Ref == ref }) {
		w.acts = append(slices.Clone(w.acts), rollout.Act{Ring: w.f.rings[ring].Name, Ref: ref})
	}
}
