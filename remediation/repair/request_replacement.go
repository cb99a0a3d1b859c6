package repair

import (
	"context"
	"fmt"
	"slices"

	"holdfast.dev/api/v1alpha1"
)

// requestReplacement writes the request for a new disk into ComputeNode.spec,
// where people and `holdfast disks` see it.
type requestReplacement struct{ *API }

func (s *requestReplacement) Run(ctx context.Context, p *Plan) (Outcome, error) {
	if !requested(p) {
		err := s.patch(ctx, p.Node, func() {
			// An older request for the same disk is of a plan that has ended.
			p.Node.Spec.Replacements = append(
				slices.DeleteFunc(p.Node.Spec.Replacements, func(r v1alpha1.ReplacementRequest) bool { return r.Disk == p.Spec.Disk }),
				v1alpha1.ReplacementRequest{Disk: p.Spec.Disk, Slot: p.Spec.Slot, Remediation: p.Name, Since: s.now()})
		})
		if err != nil {
			return Outcome{}, fmt.Errorf("request a new disk: %w", err)
		}
	}
	return Outcome{Done: true, Effects: []string{effectRequested(p)}}, nil
}

// Observe finds a request that was written just before a crash.
func (s *requestReplacement) Observe(_ context.Context, p *Plan) ([]string, error) {
	if p.Node == nil || !requested(p) {
		return nil, nil
	}
	return []string{effectRequested(p)}, nil
}

func requested(p *Plan) bool {
	return slices.ContainsFunc(p.Node.Spec.Replacements, func(r v1alpha1.ReplacementRequest) bool { return r.Remediation == p.Name })
}

func effectRequested(p *Plan) string {
	return fmt.Sprintf("asked for a new disk in place of %s in ComputeNode %s", p.Spec.Disk, p.Spec.Node)
}
