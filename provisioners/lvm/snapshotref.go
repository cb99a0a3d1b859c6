package lvm

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

var snapshotGroup = schema.GroupVersion{Group: "snapshot.storage.k8s.io", Version: "v1"}

// snapshotHandle follows a VolumeSnapshot to its content and the handle there.
func snapshotHandle(ctx context.Context, api client.Reader, key client.ObjectKey) (string, error) {
	snap := &unstructured.Unstructured{}
	snap.SetGroupVersionKind(snapshotGroup.WithKind("VolumeSnapshot"))
	if err := api.Get(ctx, key, snap); err != nil {
		return "", fmt.Errorf("read snapshot %s: %w: %w", key, ErrUnavailable, err)
	}
	name, _, _ := unstructured.NestedString(snap.Object, "status", "boundVolumeSnapshotContentName")
	ready, _, _ := unstructured.NestedBool(snap.Object, "status", "readyToUse")
	if name == "" || !ready {
		return "", fmt.Errorf("snapshot %s is not ready yet: %w", key, ErrUnavailable)
	}
	content := &unstructured.Unstructured{}
	content.SetGroupVersionKind(snapshotGroup.WithKind("VolumeSnapshotContent"))
	if err := api.Get(ctx, client.ObjectKey{Name: name}, content); err != nil {
		return "", fmt.Errorf("read snapshot content %s: %w: %w", name, ErrUnavailable, err)
	}
	// A content can be made by anybody who may make snapshots static: it must point back.
	ns, _, _ := unstructured.NestedString(content.Object, "spec", "volumeSnapshotRef", "namespace")
	ref, _, _ := unstructured.NestedString(content.Object, "spec", "volumeSnapshotRef", "name")
	driver, _, _ := unstructured.NestedString(content.Object, "spec", "driver")
	handle, _, _ := unstructured.NestedString(content.Object, "status", "snapshotHandle")
	if ns != key.Namespace || ref != key.Name || driver != DriverName || handle == "" {
		return "", fmt.Errorf("snapshot content %s is not of snapshot %s and this driver: %w", name, key, ErrInvalid)
	}
	return handle, nil
}
