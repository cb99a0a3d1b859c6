// Package inventory is what the tags of logical volumes tell of PersistentVolumes, and
// how these are made again from it when a cluster is lost. The driver writes it, the
// command line reads it.
package inventory

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/provisioners/lvm/vg"
)

// DriverName is the name of the CSI driver, of its provisioner and of its topology.
const DriverName = v1alpha1.DriverLVM

// TopologyKey is the label that the kubelet puts on each Node with the driver.
const TopologyKey = DriverName + "/node"

// KindVolume is the kind of a volume that is a claim's, unlike snapshots and volumes of pods.
const KindVolume = "volume"

// block is the file system of a raw volume.
const block = "block"

// Inventory is what one node's disks say of its volumes.
type Inventory struct {
	Node    string   `json:"node"`
	Volumes []Volume `json:"volumes"`
}

// Volume is a logical volume of ours with everything that its tags tell.
type Volume struct {
	Handle       string         `json:"handle"`
	Kind         string         `json:"kind"`
	Phase        string         `json:"phase"`
	Name         string         `json:"name"` // of the PersistentVolume
	Claim        string         `json:"claim,omitempty"`
	Class        string         `json:"class,omitempty"`
	Cluster      string         `json:"cluster,omitempty"`
	Filesystem   string         `json:"filesystem"`
	MountOptions string         `json:"mountOptions,omitempty"`
	Bytes        int64          `json:"bytes"`
	Source       string         `json:"source,omitempty"`
	Disks        []string       `json:"disks"`
	Media        v1alpha1.Media `json:"media,omitempty"`
}

// PersistentVolume is the object of a volume: what is common to a new one and to one
// that is made again from tags.
func PersistentVolume(name, node string, disks []string, media v1alpha1.Media, handle string, bytes int64) *corev1.PersistentVolume {
	pv := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1alpha1.LabelNode: node}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: *resource.NewQuantity(bytes, resource.BinarySI)},
			PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: DriverName, VolumeHandle: handle}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{Key: TopologyKey, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
			}}}},
		},
	}
	if len(disks) == 1 {
		pv.Labels[v1alpha1.LabelDisk] = diskid.Label(disks[0])
		pv.Annotations = map[string]string{v1alpha1.AnnotationDisk: disks[0]}
	}
	if media != "" {
		pv.Labels[v1alpha1.LabelMedia] = string(media)
	}
	return pv
}

// Skipped is a volume that gets no PersistentVolume, and why.
type Skipped struct{ Handle, Why string }

// Recover makes the PersistentVolumes of an inventory's volumes again. They retain
// their data whatever their class says, and are bound to the claim of that name once
// it is there: who made the volumes again decides what becomes of them.
func Recover(inv *Inventory) ([]*corev1.PersistentVolume, []Skipped, error) {
	var out []*corev1.PersistentVolume
	var skipped []Skipped
	names := map[string]string{}
	for _, v := range inv.Volumes {
		switch {
		case inv.Node == "" || !strings.Contains(v.Handle, "/"):
			return nil, nil, fmt.Errorf("read inventory of node %q: handle %q is none of %s", inv.Node, v.Handle, DriverName)
		case v.Kind != KindVolume:
			skipped = append(skipped, Skipped{v.Handle, "it is of kind " + v.Kind})
			continue
		case v.Phase != vg.Ready:
			skipped = append(skipped, Skipped{v.Handle, "it is in phase " + v.Phase})
			continue
		case v.Name == "" || v.Filesystem == "":
			skipped = append(skipped, Skipped{v.Handle, "its tags do not name a PersistentVolume and a file system"})
			continue
		case names[v.Name] != "":
			return nil, nil, fmt.Errorf("volumes %s and %s both say that they are %s: look at both, remove one", names[v.Name], v.Handle, v.Name)
		}
		names[v.Name] = v.Handle
		pv := PersistentVolume(v.Name, inv.Node, v.Disks, v.Media, v.Handle, v.Bytes)
		pv.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "PersistentVolume"}
		mode := corev1.PersistentVolumeFilesystem
		if v.Filesystem == block {
			mode = corev1.PersistentVolumeBlock
		} else {
			pv.Spec.CSI.FSType = v.Filesystem
		}
		pv.Spec.VolumeMode, pv.Spec.StorageClassName = &mode, v.Class
		pv.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
		pv.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
		if v.MountOptions != "" {
			pv.Spec.MountOptions = strings.Split(v.MountOptions, ",")
		}
		if ns, name, ok := strings.Cut(v.Claim, "/"); ok {
			// Without a UID it is reserved for the claim of that name
			// (pkg/controller/volume/persistentvolume).
			pv.Spec.ClaimRef = &corev1.ObjectReference{APIVersion: "v1", Kind: "PersistentVolumeClaim", Namespace: ns, Name: name}
		}
		out = append(out, pv)
	}
	return out, skipped, nil
}
