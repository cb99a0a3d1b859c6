package lvm

import (
	"context"
	"fmt"

	"github.com/container-storage-interface/spec/lib/go/csi"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

// managedByNode is a label that the snapshot controller puts on a content: the node whose
// sidecar makes the snapshot (external-snapshotter pkg/utils/util.go,
// VolumeSnapshotContentManagedByLabel).
const managedByNode = "snapshot.storage.kubernetes.io/managed-by"

// contentSource is the volume or snapshot that a claim is to be a copy of, nil for none,
// and the node that it is on; empty when nobody has said.
func contentSource(ctx context.Context, api client.Reader, claim *corev1.PersistentVolumeClaim) (_ *csi.VolumeContentSource, node string, _ error) {
	ref := claim.Spec.DataSourceRef
	if ref == nil && claim.Spec.DataSource != nil {
		ref = &corev1.TypedObjectReference{APIGroup: claim.Spec.DataSource.APIGroup, Kind: claim.Spec.DataSource.Kind, Name: claim.Spec.DataSource.Name}
	}
	if ref == nil {
		return nil, "", nil
	}
	if ref.Namespace != nil && *ref.Namespace != claim.Namespace {
		return nil, "", fmt.Errorf("claim spec.dataSourceRef.namespace=%s: sources of other namespaces are not taken: %w", *ref.Namespace, ErrInvalid)
	}
	key := client.ObjectKey{Namespace: claim.Namespace, Name: ref.Name}
	switch ref.Kind {
	case "PersistentVolumeClaim":
		handle, node, err := claimHandle(ctx, api, key)
		if err != nil {
			return nil, "", err
		}
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Volume{Volume: &csi.VolumeContentSource_VolumeSource{VolumeId: handle}}}, node, nil
	case "VolumeSnapshot":
		handle, node, err := snapshotHandle(ctx, api, key)
		if err != nil {
			return nil, "", err
		}
		return &csi.VolumeContentSource{Type: &csi.VolumeContentSource_Snapshot{Snapshot: &csi.VolumeContentSource_SnapshotSource{SnapshotId: handle}}}, node, nil
	}
	return nil, "", fmt.Errorf("claim spec.dataSource.kind=%s: give PersistentVolumeClaim or VolumeSnapshot: %w", ref.Kind, ErrInvalid)
}

// sourceID is the handle of a source.
func sourceID(src *csi.VolumeContentSource) string {
	if src.GetSnapshot() != nil {
		return src.GetSnapshot().GetSnapshotId()
	}
	return src.GetVolume().GetVolumeId()
}

// claimHandle is the handle of the volume that a claim is bound to, and its node.
func claimHandle(ctx context.Context, api client.Reader, key client.ObjectKey) (handle, node string, _ error) {
	var claim corev1.PersistentVolumeClaim
	if err := api.Get(ctx, key, &claim); err != nil {
		return "", "", fmt.Errorf("read claim %s: %w: %w", key, ErrUnavailable, err)
	}
	if claim.Spec.VolumeName == "" {
		return "", "", fmt.Errorf("claim %s is not bound yet: %w", key, ErrUnavailable)
	}
	var pv corev1.PersistentVolume
	if err := api.Get(ctx, client.ObjectKey{Name: claim.Spec.VolumeName}, &pv); err != nil {
		return "", "", fmt.Errorf("read volume %s: %w: %w", claim.Spec.VolumeName, ErrUnavailable, err)
	}
	// spec.volumeName is its author's word alone: the volume may be another tenant's.
	if r := pv.Spec.ClaimRef; claim.Status.Phase != corev1.ClaimBound || r == nil || r.UID != claim.UID || r.Namespace != claim.Namespace || r.Name != claim.Name {
		return "", "", fmt.Errorf("claim %s is not bound to volume %s, which it names: %w", key, pv.Name, ErrInvalid)
	}
	if pv.Spec.CSI == nil || pv.Spec.CSI.Driver != DriverName {
		return "", "", fmt.Errorf("claim %s has a volume of another driver: %w", key, ErrInvalid)
	}
	return pv.Spec.CSI.VolumeHandle, pv.Labels[v1alpha1.LabelNode], nil
}

var snapshotGroup = schema.GroupVersion{Group: "snapshot.storage.k8s.io", Version: "v1"}

// snapshotHandle follows a VolumeSnapshot to its content, and the handle and node there.
func snapshotHandle(ctx context.Context, api client.Reader, key client.ObjectKey) (_, node string, _ error) {
	snap := &unstructured.Unstructured{}
	snap.SetGroupVersionKind(snapshotGroup.WithKind("VolumeSnapshot"))
	if err := api.Get(ctx, key, snap); err != nil {
		return "", "", fmt.Errorf("read snapshot %s: %w: %w", key, ErrUnavailable, err)
	}
	name, _, _ := unstructured.NestedString(snap.Object, "status", "boundVolumeSnapshotContentName")
	ready, _, _ := unstructured.NestedBool(snap.Object, "status", "readyToUse")
	if name == "" || !ready {
		return "", "", fmt.Errorf("snapshot %s is not ready yet: %w", key, ErrUnavailable)
	}
	content := &unstructured.Unstructured{}
	content.SetGroupVersionKind(snapshotGroup.WithKind("VolumeSnapshotContent"))
	if err := api.Get(ctx, client.ObjectKey{Name: name}, content); err != nil {
		return "", "", fmt.Errorf("read snapshot content %s: %w: %w", name, ErrUnavailable, err)
	}
	// A content can be made by anybody who may make snapshots static: it must point back.
	ns, _, _ := unstructured.NestedString(content.Object, "spec", "volumeSnapshotRef", "namespace")
	ref, _, _ := unstructured.NestedString(content.Object, "spec", "volumeSnapshotRef", "name")
	driver, _, _ := unstructured.NestedString(content.Object, "spec", "driver")
	handle, _, _ := unstructured.NestedString(content.Object, "status", "snapshotHandle")
	if ns != key.Namespace || ref != key.Name || driver != DriverName || handle == "" {
		return "", "", fmt.Errorf("snapshot content %s is not of snapshot %s and this driver: %w", name, key, ErrInvalid)
	}
	return handle, content.GetLabels()[managedByNode], nil
}
