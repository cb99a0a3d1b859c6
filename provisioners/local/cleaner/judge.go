package cleaner

import (
	"fmt"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local"
	"holdfast.dev/provisioners/local/wipe"
)

// Reason says why a released volume is not cleaned now. It is a metric label.
type Reason string

// Reasons.
const (
	ReasonNotReleased       Reason = "NotReleased"       // it is no volume to be cleaned, or no longer
	ReasonNotOurs           Reason = "NotOurs"           // its name, labels and annotations do not say the same
	ReasonNoMethod          Reason = "NoMethod"          // the addon's values do not say how its class is cleaned
	ReasonClaimExists       Reason = "ClaimExists"       // the API server still has the claim
	ReasonClaimUnknown      Reason = "ClaimUnknown"      // it did not say
	ReasonAlreadyCleaned    Reason = "AlreadyCleaned"    // its data is gone: the cluster was set back to before that
	ReasonNeverBound        Reason = "NeverBound"        // it was not seen with its claim: the claim may be yet to come
	ReasonQuarantined       Reason = "Quarantined"       // the disk's data is evidence and may be wanted
	ReasonQuarantineUnknown Reason = "QuarantineUnknown" // there is no ComputeNode, or it was not read
	ReasonDiskBad           Reason = "DiskBad"           // the disk monitor says that it has failed
	ReasonNotListed         Reason = "NotListed"         // disks.yaml does not list the partition as this volume has it
	ReasonDiskDiffers       Reason = "DiskDiffers"       // it is not there, or not the one, or not the only one
	ReasonInUse             Reason = "InUse"             // something has it mounted or holds it
	ReasonUnreadable        Reason = "Unreadable"        // something could not be read
	ReasonFailed            Reason = "Failed"            // a step went wrong
)

// Reasons are all reasons, for metrics.
func Reasons() []Reason {
	return []Reason{
		ReasonNotReleased, ReasonNotOurs, ReasonNoMethod, ReasonClaimExists, ReasonClaimUnknown, ReasonAlreadyCleaned, ReasonNeverBound, ReasonQuarantined, ReasonQuarantineUnknown,
		ReasonDiskBad, ReasonNotListed, ReasonDiskDiffers, ReasonInUse, ReasonUnreadable, ReasonFailed,
	}
}

// Refusal is why a volume is not cleaned. It is an error.
type Refusal struct {
	Reason  Reason
	Message string
}

func (r *Refusal) Error() string { return string(r.Reason) + ": " + r.Message }

func refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{reason, fmt.Sprintf(format, args...)}
}

// Sight is what the host shows of one partition, mounted or not.
type Sight struct {
	Device *local.Device // that udev's link for the partition leads to; nil when there is none
	Disks  int           // how many disks have the disk's id
	Points []string      // where the host's first process has it mounted
	Pinned []string      // mounts in other namespaces that an unmount on the host does not reach
}

// Facts is everything that Judge looks at, all of it read just now.
type Facts struct {
	Node    string
	Volume  *corev1.PersistentVolume
	Methods local.Classes

	ClaimUID types.UID // of the claim that has the name now; empty when there is none
	// ClaimVolume is the volume that this claim names.
	ClaimVolume string
	ClaimErr    error // the API server did not say

	History    History // of its partition
	HistoryErr error

	ComputeNode    *v1alpha1.ComputeNode // nil when there is none
	ComputeNodeErr error

	Disks    *nodedisks.File
	Sight    Sight
	SightErr error
}

// Job is one partition to clean, as it was judged.
type Job struct {
	Volume     string
	UID        types.UID
	Claim      types.UID // of the claim that is gone
	Created    int64     // of the volume, as Tenancy has it
	Version    string    // resource version of the volume
	Disk       string
	Partition  string
	Device     string // of the kernel, such as sdb1
	Number     string // major:minor
	Bytes      int64
	Filesystem string // empty for a raw partition
	MountPoint string
	Mounted    bool
	Method     wipe.Method
}

// Candidate says whether a volume asks to be cleaned at all.
func Candidate(pv *corev1.PersistentVolume) bool {
	return pv.Status.Phase == corev1.VolumeReleased && pv.DeletionTimestamp == nil &&
		pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete &&
		pv.Spec.ClaimRef != nil && pv.Spec.ClaimRef.UID != ""
}

// Judge says whether the partition of a volume may be cleaned. Whatever is not
// known is a refusal. It is pure.
func Judge(f Facts) (Job, *Refusal) {
	pv := f.Volume
	d, p, method, no := f.identity()
	if no != nil {
		return Job{}, no
	}
	if no := f.released(d.ID); no != nil {
		return Job{}, no
	}
	if no := f.known(); no != nil {
		return Job{}, no
	}
	if no := f.sight(d, p); no != nil {
		return Job{}, no
	}
	return Job{
		Volume: pv.Name, UID: pv.UID, Claim: pv.Spec.ClaimRef.UID, Created: created(pv), Version: pv.ResourceVersion, Disk: d.ID, Partition: p.UUID,
		Device: f.Sight.Device.Name, Number: f.Sight.Device.Number, Bytes: f.Sight.Device.Bytes,
		Filesystem: p.Filesystem, MountPoint: p.MountPoint, Mounted: len(f.Sight.Points) > 0, Method: method,
	}, nil
}

// identity finds the one partition that the volume was made for.
func (f Facts) identity() (d nodedisks.Disk, p nodedisks.Partition, m wipe.Method, no *Refusal) {
	pv := f.Volume
	if !Candidate(pv) {
		return d, p, m, refuse(ReasonNotReleased, "phase %s, reclaim policy %s", pv.Status.Phase, pv.Spec.PersistentVolumeReclaimPolicy)
	}
	disk, part := pv.Annotations[v1alpha1.AnnotationDisk], pv.Annotations[v1alpha1.AnnotationPartition]
	switch {
	case pv.Annotations[local.AnnotationProvisioner] != local.Provisioner:
		return d, p, m, refuse(ReasonNotOurs, "annotation %s is not %s", local.AnnotationProvisioner, local.Provisioner)
	case pv.Labels[v1alpha1.LabelNode] != f.Node:
		return d, p, m, refuse(ReasonNotOurs, "label %s is %q, not this node", v1alpha1.LabelNode, pv.Labels[v1alpha1.LabelNode])
	case pv.Labels[v1alpha1.LabelDisk] != diskid.Label(disk):
		return d, p, m, refuse(ReasonNotOurs, "label and annotation do not name the same disk")
	case pv.Name != local.VolumeName(disk, part):
		return d, p, m, refuse(ReasonNotOurs, "its name is not that of partition %s of disk %s", part, disk)
	}
	if m = f.Methods[pv.Spec.StorageClassName]; m == "" {
		return d, p, m, refuse(ReasonNoMethod, "class %q is not cleaned (reclaimPolicy in the addon's storageClasses)", pv.Spec.StorageClassName)
	}
	d, p, ok := local.Listed(f.Disks, pv.Name)
	if !ok {
		return d, p, m, refuse(ReasonNotListed, "%s does not list it", nodedisks.Path)
	}
	if c := local.Conflict(pv, f.Node, d, p); c != "" {
		return d, p, m, refuse(ReasonNotListed, "%s", c)
	}
	return d, p, m, nil
}

// released checks that nobody has the data any more, and that nobody wants it.
func (f Facts) released(disk string) *Refusal {
	ref := f.Volume.Spec.ClaimRef
	switch {
	case f.ClaimErr != nil:
		return refuse(ReasonClaimUnknown, "claim %s/%s: %v", ref.Namespace, ref.Name, f.ClaimErr)
	case f.ClaimUID == ref.UID:
		return refuse(ReasonClaimExists, "claim %s/%s is still there", ref.Namespace, ref.Name)
	case f.ClaimVolume == f.Volume.Name:
		// Put back from a backup it has another UID, and its volume looks released.
		return refuse(ReasonClaimExists, "claim %s/%s names it", ref.Namespace, ref.Name)
	case f.ComputeNodeErr != nil:
		return refuse(ReasonQuarantineUnknown, "%v", f.ComputeNodeErr)
	case f.ComputeNode == nil:
		return refuse(ReasonQuarantineUnknown, "there is no ComputeNode %s, the record of quarantine", f.Node)
	case f.Volume.Labels[v1alpha1.LabelQuarantined] == "true":
		return refuse(ReasonQuarantined, "the volume is marked")
	}
	for _, q := range f.ComputeNode.Spec.Quarantine {
		if q.Disk == disk {
			return refuse(ReasonQuarantined, "%s by %s", q.Reason, q.By)
		}
	}
	for _, s := range f.ComputeNode.Status.Disks {
		if s.ID == disk && (s.State == v1alpha1.DiskFailed || s.State == v1alpha1.DiskMissing) {
			return refuse(ReasonDiskBad, "the disk is %s", s.State)
		}
	}
	return nil
}

// known compares the volume with what the node itself knows of its partition.
func (f Facts) known() *Refusal {
	pv := f.Volume
	if f.HistoryErr != nil {
		return refuse(ReasonUnreadable, "%v", f.HistoryErr)
	}
	if c, how := f.History.cleaned(pv); how != "" {
		return refuse(ReasonAlreadyCleaned, "%s on %s, and what its partition has now is not its data: the cluster was set back to before that. "+
			"Delete the volume: its partition is then looked at anew, and is offered only if it is clean", how, c.Time.Format(time.RFC3339))
	}
	if !f.History.bound(pv) && pv.Annotations[local.AnnotationApproved] != string(pv.Spec.ClaimRef.UID) {
		ref := pv.Spec.ClaimRef
		return refuse(ReasonNeverBound, "it was never seen Bound here to claim %s/%s, which may be yet to come from a backup. "+
			"When its data is not wanted: kubectl annotate pv %s %s=%s", ref.Namespace, ref.Name, pv.Name, local.AnnotationApproved, ref.UID)
	}
	return nil
}

// sight compares the host with disks.yaml.
func (f Facts) sight(d nodedisks.Disk, p nodedisks.Partition) *Refusal {
	s := f.Sight
	switch {
	case f.SightErr != nil:
		return refuse(ReasonUnreadable, "%v", f.SightErr)
	case s.Device == nil:
		return refuse(ReasonDiskDiffers, "no partition %s is there", p.UUID)
	case s.Device.Network != "":
		return refuse(ReasonDiskDiffers, "%s is on disk %s, which is reached over a network (%s) and is no disk of this node", s.Device.Name, s.Device.DiskID, s.Device.Network)
	case s.Disks != 1:
		return refuse(ReasonDiskDiffers, "%d disks have the id %s", s.Disks, d.ID)
	case !s.Device.Partition || s.Device.PartitionUUID != p.UUID || s.Device.DiskID != d.ID:
		return refuse(ReasonDiskDiffers, "%s is partition %s of disk %s", s.Device.Name, s.Device.PartitionUUID, s.Device.DiskID)
	case s.Device.Number == "" || s.Device.Bytes <= 0:
		return refuse(ReasonUnreadable, "%s has number %q and %d bytes", s.Device.Name, s.Device.Number, s.Device.Bytes)
	}
	used := append([]string(nil), s.Pinned...)
	for _, h := range s.Device.Holders {
		used = append(used, "device "+h)
	}
	for i, point := range s.Points {
		if p.MountPoint == "" || point != p.MountPoint || i > 0 && s.Points[i-1] == point {
			used = append(used, "mount "+point)
		}
	}
	if len(used) > 0 {
		sort.Strings(used)
		return refuse(ReasonInUse, "%s is used by %s", s.Device.Name, strings.Join(used, ", "))
	}
	return nil
}
