package report

import (
	"slices"
	"strings"

	"holdfast.dev/api/v1alpha1"
)

// Volume is what the report needs of a PersistentVolume.
type Volume struct {
	Name          string
	Disk          string // disk id, from AnnotationDisk
	PartitionUUID string
	Claim         string // namespace/name; empty while unbound or quarantined
}

// volumes are the volumes on a disk: its prepared partitions with their
// PersistentVolumes, and PersistentVolumes that say they are on it.
func (b *builder) volumes(id string) []v1alpha1.DiskVolume {
	var out []v1alpha1.DiskVolume
	listed := map[string]bool{}
	for _, p := range b.prepared[id].Partitions {
		listed[p.UUID] = true
		v := v1alpha1.DiskVolume{PartitionUUID: p.UUID}
		for _, pv := range b.view.Volumes {
			if pv.Disk == id && pv.PartitionUUID == p.UUID { // a cloned disk has the same partition
				v.PersistentVolume, v.Claim = pv.Name, pv.Claim
				break
			}
		}
		out = append(out, v)
	}
	for _, pv := range b.view.Volumes {
		if pv.Disk == id && !listed[pv.PartitionUUID] {
			out = append(out, v1alpha1.DiskVolume{PartitionUUID: pv.PartitionUUID, PersistentVolume: pv.Name, Claim: pv.Claim})
		}
	}
	slices.SortFunc(out, func(x, y v1alpha1.DiskVolume) int {
		if c := strings.Compare(x.PartitionUUID, y.PartitionUUID); c != 0 {
			return c
		}
		return strings.Compare(x.PersistentVolume, y.PersistentVolume)
	})
	return out
}
