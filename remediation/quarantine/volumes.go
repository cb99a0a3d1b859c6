package quarantine

import (
	"context"
	"fmt"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/index"
	"holdfast.dev/remediation/marks"
	"holdfast.dev/remediation/policy"
)

// width is how many volumes of one node are written at once.
const width = 8

// mark makes the marks of a node's volumes follow its quarantine list. Marks
// come off only after the list was read from the API server and has no entry.
func (c *Controller) mark(ctx context.Context, cn *v1alpha1.ComputeNode) error {
	var volumes corev1.PersistentVolumeList
	if err := c.Client.List(ctx, &volumes, client.MatchingFields{index.VolumeByNode: cn.Name}); err != nil {
		return fmt.Errorf("list volumes of node %s: %w", cn.Name, err)
	}
	var lift []*corev1.PersistentVolume
	var group errgroup.Group // one volume's error stops no other
	group.SetLimit(width)
	for i := range volumes.Items {
		pv := &volumes.Items[i]
		disk := marks.DiskOf(pv)
		if disk == "" {
			continue
		}
		if e := policy.Entry(cn, disk); e != nil {
			group.Go(func() error { return c.close(ctx, cn, pv, e) })
		} else if marks.Lift(pv.DeepCopy()) {
			lift = append(lift, pv)
		}
	}
	err := group.Wait()
	if len(lift) == 0 {
		return err
	}
	if lerr := c.open(ctx, cn.Name, lift); lerr != nil && err == nil {
		err = lerr
	}
	return err
}

// close marks one volume and tells its claim.
func (c *Controller) close(ctx context.Context, cn *v1alpha1.ComputeNode, pv *corev1.PersistentVolume, e *v1alpha1.Quarantine) error {
	changed, err := c.write(ctx, pv, func(pv *corev1.PersistentVolume) bool {
		return on(pv, cn.Name, e.Disk) && marks.Put(pv, e)
	})
	if err != nil {
		return fmt.Errorf("quarantine PersistentVolume %s: %w", pv.Name, err)
	}
	if changed {
		c.Decided("mark")
		c.Log.Info("quarantined volume", "volume", pv.Name, "node", cn.Name, "disk", e.Disk)
	}
	return c.notify(ctx, cn, pv, e)
}

// open takes the marks off volumes whose disk is no longer quarantined.
func (c *Controller) open(ctx context.Context, node string, volumes []*corev1.PersistentVolume) error {
	var cn v1alpha1.ComputeNode
	if err := c.Live.Get(ctx, types.NamespacedName{Name: node}, &cn); err != nil {
		// Deleted or unreadable: that is no reason to open anything.
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("read ComputeNode %s: %w", node, err)
	}
	for _, pv := range volumes {
		disk := marks.DiskOf(pv)
		if policy.Entry(&cn, disk) != nil {
			continue
		}
		changed, err := c.write(ctx, pv, func(pv *corev1.PersistentVolume) bool {
			return on(pv, node, disk) && marks.Lift(pv)
		})
		if err != nil {
			return fmt.Errorf("release PersistentVolume %s: %w", pv.Name, err)
		}
		if changed {
			c.Decided("unmark")
			c.Log.Info("released volume", "volume", pv.Name, "node", node, "disk", disk)
		}
	}
	return nil
}

// write changes one volume in one patch that fails when anybody else has
// changed it since it was read, and then reads and tries again.
func (c *Controller) write(ctx context.Context, pv *corev1.PersistentVolume, change func(*corev1.PersistentVolume) bool) (bool, error) {
	var err error
	for range attempts {
		base := pv.DeepCopy()
		if !change(pv) {
			return false, nil
		}
		err = c.Client.Patch(ctx, pv, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
		if err == nil {
			return true, nil
		}
		if apierrors.IsConflict(err) {
			fresh := &corev1.PersistentVolume{}
			if rerr := c.Live.Get(ctx, types.NamespacedName{Name: base.Name}, fresh); rerr != nil {
				err = rerr
			} else {
				*pv = *fresh
				continue
			}
		}
		if apierrors.IsNotFound(err) {
			return false, nil // a volume made again brings us back
		}
		return false, err
	}
	return false, err
}

// on is true while a volume is still the one on that disk of that node.
func on(pv *corev1.PersistentVolume, node, disk string) bool {
	return pv.Labels[v1alpha1.LabelNode] == node && marks.DiskOf(pv) == disk
}
