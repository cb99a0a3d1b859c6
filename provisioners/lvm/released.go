package lvm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/provisioners/lvm/vg"
)

const (
	// annProvisionedAt on a PersistentVolume is when its volume had been made, by this
	// node's clock. An object that was made much later is not the one that this driver
	// made: it was put back.
	annProvisionedAt = "holdfast.dev/provisioned-at"
	// annDelete on a PersistentVolume is a person's word that the volume may go although
	// its object was put back: the object's own UID, which no backup has.
	annDelete = "holdfast.dev/delete-volume"
	// madeWithin is how long after its volume an object is made: what two clocks differ by,
	// and the API server's bad minutes.
	madeWithin = 5 * time.Minute
)

// Delete removes the volume of a PersistentVolume. The object's absence deletes
// nothing: it is called for objects that are there and released.
func (p *Provisioner) Delete(ctx context.Context, pv *corev1.PersistentVolume) error {
	if !p.ours(pv) {
		return &controller.IgnoredError{Reason: "the volume is not one of this node"}
	}
	now, err := p.released(ctx, pv)
	if err == nil && p.retired(now) {
		p.log.Info("object goes, its volume is on a disk that was replaced and stays as it is", "volume", pv.Name, "handle", pv.Spec.CSI.VolumeHandle)
		return nil
	}
	if err == nil {
		err = p.kept(ctx, now)
	}
	if err != nil {
		return fmt.Errorf("delete volume %s: %w", pv.Name, err)
	}
	_, err = p.service.DeleteVolume(ctx, &csi.DeleteVolumeRequest{VolumeId: pv.Spec.CSI.VolumeHandle})
	if err == nil {
		p.log.Info("volume deleted", "volume", pv.Name, "handle", pv.Spec.CSI.VolumeHandle)
	}
	return err
}

// kept is why the data of a released object stay; nil when nobody can want them.
func (p *Provisioner) kept(ctx context.Context, pv *corev1.PersistentVolume) error {
	if err := p.original(ctx, pv); err != nil {
		return err
	}
	if pv.Labels[v1alpha1.LabelQuarantined] == "true" {
		return fmt.Errorf("its disk is quarantined (label %s): its data are evidence and may be wanted (it is deleted when the quarantine ends): %w", v1alpha1.LabelQuarantined, ErrHeld)
	}
	return nil
}

// guard is Delete's question for a volume that another provisioner wants deleted, who tells
// its handle alone: its object has the name that the volume was made for. One that cannot
// be found, or has no object, is no reason to delete anything.
func (p *Provisioner) guard(ctx context.Context, h Handle) error {
	v, err := p.service.engine.Volume(ctx, h)
	if errors.Is(err, ErrNotFound) {
		return nil // as in Delete of the engine: an earlier attempt removed it
	}
	if err != nil {
		return err
	}
	name := v.LV.Tags.Get(vg.KeyPV)
	pv := corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if err := p.api.Get(ctx, client.ObjectKeyFromObject(&pv), &pv); err != nil {
		return fmt.Errorf("delete volume %s: read its object %s: %w: %w", h, name, ErrUnavailable, err)
	}
	if pv.Spec.CSI == nil || pv.Spec.CSI.VolumeHandle != h.String() {
		return fmt.Errorf("delete volume %s: the object %s is another volume's: %w", h, name, ErrRefused)
	}
	now, err := p.released(ctx, &pv)
	if err == nil {
		err = p.kept(ctx, now)
	}
	if err != nil {
		return fmt.Errorf("delete volume %s of %s: %w", h, name, err)
	}
	return nil
}

// retired says whether a quarantined volume's object was deleted, as remediation does when
// its disk was replaced, and its volume group is not one of this node any more. Then
// there is nothing to wait for: the object goes, and nothing is done to any disk. So
// it does not matter either whether it is the object that was made with the volume.
func (p *Provisioner) retired(pv *corev1.PersistentVolume) bool {
	h, err := ParseHandle(pv.Spec.CSI.VolumeHandle)
	return err == nil && pv.DeletionTimestamp != nil && pv.Labels[v1alpha1.LabelQuarantined] == "true" && p.service.engine.byUUID[h.Group] == nil
}

// released returns the object as the API server has it right now when the volume may go by
// it: what the caller knows of it may be old, and a person may have changed their mind. A
// claim that names the volume keeps it, whatever its UID: objects that were put back from
// a backup have new ones, and their volume looks released.
func (p *Provisioner) released(ctx context.Context, pv *corev1.PersistentVolume) (*corev1.PersistentVolume, error) {
	var now corev1.PersistentVolume
	if err := p.api.Get(ctx, client.ObjectKey{Name: pv.Name}, &now); err != nil {
		return nil, fmt.Errorf("read it: %w: %w", ErrUnavailable, err)
	}
	switch {
	case now.UID != pv.UID, now.Spec.CSI == nil, now.Spec.CSI.VolumeHandle != pv.Spec.CSI.VolumeHandle:
		return nil, fmt.Errorf("another object has its name: %w", ErrRefused)
	case now.Status.Phase != corev1.VolumeReleased && now.Status.Phase != corev1.VolumeFailed:
		return nil, fmt.Errorf("it is %s: %w", now.Status.Phase, ErrRefused)
	case now.Spec.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimDelete:
		return nil, fmt.Errorf("its reclaim policy is %s: %w", now.Spec.PersistentVolumeReclaimPolicy, ErrRefused)
	}
	ref := now.Spec.ClaimRef
	if ref == nil {
		return nil, fmt.Errorf("it names no claim that has released it: %w", ErrRefused)
	}
	var claim corev1.PersistentVolumeClaim
	switch err := p.api.Get(ctx, client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name}, &claim); {
	// A proxy's 404 says nothing of the claim.
	case apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse):
	case err != nil:
		return nil, fmt.Errorf("read claim %s/%s: %w: %w", ref.Namespace, ref.Name, ErrUnavailable, err)
	case claim.UID == ref.UID, claim.Spec.VolumeName == now.Name:
		return nil, fmt.Errorf("claim %s/%s names it (put back from a backup? delete that claim, or set the policy to Retain): %w", ref.Namespace, ref.Name, ErrRefused)
	}
	return &now, nil
}

// original is nil for an object that this driver made with its volume, or that a person
// has given up. A volume whose object was put back looks released while the claims are
// still to come: that the claim of any other object is not there tells nothing.
func (p *Provisioner) original(ctx context.Context, pv *corev1.PersistentVolume) error {
	if pv.Annotations[annDelete] == string(pv.UID) {
		return nil
	}
	at, err := time.Parse(time.RFC3339, pv.Annotations[annProvisionedAt])
	if pv.Annotations[annProvisionedAt] == "" {
		switch at, err = p.madeAt(ctx, pv); {
		case errors.Is(err, ErrUnavailable):
			return err
		case errors.Is(err, ErrNotFound): // its whole group was read: an earlier attempt removed it
			return nil
		}
	}
	if late := pv.CreationTimestamp.Sub(at); err == nil && late > -madeWithin && late < madeWithin {
		return nil
	}
	return fmt.Errorf("its object is of %s and was not made with its volume (annotation %s: %q): put back from a backup? Its claim may follow. "+
		"When nobody wants the data: kubectl annotate pv %s %s=%s: %w", pv.CreationTimestamp.UTC().Format(time.RFC3339), annProvisionedAt, pv.Annotations[annProvisionedAt],
		pv.Name, annDelete, pv.UID, ErrRefused)
}

// madeAt is when LVM made the volume of an object that has no annotation, as those of earlier
// versions of this driver and of external-provisioner, which make the object right after the
// volume. A volume whose tags name another object, claim or cluster tells nothing, and so
// does a time that is not known. external-provisioner may not tell the claim.
func (p *Provisioner) madeAt(ctx context.Context, pv *corev1.PersistentVolume) (time.Time, error) {
	h, err := ParseHandle(pv.Spec.CSI.VolumeHandle)
	if err != nil {
		return time.Time{}, err
	}
	v, err := p.service.engine.Volume(ctx, h)
	if err != nil {
		return time.Time{}, err
	}
	t, ref := v.LV.Tags, pv.Spec.ClaimRef
	claim := cmp.Or(t.Get(vg.KeyPVC), ref.Namespace+"/"+ref.Name)
	if v.LV.Created == 0 || t.Get(vg.KeyPV) != pv.Name || claim != ref.Namespace+"/"+ref.Name || t.Get(vg.KeyCluster) != p.service.engine.cluster {
		return time.Time{}, fmt.Errorf("the tags of volume %s are not of volume %s: %w", h, pv.Name, ErrRefused)
	}
	return time.Unix(v.LV.Created, 0), nil
}
