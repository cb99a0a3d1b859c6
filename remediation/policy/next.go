package policy

import (
	"fmt"
	"time"

	"holdfast.dev/api/v1alpha1"
)

// DefaultPlanTimeout is used when the policy names none.
const DefaultPlanTimeout = 7 * 24 * time.Hour

// View is what Next looks at: one plan and what its next step depends on. All
// of it is read live by the caller.
type View struct {
	Plan   *v1alpha1.Remediation
	Policy *v1alpha1.RemediationPolicySpec // nil: there is none
	Node   *v1alpha1.ComputeNode           // nil: there is none, which proves nothing
	Now    time.Time
}

// Move is what to do with a plan: run Step, or end it early as End, or (neither
// set) wait because of Message.
type Move struct {
	Step    v1alpha1.StepName
	End     v1alpha1.Phase
	Message string
	// Again is after how long to look again though nothing has changed; 0: never.
	Again time.Duration
}

// Next says what to do with a plan that has not finished. A person's cancel
// comes first; then whether what the plan is for still holds; then what holds
// every plan back. While a plan is held back its timeout does not end it.
func Next(v View) Move {
	p := v.Plan
	step := current(p)
	if p.Status.Phase == v1alpha1.PhaseCancelled || p.Status.Phase == v1alpha1.PhaseEscalated || step == v1alpha1.StepReleaseBudget {
		return Move{Step: v1alpha1.StepReleaseBudget}
	}
	if p.Spec.Cancel {
		return Move{End: v1alpha1.PhaseCancelled, Message: "cancelled by a person"}
	}
	if p.DeletionTimestamp != nil {
		return Move{End: v1alpha1.PhaseCancelled, Message: "deleted by a person"}
	}
	if PlanHash(&p.Spec) != p.Spec.PlanHash {
		return Move{End: v1alpha1.PhaseEscalated, Message: "the plan is not the one its planHash was made of"}
	}
	if v.Node == nil {
		return Move{Message: fmt.Sprintf("ComputeNode %q does not exist; cancel the plan if the node is gone for good", p.Spec.Node)}
	}
	if why := outdated(v, step); why != "" {
		return Move{End: v1alpha1.PhaseCancelled, Message: why}
	}
	if why := Blocked(v.Policy, v.Node); why != "" {
		return Move{Message: why}
	}
	m := Move{Step: step}
	if p.Status.StartedAt == nil {
		return m
	}
	limit := DefaultPlanTimeout
	if v.Policy.PlanTimeout != nil {
		limit = v.Policy.PlanTimeout.Duration
	}
	m.Again = p.Status.StartedAt.Add(limit).Sub(v.Now)
	if m.Again <= 0 {
		return Move{End: v1alpha1.PhaseEscalated, Message: fmt.Sprintf(
			"not done after %s, at step %s: %s; finish the repair by hand, the disk stays quarantined until it is healthy", limit, step, p.Status.Message)}
	}
	return m
}

// outdated says why a plan is no longer for anything, or "".
func outdated(v View, step v1alpha1.StepName) string {
	p := v.Plan
	if v.Node.Spec.NodeUID != p.Spec.NodeUID {
		return fmt.Sprintf("node %s was made anew; a disk that is still bad gets a new plan", p.Spec.Node)
	}
	if step == v1alpha1.StepLiftQuarantine {
		return ""
	}
	d := Disk(v.Node, p.Spec.Disk)
	healthy := d != nil && d.State == v1alpha1.DiskHealthy
	switch {
	case healthy && step == v1alpha1.StepAwaitReplacement:
		return ""
	case healthy:
		return fmt.Sprintf("disk %s is healthy again", p.Spec.Disk)
	case !Covers(p, v.Node):
		return fmt.Sprintf("the quarantine of disk %s that this plan was for is over", p.Spec.Disk)
	}
	return ""
}

// Covers is true while the node still has the quarantine that a plan was made
// for. One that was lifted and made again is another: it gets its own plan.
func Covers(p *v1alpha1.Remediation, n *v1alpha1.ComputeNode) bool {
	e := Entry(n, p.Spec.Disk)
	return e != nil && PlanName(n.Spec.NodeUID, p.Spec.Disk, e.Since.Time) == p.Name
}

// current is the first step that is not done. A plan whose steps are all done
// is left with the last one, which gives the budget back.
func current(p *v1alpha1.Remediation) v1alpha1.StepName {
	for _, name := range p.Spec.Steps {
		if s := StepOf(p, name); s == nil || s.State != v1alpha1.StepDone {
			return name
		}
	}
	return v1alpha1.StepReleaseBudget
}
