package repair

import (
	"context"
	"fmt"
	"slices"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/policy"
)

// liftQuarantine takes the old disk's quarantine and replacement request out of
// ComputeNode.spec, in one write: the quarantine that the plan was made for and
// no later one, and never one that somebody else put there.
type liftQuarantine struct{ *API }

func (s *liftQuarantine) Run(ctx context.Context, p *Plan) (Outcome, error) {
	if s.there(p) {
		err := s.patch(ctx, p.Node, func() {
			p.Node.Spec.Quarantine = slices.DeleteFunc(p.Node.Spec.Quarantine, func(e v1alpha1.Quarantine) bool { return liftable(p, &e) })
			p.Node.Spec.Replacements = withdraw(p)
		})
		if err != nil {
			return Outcome{}, fmt.Errorf("lift quarantine: %w", err)
		}
	}
	o := Outcome{Done: true, Effects: []string{effectLifted(p)}}
	if e := policy.Entry(p.Node, p.Spec.Disk); e != nil && e.By != v1alpha1.QuarantinedByController {
		o.Message = fmt.Sprintf("the quarantine of disk %s by %s stays: who made it lifts it", p.Spec.Disk, e.By)
	}
	return o, nil
}

// Observe finds that the quarantine was lifted just before a crash.
func (s *liftQuarantine) Observe(_ context.Context, p *Plan) ([]string, error) {
	if p.Node == nil || s.there(p) {
		return nil, nil
	}
	return []string{effectLifted(p)}, nil
}

func (*liftQuarantine) there(p *Plan) bool {
	return requested(p) || slices.ContainsFunc(p.Node.Spec.Quarantine, func(e v1alpha1.Quarantine) bool { return liftable(p, &e) })
}

func liftable(p *Plan, e *v1alpha1.Quarantine) bool {
	return e.Disk == p.Spec.Disk && e.By == v1alpha1.QuarantinedByController &&
		policy.PlanName(p.Node.Spec.NodeUID, e.Disk, e.Since.Time) == p.Name
}

func withdraw(p *Plan) []v1alpha1.ReplacementRequest {
	return slices.DeleteFunc(slices.Clone(p.Node.Spec.Replacements), func(r v1alpha1.ReplacementRequest) bool { return r.Remediation == p.Name })
}

func effectLifted(p *Plan) string {
	return fmt.Sprintf("lifted the quarantine of disk %s and withdrew its replacement request in ComputeNode %s", p.Spec.Disk, p.Spec.Node)
}
