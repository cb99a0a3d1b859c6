package local

import (
	"errors"
	"fmt"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
)

// Reason says why a partition is not offered. It is a metric label.
type Reason string

// Reasons.
const (
	ReasonUnreadable        Reason = "Unreadable"        // something could not be read
	ReasonDiskMissing       Reason = "DiskMissing"       // no disk of that id is there
	ReasonPartitionMissing  Reason = "PartitionMissing"  // the disk is there, a raw partition is not
	ReasonNotMounted        Reason = "NotMounted"        // the path is no mount point, or of a part of a file system
	ReasonOtherPartition    Reason = "OtherPartition"    // what is mounted is another partition, or none
	ReasonDiskDiffers       Reason = "DiskDiffers"       // the right partition UUID on another disk, a copy; or two disks of one id
	ReasonOverNetwork       Reason = "OverNetwork"       // the disk is reached over a network, and is no disk of this node
	ReasonFilesystemDiffers Reason = "FilesystemDiffers" // another file system than was made
	ReasonReadOnly          Reason = "ReadOnly"          // by hand, or by the kernel after an error
	ReasonInUse             Reason = "InUse"             // it is mounted elsewhere or held
	ReasonDirty             Reason = "Dirty"             // it may have a tenant's data: a person decides
	ReasonQuarantined       Reason = "Quarantined"       // the disk gets no new claim
	ReasonQuarantineUnknown Reason = "QuarantineUnknown" // the API server did not say
	ReasonConflict          Reason = "Conflict"          // a volume of that name stands for something else
	ReasonRefused           Reason = "Refused"           // the API server did not take the volume
)

// Reasons are all reasons, for metrics.
func Reasons() []Reason {
	return []Reason{
		ReasonUnreadable, ReasonDiskMissing, ReasonPartitionMissing, ReasonNotMounted, ReasonOtherPartition, ReasonDiskDiffers, ReasonOverNetwork,
		ReasonFilesystemDiffers, ReasonReadOnly, ReasonInUse, ReasonDirty, ReasonQuarantined, ReasonQuarantineUnknown, ReasonConflict, ReasonRefused,
	}
}

// Device is what sysfs says of a block device.
type Device struct {
	Name          string // of the kernel, such as sdb1
	Partition     bool
	DiskID        string // of the disk that it is a partition of
	Network       string // how that disk is reached over a network, when its id is of where it is there
	PartitionUUID string
	Bytes         int64
	Holders       []string // devices built on it
	Number        string   // major:minor, of a raw partition's device
}

// Evidence is what was read of one partition of disks.yaml.
type Evidence struct {
	Mount  *Mount   // at its mount point; nil when that is no mount point, or for a raw partition
	Device *Device  // mounted there, or named by a raw partition's by-partuuid link; nil when there is none
	UsedAt []string // where it is mounted, but for its own mount point
	// Residue says why it is not known to be clean; empty when it is. Of a file
	// system whose volume stands it says nothing.
	Residue     string
	Certificate string // the unused one of a raw partition
	Err         error  // what could not be read; nothing else counts then
}

// Quarantine is what this node's ComputeNode says now.
type Quarantine struct {
	Disks map[string]string // disk id to reason
	Err   error             // it could not be read: every disk is withheld
}

// Input is everything that Decide looks at.
type Input struct {
	Node       string
	Disks      *nodedisks.File
	Evidence   map[string]Evidence                 // by partition UUID
	Present    map[string]int                      // how many disks of the host have an id; nil when not known
	Existing   map[string]*corev1.PersistentVolume // by name
	Quarantine Quarantine
	Cleaned    map[string]bool // storage classes whose volumes the cleaner cleans
}

// Withheld is a partition that has no volume and gets none now.
type Withheld struct {
	Volume, Disk, Partition, Path string
	Reason                        Reason
	Message                       string
}

// State of a volume that exists.
type State string

// States. None of them leads to an action: absence is never evidence.
const (
	StateVerified   State = "verified"   // its partition is where it should be
	StateReleased   State = "released"   // its claim is gone and its reclaim policy is Delete: the cleaner's
	StateUnverified State = "unverified" // its partition is listed and could not be confirmed now
	StateOrphaned   State = "orphaned"   // disks.yaml does not list its partition
)

// Decision is what to do, in the order of disks.yaml.
type Decision struct {
	Create   []*corev1.PersistentVolume
	Withheld []Withheld
	Volumes  map[string]State // existing volumes of this node, by name
	// Use are the certificates of raw partitions, by partition UUID, that are used
	// up because a volume stands for them or is about to be created.
	Use map[string]string
}

// Decide compares what should be offered with what is there. It is pure and
// deterministic. Only static and raw disks are looked at.
func Decide(in Input) Decision {
	out := Decision{Volumes: make(map[string]State, len(in.Existing)), Use: map[string]string{}}
	for name, pv := range in.Existing {
		if pv.Labels[v1alpha1.LabelNode] == in.Node {
			out.Volumes[name] = StateOrphaned
		}
	}
	for _, d := range in.Disks.Disks {
		if !offered(d) {
			continue
		}
		for _, p := range d.Partitions {
			in.decide(&out, d, p)
		}
	}
	return out
}

// offered says whether a disk's partitions become static volumes.
func offered(d nodedisks.Disk) bool {
	return d.Role == v1alpha1.RoleStatic || d.Role == v1alpha1.RoleRaw
}

func (in Input) decide(out *Decision, d nodedisks.Disk, p nodedisks.Partition) {
	ev, ok := in.Evidence[p.UUID]
	if !ok {
		ev.Err = errors.New("the partition was not looked at")
	}
	reason, msg := in.verify(d, p, ev)
	var bytes int64
	if reason == "" {
		bytes = ev.Device.Bytes
	}
	want := volume(in.Node, d, p, bytes, in.Cleaned[p.StorageClass])
	if have := in.Existing[want.Name]; have != nil {
		c := conflict(have, want)
		if c == "" {
			out.Volumes[have.Name] = state(have, reason)
			// Made by hand, or its claim was taken off. A released one is the cleaner's,
			// whose certificate comes while the volume is still on its way out.
			if ev.Certificate != "" && have.Status.Phase != corev1.VolumeReleased {
				out.Use[p.UUID] = ev.Certificate
			}
			return
		}
		reason, msg = ReasonConflict, c
	}
	if reason == "" && len(ev.UsedAt) > 0 {
		reason, msg = ReasonInUse, fmt.Sprintf("%s is still mounted at %s", ev.Device.Name, strings.Join(ev.UsedAt, ", "))
	}
	if reason == "" && ev.Residue != "" {
		reason, msg = ReasonDirty, ev.Residue
	}
	if reason == "" {
		reason, msg = in.Quarantine.closes(d.ID)
	}
	if reason == "" {
		out.Create = append(out.Create, want)
		if ev.Certificate != "" {
			out.Use[p.UUID] = ev.Certificate
		}
		return
	}
	out.Withheld = append(out.Withheld, withheld(want, reason, msg))
}

// state of a volume that stands for the right partition; reason is what speaks
// against that partition now. A cleaned one has no file system for a while.
func state(pv *corev1.PersistentVolume, reason Reason) State {
	switch {
	case pv.Status.Phase == corev1.VolumeReleased && pv.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return StateReleased
	case reason != "":
		return StateUnverified
	}
	return StateVerified
}

func withheld(pv *corev1.PersistentVolume, reason Reason, msg string) Withheld {
	return Withheld{
		Volume: pv.Name, Disk: pv.Annotations[v1alpha1.AnnotationDisk], Partition: pv.Annotations[v1alpha1.AnnotationPartition],
		Path: localPath(pv), Reason: reason, Message: msg,
	}
}

// closes says whether a disk gets no new claim, and why.
func (q Quarantine) closes(disk string) (Reason, string) {
	if q.Err != nil {
		return ReasonQuarantineUnknown, "quarantine is not known: " + q.Err.Error()
	}
	if why, bad := q.Disks[disk]; bad {
		return ReasonQuarantined, "the disk is quarantined: " + why
	}
	return "", ""
}

// verify compares the facts about one partition with disks.yaml. No reason
// means that every fact was read and all agree.
func (in Input) verify(d nodedisks.Disk, p nodedisks.Partition, ev Evidence) (Reason, string) {
	if ev.Err != nil {
		return ReasonUnreadable, ev.Err.Error()
	}
	raw := p.Filesystem == ""
	missing := in.Present != nil && in.Present[d.ID] == 0
	switch {
	case in.Present[d.ID] > 1:
		return ReasonDiskDiffers, fmt.Sprintf("%d disks have this id", in.Present[d.ID])
	case missing && ev.Device == nil:
		return ReasonDiskMissing, "no disk of this node has this id"
	case raw && ev.Device == nil:
		return ReasonPartitionMissing, "the disk has no such partition"
	case !raw && ev.Mount == nil:
		return ReasonNotMounted, p.MountPoint + " is not a mount point"
	case !raw && ev.Mount.Root != "/":
		return ReasonNotMounted, fmt.Sprintf("%s shows only %s of its file system", p.MountPoint, ev.Mount.Root)
	case ev.Device == nil || !ev.Device.Partition:
		return ReasonOtherPartition, "what is mounted is no partition of a disk"
	case ev.Device.PartitionUUID != p.UUID:
		return ReasonOtherPartition, fmt.Sprintf("%s is partition %s of disk %s", ev.Device.Name, ev.Device.PartitionUUID, ev.Device.DiskID)
	case ev.Device.Network != "":
		return ReasonOverNetwork, fmt.Sprintf("%s is on disk %s, which is reached over a network (%s) and is no disk of this node: what is on it stays as it is; "+
			"move it to a drive of the node, and give its place to that with node-prepare --replace", ev.Device.Name, ev.Device.DiskID, ev.Device.Network)
	case ev.Device.DiskID != d.ID:
		return ReasonDiskDiffers, fmt.Sprintf("%s is on disk %s", ev.Device.Name, ev.Device.DiskID)
	case !raw && ev.Mount.Filesystem != p.Filesystem:
		return ReasonFilesystemDiffers, fmt.Sprintf("%s is %s, not %s", ev.Device.Name, ev.Mount.Filesystem, p.Filesystem)
	case !raw && ev.Mount.ReadOnly:
		return ReasonReadOnly, p.MountPoint + " is mounted read-only"
	case raw && len(ev.UsedAt)+len(ev.Device.Holders) > 0:
		used := append(append([]string(nil), ev.UsedAt...), ev.Device.Holders...)
		sort.Strings(used)
		return ReasonInUse, fmt.Sprintf("%s is used by %s", ev.Device.Name, strings.Join(used, ", "))
	case ev.Device.Bytes < mebibyte:
		return ReasonUnreadable, fmt.Sprintf("%s is %d bytes", ev.Device.Name, ev.Device.Bytes)
	}
	return "", ""
}
