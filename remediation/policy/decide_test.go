package policy

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"holdfast.dev/api/v1alpha1"
)

var t0 = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) *metav1.Time {
	t := metav1.NewTime(t0.Add(d))
	return &t
}

func spec() *v1alpha1.RemediationPolicySpec {
	return &v1alpha1.RemediationPolicySpec{
		QuarantineStates: []v1alpha1.DiskState{v1alpha1.DiskFailed, v1alpha1.DiskMissing},
		Rules:            []v1alpha1.RemediationRule{{States: []v1alpha1.DiskState{v1alpha1.DiskFailed, v1alpha1.DiskMissing}, Action: v1alpha1.ActionReplaceDisk}},
		Budgets:          []v1alpha1.Budget{{Scope: v1alpha1.ScopeCluster, Max: 1}},
	}
}

func node(disks []v1alpha1.Disk, quarantine ...v1alpha1.Quarantine) *v1alpha1.ComputeNode {
	n := &v1alpha1.ComputeNode{}
	n.Name = "n1"
	n.Spec.NodeUID = "uid-1"
	n.Spec.Quarantine = quarantine
	n.Status.Disks = disks
	return n
}

func disk(id string, state v1alpha1.DiskState) v1alpha1.Disk {
	d := v1alpha1.Disk{ID: id, State: state, Device: "sda", Slot: "3", Group: "data", Since: at(-time.Minute)}
	if state == v1alpha1.DiskMissing {
		d.Device = ""
	}
	return d
}

func entry(id, by string) v1alpha1.Quarantine {
	return v1alpha1.Quarantine{Disk: id, Reason: "Failed", By: by, Since: *at(-time.Minute)}
}

const me = v1alpha1.QuarantinedByController

// replacedPlan is a plan that has lifted, or is about to lift, the quarantine of disk a.
func replacedPlan(lift v1alpha1.StepState) v1alpha1.Remediation {
	n := node(nil)
	d := disk("a", v1alpha1.DiskMissing)
	p := NewPlan(n, &d, v1alpha1.ActionReplaceDisk, t0.Add(-time.Hour))
	p.Annotations[v1alpha1.AnnotationReplacedBy] = "b"
	p.Annotations[v1alpha1.AnnotationGoneSince] = stamp(d.Since.Time)
	p.Status.Steps = []v1alpha1.StepStatus{{Name: v1alpha1.StepLiftQuarantine, State: lift, StartedAt: at(-2 * time.Minute)}}
	return p
}

func TestDecide(t *testing.T) {
	added := func(id string, s v1alpha1.DiskState) []v1alpha1.Quarantine {
		return []v1alpha1.Quarantine{{Disk: id, Reason: string(s), By: me, Since: *at(0)}}
	}
	withRule := func(change func(*v1alpha1.RemediationPolicySpec)) *v1alpha1.RemediationPolicySpec {
		s := spec()
		change(s)
		return s
	}
	failed := []v1alpha1.Disk{disk("a", v1alpha1.DiskFailed)}
	planName := PlanName("uid-1", "a", t0.Add(-time.Minute))
	cases := map[string]struct {
		reason string
		s      Snapshot
		add    []v1alpha1.Quarantine
		lift   []string
		plans  []string
		again  time.Duration
	}{
		"Failed":                {reason: "a failed disk is closed first; the plan follows when that is durable", s: Snapshot{Policy: spec(), Node: node(failed)}, add: added("a", v1alpha1.DiskFailed)},
		"MissingWithoutPolicy":  {reason: "with no policy the default states apply", s: Snapshot{Node: node([]v1alpha1.Disk{disk("a", v1alpha1.DiskMissing)})}, add: added("a", v1alpha1.DiskMissing)},
		"PausedStillQuarantine": {reason: "a pause stops plans, not quarantine", s: Snapshot{Policy: withRule(func(s *v1alpha1.RemediationPolicySpec) { s.Paused = true }), Node: node(failed)}, add: added("a", v1alpha1.DiskFailed)},
		"Unknown":               {reason: "a disk that could not be looked at changes nothing", s: Snapshot{Policy: spec(), Node: node([]v1alpha1.Disk{disk("a", v1alpha1.DiskUnknown)})}},
		"UnknownInPolicy": {
			reason: "no policy can make Unknown a reason",
			s: Snapshot{Policy: withRule(func(s *v1alpha1.RemediationPolicySpec) {
				s.QuarantineStates = []v1alpha1.DiskState{v1alpha1.DiskUnknown, v1alpha1.DiskHealthy}
			}),
				Node: node([]v1alpha1.Disk{disk("a", v1alpha1.DiskUnknown), disk("b", v1alpha1.DiskHealthy)})},
		},
		"UnknownKeeps":     {reason: "nor does Unknown lift or plan", s: Snapshot{Policy: spec(), Node: node([]v1alpha1.Disk{disk("a", v1alpha1.DiskUnknown)}, entry("a", me))}},
		"Degraded":         {reason: "not among the states", s: Snapshot{Policy: spec(), Node: node([]v1alpha1.Disk{disk("a", v1alpha1.DiskDegraded)})}},
		"DegradedKeeps":    {reason: "Degraded does not lift", s: Snapshot{Policy: spec(), Node: node([]v1alpha1.Disk{disk("a", v1alpha1.DiskDegraded)}, entry("a", me))}},
		"HealthyLifts":     {reason: "the disk is healthy again", s: Snapshot{Policy: spec(), Node: node([]v1alpha1.Disk{disk("a", v1alpha1.DiskHealthy)}, entry("a", me))}, lift: []string{"a"}},
		"HealthyOfAnother": {reason: "only what the controller did is undone", s: Snapshot{Policy: spec(), Node: node([]v1alpha1.Disk{disk("a", v1alpha1.DiskHealthy)}, entry("a", "alice"))}},
		"NotListed":        {reason: "absence from the list is no evidence", s: Snapshot{Policy: spec(), Node: node(nil, entry("a", me))}},
		"Plan":             {reason: "quarantined, and a rule matches", s: Snapshot{Policy: spec(), Node: node(failed, entry("a", me))}, plans: []string{planName}},
		"PlanByAnother":    {reason: "a quarantine by a person counts too", s: Snapshot{Policy: spec(), Node: node(failed, entry("a", "alice"))}, plans: []string{planName}},
		"PlanExists": {
			reason: "one plan for one quarantine, also when it ended",
			s:      Snapshot{Policy: spec(), Node: node(failed, entry("a", me)), Plans: []v1alpha1.Remediation{{ObjectMeta: metav1.ObjectMeta{Name: planName}, Status: v1alpha1.RemediationStatus{FinishedAt: at(0)}}}},
		},
		"OtherPlanOpen": {
			reason: "one open plan for one disk",
			s:      Snapshot{Policy: spec(), Node: node(failed, entry("a", me)), Plans: []v1alpha1.Remediation{{Spec: v1alpha1.RemediationSpec{Disk: "a"}}}},
		},
		"NoPolicyNoPlan":    {reason: "without a policy no plan", s: Snapshot{Node: node(failed, entry("a", me))}},
		"PausedNoPlan":      {reason: "paused", s: Snapshot{Policy: withRule(func(s *v1alpha1.RemediationPolicySpec) { s.Paused = true }), Node: node(failed, entry("a", me))}},
		"NoBudgetNoPlan":    {reason: "no budgets", s: Snapshot{Policy: withRule(func(s *v1alpha1.RemediationPolicySpec) { s.Budgets = nil }), Node: node(failed, entry("a", me))}},
		"NoRuleNoPlan":      {reason: "no rule matches", s: Snapshot{Policy: withRule(func(s *v1alpha1.RemediationPolicySpec) { s.Rules = nil }), Node: node(failed, entry("a", me))}},
		"FaultClassNoMatch": {reason: "the rule is for another class", s: Snapshot{Policy: withRule(func(s *v1alpha1.RemediationPolicySpec) { s.Rules[0].FaultClasses = []v1alpha1.FaultClass{"NVMe"} }), Node: node(failed, entry("a", me))}},
		"After": {
			reason: "the rule waits until the disk was in the state for long enough",
			s:      Snapshot{Policy: withRule(func(s *v1alpha1.RemediationPolicySpec) { s.Rules[0].After.Duration = 90 * time.Second }), Node: node(failed, entry("a", me))},
			again:  30 * time.Second,
		},
		"Maintenance": {
			reason: "a node in maintenance gets no plan",
			s: func() Snapshot {
				n := node(failed, entry("a", me))
				n.Spec.Maintenance = true
				return Snapshot{Policy: spec(), Node: n}
			}(),
		},
		"Blind": {
			reason: "while the inventory is not read, Healthy proves nothing",
			s: func() Snapshot {
				n := node([]v1alpha1.Disk{disk("a", v1alpha1.DiskHealthy)}, entry("a", me))
				n.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionInventoryRead, Status: metav1.ConditionFalse}}
				return Snapshot{Policy: spec(), Node: n}
			}(),
		},
		"Retired": {
			reason: "a replaced disk stays listed as Missing for a moment: a new quarantine would keep it listed for ever",
			s:      Snapshot{Policy: spec(), Node: node([]v1alpha1.Disk{disk("a", v1alpha1.DiskMissing)}), Plans: []v1alpha1.Remediation{replacedPlan(v1alpha1.StepStarted)}},
		},
		"RetiredNotYet": {
			reason: "before the plan lifts, the disk is quarantined like any other",
			s:      Snapshot{Policy: spec(), Node: node([]v1alpha1.Disk{disk("a", v1alpha1.DiskMissing)}), Plans: []v1alpha1.Remediation{replacedPlan(v1alpha1.StepPending)}},
			add:    added("a", v1alpha1.DiskMissing),
		},
		"RetiredCameBack": {
			reason: "a replaced disk that is there again is judged afresh",
			s:      Snapshot{Policy: spec(), Node: node(failed), Plans: []v1alpha1.Remediation{replacedPlan(v1alpha1.StepDone)}},
			add:    added("a", v1alpha1.DiskFailed),
		},
		"RetiredMissingAnew": {
			reason: "so is one that came back and went missing again",
			s: func() Snapshot {
				d := disk("a", v1alpha1.DiskMissing)
				d.Since = at(-time.Second)
				return Snapshot{Policy: spec(), Node: node([]v1alpha1.Disk{d}), Plans: []v1alpha1.Remediation{replacedPlan(v1alpha1.StepDone)}}
			}(),
			add: added("a", v1alpha1.DiskMissing),
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.s.Now = t0
			in := Decide(c.s)
			var plans []string
			for _, p := range in.Create {
				plans = append(plans, p.Name)
			}
			if d := cmp.Diff(c.add, in.Add); d != "" {
				t.Errorf("%s: Add (-want +got):\n%s", c.reason, d)
			}
			if d := cmp.Diff(c.lift, in.Lift); d != "" {
				t.Errorf("%s: Lift (-want +got):\n%s", c.reason, d)
			}
			if d := cmp.Diff(c.plans, plans); d != "" {
				t.Errorf("%s: Create (-want +got):\n%s", c.reason, d)
			}
			if in.Again != c.again {
				t.Errorf("%s: Again = %v, want %v", c.reason, in.Again, c.again)
			}
		})
	}
}

var anyState = rapid.SampledFrom([]v1alpha1.DiskState{
	v1alpha1.DiskHealthy, v1alpha1.DiskUnknown, v1alpha1.DiskDegraded, v1alpha1.DiskFailed, v1alpha1.DiskMissing,
})

// TestDecideSettles: carrying the intents out leaves nothing to do, Unknown
// disks are left alone whatever else is the case, and nobody else's quarantine
// is lifted.
func TestDecideSettles(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var disks []v1alpha1.Disk
		var quarantine []v1alpha1.Quarantine
		for i := range rapid.IntRange(0, 6).Draw(t, "disks") {
			id := fmt.Sprint("d", i)
			disks = append(disks, disk(id, anyState.Draw(t, "state")))
			if rapid.Bool().Draw(t, "quarantined") {
				quarantine = append(quarantine, entry(id, rapid.SampledFrom([]string{me, "alice"}).Draw(t, "by")))
			}
		}
		n := node(disks, quarantine...)
		var p *v1alpha1.RemediationPolicySpec
		if rapid.Bool().Draw(t, "policy") {
			p = spec()
			p.QuarantineStates = rapid.SliceOf(anyState).Draw(t, "states")
		}
		in := Decide(Snapshot{Policy: p, Node: n, Now: t0})
		for _, d := range disks {
			touched := slices.Contains(in.Lift, d.ID) ||
				slices.ContainsFunc(in.Add, func(e v1alpha1.Quarantine) bool { return e.Disk == d.ID }) ||
				slices.ContainsFunc(in.Create, func(r v1alpha1.Remediation) bool { return r.Spec.Disk == d.ID })
			if touched && d.State == v1alpha1.DiskUnknown {
				t.Fatalf("disk %s is Unknown and was acted on: %+v", d.ID, in)
			}
		}
		for _, id := range in.Lift {
			if e := Entry(n, id); e == nil || e.By != me {
				t.Fatalf("lifts the quarantine %+v", e)
			}
		}
		n.Spec.Quarantine = slices.DeleteFunc(n.Spec.Quarantine, func(e v1alpha1.Quarantine) bool { return slices.Contains(in.Lift, e.Disk) })
		n.Spec.Quarantine = append(n.Spec.Quarantine, in.Add...)
		plans := in.Create
		again := Decide(Snapshot{Policy: p, Node: n, Plans: plans, Now: t0})
		if len(again.Add)+len(again.Lift) > 0 {
			t.Fatalf("does not settle: %+v after %+v", again, in)
		}
		plans = append(plans, again.Create...)
		if last := Decide(Snapshot{Policy: p, Node: n, Plans: plans, Now: t0}); len(last.Create) > 0 {
			t.Fatalf("makes plans again: %+v", last.Create)
		}
	})
}
