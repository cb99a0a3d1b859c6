package rollout_test

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"time"

	"holdfast.dev/gitops/rollout"
)

// The model: clusters with agents that take what is published and are well or
// not, a hub that decides, stores, publishes and may be killed between any two
// of these, and people who push. One tick is an hour. It keeps, beside what the
// hub knows, what is really so: the rules are checked against that.

const tick = time.Hour

// silentAfter is after how many ticks without a word an agent counts as silent.
const silentAfter = 1

func at(n int) time.Time { return t0.Add(time.Duration(n) * tick) }

// fleetModel is the part of a world that does not change.
type fleetModel struct {
	rings []rollout.Ring
	names []string
	ring  []int // of each cluster
	index map[string]int
	// Used for one decision at a time.
	clusters map[string]rollout.Cluster
	reports  []rollout.Report
}

func newFleetModel(rings []rollout.Ring) *fleetModel {
	f := &fleetModel{rings: rings, index: map[string]int{}, clusters: map[string]rollout.Cluster{}}
	for i, r := range rings {
		for _, name := range r.Clusters {
			f.index[name] = len(f.names)
			f.names = append(f.names, name)
			f.ring = append(f.ring, i)
		}
	}
	f.reports = make([]rollout.Report, len(f.names))
	return f
}

type condition byte

const (
	progressing condition = iota
	well
	failing
)

// member is one cluster. Digests are small numbers; 0 is none.
type member struct {
	published, publishedAt int
	changedAt              int  // when it was another digest before
	lost                   bool // the hub cannot tell what is published, and serves nothing
	up                     bool
	downSince              int
	taken                  int  // what the agent works on
	current                bool // it has taken the newest publication
	cond                   condition
	wellSince              int // if well
	// What the hub has heard since it started.
	heard                  bool
	heardOf                int
	heardCond              condition
	heardCurrent           bool
	heardSince, presentFor int // since when so, and since when the agent is there
	// What its API server would not take, one bit a digest, and what the agent
	// answered when it was asked.
	refuses uint64
	trial   trial
	// What the rules are checked against.
	vouched bool // was well at the wanted digest for the soak
	good    uint64
}

// trial is an agent's answer; digest 0 is none.
type trial struct {
	digest, base, at int
	refused, unknown bool
}

type budget struct{ faults, outages, kills, pushes, recoveries, refusals, losses int8 }

type world struct {
	f        *fleetModel
	now      int
	since    int // of the hub
	want     int
	frozen   bool
	members  []member
	state    rollout.State
	acts     []rollout.Act
	passed   [8]uint64 // by digest: rings that really passed with it, one bit each
	trouble  uint64    // digests with which some cluster failed, or was late
	approved []uint64  // by ring: bits of the digests that a person approved
	left     budget

	mute      bool             // agents answer no question now
	last      rollout.Decision // of the hub
	decisions int
	wentBack  bool
}

func newWorld(f *fleetModel, b budget) *world {
	w := &world{f: f, want: 1, left: b, members: make([]member, len(f.names)), approved: make([]uint64, len(f.rings))}
	w.state = rollout.State{Clusters: map[string]rollout.Record{}, Passed: map[string]string{}}
	for i := range w.members {
		w.members[i] = member{published: 1, taken: 1, current: true, cond: well, up: true, heard: true, heardOf: 1, heardCurrent: true, heardCond: well, good: 1 << 1, vouched: true}
		w.state.Clusters[f.names[i]] = rollout.Record{Good: digest(1), GoodRevision: revision(1)}
	}
	w.passed[1] = 1<<len(f.rings) - 1
	w.now = 100
	return w
}

// joins makes a cluster one that was never given anything and is not there yet.
func (w *world) joins(name string) *world {
	w.members[w.f.index[name]] = member{current: true, downSince: w.now - silentAfter}
	delete(w.state.Clusters, name)
	return w
}

func (w *world) clone() *world {
	c := *w
	c.members, c.approved = slices.Clone(w.members), slices.Clone(w.approved)
	return &c
}

var digests, revisions = func() (d, r []string) {
	d = append(d, "")
	r = append(r, "")
	for i := 1; i < 64; i++ {
		d, r = append(d, fmt.Sprint("d", i)), append(r, fmt.Sprint("r", i))
	}
	return d, r
}()

func digest(n int) string   { return digests[n] }
func revision(n int) string { return revisions[n] }

// contact is what the hub makes of the cluster's agent.
func (w *world) contact(m *member) rollout.Contact {
	switch {
	case m.up && m.heard:
		return rollout.Present
	case !m.up && w.now-max(m.downSince, w.since) >= silentAfter:
		return rollout.Silent
	case m.heard:
		return rollout.Present
	}
	return rollout.Unknown
}

func (w *world) input() rollout.Input {
	in := rollout.Input{Now: at(w.now), Since: at(w.since), Rings: w.f.rings, State: w.state, Acts: w.acts, Clusters: w.f.clusters}
	if w.frozen {
		in.Rings = slices.Clone(in.Rings)
		for i := range in.Rings {
			in.Rings[i].Freezes = []rollout.Freeze{{Reason: "a person said so"}}
		}
	}
	for i := range w.members {
		m := &w.members[i]
		c := rollout.Cluster{Want: digest(w.want), Published: digest(m.published), Revision: revision(m.published), PublishedAt: at(m.publishedAt),
			Contact: w.contact(m), PresentSince: at(m.presentFor), HeardAt: at(w.now)}
		if m.lost {
			c.Published = ""
		}
		if !m.up {
			c.HeardAt = at(max(m.downSince, w.since))
		}
		if m.heard {
			r := &w.f.reports[i]
			*r = rollout.Report{}
			switch m.heardCond {
			case well:
				*r = rollout.Report{Applied: digest(m.heardOf), Healthy: true, HealthySince: at(m.heardSince)}
			case failing:
				if m.heardCurrent {
					*r = rollout.Report{Failing: "sick", FailingDigest: digest(m.heardOf), FailingSince: at(m.heardSince)}
				}
			}
			c.Report = r
		}
		if t := m.trial; t.digest != 0 {
			c.Trial = &rollout.Trial{Digest: digest(t.digest), Base: revision(t.base), At: at(t.at)}
			if t.refused {
				c.Trial.Refused = "no"
			}
			if t.unknown {
				c.Trial.Unknown = "no answer"
			}
		}
		in.Clusters[w.f.names[i]] = c
	}
	return in
}

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
			anyone = anyone || m.vouched
			excused := !m.up && w.now-max(m.downSince, w.since) >= silentAfter && (m.published != w.want || m.taken == 0 || m.good&(1<<w.want) != 0)
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
			switch back := slices.Index(revisions, p.Revision); {
			case digest(back) != p.Digest:
				return broken("%s goes back to %s by the revision of another", p.Cluster, p.Digest)
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
		if t := m.trial; w.contact(m) == rollout.Present && t != (trial{digest: w.want, base: m.published, at: w.now}) {
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
		if len(d.Publish) == 0 {
			if w.answer(d.Ask) {
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
			m.published, m.publishedAt, m.current, m.heardCurrent, m.lost = slices.Index(digests, p.Digest), w.now, false, false, false
		}
		for i, r := range w.f.rings {
			if after := w.down(i); after > max(before[i], 1, r.MaxUnavailable) {
				return effects, broken("ring %s had %d clusters down and has %d now, %d allowed", r.Name, before[i], after, r.MaxUnavailable)
			}
		}
	}
	return effects, broken("the hub publishes without end")
}

// answer lets the agents that are asked answer; false when nobody has anything new to say.
func (w *world) answer(asked []string) (answered bool) {
	for _, name := range asked {
		m := &w.members[w.f.index[name]]
		t := trial{digest: w.want, base: m.published, at: w.now, refused: m.refuses&(1<<w.want) != 0, unknown: w.mute}
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
		m.heard, m.heardOf, m.heardCond, m.heardSince, m.presentFor, m.trial = false, 0, progressing, 0, w.now, trial{}
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

// key identifies what can still happen: times count by their distance, as far
// as it matters.
func (w *world) key() [16]byte {
	const far = 3
	rel := func(t int) byte { return byte(min(w.now-t, far)) }
	buf := make([]byte, 0, 32*len(w.members)+64)
	buf = append(buf, byte(w.now%2), rel(w.since), byte(w.want), bit(w.frozen), byte(w.trouble), byte(w.passed[1]), byte(w.passed[2]), byte(w.passed[3]),
		byte(w.left.faults), byte(w.left.outages), byte(w.left.kills), byte(w.left.pushes), byte(w.left.recoveries), byte(w.left.refusals), byte(w.left.losses))
	for i := range w.members {
		m := &w.members[i]
		rec := w.state.Clusters[w.f.names[i]]
		buf = append(buf, byte(m.published), rel(m.publishedAt), rel(m.changedAt), bit(m.up), byte(m.taken), byte(m.cond), bit(m.current)|bit(m.heardCurrent)<<1|bit(m.heard)<<2|bit(m.lost)<<3, byte(m.heardOf), byte(m.heardCond), rel(m.heardSince), rel(m.presentFor), bit(m.vouched), byte(m.good))
		if !m.up {
			buf = append(buf, rel(m.downSince))
		}
		if m.cond == well {
			buf = append(buf, rel(m.wellSince))
		}
		buf = append(buf, byte(slices.Index(digests, rec.Good)), byte(slices.Index(digests, rec.Away)), byte(slices.Index(digests, rec.Refused)),
			byte(m.refuses), byte(m.trial.digest), byte(m.trial.base), rel(m.trial.at), bit(m.trial.refused))
	}
	for i, r := range w.f.rings {
		buf = append(buf, bit(w.state.Passed[r.Name] != ""), byte(w.approved[i]), bit(w.state.Approvals[r.Name].Content != ""))
	}
	if rb := w.state.Rollback; rb != nil {
		buf = append(buf, byte(w.f.index[rb.Cluster]), byte(slices.Index(digests, rb.Digest)))
	}
	buf = append(buf, byte(len(w.acts)), byte(len(w.state.Used)))
	sum := sha256.Sum256(buf)
	return [16]byte(sum[:16])
}

func bit(b bool) byte {
	if b {
		return 1
	}
	return 0
}

func (w *world) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "now %d want %d frozen %v since %d passed %b\n", w.now, w.want, w.frozen, w.since, w.passed[w.want])
	for i, m := range w.members {
		fmt.Fprintf(&b, "  %s %+v\n", w.f.names[i], m)
	}
	fmt.Fprintf(&b, "  state %+v\n", w.state)
	for _, r := range rollout.Decide(w.input()).Rings {
		fmt.Fprintf(&b, "  %+v\n", r)
	}
	return b.String()
}
