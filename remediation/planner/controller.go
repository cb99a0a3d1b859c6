// Package planner makes a Remediation for each quarantined disk that a rule of
// the policy asks to repair. A plan's name is a function of what it is for, so
// that a crash, a stale cache or a second controller cannot make it twice.
package planner

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/index"
	"holdfast.dev/remediation/policy"
)

// Controller is the planner. Its requests are names of ComputeNodes.
type Controller struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Live reads from the API server.
	Live client.Reader
	Log  *slog.Logger
	Now  func() time.Time
	// Decided is told of each plan that was made.
	Decided func(decision string)
}

// SetupWithManager registers the controller.
func (c *Controller) SetupWithManager(m ctrl.Manager, o controller.Options) error {
	return ctrl.NewControllerManagedBy(m).
		Named("planner").
		WithOptions(o).
		For(&v1alpha1.ComputeNode{}).
		Watches(&v1alpha1.Remediation{}, index.PlanToNode()).
		Watches(&v1alpha1.RemediationPolicy{}, index.PolicyToNodes(m.GetClient()),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Complete(c)
}

// Reconcile makes the plans that one node lacks. The cache only says whether it
// is worth asking the API server.
func (c *Controller) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	s, err := c.read(ctx, c.Client, req.Name, client.MatchingFields{index.PlanByNode: req.Name})
	if err != nil || s == nil {
		return ctrl.Result{}, err
	}
	in := policy.Decide(*s)
	if len(in.Create) > 0 {
		if s, err = c.read(ctx, c.Live, req.Name, client.MatchingLabels{v1alpha1.LabelNode: req.Name}); err != nil || s == nil {
			return ctrl.Result{}, err
		}
		in = policy.Decide(*s)
	}
	for i := range in.Create {
		p := &in.Create[i]
		if err := c.Client.Create(ctx, p); err != nil {
			if apierrors.IsAlreadyExists(err) {
				continue
			}
			return ctrl.Result{}, fmt.Errorf("make plan %s: %w", p.Name, err)
		}
		c.Decided("plan")
		c.Log.Info("made plan", "plan", p.Name, "node", p.Spec.Node, "disk", p.Spec.Disk, "action", p.Spec.Action)
	}
	return ctrl.Result{RequeueAfter: in.Again}, nil
}

// read takes a snapshot of a node; nil when there is no such ComputeNode.
func (c *Controller) read(ctx context.Context, r client.Reader, node string, plansOf client.ListOption) (*policy.Snapshot, error) {
	var cn v1alpha1.ComputeNode
	if err := r.Get(ctx, types.NamespacedName{Name: node}, &cn); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("read ComputeNode %s: %w", node, err)
	}
	s := &policy.Snapshot{Node: &cn, Now: c.Now()}
	var pol v1alpha1.RemediationPolicy
	err := r.Get(ctx, types.NamespacedName{Name: v1alpha1.DefaultPolicy}, &pol)
	switch {
	case err == nil:
		s.Policy = &pol.Spec
	case !apierrors.IsNotFound(err):
		return nil, fmt.Errorf("read RemediationPolicy %s: %w", v1alpha1.DefaultPolicy, err)
	}
	var plans v1alpha1.RemediationList
	if err := r.List(ctx, &plans, plansOf); err != nil {
		return nil, fmt.Errorf("list plans of node %s: %w", node, err)
	}
	s.Plans = plans.Items
	return s, nil
}
