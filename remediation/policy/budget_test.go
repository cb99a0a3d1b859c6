package policy

import (
	"fmt"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/types"
	"pgregory.net/rapid"

	"holdfast.dev/api/v1alpha1"
)

func slot(name, node, zone string) v1alpha1.Reservation {
	return v1alpha1.Reservation{Remediation: name, UID: types.UID("uid-" + name), Node: node, Zone: zone}
}

func TestAdmit(t *testing.T) {
	budgets := func(b ...v1alpha1.Budget) *v1alpha1.RemediationPolicySpec {
		return &v1alpha1.RemediationPolicySpec{Budgets: b}
	}
	running := func(name, node string) v1alpha1.Remediation {
		r := v1alpha1.Remediation{}
		r.Name, r.Spec.Node, r.Status.StartedAt = name, node, at(0)
		return r
	}
	want := slot("me", "n1", "z1")
	cases := map[string]struct {
		reason   string
		p        *v1alpha1.RemediationPolicySpec
		held     []v1alpha1.Reservation
		unlisted []v1alpha1.Remediation
		room     bool
	}{
		"NoPolicy":      {reason: "no policy, no start"},
		"NoBudgets":     {reason: "no budgets, no start", p: budgets()},
		"Paused":        {reason: "paused", p: &v1alpha1.RemediationPolicySpec{Paused: true, Budgets: []v1alpha1.Budget{{Scope: v1alpha1.ScopeCluster, Max: 9}}}},
		"Room":          {reason: "one of two", p: budgets(v1alpha1.Budget{Scope: v1alpha1.ScopeCluster, Max: 2}), held: []v1alpha1.Reservation{slot("x", "n2", "z2")}, room: true},
		"Full":          {reason: "two of two", p: budgets(v1alpha1.Budget{Scope: v1alpha1.ScopeCluster, Max: 2}), held: []v1alpha1.Reservation{slot("x", "n2", "z2"), slot("y", "n3", "z2")}},
		"Zero":          {reason: "a budget of none", p: budgets(v1alpha1.Budget{Scope: v1alpha1.ScopeZone, Max: 0})},
		"OtherZone":     {reason: "a slot in another zone", p: budgets(v1alpha1.Budget{Scope: v1alpha1.ScopeZone, Max: 1}), held: []v1alpha1.Reservation{slot("x", "n2", "z2")}, room: true},
		"SameZone":      {reason: "a slot in this zone", p: budgets(v1alpha1.Budget{Scope: v1alpha1.ScopeZone, Max: 1}), held: []v1alpha1.Reservation{slot("x", "n2", "z1")}},
		"SameNode":      {reason: "a slot on this node", p: budgets(v1alpha1.Budget{Scope: v1alpha1.ScopeCluster, Max: 9}, v1alpha1.Budget{Scope: v1alpha1.ScopeNode, Max: 1}), held: []v1alpha1.Reservation{slot("x", "n1", "z1")}},
		"UnknownScope":  {reason: "a scope of a later version counts everything", p: budgets(v1alpha1.Budget{Scope: "Rack", Max: 1}), held: []v1alpha1.Reservation{slot("x", "n2", "z2")}},
		"UnlistedZone":  {reason: "a plan of unknown zone counts in every zone", p: budgets(v1alpha1.Budget{Scope: v1alpha1.ScopeZone, Max: 1}), unlisted: []v1alpha1.Remediation{running("x", "n2")}},
		"UnlistedOther": {reason: "but its node is known", p: budgets(v1alpha1.Budget{Scope: v1alpha1.ScopeNode, Max: 1}), unlisted: []v1alpha1.Remediation{running("x", "n2")}, room: true},
		"NameRecurs":    {reason: "a slot of a former object of the same name is nobody's", p: budgets(v1alpha1.Budget{Scope: v1alpha1.ScopeCluster, Max: 1}), held: []v1alpha1.Reservation{{Remediation: "me", UID: "former", Node: "n1"}}, room: true},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			next, full := Admit(c.p, c.held, c.unlisted, want)
			if (full == "") != c.room {
				t.Fatalf("%s: refused with %q, want room: %v", c.reason, full, c.room)
			}
			if c.room && !Held(next, want.Remediation, want.UID) {
				t.Errorf("%s: the slot is not in %v", c.reason, next)
			}
		})
	}
}

// world is a model of one policy object and of plans that compete for its
// budgets, worked on by two controllers (one of them does not know yet that it
// lost the Lease). It shares no code with Admit: it counts what runs.
type world struct {
	version int
	held    []v1alpha1.Reservation
	spec    *v1alpha1.RemediationPolicySpec
	plans   []modelPlan
	// reads are what each controller remembers of the policy, for each plan.
	reads map[[2]int]read
}

type modelPlan struct {
	node, zone string
	started    bool // the API says that it runs
	finished   bool
}

type read struct {
	version  int
	held     []v1alpha1.Reservation
	unlisted []v1alpha1.Remediation
}

func (w *world) slot(i int) v1alpha1.Reservation {
	return slot(fmt.Sprint("p", i), w.plans[i].node, w.plans[i].zone)
}

func (w *world) api() []v1alpha1.Remediation {
	var out []v1alpha1.Remediation
	for i, p := range w.plans {
		r := v1alpha1.Remediation{}
		r.Name, r.UID, r.Spec.Node = fmt.Sprint("p", i), w.slot(i).UID, p.node
		if p.started {
			r.Status.StartedAt = at(0)
		}
		if p.finished {
			r.Status.FinishedAt = at(0)
		}
		out = append(out, r)
	}
	return out
}

// check counts the plans that may have effects: those with a slot, and those that run.
func (w *world) check(t *rapid.T, what string) {
	count := map[string]int{}
	for i, p := range w.plans {
		s := w.slot(i)
		if Held(w.held, s.Remediation, s.UID) || (p.started && !p.finished) {
			count["Cluster"]++
			count["Zone/"+p.zone]++
			count["Node/"+p.node]++
		}
	}
	for _, b := range w.spec.Budgets {
		for scope, n := range count {
			if len(scope) >= len(b.Scope) && scope[:len(b.Scope)] == string(b.Scope) && n > int(b.Max) {
				t.Fatalf("after %s: %d plans at work in %s, the budget is %d; slots %v", what, n, scope, b.Max, w.held)
			}
		}
	}
}

// TestBudgetModel runs random schedules of reads, writes on stale reads, crashes
// and losses of the policy object. Invariant 4: no action starts beyond a
// budget; slots are reserved by compare-and-swap, not counted from a cache.
func TestBudgetModel(t *testing.T) {
	const controllers, length = 2, 1200 // times rapid's 100 schedules: 120,000 steps
	rapid.Check(t, func(t *rapid.T) {
		w := &world{reads: map[[2]int]read{}, spec: &v1alpha1.RemediationPolicySpec{Budgets: []v1alpha1.Budget{
			{Scope: v1alpha1.ScopeCluster, Max: rapid.Int32Range(1, 3).Draw(t, "cluster")},
			{Scope: v1alpha1.ScopeZone, Max: rapid.Int32Range(1, 2).Draw(t, "zone")},
			{Scope: v1alpha1.ScopeNode, Max: 1},
		}}}
		for i := range 8 {
			w.plans = append(w.plans, modelPlan{node: fmt.Sprint("n", i%5), zone: fmt.Sprint("z", i%5%2)})
		}
		op := rapid.IntRange(0, 1023)
		for range length {
			x := op.Draw(t, "op")
			action, i, c := x%8, x/8%8, x/64%controllers
			w.step(t, action, i, c, x/128)
		}
	})
}

func (w *world) step(t *rapid.T, action, i, c, dice int) {
	p, key, s := &w.plans[i], [2]int{c, i}, w.slot(i)
	switch action {
	case 0, 1: // read live, and think for a while
		w.reads[key] = read{w.version, append([]v1alpha1.Reservation(nil), w.held...), Unlisted(w.api(), w.held)}
	case 2, 3: // write on what was read, however long ago
		r, ok := w.reads[key]
		if !ok || p.started || p.finished || Held(r.held, s.Remediation, s.UID) {
			return
		}
		if next, full := Admit(w.spec, r.held, r.unlisted, s); full == "" && r.version == w.version {
			w.version, w.held = w.version+1, next
			w.check(t, fmt.Sprintf("reserving for plan %d", i))
		}
	case 4: // the reservation is there: record that the plan runs
		if Held(w.held, s.Remediation, s.UID) && !p.finished {
			p.started = true
		}
	case 5: // give the slot back; then, or after a crash in between, finish
		next, held := Release(w.held, s.Remediation, s.UID)
		if held && p.started {
			w.version, w.held = w.version+1, next
		}
		if p.started && (!held || dice%2 == 0) {
			p.finished = true
		}
		if p.finished && dice%4 == 0 {
			*p = modelPlan{node: p.node, zone: p.zone} // the disk fails again
			delete(w.reads, [2]int{0, i})
			delete(w.reads, [2]int{1, i})
		}
	case 6: // a controller crashes and forgets
		delete(w.reads, key)
	case 7: // the policy object is deleted and made again, between two plans' starts
		if dice != 7 {
			return
		}
		for j := range w.plans {
			if sj := w.slot(j); Held(w.held, sj.Remediation, sj.UID) && !w.plans[j].started {
				return
			}
		}
		w.version, w.held = w.version+1, nil
	}
}

// TestReleaseUndoesAdmit: a slot given back leaves the others as they were.
func TestReleaseUndoesAdmit(t *testing.T) {
	held := []v1alpha1.Reservation{slot("x", "n2", "z2"), slot("y", "n3", "z2")}
	next, full := Admit(&v1alpha1.RemediationPolicySpec{Budgets: []v1alpha1.Budget{{Scope: v1alpha1.ScopeCluster, Max: 3}}}, held, nil, slot("me", "n1", "z1"))
	if full != "" || len(next) != 3 {
		t.Fatalf("Admit = %v, %q", next, full)
	}
	back, was := Release(next, "me", "uid-me")
	if !was || len(back) != 2 || len(next) != 3 {
		t.Errorf("Release = %v, %v (its argument now %v)", back, was, next)
	}
	if _, was := Release(held, "me", "uid-me"); was {
		t.Error("released a slot that was not held")
	}
}

// TestPlanName: a plan is named after node, disk and quarantine, each of which matters.
func TestPlanName(t *testing.T) {
	base := PlanName("u", "d", t0)
	if again := PlanName("u", "d", t0.In(time.FixedZone("x", 3600)).Add(300*time.Millisecond)); again != base {
		t.Errorf("the same instant in another zone gives %s, not %s", again, base)
	}
	for what, other := range map[string]string{
		"node": PlanName("v", "d", t0), "disk": PlanName("u", "e", t0), "time": PlanName("u", "d", t0.Add(time.Second)), "split": PlanName("ud", "", t0),
	} {
		if other == base {
			t.Errorf("another %s gives the same name", what)
		}
	}
}
