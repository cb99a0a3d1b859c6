package repair

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/policy"
)

// attempts is how often a lost compare-and-swap is tried again on the spot.
const attempts = 5

// reserveBudget takes a slot of every budget. All slots are in the status of
// one object, the policy: taking one is a compare-and-swap of that object, on
// the very version that the budgets and the taken slots were read from.
type reserveBudget struct{ *API }

func (s *reserveBudget) Run(ctx context.Context, p *Plan) (Outcome, error) {
	var node corev1.Node
	if err := s.Live.Get(ctx, types.NamespacedName{Name: p.Spec.Node}, &node); err != nil {
		if apierrors.IsNotFound(err) {
			return Outcome{Message: fmt.Sprintf("waits for Node %s, whose zone is not known", p.Spec.Node)}, nil
		}
		return Outcome{}, fmt.Errorf("read Node %s: %w", p.Spec.Node, err)
	}
	want := v1alpha1.Reservation{
		Remediation: p.Name,
		UID:         p.UID,
		Node:        p.Spec.Node,
		Zone:        node.Labels[corev1.LabelTopologyZone],
		Since:       s.now(),
	}
	var err error
	for range attempts {
		pol, perr := s.policy(ctx)
		if perr != nil {
			return Outcome{}, perr
		}
		if pol == nil {
			return Outcome{Message: "waits for a RemediationPolicy"}, nil
		}
		if policy.Held(pol.Status.Reservations, p.Name, p.UID) {
			return s.done(), nil
		}
		var plans v1alpha1.RemediationList
		if err := s.Live.List(ctx, &plans); err != nil {
			return Outcome{}, fmt.Errorf("list plans: %w", err)
		}
		next, full := policy.Admit(&pol.Spec, pol.Status.Reservations, policy.Unlisted(plans.Items, pol.Status.Reservations), want)
		if full != "" {
			return Outcome{Message: "waits for room: " + full}, nil
		}
		err = s.patchStatus(ctx, pol, func() { pol.Status.Reservations = next })
		if err == nil {
			return s.done(), nil
		}
		if !apierrors.IsConflict(err) {
			break
		}
	}
	return Outcome{}, fmt.Errorf("reserve budget: %w", err)
}

// Observe finds a slot that was taken just before a crash.
func (s *reserveBudget) Observe(ctx context.Context, p *Plan) ([]string, error) {
	pol, err := s.policy(ctx)
	if err != nil || pol == nil || !policy.Held(pol.Status.Reservations, p.Name, p.UID) {
		return nil, err
	}
	return s.done().Effects, nil
}

func (*reserveBudget) done() Outcome {
	return Outcome{Done: true, Effects: []string{effectReserved}}
}

const effectReserved = "took a slot of every budget of RemediationPolicy " + v1alpha1.DefaultPolicy
