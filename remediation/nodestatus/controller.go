// Package nodestatus tells of bad disks where people and programs look that know
// nothing of Holdfast: a condition of the Node, and Events on the Node and on the
// claims whose data is on a disk that is Degraded (those of a disk that is
// quarantined are told by package quarantine).
//
// The controller does that and not the node's daemon: a daemon that may write Nodes
// could say of its node what it likes, and none can tell that it has died.
package nodestatus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/marks"
)

// Controller keeps the Node's condition, and makes the Events.
type Controller struct {
	// Client reads from the cache and writes.
	Client client.Client
	Log    *slog.Logger
	Now    func() time.Time
}

// SetupWithManager registers the controller.
func (c *Controller) SetupWithManager(m ctrl.Manager, o controller.Options) error {
	return ctrl.NewControllerManagedBy(m).Named("nodestatus").WithOptions(o).For(&v1alpha1.ComputeNode{}).Complete(c)
}

// Reconcile brings one Node's condition in line with its ComputeNode, and tells of
// disks that have become worse.
func (c *Controller) Reconcile(ctx context.Context, req ctrl.Request) (ctrl.Result, error) {
	var node corev1.Node
	if err := c.Client.Get(ctx, req.NamespacedName, &node); err != nil {
		return ctrl.Result{}, client.IgnoreNotFound(err)
	}
	cn := &v1alpha1.ComputeNode{}
	switch err := c.Client.Get(ctx, req.NamespacedName, cn); {
	case apierrors.IsNotFound(err):
		cn = nil
		if find(&node) == nil {
			return ctrl.Result{}, nil
		}
	case err != nil:
		return ctrl.Result{}, fmt.Errorf("read ComputeNode %s: %w", req.Name, err)
	case cn.Spec.NodeUID != node.UID:
		return ctrl.Result{}, nil // it is of an earlier Node; when it follows this one, that brings us back
	}
	now := c.Now()
	want, until, ok := Condition(cn, now)
	if !ok {
		return ctrl.Result{}, nil
	}
	was := find(&node)
	before := corev1.ConditionUnknown
	if was != nil {
		before = was.Status
	}
	if err := c.set(ctx, &node, want, now); err != nil {
		return ctrl.Result{}, err
	}
	var errs []error
	if cn != nil {
		for _, n := range Notices(cn, string(node.UID), now) {
			errs = append(errs, c.tell(ctx, &node, &n, now))
		}
	}
	if before == corev1.ConditionFalse && want.Status == corev1.ConditionTrue {
		// At most one in ten minutes, and one that is lost in a crash is missed by nobody.
		name := fmt.Sprintf("disks-healthy-%s-%d", node.Name, now.Truncate(eventPeriod).Unix())
		errs = append(errs, c.event(ctx, ref(&node), corev1.EventTypeNormal, name, want.Reason, want.Message, now))
	}
	result := ctrl.Result{}
	if !until.IsZero() {
		result.RequeueAfter = until.Sub(now) + time.Second
	}
	return result, errors.Join(errs...)
}

func find(node *corev1.Node) *corev1.NodeCondition {
	for i := range node.Status.Conditions {
		if node.Status.Conditions[i].Type == ConditionType {
			return &node.Status.Conditions[i]
		}
	}
	return nil
}

// set writes the condition if it says something else. The patch names this condition
// alone (conditions are merged by type), so that the kubelet's stay as they are.
func (c *Controller) set(ctx context.Context, node *corev1.Node, want corev1.NodeCondition, now time.Time) error {
	want.LastHeartbeatTime, want.LastTransitionTime = metav1.NewTime(now), metav1.NewTime(now)
	base := node.DeepCopy()
	have := find(node)
	switch {
	case have == nil:
		node.Status.Conditions = append(node.Status.Conditions, want)
	case have.Status == want.Status && have.Reason == want.Reason && have.Message == want.Message:
		return nil
	default:
		if have.Status == want.Status {
			want.LastTransitionTime = have.LastTransitionTime
		}
		*have = want
	}
	if err := c.Client.Status().Patch(ctx, node, client.StrategicMergeFrom(base)); apierrors.IsNotFound(err) {
		return nil
	} else if err != nil {
		return fmt.Errorf("set condition %s of Node %s: %w", ConditionType, node.Name, err)
	}
	c.Log.Info("set condition of Node", "node", node.Name, "status", string(want.Status), "reason", want.Reason)
	return nil
}

// tell makes the Events about a disk.
func (c *Controller) tell(ctx context.Context, node *corev1.Node, n *Notice, now time.Time) error {
	errs := []error{c.event(ctx, ref(node), corev1.EventTypeWarning, n.Name, n.Reason, n.Message, now)}
	if n.Disk.State != v1alpha1.DiskDegraded {
		return errors.Join(errs...)
	}
	for _, v := range n.Disk.Volumes {
		if v.PersistentVolume == "" {
			continue
		}
		var pv corev1.PersistentVolume
		if err := c.Client.Get(ctx, client.ObjectKey{Name: v.PersistentVolume}, &pv); err != nil {
			errs = append(errs, client.IgnoreNotFound(err))
			continue
		}
		claim := pv.Spec.ClaimRef
		if !marks.Claimed(&pv) || claim.UID == "" || claim.Namespace+"/"+claim.Name != v.Claim {
			continue
		}
		about := corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: claim.Namespace, Name: claim.Name, UID: claim.UID}
		name := n.Name + "-" + strings.SplitN(string(claim.UID), "-", 2)[0]
		errs = append(errs, c.event(ctx, about, corev1.EventTypeWarning, name, n.Reason, n.Message, now))
	}
	return errors.Join(errs...)
}

func ref(node *corev1.Node) corev1.ObjectReference {
	return corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}
}

// event makes an Event unless there is one of the name. Those of Nodes are in the
// namespace default, as the kubelet's are.
func (c *Controller) event(ctx context.Context, about corev1.ObjectReference, kind, name, reason, message string, now time.Time) error {
	namespace := about.Namespace
	if namespace == "" {
		namespace = metav1.NamespaceDefault
	}
	at := metav1.NewTime(now)
	err := c.Client.Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: namespace, Name: name},
		InvolvedObject: about,
		Type:           kind, Reason: reason, Message: message,
		Source:              corev1.EventSource{Component: v1alpha1.QuarantinedByController},
		ReportingController: "holdfast.dev/" + v1alpha1.QuarantinedByController,
		FirstTimestamp:      at, LastTimestamp: at, Count: 1,
	})
	switch {
	case err == nil, apierrors.IsAlreadyExists(err), apierrors.IsNotFound(err), apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	default:
		return fmt.Errorf("make Event %s/%s: %w", namespace, name, err)
	}
}
