// Package quarantine closes the volumes of a bad disk to new claims and opens
// them again. It works in two halves. First the decision becomes durable: an
// entry in ComputeNode.spec.quarantine, by compare-and-swap. Then the marks on
// the node's PersistentVolumes follow that list, whoever wrote it; a volume that
// is deleted and made again is marked again.
package quarantine

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
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

// attempts is how often a lost compare-and-swap is tried again on the spot.
// After that the work queue tries again.
const attempts = 5

// Controller is the quarantine controller. Its requests are names of ComputeNodes.
type Controller struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Live reads from the API server.
	Live client.Reader
	Log  *slog.Logger
	Now  func() time.Time
	// Decided is told of each decision that was carried out.
	Decided func(decision string)
}

// SetupWithManager registers the controller.
func (c *Controller) SetupWithManager(m ctrl.Manager, o controller.Options) error {
	return ctrl.NewControllerManagedBy(m).
		Named("quarantine").
		WithOptions(o).
		For(&v1alpha1.ComputeNode{}).
		Watches(&corev1.PersistentVolume{}, index.VolumeToNode()).
		Watches(&v1alpha1.RemediationPolicy{}, index.PolicyToNodes(m.GetClient()),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Complete(c)
}

// Reconcile brings one node's quarantine entries and volumes in line.
func (c *Controller) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var cn v1alpha1.ComputeNode
	if err := c.Client.Get(ctx, req.NamespacedName, &cn); err != nil {
		// No ComputeNode proves nothing: the marks stay.
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	pol, err := policyInForce(ctx, c.Client)
	if err != nil {
		return ctrl.Result{}, err
	}
	var plans v1alpha1.RemediationList
	if err := c.Client.List(ctx, &plans, client.MatchingFields{index.PlanByNode: cn.Name}); err != nil {
		return ctrl.Result{}, fmt.Errorf("list plans of node %s: %w", cn.Name, err)
	}
	in := policy.Decide(policy.Snapshot{Policy: pol, Node: &cn, Plans: plans.Items, Now: c.Now()})
	if len(in.Add)+len(in.Lift) > 0 {
		live, err := c.decide(ctx, cn.Name, pol, plans.Items)
		if err != nil || live == nil {
			return ctrl.Result{}, err
		}
		cn = *live
	}
	return ctrl.Result{}, c.mark(ctx, &cn)
}

// decide makes the decision again on what the API server says now, and writes
// it. It returns the ComputeNode as written, or nil when there is none. Plans
// are what the cache has: only for a disk that is gone can a plan be a reason
// not to quarantine, and only then are they read again, as that takes the API
// server up to 100 ms (a list waits for its watch cache's progress).
func (c *Controller) decide(ctx context.Context, node string, pol *v1alpha1.RemediationPolicySpec, plans []v1alpha1.Remediation) (*v1alpha1.ComputeNode, error) {
	var err error
	for range attempts {
		var cn v1alpha1.ComputeNode
		if err := c.Live.Get(ctx, types.NamespacedName{Name: node}, &cn); err != nil {
			if apierrors.IsNotFound(err) {
				return nil, nil
			}
			return nil, fmt.Errorf("read ComputeNode %s: %w", node, err)
		}
		snapshot := policy.Snapshot{Policy: pol, Node: &cn, Plans: plans, Now: c.Now()}
		in := policy.Decide(snapshot)
		if slices.ContainsFunc(in.Add, func(e v1alpha1.Quarantine) bool { return policy.Disk(&cn, e.Disk).Device == "" }) {
			// After the ComputeNode: a plan that took an entry off says so before.
			var fresh v1alpha1.RemediationList
			if err := c.Live.List(ctx, &fresh, client.MatchingLabels{v1alpha1.LabelNode: node}); err != nil {
				return nil, fmt.Errorf("list plans of node %s: %w", node, err)
			}
			snapshot.Plans = fresh.Items
			in = policy.Decide(snapshot)
		}
		if len(in.Add)+len(in.Lift) == 0 {
			return &cn, nil
		}
		base := cn.DeepCopy()
		cn.Spec.Quarantine = slices.DeleteFunc(cn.Spec.Quarantine, func(e v1alpha1.Quarantine) bool { return slices.Contains(in.Lift, e.Disk) })
		cn.Spec.Quarantine = append(cn.Spec.Quarantine, in.Add...)
		err = c.Client.Patch(ctx, &cn, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
		if err == nil {
			c.report(&cn, in)
			return &cn, nil
		}
		if !apierrors.IsConflict(err) {
			break
		}
	}
	return nil, fmt.Errorf("write quarantine of node %s: %w", node, err)
}

func (c *Controller) report(cn *v1alpha1.ComputeNode, in policy.Intents) {
	for _, e := range in.Add {
		c.Decided("quarantine")
		c.Log.Info("quarantined disk", "node", cn.Name, "disk", e.Disk, "reason", e.Reason)
	}
	for _, disk := range in.Lift {
		c.Decided("lift")
		c.Log.Info("lifted quarantine", "node", cn.Name, "disk", disk)
	}
}

// policyInForce reads the policy; nil when there is none.
func policyInForce(ctx context.Context, r client.Reader) (*v1alpha1.RemediationPolicySpec, error) {
	var p v1alpha1.RemediationPolicy
	if err := r.Get(ctx, types.NamespacedName{Name: v1alpha1.DefaultPolicy}, &p); err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, fmt.Errorf("read RemediationPolicy %s: %w", v1alpha1.DefaultPolicy, err)
	}
	return &p.Spec, nil
}
