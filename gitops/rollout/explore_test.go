package rollout_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast.dev/gitops/rollout"
)

// event is one thing that can happen to a world.
type event struct {
	what, who string
	do        func(*world)
}

func (e event) String() string { return strings.TrimSpace(e.who + " " + e.what) }

// events lists what can happen now.
func (w *world) events() []event {
	var out []event
	add := func(do func(*world), what, who string) { out = append(out, event{what, who, do}) }
	for i := range w.members {
		m := &w.members[i]
		name := w.f.names[i]
		if w.left.losses > 0 && m.published != 0 && !m.lost {
			add(func(w *world) { w.left.losses--; w.lose(i) }, "loses its branch", name)
		}
		if w.left.memory > 0 && m.published != 0 && !m.lost {
			add(func(w *world) { w.left.memory--; w.forget(i) }, "loses its branch, and the hub its memory", name)
		}
		if m.lost && !m.forgotten {
			add(func(w *world) { w.signAgain(i) }, "has its branch again", name)
		}
		if !m.up {
			add(func(w *world) { w.setUp(i, true) }, "comes back", name)
			continue
		}
		busy := !m.current || m.cond == progressing
		if busy || !m.heard || m.heardCurrent != (m.current && !m.lost) || m.heardCond != m.cond || m.heardOf != m.taken {
			add(func(w *world) { w.work(i, well) }, "works", name)
		}
		if m.current && m.cond == progressing && m.taken > 1 && w.left.faults > 0 {
			add(func(w *world) { w.left.faults--; w.work(i, failing) }, "fails", name)
		}
		if m.cond == failing && w.left.recoveries > 0 {
			add(func(w *world) { w.left.recoveries--; w.work(i, well) }, "recovers", name)
		}
		if w.left.refusals > 0 && m.refuses == 0 {
			add(func(w *world) { w.left.refusals--; w.members[i].refuses = 1 << 2 }, "begins to refuse d2", name)
		}
		if m.refuses != 0 {
			add(func(w *world) { w.members[i].refuses = 0 }, "refuses nothing more", name)
		}
		if w.left.outages > 0 {
			add(func(w *world) { w.left.outages--; w.setUp(i, false) }, "falls silent", name)
		}
	}
	if w.left.pushes > 0 {
		for next := 1; next <= 3; next++ {
			if next != w.want {
				add(func(w *world) { w.left.pushes--; w.push(next) }, "is pushed", digest(next))
			}
		}
	}
	for i, r := range w.f.rings {
		if r.Approval && w.approved[i]&(1<<w.want) == 0 {
			add(func(w *world) { w.approve(i) }, "is approved", r.Name)
		}
	}
	add(func(w *world) { w.tick() }, "time passes", "")
	return out
}

// TestEveryState explores every order of events of small fleets, the hub killed
// after any of its effects, and asks of every state whether a rule was broken on
// the way to it, and whether the rollout still ends from there.
func TestEveryState(t *testing.T) {
	ring := func(name string, n int, change func(*rollout.Ring)) rollout.Ring {
		r := rollout.Ring{Name: name, Soak: tick, Timeout: 2 * tick, MaxUnavailable: 1}
		for i := range n {
			r.Clusters = append(r.Clusters, fmt.Sprintf("%s%d", name, i))
		}
		if change != nil {
			change(&r)
		}
		return r
	}
	back := func(r *rollout.Ring) { r.Rollback = true }
	cases := map[string]struct {
		reason string
		rings  []rollout.Ring
		left   budget
		long   bool
		joins  string
	}{
		"Kills":       {"a hub that is killed twice anywhere", []rollout.Ring{ring("a", 1, back), ring("b", 1, back)}, budget{faults: 1, kills: 2, pushes: 1}, false, ""},
		"Pushes":      {"pushes and reverts in the middle of rollouts", []rollout.Ring{ring("a", 1, back), ring("b", 1, nil)}, budget{faults: 1, pushes: 2, recoveries: 1}, false, ""},
		"Outages":     {"clusters that come and go, one of them the canary", []rollout.Ring{ring("a", 1, nil), ring("b", 2, back)}, budget{outages: 1, pushes: 1, faults: 1}, false, ""},
		"OutagesLong": {"the same, and the hub is killed", []rollout.Ring{ring("a", 1, nil), ring("b", 2, back)}, budget{outages: 1, pushes: 1, faults: 1, kills: 1}, true, ""},
		"Refusals":    {"API servers that refuse a change and take it later, with pushes and a kill", []rollout.Ring{ring("a", 1, back), ring("b", 2, nil)}, budget{refusals: 1, pushes: 1, kills: 1}, false, ""},
		"RefusalLate": {"one that comes back and refuses", []rollout.Ring{ring("a", 2, nil), ring("b", 1, back)}, budget{refusals: 1, pushes: 1, outages: 1}, false, ""},
		"Losses":      {"a branch that is no longer known for the hub's, of a cluster that may be silent", []rollout.Ring{ring("a", 1, nil), ring("b", 1, back)}, budget{losses: 1, outages: 1, pushes: 1}, false, ""},
		"LossesLong":  {"the same of a larger ring", []rollout.Ring{ring("a", 1, nil), ring("b", 2, back)}, budget{losses: 1, outages: 1, pushes: 1}, true, ""},
		"LossesFail":  {"the same with failures and a kill", []rollout.Ring{ring("a", 1, back), ring("b", 1, back)}, budget{losses: 1, outages: 1, pushes: 1, faults: 1, kills: 1}, true, ""},
		"Memory":      {"a branch that begins anew, and a failure afterwards", []rollout.Ring{ring("a", 1, back), ring("b", 1, back)}, budget{memory: 1, pushes: 1, faults: 1}, false, ""},
		"MemoryLong":  {"the same with silence, a kill and a second push", []rollout.Ring{ring("a", 1, back), ring("b", 1, back)}, budget{memory: 1, pushes: 2, faults: 1, outages: 1, kills: 1}, true, ""},
		"MemoryRoom":  {"the same beside a cluster that can go back, and room for one", []rollout.Ring{ring("a", 2, back)}, budget{memory: 1, pushes: 1, faults: 1, kills: 1}, false, ""},
		"Joins":       {"a cluster that was never given anything and comes later", []rollout.Ring{ring("a", 1, back), ring("b", 1, nil)}, budget{pushes: 1}, false, "b0"},
		"Three":       {"four clusters in three rings", []rollout.Ring{ring("a", 1, back), ring("b", 2, back), ring("c", 1, nil)}, budget{faults: 1, pushes: 1, kills: 1}, false, ""},
		"Approval":    {"a ring that waits for a person", []rollout.Ring{ring("a", 1, back), ring("b", 1, func(r *rollout.Ring) { r.Approval = true })}, budget{faults: 1, kills: 1, pushes: 1, recoveries: 1}, false, ""},
		"Window":      {"a ring that is open every other hour", []rollout.Ring{ring("a", 1, nil), ring("b", 1, func(r *rollout.Ring) { r.Windows = everyOtherHour(); r.Rollback = true })}, budget{faults: 1, kills: 1, pushes: 1}, false, ""},
		"ThreeLong":   {"four clusters in three rings, with everything", []rollout.Ring{ring("a", 1, back), ring("b", 2, back), ring("c", 1, back)}, budget{faults: 1, pushes: 2, kills: 1, outages: 1}, true, ""},
	}
	var total atomic.Int64
	t.Cleanup(func() { t.Logf("%d states in all", total.Load()) })
	for name, tc := range cases {
		if tc.long && os.Getenv("HOLDFAST_EXPLORE") == "" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			w := newWorld(newFleetModel(tc.rings), tc.left)
			if tc.joins != "" {
				w.joins(tc.joins)
			}
			n := explore(t, w)
			total.Add(int64(n))
			t.Logf("%s: %d states in %.1f s", tc.reason, n, time.Since(start).Seconds())
		})
	}
}

func everyOtherHour() []rollout.Window {
	var list []rollout.Window
	for h := 0; h < 24; h += 2 {
		list = append(list, rollout.Window{Days: [7]bool{true, true, true, true, true, true, true}, From: h * 60, To: (h + 1) * 60, Location: time.UTC})
	}
	return list
}

// visit is a world with how it came about.
type visit struct {
	*world
	from *visit
	by   event
	kill int // after how many effects the hub was killed; -1 for never
}

func (v *visit) story() string {
	var steps []string
	for ; v.from != nil; v = v.from {
		step := v.by.String()
		if v.kill >= 0 {
			step += fmt.Sprintf(" (hub killed after %d effects)", v.kill)
		}
		steps = append(steps, step)
	}
	slices.Reverse(steps)
	return strings.Join(steps, "; ")
}

func explore(t *testing.T, first *world) int {
	t.Helper()
	seen := map[[16]byte]bool{first.key(): true}
	endsWell, endsSick := map[[16]byte]bool{}, map[[16]byte]bool{}
	queue := []*visit{{world: first}}
	for len(queue) > 0 {
		v := queue[0]
		queue[0] = nil
		queue = queue[1:]
		for _, ending := range []struct {
			sick  bool
			known map[[16]byte]bool
		}{{false, endsWell}, {true, endsSick}} {
			if err := v.clone().finish(ending.sick, ending.known); err != nil {
				t.Fatalf("%v\nafter: %s\nthen: the end with sick=%v\n%s", err, v.story(), ending.sick, v.world)
			}
		}
		for _, e := range v.events() {
			for kill := -1; ; kill++ {
				if kill >= 0 && v.left.kills == 0 {
					break
				}
				next := v.clone()
				e.do(next)
				if kill >= 0 {
					next.left.kills--
				}
				effects, err := next.hub(kill)
				if err != nil {
					t.Fatalf("%v\nafter: %s\n%s", err, (&visit{next, v, e, kill}).story(), next)
				}
				if kill >= 0 && effects < kill {
					break // it had nothing more to do
				}
				if kill >= 0 && next.since != next.now {
					next.restart() // killed right after its last effect
				}
				if kill >= 0 {
					if _, err := next.hub(-1); err != nil {
						t.Fatalf("%v\nafter: %s\n%s", err, (&visit{next, v, e, kill}).story(), next)
					}
				}
				if k := next.key(); !seen[k] {
					seen[k] = true
					queue = append(queue, &visit{next, v, e, kill})
				}
			}
		}
	}
	return len(seen)
}
