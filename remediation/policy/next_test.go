package policy

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
)

// planAt is the plan for disk a of node n1 whose steps before the given one are done.
func planAt(step v1alpha1.StepName) *v1alpha1.Remediation {
	d := disk("a", v1alpha1.DiskFailed)
	p := NewPlan(node([]v1alpha1.Disk{d}), &d, v1alpha1.ActionReplaceDisk, t0.Add(-time.Minute))
	for _, s := range p.Spec.Steps {
		if s == step {
			break
		}
		p.Status.Steps = append(p.Status.Steps, v1alpha1.StepStatus{Name: s, State: v1alpha1.StepDone})
	}
	p.Status.Phase = v1alpha1.PhasePending
	if step != v1alpha1.StepReserveBudget {
		p.Status.Phase, p.Status.StartedAt = v1alpha1.PhaseRunning, at(-time.Minute)
	}
	return &p
}

func TestNext(t *testing.T) {
	bad := node([]v1alpha1.Disk{disk("a", v1alpha1.DiskFailed)}, entry("a", me))
	healed := node([]v1alpha1.Disk{disk("a", v1alpha1.DiskHealthy)})
	change := func(n *v1alpha1.ComputeNode, f func(*v1alpha1.ComputeNode)) *v1alpha1.ComputeNode {
		n = n.DeepCopy()
		f(n)
		return n
	}
	with := func(step v1alpha1.StepName, f func(*v1alpha1.Remediation)) *v1alpha1.Remediation {
		p := planAt(step)
		f(p)
		return p
	}
	paused := spec()
	paused.Paused = true
	cancel := func(p *v1alpha1.Remediation) { p.Spec.Cancel = true }
	await := v1alpha1.StepAwaitReplacement
	cases := map[string]struct {
		reason  string
		v       View
		step    v1alpha1.StepName
		end     v1alpha1.Phase
		message string
	}{
		"First":         {reason: "begins with the budget", v: View{Plan: planAt(v1alpha1.StepReserveBudget), Policy: spec(), Node: bad}, step: v1alpha1.StepReserveBudget},
		"Goes":          {reason: "the first step that is not done", v: View{Plan: planAt(await), Policy: spec(), Node: bad}, step: await},
		"Paused":        {reason: "held back", v: View{Plan: planAt(await), Policy: paused, Node: bad}, message: "paused"},
		"NoPolicy":      {reason: "held back", v: View{Plan: planAt(await), Node: bad}, message: "no RemediationPolicy"},
		"Maintenance":   {reason: "held back", v: View{Plan: planAt(await), Policy: spec(), Node: change(bad, func(n *v1alpha1.ComputeNode) { n.Spec.Maintenance = true })}, message: "maintenance"},
		"NoNode":        {reason: "an object that is not there proves nothing", v: View{Plan: planAt(await), Policy: spec()}, message: "does not exist"},
		"Cancel":        {reason: "a person wins", v: View{Plan: with(await, cancel), Policy: paused, Node: bad}, end: v1alpha1.PhaseCancelled, message: "by a person"},
		"CancelNoNode":  {reason: "also without a node", v: View{Plan: with(await, cancel)}, end: v1alpha1.PhaseCancelled, message: "by a person"},
		"Deleted":       {reason: "deletion cancels", v: View{Plan: with(await, func(p *v1alpha1.Remediation) { p.DeletionTimestamp = &metav1.Time{Time: t0} }), Policy: spec(), Node: bad}, end: v1alpha1.PhaseCancelled, message: "deleted"},
		"CancelTooLate": {reason: "nothing is left to cancel", v: View{Plan: with(v1alpha1.StepReleaseBudget, cancel), Policy: spec(), Node: bad}, step: v1alpha1.StepReleaseBudget},
		"Ending":        {reason: "a plan that is ending gives its budget back, paused or not", v: View{Plan: with(await, func(p *v1alpha1.Remediation) { p.Status.Phase = v1alpha1.PhaseEscalated }), Policy: paused, Node: bad}, step: v1alpha1.StepReleaseBudget},
		"Tampered":      {reason: "steps that the hash does not cover", v: View{Plan: with(await, func(p *v1alpha1.Remediation) { p.Spec.Steps = p.Spec.Steps[4:] }), Policy: spec(), Node: bad}, end: v1alpha1.PhaseEscalated, message: "planHash"},
		"NodeMadeAnew":  {reason: "another node has the name", v: View{Plan: planAt(await), Policy: spec(), Node: change(bad, func(n *v1alpha1.ComputeNode) { n.Spec.NodeUID = "uid-2" })}, end: v1alpha1.PhaseCancelled, message: "made anew"},
		"HealthyEarly":  {reason: "nothing to repair any more", v: View{Plan: planAt(v1alpha1.StepRequestReplacement), Policy: spec(), Node: healed}, end: v1alpha1.PhaseCancelled, message: "healthy again"},
		"HealthyAwait":  {reason: "that is one of the things it waits for", v: View{Plan: planAt(await), Policy: spec(), Node: healed}, step: await},
		"HealthyRetire": {reason: "volumes of a healthy disk are not deleted", v: View{Plan: planAt(v1alpha1.StepRetireVolumes), Policy: spec(), Node: healed}, end: v1alpha1.PhaseCancelled, message: "healthy again"},
		"LiftedByHand":  {reason: "the quarantine that it is for is over", v: View{Plan: planAt(await), Policy: spec(), Node: change(bad, func(n *v1alpha1.ComputeNode) { n.Spec.Quarantine = nil })}, end: v1alpha1.PhaseCancelled, message: "is over"},
		"LaterEpisode":  {reason: "a later quarantine is not this plan's", v: View{Plan: planAt(await), Policy: spec(), Node: change(bad, func(n *v1alpha1.ComputeNode) { n.Spec.Quarantine[0].Since = *at(0) })}, end: v1alpha1.PhaseCancelled, message: "is over"},
		"LiftAfterLift": {reason: "the lifting step finds its effect there after a crash", v: View{Plan: planAt(v1alpha1.StepLiftQuarantine), Policy: spec(), Node: change(bad, func(n *v1alpha1.ComputeNode) { n.Spec.Quarantine = nil })}, step: v1alpha1.StepLiftQuarantine},
		"Timeout":       {reason: "handed to a person", v: View{Plan: with(await, func(p *v1alpha1.Remediation) { p.Status.StartedAt = at(-8 * 24 * time.Hour) }), Policy: spec(), Node: bad}, end: v1alpha1.PhaseEscalated, message: "168h"},
		"PausedTimeout": {reason: "a pause is no fault of the plan", v: View{Plan: with(await, func(p *v1alpha1.Remediation) { p.Status.StartedAt = at(-8 * 24 * time.Hour) }), Policy: paused, Node: bad}, message: "paused"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			c.v.Now = t0
			m := Next(c.v)
			if m.Step != c.step || m.End != c.end || !strings.Contains(m.Message, c.message) {
				t.Errorf("%s: Next = %+v, want step %q, end %q, message with %q", c.reason, m, c.step, c.end, c.message)
			}
		})
	}
}

func TestReplacement(t *testing.T) {
	old := func(device string) v1alpha1.Disk {
		d := disk("a", v1alpha1.DiskMissing)
		d.Device = device
		return d
	}
	other := func(id, slot, group string, s v1alpha1.DiskState) v1alpha1.Disk {
		d := disk(id, s)
		d.Slot, d.Group = slot, group
		return d
	}
	cases := map[string]struct {
		reason  string
		slot    string
		disks   []v1alpha1.Disk
		claimed []string
		want    string
	}{
		"SameSlot":      {reason: "another healthy disk in the slot", slot: "3", disks: []v1alpha1.Disk{old(""), other("n", "3", "", v1alpha1.DiskHealthy)}, want: "n"},
		"SameSlotGone":  {reason: "the old disk need not be listed", slot: "3", disks: []v1alpha1.Disk{other("n", "3", "", v1alpha1.DiskHealthy)}, want: "n"},
		"OldStillThere": {reason: "the old disk was not pulled", slot: "3", disks: []v1alpha1.Disk{old("sda"), other("n", "3", "", v1alpha1.DiskHealthy)}},
		"NotHealthy":    {reason: "the new disk is bad too", slot: "3", disks: []v1alpha1.Disk{old(""), other("n", "3", "", v1alpha1.DiskFailed)}},
		"Unknown":       {reason: "the new disk was not looked at", slot: "3", disks: []v1alpha1.Disk{old(""), other("n", "3", "", v1alpha1.DiskUnknown)}},
		"Group":         {reason: "no slot known: a new disk of the group", disks: []v1alpha1.Disk{old(""), other("n", "", "data", v1alpha1.DiskHealthy)}, want: "n"},
		"GroupKnown":    {reason: "a disk that was there all along is no replacement", disks: []v1alpha1.Disk{old(""), other("old2", "", "data", v1alpha1.DiskHealthy)}},
		"GroupClaimed":  {reason: "another plan counts it", disks: []v1alpha1.Disk{old(""), other("n", "", "data", v1alpha1.DiskHealthy)}, claimed: []string{"n"}},
		"OtherGroup":    {reason: "a disk of another group", disks: []v1alpha1.Disk{old(""), other("n", "", "system", v1alpha1.DiskHealthy)}},
		"OtherSlot":     {reason: "put into another slot of the group", slot: "3", disks: []v1alpha1.Disk{old(""), other("n", "4", "data", v1alpha1.DiskHealthy)}, want: "n"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			d := disk("a", v1alpha1.DiskFailed)
			d.Slot = c.slot
			p := NewPlan(node([]v1alpha1.Disk{d, disk("old2", v1alpha1.DiskHealthy)}), &d, v1alpha1.ActionReplaceDisk, t0)
			got, found := Replacement(node(c.disks), &p, c.claimed)
			if got != c.want || found != (c.want != "") {
				t.Errorf("%s: Replacement = %q, %v, want %q", c.reason, got, found, c.want)
			}
		})
	}
}

func TestClaimed(t *testing.T) {
	d := disk("a", v1alpha1.DiskFailed)
	d.Slot = ""
	mine := NewPlan(node(nil), &d, v1alpha1.ActionReplaceDisk, t0)
	mine.CreationTimestamp = *at(0)
	fresh := disk("n", v1alpha1.DiskHealthy)
	fresh.Slot = "5"
	n := node([]v1alpha1.Disk{fresh})
	other := func(f func(*v1alpha1.Remediation)) v1alpha1.Remediation {
		p := *mine.DeepCopy()
		p.Name = "other"
		f(&p)
		return p
	}
	counted := func(p *v1alpha1.Remediation) { p.Annotations[v1alpha1.AnnotationReplacedBy] = "n" }
	cases := map[string]struct {
		reason string
		plan   v1alpha1.Remediation
		want   int
	}{
		"Open":        {reason: "an open plan counted it", plan: other(counted), want: 1},
		"EndedSince":  {reason: "a plan that ended in this one's time counted it", plan: other(func(p *v1alpha1.Remediation) { counted(p); p.Status.FinishedAt = at(time.Second) }), want: 1},
		"EndedBefore": {reason: "a plan of long ago: the disk was pulled and put in again", plan: other(func(p *v1alpha1.Remediation) { counted(p); p.Status.FinishedAt = at(-time.Second) })},
		"ItsSlot":     {reason: "it sits in the slot that another plan is for", plan: other(func(p *v1alpha1.Remediation) { p.Spec.Slot = "5" }), want: 1},
		"Self":        {reason: "a plan does not stand in its own way", plan: func() v1alpha1.Remediation { p := *mine.DeepCopy(); counted(&p); return p }()},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if got := Claimed(n, &mine, []v1alpha1.Remediation{c.plan}); len(got) != c.want {
				t.Errorf("%s: Claimed = %q, want %d", c.reason, got, c.want)
			}
		})
	}
}
