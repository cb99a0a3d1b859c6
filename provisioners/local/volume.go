package local

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/nodedisks"
)

const (
	byPartUUID = "/dev/disk/by-partuuid"
	mebibyte   = 1 << 20

	// Provisioner is this provisioner's name in the annotation
	// pv.kubernetes.io/provisioned-by. With it the PV controller leaves a released
	// volume with reclaim policy Delete alone; without it, it would look for a
	// volume plugin that deletes, find none and call the volume Failed
	// (pkg/controller/volume/persistentvolume pv_controller.go, findDeletablePlugin).
	Provisioner = "holdfast.dev/" + component
	// AnnotationProvisioner is that annotation.
	AnnotationProvisioner = "pv.kubernetes.io/provisioned-by"
	// AnnotationApproved is a person's word on a released volume that its data is not wanted. Its
	// value is the UID of the claim that the volume names.
	AnnotationApproved = "holdfast.dev/clean-approved"
)

// VolumeName is the name of the PersistentVolume of one partition of one disk:
// the first 80 bits of a SHA-256, so that two of a million meet with a
// probability below 10^-12. The node is no part of it: a disk that moves keeps
// its volume's name.
func VolumeName(diskID, partitionUUID string) string {
	sum := sha256.Sum256([]byte(diskID + "\x00" + partitionUUID))
	return "local-" + hex.EncodeToString(sum[:10])
}

// volume is the PersistentVolume of p. Its capacity is the partition's size
// rounded down to a MiB: a file system's own size changes with its options. With
// clean its reclaim policy is Delete.
func volume(node string, d nodedisks.Disk, p nodedisks.Partition, bytes int64, clean bool) *corev1.PersistentVolume {
	policy := corev1.PersistentVolumeReclaimRetain
	if clean {
		policy = corev1.PersistentVolumeReclaimDelete
	}
	mode := corev1.PersistentVolumeFilesystem
	path := p.MountPoint
	if p.Filesystem == "" {
		mode, path = corev1.PersistentVolumeBlock, byPartUUID+"/"+p.UUID
	}
	labels := map[string]string{v1alpha1.LabelNode: node, v1alpha1.LabelDisk: diskid.Label(d.ID)}
	if d.Media != "" {
		labels[v1alpha1.LabelMedia] = string(d.Media)
	}
	return &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name:   VolumeName(d.ID, p.UUID),
			Labels: labels,
			Annotations: map[string]string{
				v1alpha1.AnnotationDisk: d.ID, v1alpha1.AnnotationPartition: p.UUID, AnnotationProvisioner: Provisioner,
			},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(bytes/mebibyte*mebibyte, resource.BinarySI)},
			AccessModes:                   []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			VolumeMode:                    &mode,
			StorageClassName:              p.StorageClass,
			PersistentVolumeReclaimPolicy: policy,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: path}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node},
				}},
			}}}},
		},
	}
}

// Conflict says in what a volume stands for something else than partition p of
// disk d on node; empty when it does not.
func Conflict(have *corev1.PersistentVolume, node string, d nodedisks.Disk, p nodedisks.Partition) string {
	return conflict(have, volume(node, d, p, 0, false))
}

// conflict says in what an existing volume of the right name stands for
// something else than want; empty when it does not. What others may change on a
// volume (claim, marks, reclaim policy) is not compared.
func conflict(have, want *corev1.PersistentVolume) string {
	for _, c := range []struct{ what, have, want string }{
		{"disk id", have.Annotations[v1alpha1.AnnotationDisk], want.Annotations[v1alpha1.AnnotationDisk]},
		{"partition UUID", have.Annotations[v1alpha1.AnnotationPartition], want.Annotations[v1alpha1.AnnotationPartition]},
		{"node label", have.Labels[v1alpha1.LabelNode], want.Labels[v1alpha1.LabelNode]},
		{"node affinity", affinityNode(have), affinityNode(want)},
		{"path", localPath(have), localPath(want)},
		{"volume mode", volumeMode(have), volumeMode(want)},
	} {
		if c.have != c.want {
			return fmt.Sprintf("volume %s exists and its %s is %q, not %q (delete it once its data is not needed)", have.Name, c.what, c.have, c.want)
		}
	}
	return ""
}

// affinityNode is the one node that a volume is tied to, or empty.
func affinityNode(pv *corev1.PersistentVolume) string {
	na := pv.Spec.NodeAffinity
	if na == nil || na.Required == nil || len(na.Required.NodeSelectorTerms) != 1 {
		return ""
	}
	t := na.Required.NodeSelectorTerms[0]
	if len(t.MatchFields) != 0 || len(t.MatchExpressions) != 1 {
		return ""
	}
	e := t.MatchExpressions[0]
	if e.Key != corev1.LabelHostname || e.Operator != corev1.NodeSelectorOpIn || len(e.Values) != 1 {
		return ""
	}
	return e.Values[0]
}

func localPath(pv *corev1.PersistentVolume) string {
	if pv.Spec.Local == nil {
		return ""
	}
	return pv.Spec.Local.Path
}

func volumeMode(pv *corev1.PersistentVolume) string {
	if pv.Spec.VolumeMode == nil {
		return string(corev1.PersistentVolumeFilesystem)
	}
	return string(*pv.Spec.VolumeMode)
}
