// Package computenode keeps one ComputeNode for each Node. A ComputeNode
// outlives its Node: it is the durable record of which disks are quarantined.
// It has no owner and is never deleted here. A Node made anew under the same
// name takes its ComputeNode over, quarantine and all. A ComputeNode that
// somebody deleted is made again with the quarantines that the marks of the
// node's volumes tell of: that it was gone is no reason to open a volume.
package computenode

import (
	"context"
	"fmt"
	"log/slog"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/handler"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/marks"
)

// Controller copies flavor, UID and provider id of each Node into spec of its ComputeNode.
type Controller struct {
	// Client reads from the cache and writes.
	Client client.Client
	// Live reads from the API server.
	Live client.Reader
	Log  *slog.Logger
}

// SetupWithManager registers the controller.
func (c *Controller) SetupWithManager(m ctrl.Manager, o controller.Options) error {
	return ctrl.NewControllerManagedBy(m).
		Named("computenode").
		WithOptions(o).
		For(&corev1.Node{}).
		Watches(&v1alpha1.ComputeNode{}, &handler.EnqueueRequestForObject{}).
		Complete(c)
}

// Reconcile brings the ComputeNode of one Node in line.
func (c *Controller) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var node corev1.Node
	if err := c.Client.Get(ctx, req.NamespacedName, &node); err != nil {
		// A Node that is not there proves nothing; its ComputeNode stays.
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	var cn v1alpha1.ComputeNode
	err := c.Client.Get(ctx, req.NamespacedName, &cn)
	switch {
	case apierrors.IsNotFound(err):
		cn = v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: node.Name}}
		follow(&cn, &node)
		if cn.Spec.Quarantine, err = c.remembered(ctx, node.Name); err != nil {
			return ctrl.Result{}, err
		}
		if err := c.Client.Create(ctx, &cn); err != nil {
			// The cache may not have seen it yet; its arrival brings us back.
			if apierrors.IsAlreadyExists(err) {
				return ctrl.Result{}, nil
			}
			return ctrl.Result{}, fmt.Errorf("create ComputeNode %s: %w", cn.Name, err)
		}
		c.Log.Info("made ComputeNode", "node", cn.Name, "flavor", cn.Spec.Flavor, "quarantined", len(cn.Spec.Quarantine))
		return ctrl.Result{}, nil
	case err != nil:
		return ctrl.Result{}, fmt.Errorf("read ComputeNode %s: %w", req.Name, err)
	}
	base := cn.DeepCopy()
	if !follow(&cn, &node) {
		return ctrl.Result{}, nil
	}
	if err := c.Client.Patch(ctx, &cn, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{})); err != nil {
		if apierrors.IsConflict(err) {
			return ctrl.Result{}, nil // the newer object is on its way and brings us back
		}
		return ctrl.Result{}, fmt.Errorf("update ComputeNode %s: %w", cn.Name, err)
	}
	c.Log.Info("updated ComputeNode", "node", cn.Name, "flavor", cn.Spec.Flavor, "nodeUID", cn.Spec.NodeUID)
	return ctrl.Result{}, nil
}

// remembered are the quarantines that the marks of a node's volumes tell of.
func (c *Controller) remembered(ctx context.Context, node string) ([]v1alpha1.Quarantine, error) {
	var volumes corev1.PersistentVolumeList
	if err := c.Live.List(ctx, &volumes, client.MatchingLabels{v1alpha1.LabelNode: node}); err != nil {
		return nil, fmt.Errorf("list volumes of node %s: %w", node, err)
	}
	var out []v1alpha1.Quarantine
	for i := range volumes.Items {
		e := marks.Entry(&volumes.Items[i])
		if e != nil && !slices.ContainsFunc(out, func(o v1alpha1.Quarantine) bool { return o.Disk == e.Disk }) {
			out = append(out, *e)
		}
	}
	return out, nil
}

// follow copies what the Node says and reports whether anything changed.
func follow(cn *v1alpha1.ComputeNode, node *corev1.Node) bool {
	flavor := node.Labels[v1alpha1.LabelFlavor]
	if cn.Spec.Flavor == flavor && cn.Spec.NodeUID == node.UID && cn.Spec.ProviderID == node.Spec.ProviderID {
		return false
	}
	cn.Spec.Flavor, cn.Spec.NodeUID, cn.Spec.ProviderID = flavor, node.UID, node.Spec.ProviderID
	return true
}
