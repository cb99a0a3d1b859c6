package cleaner

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/internal/nodeevent"
	"holdfast.dev/provisioners/local"
)

const (
	callTimeout = 10 * time.Second
	actionClean = "CleanVolume"
)

// Disks reads disks.yaml.
type Disks interface {
	Disks(ctx context.Context) (*nodedisks.File, error)
}

// Cluster gathers facts, deletes volumes and tells people. It asks the API server
// each time.
type Cluster struct {
	Node    string
	Methods local.Classes
	Live    client.Client // not cached
	Disks   Disks
	Looker  Looker
	History func(partition string) (History, error)
	Now     func() time.Time
}

// Check reads everything that a cleaning depends on and judges it. The error is a
// *Refusal when it must not be cleaned now.
func (c *Cluster) Check(ctx context.Context, volume string) (Job, error) {
	f := Facts{Node: c.Node, Methods: c.Methods, Volume: &corev1.PersistentVolume{}}
	if err := c.get(ctx, types.NamespacedName{Name: volume}, f.Volume); apierrors.IsNotFound(err) {
		return Job{}, refuse(ReasonNotReleased, "the volume is gone")
	} else if err != nil {
		return Job{}, refuse(ReasonUnreadable, "read volume: %v", err)
	}
	var err error
	if f.Disks, err = c.Disks.Disks(ctx); err != nil {
		return Job{}, refuse(ReasonUnreadable, "%v", err)
	}
	d, p, _, no := f.identity()
	if no != nil {
		return Job{}, no
	}
	f.History, f.HistoryErr = c.History(p.UUID)
	var claim corev1.PersistentVolumeClaim
	ref := f.Volume.Spec.ClaimRef
	f.ClaimErr = c.get(ctx, types.NamespacedName{Namespace: ref.Namespace, Name: ref.Name}, &claim)
	f.ClaimUID, f.ClaimVolume = claim.UID, claim.Spec.VolumeName
	if absent(f.ClaimErr) {
		f.ClaimErr = nil
	}
	var cn v1alpha1.ComputeNode
	switch err := c.get(ctx, types.NamespacedName{Name: c.Node}, &cn); {
	case err == nil:
		f.ComputeNode = &cn
	case !absent(err):
		f.ComputeNodeErr = fmt.Errorf("read ComputeNode %s: %w", c.Node, err)
	}
	f.Sight, f.SightErr = c.Looker.Sight(ctx, d, p)
	j, no := Judge(f)
	if no != nil {
		return Job{}, no
	}
	return j, nil
}

// absent is true when the API server says that there is no such object, and not
// when it has no such API, or a proxy says 404.
func absent(err error) bool {
	return apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse)
}

func (c *Cluster) get(ctx context.Context, key types.NamespacedName, obj client.Object) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return c.Live.Get(ctx, key, obj)
}

// Delete deletes the volume that was judged, and no other of its name, and
// nothing that anybody has changed since. That it is gone already is an error:
// somebody else has deleted it, and nobody knows what was there in between.
func (c *Cluster) Delete(ctx context.Context, j Job) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pv := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: j.Volume}}
	if err := c.Live.Delete(ctx, pv, client.Preconditions{UID: &j.UID, ResourceVersion: &j.Version}); err != nil {
		return fmt.Errorf("delete volume %s: %w", j.Volume, err)
	}
	return nil
}

// Absent errs unless the API server says that there is no such volume.
func (c *Cluster) Absent(ctx context.Context, volume string) error {
	var pv corev1.PersistentVolume
	err := c.get(ctx, types.NamespacedName{Name: volume}, &pv)
	if err == nil {
		return errors.New("the volume is there")
	}
	if !absent(err) {
		return fmt.Errorf("read volume %s: %w", volume, err)
	}
	return nil
}

// tell puts an Event on the Node; what is lost is in the log.
func (c *Cluster) tell(ctx context.Context, kind, reason, volume, note string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	source := nodeevent.Source{Component: component, Node: c.Node}
	if err := c.Live.Create(ctx, source.New(c.Now(), volume, kind, actionClean, reason, note)); err != nil {
		return fmt.Errorf("create event %s on node %s: %w", reason, c.Node, err)
	}
	return nil
}
