package v1alpha1

import (
	"k8s.io/apimachinery/pkg/types"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// ComputeNode is what is known of one Node's disks. It carries the Node's name
// and outlives it: it is the durable record of quarantine.
//
// Who writes what: spec belongs to the remediation controller and to people;
// status belongs to the node's own disk-monitor.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=cn
// +kubebuilder:printcolumn:name="State",type=string,JSONPath=`.status.state`
// +kubebuilder:printcolumn:name="Disks",type=integer,JSONPath=`.status.diskCount`
// +kubebuilder:printcolumn:name="Bad",type=integer,JSONPath=`.status.badDiskCount`
// +kubebuilder:printcolumn:name="Why",type=string,JSONPath=`.status.summary`
// +kubebuilder:printcolumn:name="Reported",type=date,JSONPath=`.status.reportTime`
// +kubebuilder:printcolumn:name="Flavor",type=string,JSONPath=`.spec.flavor`,priority=1
type ComputeNode struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +optional
	Spec ComputeNodeSpec `json:"spec,omitempty"`
	// +optional
	Status ComputeNodeStatus `json:"status,omitempty"`
}

// ComputeNodeSpec is what remediation and people want of the node.
type ComputeNodeSpec struct {
	// Flavor names the NodeFlavor; empty when the Node has no flavor label.
	// +optional
	Flavor string `json:"flavor,omitempty"`
	// NodeUID is the UID of the Node that carries the name now.
	// +optional
	NodeUID types.UID `json:"nodeUID,omitempty"`
	// ProviderID is the Node's spec.providerID.
	// +optional
	ProviderID string `json:"providerID,omitempty"`
	// Maintenance set to true stops every remediation of this node. Quarantine goes on.
	// +optional
	Maintenance bool `json:"maintenance,omitempty"`
	// Quarantine lists the disks that get no new claim.
	// +optional
	// +listType=map
	// +listMapKey=disk
	Quarantine []Quarantine `json:"quarantine,omitempty"`
	// Replacements lists the disks that a person is asked to replace.
	// +optional
	// +listType=map
	// +listMapKey=disk
	Replacements []ReplacementRequest `json:"replacements,omitempty"`
}

// Quarantine closes one disk to new claims.
type Quarantine struct {
	// Disk is the disk id.
	// +kubebuilder:validation:MinLength=1
	Disk string `json:"disk"`
	// Reason is a CamelCase word: the disk's state, or the operator's own.
	Reason string `json:"reason"`
	// By is remediation-controller, or who else asked. The controller lifts only its own.
	By string `json:"by"`
	// Since is when the quarantine was decided.
	Since metav1.Time `json:"since"`
}

// QuarantinedByController is Quarantine.By of the remediation controller's own entries.
const QuarantinedByController = "remediation-controller"

// ReplacementRequest asks a person to change a disk.
type ReplacementRequest struct {
	// +kubebuilder:validation:MinLength=1
	Disk string `json:"disk"`
	// Slot is where the disk sits, as far as it is known.
	// +optional
	Slot string `json:"slot,omitempty"`
	// Remediation names the plan that asks.
	Remediation string `json:"remediation"`
	// Since is when it was asked.
	Since metav1.Time `json:"since"`
}

// ComputeNodeStatus is what the node's disk-monitor sees.
type ComputeNodeStatus struct {
	// State is the worst state of all disks.
	// +optional
	State DiskState `json:"state,omitempty"`
	// Summary is one line for a person: which disk is bad and why. Empty when all is well.
	// +optional
	Summary string `json:"summary,omitempty"`
	// DiskCount and BadDiskCount count the disks, and those neither Healthy nor Unknown.
	// +optional
	DiskCount int32 `json:"diskCount"`
	// +optional
	BadDiskCount int32 `json:"badDiskCount"`
	// Disks are all disks that are present, or that the node must have.
	// +optional
	// +listType=map
	// +listMapKey=id
	Disks []Disk `json:"disks,omitempty"`
	// Conditions: InventoryRead, FlavorSatisfied, KernelLogRead, HealthRead.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// BootID is /proc/sys/kernel/random/boot_id at the time of the report.
	// +optional
	BootID string `json:"bootID,omitempty"`
	// KernelLog says how far the kernel log has been read.
	// +optional
	KernelLog *KernelLogPosition `json:"kernelLog,omitempty"`
	// ReportTime is when the monitor last wrote this status.
	// +optional
	ReportTime *metav1.Time `json:"reportTime,omitempty"`
}

// Condition types of a ComputeNode.
const (
	// ConditionInventoryRead is False while disks cannot be listed; states are then Unknown.
	ConditionInventoryRead = "InventoryRead"
	// ConditionFlavorSatisfied is False when the node has fewer disks than its flavor says. A disk
	// that takes no writes counts for none.
	ConditionFlavorSatisfied = "FlavorSatisfied"
	// ConditionKernelLogRead is False while the kernel log cannot be read.
	ConditionKernelLogRead = "KernelLogRead"
	// ConditionHealthRead is False while a disk does not answer when it is asked for its SMART
	// data; it is missing when disks are not asked.
	ConditionHealthRead = "HealthRead"
)

// KernelLogPosition is the last kernel log record that has been dealt with.
type KernelLogPosition struct {
	// Sequence is the record's number (Documentation/ABI/testing/dev-kmsg); it starts anew at boot.
	Sequence int64 `json:"sequence"`
	// Lost counts records that the kernel overwrote before they were read, since boot.
	Lost int64 `json:"lost"`
	// Source says whose numbers these are: empty for /dev/kmsg, journal for journald's, which are
	// microseconds since boot times 1000.
	// +optional
	Source string `json:"source,omitempty"`
}

// KernelLogJournal is KernelLogPosition.Source when the journal is read.
const KernelLogJournal = "journal"

// Disk is one physical drive.
type Disk struct {
	// ID is the lower-case WWN, else model and serial, else (virtual disks) a path; see Weak.
	// +kubebuilder:validation:MinLength=1
	ID string `json:"id"`
	// Weak is true when the id names a place and not a drive.
	// +optional
	Weak bool `json:"weak,omitempty"`
	// Device is the kernel's name now, such as sda; empty while the disk is missing.
	// +optional
	Device string `json:"device,omitempty"`
	// +optional
	Model string `json:"model,omitempty"`
	// +optional
	Serial string `json:"serial,omitempty"`
	// +optional
	Media Media `json:"media,omitempty"`
	// SizeBytes is the capacity in bytes.
	// +optional
	SizeBytes int64 `json:"sizeBytes,omitempty"`
	// Slot is where the disk sits: its enclosure slot or its path.
	// +optional
	Slot string `json:"slot,omitempty"`
	// Group is the name of the flavor's group of disks that this one belongs to.
	// +optional
	Group string `json:"group,omitempty"`
	// State is the verdict.
	State DiskState `json:"state"`
	// Since is when the disk entered State.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// Faults are what speaks against the disk, one entry per class.
	// +optional
	// +listType=map
	// +listMapKey=class
	Faults []Fault `json:"faults,omitempty"`
	// Volumes are the volumes on the disk.
	// +optional
	// +listType=atomic
	Volumes []DiskVolume `json:"volumes,omitempty"`
}

// DiskVolume is one volume on a disk.
type DiskVolume struct {
	// PartitionUUID is the GPT partition's UUID.
	// +optional
	PartitionUUID string `json:"partitionUUID,omitempty"`
	// PersistentVolume and Claim (namespace/name), as far as they are known.
	// +optional
	PersistentVolume string `json:"persistentVolume,omitempty"`
	// +optional
	Claim string `json:"claim,omitempty"`
}

// DiskState is the verdict on a disk.
// +kubebuilder:validation:Enum=Healthy;Degraded;Failed;Missing;Unknown
type DiskState string

// Disk states, from good to bad.
const (
	// DiskHealthy: present, and nothing speaks against it.
	DiskHealthy DiskState = "Healthy"
	// DiskUnknown: it could not be looked at. Nothing is concluded.
	DiskUnknown DiskState = "Unknown"
	// DiskDegraded: works, with warnings.
	DiskDegraded DiskState = "Degraded"
	// DiskFailed: reads or writes fail.
	DiskFailed DiskState = "Failed"
	// DiskMissing: the node must have it, the inventory was read, and it is not there.
	DiskMissing DiskState = "Missing"
)

// Fault is one class of evidence against a disk.
type Fault struct {
	Class    FaultClass `json:"class"`
	Severity Severity   `json:"severity"`
	// FirstSeen and LastSeen bound the evidence.
	FirstSeen metav1.Time `json:"firstSeen"`
	LastSeen  metav1.Time `json:"lastSeen"`
	// Until is when the fault ends unless it is seen again. It is missing when the fault
	// does not end by itself.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
	// Count is how many records were seen; the kernel rate-limits them, so it is a lower bound.
	Count int64 `json:"count"`
	// Evidence is the latest record, at most 512 bytes.
	// +optional
	Evidence string `json:"evidence,omitempty"`
}

// Severity of a fault. Critical: data or a device is lost. Warning: something that should not be, and may pass.
// +kubebuilder:validation:Enum=Warning;Critical
type Severity string

// Severities.
const (
	SeverityWarning  Severity = "Warning"
	SeverityCritical Severity = "Critical"
)

// FaultClass names a kind of evidence.
type FaultClass string

// Fault classes.
const (
	FaultBlockIO       FaultClass = "BlockIO"       // the block layer failed a request
	FaultBufferIO      FaultClass = "BufferIO"      // a page could not be read or written back
	FaultMedium        FaultClass = "Medium"        // the medium itself: unrecovered read, NVMe media error
	FaultSCSI          FaultClass = "SCSI"          // sense data or host byte other than medium
	FaultATA           FaultClass = "ATA"           // ATA command failure
	FaultLink          FaultClass = "Link"          // resets, CRC, link speed
	FaultNVMe          FaultClass = "NVMe"          // controller timeout or reset
	FaultDeviceOffline FaultClass = "DeviceOffline" // the kernel gave the device up
	FaultFilesystem    FaultClass = "Filesystem"    // the filesystem shut down or found corruption
	FaultSMART         FaultClass = "SMART"         // what the disk says of itself
	FaultIntegrity     FaultClass = "Integrity"     // a checksum or an authentication tag is wrong
	FaultArray         FaultClass = "Array"         // a member has left its array, or the array has lost too many
	FaultPath          FaultClass = "Path"          // one of several ways to the disk is lost
	FaultMapper        FaultClass = "Mapper"        // a pool, snapshot or cache above the disk has failed
	FaultHungIO        FaultClass = "HungIO"        // a task of the kernel has waited for I/O for minutes
	FaultNoAnswer      FaultClass = "NoAnswer"      // requests wait for the disk, and it answers none
	FaultController    FaultClass = "Controller"    // the adapter that the disk is connected to
	FaultPCIe          FaultClass = "PCIe"          // the bus that the disk or its adapter is connected to
	FaultNetwork       FaultClass = "Network"       // the network, or the server behind it, of a remote disk
	FaultReadOnly      FaultClass = "ReadOnly"      // a disk that volumes are on takes no writes
	FaultShrunken      FaultClass = "Shrunken"      // the disk is smaller than it was
	FaultFlapping      FaultClass = "Flapping"      // the disk comes and goes
	FaultMissing       FaultClass = "Missing"       // the disk is not there
)

// ComputeNodeList is a list of ComputeNode.
//
// +kubebuilder:object:root=true
type ComputeNodeList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []ComputeNode `json:"items"`
}
