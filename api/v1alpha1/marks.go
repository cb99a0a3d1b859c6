package v1alpha1

// Labels and annotations. The same names are used on every object.
const (
	// LabelNode on a PersistentVolume names the Node that holds its disk.
	LabelNode = "holdfast.dev/node"
	// LabelDisk on a PersistentVolume is the disk id; see diskid.Label.
	LabelDisk = "holdfast.dev/disk"
	// LabelMedia on a PersistentVolume is the disk's media: ssd, nvme, hdd or virtual.
	LabelMedia = "holdfast.dev/media"
	// LabelQuarantined is "true" on a PersistentVolume that no new claim may bind.
	LabelQuarantined = "holdfast.dev/quarantined"
	// LabelAntiAffinity on a PersistentVolumeClaim names a group: two claims of
	// one namespace and group never get volumes on the same disk.
	// LabelAntiAffinityPreferred asks for that where it can be had.
	LabelAntiAffinity          = "holdfast.dev/disk-anti-affinity"
	LabelAntiAffinityPreferred = "holdfast.dev/disk-anti-affinity-preferred"
	// LabelVolumeGroup on a CSIStorageCapacity names the LVM volume group whose room
	// it tells; LabelDisk beside it is there when the group lies on one disk. As
	// annotations of a claim with a selected node, the two are the scheduler's
	// choice: the provisioner makes the volume in that volume group or not at all.
	LabelVolumeGroup = "holdfast.dev/volume-group"
	// VolumeGroupNode as an annotation of a claim is the node that the two were chosen
	// for. On a claim whose selected node is another one they are a leftover.
	VolumeGroupNode = "holdfast.dev/volume-group-node"
	// VolumeGroupSeqno is LVM's vg_seqno, which every change of a volume group raises
	// (vgs(8), -o vg_seqno). As an annotation of a CSIStorageCapacity it says up to
	// which change the room is counted; in a PersistentVolume's CSI volume attributes,
	// with which change the volume was made. Both are optional: without them a
	// capacity is taken to count a volume when it was written after it.
	VolumeGroupSeqno = "holdfast.dev/volume-group-seqno"
	// LabelFlavor on a Node names its NodeFlavor.
	LabelFlavor = "holdfast.dev/flavor"
	// LabelAddon and LabelAddonVersion are on every object of a bundle.
	LabelAddon        = "holdfast.dev/addon"
	LabelAddonVersion = "holdfast.dev/addon-version"
	// LabelAddonMode is kube-addon-manager's mode label: Reconcile or EnsureExists.
	LabelAddonMode = "addonmanager.kubernetes.io/mode"

	// AnnotationTaints on a PersistentVolume is a JSON list of VolumeTaint.
	AnnotationTaints = "holdfast.dev/taints"
	// AnnotationPartition on a PersistentVolume is the partition UUID it stands for.
	AnnotationPartition = "holdfast.dev/partition-uuid"
	// AnnotationDisk on a PersistentVolume is the full disk id (a label value is cut at 63 characters).
	AnnotationDisk = "holdfast.dev/disk-id"
	// AnnotationNotified on a PersistentVolume names the Event that told its
	// claim of the quarantine. Events are forgotten after an hour; this is not.
	AnnotationNotified = "holdfast.dev/notified-event"

	// AnnotationClearFaults on a ComputeNode is "<disk id>@<RFC 3339 time>": the
	// operator's word that faults of the disk last seen before then are over.
	AnnotationClearFaults = "holdfast.dev/clear-faults"

	// AnnotationKnownDisks on a Remediation is a JSON list of the disks that the
	// node had when the plan was made: what is not in it is new.
	AnnotationKnownDisks = "holdfast.dev/known-disks"
	// AnnotationReplacedBy on a Remediation is the disk that took the old one's place.
	AnnotationReplacedBy = "holdfast.dev/replaced-by"
	// AnnotationGoneSince on a Remediation is the old disk's status.since when it was found replaced.
	AnnotationGoneSince = "holdfast.dev/gone-since"
	// AnnotationRetiring on a Remediation is a JSON list of the volumes that RetireVolumes is about to delete.
	AnnotationRetiring = "holdfast.dev/retiring"
	// FinalizerBudget keeps a deleted Remediation until its slot of the budget is
	// given back. It makes deletion a cancellation, which can be seen, and not an
	// absence, which cannot.
	FinalizerBudget = "holdfast.dev/budget"
)

// The sentinel claim that a quarantined, unbound PersistentVolume is pre-bound
// to. The scheduler's and the PV controller's search skip a volume whose
// claimRef names another claim (k8s.io/component-helpers/storage/volume
// FindMatchingVolume). Nobody can create this claim: its name is not a DNS-1123
// subdomain, which the API server demands of every PersistentVolumeClaim. Its
// UID stays empty; with a UID the PV controller would take the volume for
// Released and reclaim it.
const (
	SentinelClaimNamespace = "holdfast-quarantine"
	SentinelClaimName      = "QUARANTINED"
)

// DriverLVM is the CSI driver of logical volumes: its name, its provisioner's, and the begin
// of its topology key.
const DriverLVM = "lvm.holdfast.dev"

// TaintDisk is the key of the taint that a bad disk puts on its volumes.
const TaintDisk = "holdfast.dev/disk"

// VolumeTaint is one entry of AnnotationTaints.
type VolumeTaint struct {
	Key       string `json:"key"`
	Value     string `json:"value"`
	Effect    string `json:"effect"`    // NoBind
	TimeAdded string `json:"timeAdded"` // RFC 3339
}

// EffectNoBind is the only taint effect: no new claim may bind the volume.
const EffectNoBind = "NoBind"

// Values of LabelAddonMode.
const (
	// ModeReconcile: the object is kept as the bundle has it, and pruned.
	ModeReconcile = "Reconcile"
	// ModeEnsureExists: it is made, and then left to whoever has it.
	ModeEnsureExists = "EnsureExists"
)
