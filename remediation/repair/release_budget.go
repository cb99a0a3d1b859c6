package repair

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/policy"
)

// releaseBudget gives the slot back. For a plan that was ended early it first
// withdraws the request for a new disk. What is already gone needs no doing;
// whether it was this plan's to undo, the audit trail says.
type releaseBudget struct{ *API }

func (s *releaseBudget) Run(ctx context.Context, p *Plan) (Outcome, error) {
	o := Outcome{Done: true}
	if p.Status.Phase != v1alpha1.PhaseRunning && p.Node != nil {
		if requested(p) {
			if err := s.patch(ctx, p.Node, func() { p.Node.Spec.Replacements = withdraw(p) }); err != nil {
				return Outcome{}, fmt.Errorf("withdraw the request for a new disk: %w", err)
			}
		}
		if audited(p, effectRequested(p)) && !audited(p, effectLifted(p)) {
			o.Effects = append(o.Effects, fmt.Sprintf("withdrew the request for a new disk in ComputeNode %s", p.Spec.Node))
		}
	}
	if err := s.release(ctx, p); err != nil {
		return Outcome{}, fmt.Errorf("release budget: %w", err)
	}
	if audited(p, effectReserved) {
		o.Effects = append(o.Effects, "gave the slot of every budget of RemediationPolicy "+v1alpha1.DefaultPolicy+" back")
	}
	return o, nil
}

func (s *releaseBudget) release(ctx context.Context, p *Plan) error {
	var err error
	for range attempts {
		pol, perr := s.policy(ctx)
		if perr != nil || pol == nil {
			// The slots live in the policy: without it there is none to give back.
			return perr
		}
		next, held := policy.Release(pol.Status.Reservations, p.Name, p.UID)
		if !held {
			return nil
		}
		if err = s.patchStatus(ctx, pol, func() { pol.Status.Reservations = next }); err == nil || !apierrors.IsConflict(err) {
			return err
		}
	}
	return err
}

func audited(p *Plan, effect string) bool {
	return slices.ContainsFunc(p.Status.Audit, func(a v1alpha1.AuditEntry) bool { return a.Effect == effect })
}
