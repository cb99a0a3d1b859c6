package repair

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/policy"
)

// stepFor finds a step's state; the first call lists every step of the plan.
func stepFor(p *Plan, name v1alpha1.StepName) *v1alpha1.StepStatus {
	for _, n := range append(p.Spec.Steps[:len(p.Spec.Steps):len(p.Spec.Steps)], name) {
		if policy.StepOf(p.Remediation, n) == nil {
			p.Status.Steps = append(p.Status.Steps, v1alpha1.StepStatus{Name: n, State: v1alpha1.StepPending})
		}
	}
	return policy.StepOf(p.Remediation, name)
}

// done marks a step as done. One that was never started was skipped.
func done(p *Plan, name v1alpha1.StepName, now *metav1.Time) {
	s := stepFor(p, name)
	s.State, s.FinishedAt = v1alpha1.StepDone, now
}

// succeeded says how a plan ended well.
func succeeded(p *Plan) string {
	if by := policy.ReplacedBy(p.Remediation); by != "" {
		return fmt.Sprintf("disk %s was replaced by %s", p.Spec.Disk, by)
	}
	return fmt.Sprintf("disk %s is healthy again", p.Spec.Disk)
}
