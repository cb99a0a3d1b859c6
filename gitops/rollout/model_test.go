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
	trials   []rollout.Trial
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
	f.reports, f.trials = make([]rollout.Report, len(f.names)), make([]rollout.Trial, len(f.names))
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
	changedAt              int    // when it was another digest before
	lost                   bool   // the hub cannot tell what is published, and serves nothing
	forgotten              bool   // lost, and it remembers nothing of it: what it publishes next begins a new history
	history                int    // how many there were before this one
	noWayBack              string // the revision that the hub, since it started, could not go back to
	has                    uint64 // digests that this one has
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
	digest, at       int
	base             string
	refused, unknown bool
}

type budget struct{ faults, outages, kills, pushes, recoveries, refusals, losses, memory int8 }

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
		w.members[i] = member{published: 1, taken: 1, current: true, cond: well, up: true, heard: true, heardOf: 1, heardCurrent: true, heardCond: well, has: 1 << 1, good: 1 << 1, vouched: true}
		w.state.Clusters[f.names[i]] = rollout.Record{Good: digest(1), GoodRevision: revision(1, 0)}
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

// maxHistories is how often a branch may begin anew in one story.
const maxHistories = 8

var digests, revisions = func() (d []string, r [maxHistories][]string) {
	d = append(d, "")
	for i := 1; i < 64; i++ {
		d = append(d, fmt.Sprint("d", i))
	}
	for h := range r {
		r[h] = append(r[h], "")
		for i := 1; i < 64; i++ {
			r[h] = append(r[h], fmt.Sprint("r", h, ".", i))
		}
	}
	return d, r
}()

func digest(n int) string { return digests[n] }

// revision is the commit of a branch's history that has the digest.
func revision(digest, history int) string { return revisions[history][digest] }

// head is the newest commit of the cluster's branch.
func (m *member) head() string { return revision(m.published, m.history) }

// commits is which digest and history a revision has.
var commits = func() map[string][2]int {
	m := map[string][2]int{}
	for h := range revisions {
		for d, rev := range revisions[h] {
			m[rev] = [2]int{d, h}
		}
	}
	return m
}()

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
		c := rollout.Cluster{Want: digest(w.want), Published: digest(m.published), Revision: m.head(), PublishedAt: at(m.publishedAt),
			NoWayBack: m.noWayBack, Contact: w.contact(m), PresentSince: at(m.presentFor), HeardAt: at(w.now)}
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
			c.Trial = &w.f.trials[i]
			*c.Trial = rollout.Trial{Digest: digest(t.digest), Base: t.base, At: at(t.at)}
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

// key identifies what can still happen: times count by their distance, as far
// as it matters.
func (w *world) key() [16]byte {
	const far = 3
	rel := func(t int) byte { return byte(min(w.now-t, far)) }
	buf := make([]byte, 0, 32*len(w.members)+64)
	buf = append(buf, byte(w.now%2), rel(w.since), byte(w.want), bit(w.frozen), byte(w.trouble), byte(w.passed[1]), byte(w.passed[2]), byte(w.passed[3]),
		byte(w.left.faults), byte(w.left.outages), byte(w.left.kills), byte(w.left.pushes), byte(w.left.recoveries), byte(w.left.refusals), byte(w.left.losses), byte(w.left.memory))
	for i := range w.members {
		m := &w.members[i]
		rec := w.state.Clusters[w.f.names[i]]
		buf = append(buf, byte(m.published), rel(m.publishedAt), rel(m.changedAt), bit(m.up), byte(m.taken), byte(m.cond), bit(m.current)|bit(m.heardCurrent)<<1|bit(m.heard)<<2|bit(m.lost)<<3|bit(m.forgotten)<<4|bit(m.noWayBack != "" && m.noWayBack == rec.GoodRevision)<<5, byte(m.history), byte(m.has), byte(m.heardOf), byte(m.heardCond), rel(m.heardSince), rel(m.presentFor), bit(m.vouched), byte(m.good))
		if !m.up {
			buf = append(buf, rel(m.downSince))
		}
		if m.cond == well {
			buf = append(buf, rel(m.wellSince))
		}
		buf = append(buf, byte(slices.Index(digests, rec.Good)), byte(commits[rec.GoodRevision][1]), byte(slices.Index(digests, rec.Away)), byte(slices.Index(digests, rec.Refused)),
			byte(m.refuses), byte(m.trial.digest), bit(m.trial.base == m.head()), rel(m.trial.at), bit(m.trial.refused))
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
