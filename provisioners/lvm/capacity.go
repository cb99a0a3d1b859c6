package lvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/provisioners/lvm/vg"
)

// managedBy marks this driver's CSIStorageCapacity objects, so that an
// external-provisioner with --enable-capacity leaves them alone.
const managedBy = "csi.storage.k8s.io/managed-by"

// Capacity publishes the room of each volume group for each storage class: the stock
// scheduler takes a node when one of its objects has enough for a claim
// (volumebinding/binder.go hasEnoughCapacity), which is what it means for a volume to
// fit into one group.
type Capacity struct {
	engine    *Engine
	api       client.Client // not cached
	namespace string
	owner     metav1.OwnerReference
	classes   func() []*storagev1.StorageClass
	have      map[string]*storagev1.CSIStorageCapacity // nil before the first pass and after doubts
}

// NewCapacity makes a publisher. The objects belong to the Node and go with it.
func NewCapacity(e *Engine, api client.Client, namespace string, node *corev1.Node, classes func() []*storagev1.StorageClass) *Capacity {
	return &Capacity{engine: e, api: api, namespace: namespace, classes: classes,
		owner: metav1.OwnerReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
}

// want is what should be published, by name.
func (c *Capacity) want(ctx context.Context) map[string]*storagev1.CSIStorageCapacity {
	all := map[string]*storagev1.CSIStorageCapacity{}
	candidates := c.engine.Candidates(c.engine.quarantine(ctx))
	for _, class := range c.classes() {
		if class.Provisioner != DriverName {
			continue
		}
		spec, err := classSpec(class.Parameters, "")
		if err != nil {
			continue // CreateVolume says what is wrong with it
		}
		for i, cand := range candidates {
			if cand.Pool != spec.Pool {
				continue
			}
			o := c.object(class.Name, c.engine.groups[i].info, cand.Room(spec.want(0)))
			if cand.Group != nil {
				o.Annotations = map[string]string{v1alpha1.VolumeGroupSeqno: strconv.FormatInt(cand.Group.Seqno, 10)}
			}
			all[o.Name] = o
		}
	}
	return all
}

func (c *Capacity) object(class string, info GroupInfo, room int64) *storagev1.CSIStorageCapacity {
	sum := sha256.Sum256([]byte(c.engine.node + "\x00" + class + "\x00" + info.UUID))
	q := resource.NewQuantity(room, resource.BinarySI)
	o := &storagev1.CSIStorageCapacity{
		ObjectMeta: metav1.ObjectMeta{
			Name: "lvm-" + hex.EncodeToString(sum[:10]), Namespace: c.namespace, OwnerReferences: []metav1.OwnerReference{c.owner},
			Labels: map[string]string{
				"csi.storage.k8s.io/drivername": DriverName, managedBy: "lvm-csi-driver",
				v1alpha1.LabelNode: diskid.Label(c.engine.node), v1alpha1.LabelVolumeGroup: label(info.Name),
			},
		},
		NodeTopology:     &metav1.LabelSelector{MatchLabels: map[string]string{TopologyKey: c.engine.node}},
		StorageClassName: class, Capacity: q, MaximumVolumeSize: q,
	}
	if disk := info.OneDisk(); disk != "" {
		o.Labels[v1alpha1.LabelDisk] = diskid.Label(disk)
	}
	return o
}

// label is a name of LVM's as a label value, which knows no '+'.
func label(name string) string { return diskid.Label(strings.ReplaceAll(name, "+", "_")) }

// Publish makes what is published what it should be. It writes only what differs.
func (c *Capacity) Publish(ctx context.Context) error {
	if c.have == nil {
		var list storagev1.CSIStorageCapacityList
		if err := c.api.List(ctx, &list, client.InNamespace(c.namespace),
			client.MatchingLabels{managedBy: "lvm-csi-driver", v1alpha1.LabelNode: diskid.Label(c.engine.node)}); err != nil {
			return fmt.Errorf("list storage capacities: %w", err)
		}
		c.have = map[string]*storagev1.CSIStorageCapacity{}
		for i := range list.Items {
			c.have[list.Items[i].Name] = &list.Items[i]
		}
	}
	want := c.want(ctx)
	var errs []error
	for name, w := range want {
		if err := c.write(ctx, c.have[name], w); err != nil {
			errs = append(errs, err)
		}
	}
	for name, h := range c.have {
		if want[name] != nil {
			continue
		}
		if err := c.api.Delete(ctx, h); err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("delete storage capacity %s: %w", name, err))
			continue
		}
		delete(c.have, name)
	}
	if err := errors.Join(errs...); err != nil {
		c.have = nil // look again before the next write
		return err
	}
	return nil
}

func (c *Capacity) write(ctx context.Context, have, want *storagev1.CSIStorageCapacity) error {
	if have == nil {
		if err := c.api.Create(ctx, want); err != nil {
			return fmt.Errorf("create storage capacity %s: %w", want.Name, err)
		}
		c.have[want.Name] = want
		return nil
	}
	if have.Capacity != nil && have.Capacity.Cmp(*want.Capacity) == 0 && have.MaximumVolumeSize != nil && have.MaximumVolumeSize.Cmp(*want.MaximumVolumeSize) == 0 &&
		reflect.DeepEqual(have.Annotations, want.Annotations) && reflect.DeepEqual(have.Labels, want.Labels) && reflect.DeepEqual(have.OwnerReferences, want.OwnerReferences) {
		return nil
	}
	next := have.DeepCopy()
	next.Annotations = want.Annotations
	next.Labels, next.OwnerReferences, next.Capacity, next.MaximumVolumeSize = want.Labels, want.OwnerReferences, want.Capacity, want.MaximumVolumeSize
	if err := c.api.Update(ctx, next); err != nil {
		return fmt.Errorf("update storage capacity %s: %w", want.Name, err)
	}
	c.have[want.Name] = next
	return nil
}

// observe fills the gauges of the groups.
func (m *Metrics) observe(e *Engine) {
	for _, g := range e.groups {
		s, _, err := g.last()
		ready := 0.0
		if s != nil && err == nil && s.Complete() == nil {
			ready = 1
		}
		m.ready.WithLabelValues(g.info.Name).Set(ready)
		if s == nil {
			continue
		}
		m.free.WithLabelValues(g.info.Name).Set(float64(s.Free()))
		m.size.WithLabelValues(g.info.Name).Set(float64(s.Extents * s.ExtentSize))
		if p := s.Find(g.info.ThinPool); p != nil && p.DataPercent != vg.Unknown && p.MetadataPercent != vg.Unknown {
			m.thin.WithLabelValues(g.info.Name, "data").Set(p.DataPercent / 100)
			m.thin.WithLabelValues(g.info.Name, "metadata").Set(p.MetadataPercent / 100)
		}
		phases := map[string]int{vg.Creating: 0, vg.Ready: 0, vg.Deleting: 0}
		for i := range s.LVs {
			if s.LVs[i].Tags.Ours() {
				phase, _ := s.LVs[i].Tags.Intent()
				phases[phase]++
			}
		}
		for phase, n := range phases {
			m.volumes.WithLabelValues(g.info.Name, phase).Set(float64(n))
		}
	}
}
