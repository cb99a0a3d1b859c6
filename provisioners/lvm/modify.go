package lvm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// modify applies the claim's VolumeAttributesClass when it is not the one of the volume
// (KEP-3751). What stands against it is in the claim's status until the class is applied,
// or another one is named: a person, and whoever counts quotas, sees it there.
func (r *Resizer) modify(ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) error {
	if !r.ours(claim, pv) {
		return nil
	}
	want, now, of := named(claim.Spec.VolumeAttributesClassName), named(claim.Status.CurrentVolumeAttributesClassName), named(pv.Spec.VolumeAttributesClassName)
	told := claim.Status.ModifyVolumeStatus != nil || modifyError(claim) != ""
	switch {
	case want == "" && told: // the API server allows that as long as no class was ever applied
		return r.tellModify(ctx, claim, map[string]any{"modifyVolumeStatus": nil, "conditions": noModifyError})
	case want == "", want == now && want == of && !told:
		return nil
	}
	state, err := r.apply(ctx, pv, want)
	if err != nil {
		err = fmt.Errorf("apply volume attributes class %s: %w", want, err)
		return errors.Join(err, r.refuse(ctx, claim, want, state, err.Error()))
	}
	if want != of {
		p, err := merge(map[string]any{"spec": map[string]any{"volumeAttributesClassName": want}})
		if err == nil {
			err = r.api.Patch(ctx, pv.DeepCopy(), p)
		}
		if err != nil {
			return fmt.Errorf("write class of volume %s: %w", pv.Name, err)
		}
	}
	status := map[string]any{"currentVolumeAttributesClassName": want, "modifyVolumeStatus": nil, "conditions": noModifyError}
	if err := r.tellModify(ctx, claim, status); err != nil {
		return err
	}
	r.log.Info("volume modified", "claim", claim.Namespace+"/"+claim.Name, "class", want)
	return nil
}

// apply gives a volume the limits of a class. Beside an error it returns how the claim's
// status calls it: a class that is not there yet is waited for, one that the driver does
// not take needs a person, anything else is tried again.
func (r *Resizer) apply(ctx context.Context, pv *corev1.PersistentVolume, name string) (corev1.PersistentVolumeClaimModifyVolumeStatus, error) {
	var class storagev1.VolumeAttributesClass
	if err := r.api.Get(ctx, client.ObjectKey{Name: name}, &class); err != nil {
		if apierrors.IsNotFound(err) {
			return corev1.PersistentVolumeClaimModifyVolumePending, err
		}
		return corev1.PersistentVolumeClaimModifyVolumeInProgress, err
	}
	err := error(nil)
	if class.DriverName != DriverName {
		err = fmt.Errorf("it is one of %s: %w", class.DriverName, ErrInvalid)
	}
	h, e := ParseHandle(pv.Spec.CSI.VolumeHandle)
	if err == nil && e == nil {
		err = r.service.modify(ctx, h, class.Parameters)
	}
	switch err = errors.Join(err, e); {
	case err == nil:
		return "", nil
	case errors.Is(err, ErrInvalid):
		return corev1.PersistentVolumeClaimModifyVolumeInfeasible, err
	}
	return corev1.PersistentVolumeClaimModifyVolumeInProgress, err
}

// refuse writes into a claim's status why it does not get a class; once, for each write
// brings the claim here again.
func (r *Resizer) refuse(ctx context.Context, claim *corev1.PersistentVolumeClaim, class string, state corev1.PersistentVolumeClaimModifyVolumeStatus, why string) error {
	if now := claim.Status.ModifyVolumeStatus; now != nil && *now == (corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: class, Status: state}) && modifyError(claim) == why {
		return nil
	}
	return r.tellModify(ctx, claim, map[string]any{
		"modifyVolumeStatus": map[string]any{"targetVolumeAttributesClassName": class, "status": state},
		"conditions": []any{map[string]any{"type": corev1.PersistentVolumeClaimVolumeModifyVolumeError, "status": "True",
			"lastTransitionTime": metav1.NewTime(r.service.engine.now()), "message": why}},
	})
}

func (r *Resizer) tellModify(ctx context.Context, claim *corev1.PersistentVolumeClaim, status map[string]any) error {
	p, err := merge(map[string]any{"status": status})
	if err == nil {
		err = r.api.Status().Patch(ctx, claim.DeepCopy(), p)
	}
	if err != nil {
		return fmt.Errorf("write class of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}

// noModifyError removes the condition from a list that is merged by type.
var noModifyError = []any{map[string]any{"type": corev1.PersistentVolumeClaimVolumeModifyVolumeError, "$patch": "delete"}}

// modifyError is what a claim's status says against its class; empty for nothing.
func modifyError(claim *corev1.PersistentVolumeClaim) string {
	i := slices.IndexFunc(claim.Status.Conditions, func(c corev1.PersistentVolumeClaimCondition) bool {
		return c.Type == corev1.PersistentVolumeClaimVolumeModifyVolumeError
	})
	if i < 0 {
		return ""
	}
	return claim.Status.Conditions[i].Message
}

func named(class *string) string {
	if class == nil {
		return ""
	}
	return *class
}
