package index

import (
	"context"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"holdfast.dev/api/v1alpha1"
)

// VolumeToNode brings a volume's event to the node that its label names.
func VolumeToNode() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		return request(o.GetLabels()[v1alpha1.LabelNode])
	})
}

// PlanToNode brings a plan's event to its node.
func PlanToNode() handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(_ context.Context, o client.Object) []reconcile.Request {
		r, ok := o.(*v1alpha1.Remediation)
		if !ok {
			return nil
		}
		return request(r.Spec.Node)
	})
}

// PolicyToNodes brings an event of the policy in force to every ComputeNode.
func PolicyToNodes(cache client.Reader) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		if o.GetName() != v1alpha1.DefaultPolicy {
			return nil
		}
		var nodes v1alpha1.ComputeNodeList
		if err := cache.List(ctx, &nodes); err != nil {
			return nil // a cache does not fail once it is filled
		}
		var out []reconcile.Request
		for i := range nodes.Items {
			out = append(out, request(nodes.Items[i].Name)...)
		}
		return out
	})
}

// NodeToPlans brings an event of a node's ComputeNode or volume to the node's
// unfinished plans.
func NodeToPlans(cache client.Reader, nodeOf func(client.Object) string) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		node := nodeOf(o)
		if node == "" {
			return nil
		}
		return unfinished(ctx, cache, client.MatchingFields{PlanByNode: node})
	})
}

// PolicyToPlans brings an event of the policy in force to every unfinished plan.
func PolicyToPlans(cache client.Reader) handler.EventHandler {
	return handler.EnqueueRequestsFromMapFunc(func(ctx context.Context, o client.Object) []reconcile.Request {
		if o.GetName() != v1alpha1.DefaultPolicy {
			return nil
		}
		return unfinished(ctx, cache)
	})
}

func unfinished(ctx context.Context, cache client.Reader, opts ...client.ListOption) []reconcile.Request {
	var plans v1alpha1.RemediationList
	if err := cache.List(ctx, &plans, opts...); err != nil {
		return nil // a cache does not fail once it is filled
	}
	var out []reconcile.Request
	for i := range plans.Items {
		if plans.Items[i].Status.FinishedAt == nil {
			out = append(out, request(plans.Items[i].Name)...)
		}
	}
	return out
}

func request(name string) []reconcile.Request {
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Name: name}}}
}
