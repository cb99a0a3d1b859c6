// Package index names the cache's indexes, so that finding a node's volumes
// and plans does not walk all of the cluster's.
package index

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

// The indexes: both give a Node's name.
const (
	VolumeByNode = "holdfast.volumeByNode"
	PlanByNode   = "holdfast.planByNode"
)

// Register adds the indexes to a cache that has not started.
func Register(ctx context.Context, to client.FieldIndexer) error {
	for _, x := range All() {
		if err := to.IndexField(ctx, x.Object, x.Name, x.Extract); err != nil {
			return fmt.Errorf("add index %s: %w", x.Name, err)
		}
	}
	return nil
}

// Index is one index.
type Index struct {
	Object  client.Object
	Name    string
	Extract client.IndexerFunc
}

// All returns the indexes.
func All() []Index {
	return []Index{
		{&corev1.PersistentVolume{}, VolumeByNode, func(o client.Object) []string {
			return nonEmpty(o.GetLabels()[v1alpha1.LabelNode])
		}},
		{&v1alpha1.Remediation{}, PlanByNode, func(o client.Object) []string {
			r, ok := o.(*v1alpha1.Remediation)
			if !ok {
				return nil
			}
			return nonEmpty(r.Spec.Node)
		}},
	}
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}
