package lvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

// Resizer does for this node's volumes what external-resizer does for a cluster's: it
// grows the volume of a claim that asks for more and hands the file system to the
// kubelet. The states are those of KEP-1790 (recovery from expansion failure).
type Resizer struct {
	service *Service
	api     client.Client // not cached
	log     *slog.Logger
}

// NewResizer makes a resizer.
func NewResizer(s *Service, api client.Client, log *slog.Logger) *Resizer {
	return &Resizer{service: s, api: api, log: log}
}

// Sync grows the volume of one claim, and gives it other limits, when the claim asks for it.
func (r *Resizer) Sync(ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) error {
	return errors.Join(r.modify(ctx, claim, pv), r.grow(ctx, claim, pv))
}

// ours says whether a claim is bound to a volume of this node's driver, both ways.
func (r *Resizer) ours(claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) bool {
	return claim.Status.Phase == corev1.ClaimBound && pv != nil && pv.Spec.CSI != nil && pv.Spec.CSI.Driver == DriverName &&
		pv.Labels[v1alpha1.LabelNode] == r.service.engine.node && pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID == claim.UID
}

func (r *Resizer) grow(ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) error {
	if !r.ours(claim, pv) {
		return nil
	}
	want, has, told := claim.Spec.Resources.Requests[corev1.ResourceStorage], pv.Spec.Capacity[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	if want.Cmp(told) <= 0 {
		return nil
	}
	switch claim.Status.AllocatedResourceStatuses[corev1.ResourceStorage] {
	case corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible:
		if want.Cmp(has) <= 0 {
			return nil // it is the kubelet's turn
		}
	}
	out, err := r.service.ControllerExpandVolume(ctx, &csi.ControllerExpandVolumeRequest{
		VolumeId: pv.Spec.CSI.VolumeHandle, CapacityRange: &csi.CapacityRange{RequiredBytes: want.Value()},
	})
	if err != nil {
		return fmt.Errorf("expand volume of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	size := *resource.NewQuantity(out.GetCapacityBytes(), resource.BinarySI)
	if size.Cmp(has) > 0 {
		p, err := merge(map[string]any{"spec": map[string]any{"capacity": map[string]any{"storage": size.String()}}})
		if err == nil {
			err = r.api.Patch(ctx, pv.DeepCopy(), p)
		}
		if err != nil {
			return fmt.Errorf("write size of volume %s: %w", pv.Name, err)
		}
	}
	r.log.Info("volume expanded", "claim", claim.Namespace+"/"+claim.Name, "bytes", out.GetCapacityBytes())
	return r.tell(ctx, claim, size, want, out.GetNodeExpansionRequired())
}

// tell writes the claim's status: the kubelet's turn, or done.
func (r *Resizer) tell(ctx context.Context, claim *corev1.PersistentVolumeClaim, size, want resource.Quantity, node bool) error {
	status := map[string]any{}
	if node {
		status["allocatedResources"] = map[string]any{"storage": want.String()}
		status["allocatedResourceStatuses"] = map[string]any{"storage": corev1.PersistentVolumeClaimNodeResizePending}
		status["conditions"] = []any{map[string]any{"type": corev1.PersistentVolumeClaimFileSystemResizePending, "status": "True",
			"lastTransitionTime": metav1.NewTime(r.service.engine.now()), "message": "Waiting for user to (re-)start a pod to finish file system resize of volume on node."}}
	} else {
		status["capacity"] = map[string]any{"storage": size.String()}
		status["allocatedResources"], status["allocatedResourceStatuses"] = map[string]any{"storage": want.String()}, map[string]any{"storage": nil}
	}
	p, err := merge(map[string]any{"status": status})
	if err == nil {
		err = r.api.Status().Patch(ctx, claim.DeepCopy(), p)
	}
	if err != nil {
		return fmt.Errorf("write size of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}

// merge is a strategic merge patch of an object.
func merge(patch map[string]any) (client.Patch, error) {
	data, err := json.Marshal(patch)
	if err != nil {
		return nil, err
	}
	return client.RawPatch(types.StrategicMergePatchType, data), nil
}
