package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NodeFlavor says which disks a kind of node must have, and how each is laid out.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,shortName=flavor
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type NodeFlavor struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              NodeFlavorSpec `json:"spec"`
}

// NodeFlavorSpec lists groups of like disks.
type NodeFlavorSpec struct {
	// +kubebuilder:validation:MinItems=1
	// +listType=map
	// +listMapKey=name
	Disks []FlavorDisks `json:"disks"`
}

// FlavorDisks is a number of like disks that a node of the flavor must have.
type FlavorDisks struct {
	// Name tells the groups of one flavor apart; disks.yaml refers to it.
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`
	Name string `json:"name"`
	// Role says what the disks are for.
	Role DiskRole `json:"role"`
	// Media, when set, must match.
	// +optional
	Media Media `json:"media,omitempty"`
	// Count is how many such disks a node must have.
	// +kubebuilder:validation:Minimum=1
	Count int32 `json:"count"`
	// MinSize is the least size of each disk, in bytes.
	// +optional
	MinSize *resource.Quantity `json:"minSize,omitempty"`
	// Layout says how node preparation lays out each disk of the group. Without
	// one it leaves these disks alone.
	// +optional
	Layout *DiskLayout `json:"layout,omitempty"`
}

// DiskLayout is what node preparation makes of a disk: partitions on disks of
// the roles static and raw, a volume group on disks of the role lvm.
//
// +kubebuilder:validation:XValidation:rule="has(self.partitions) != has(self.volumeGroup)",message="a layout has partitions or a volumeGroup, one of them"
type DiskLayout struct {
	// Partitions in their order on the disk.
	// +optional
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +listType=atomic
	Partitions []PartitionLayout `json:"partitions,omitempty"`
	// VolumeGroup of the group's disks.
	// +optional
	VolumeGroup *VolumeGroupLayout `json:"volumeGroup,omitempty"`
}

// PartitionLayout is one partition, or several alike.
type PartitionLayout struct {
	// Count is how many partitions alike follow each other.
	// +kubebuilder:default=1
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=32
	// +optional
	Count int32 `json:"count,omitempty"`
	// Size of each, in bytes, rounded down to a MiB. Partitions without a size
	// share equally what the others leave.
	// +optional
	Size *resource.Quantity `json:"size,omitempty"`
	// Filesystem to make; a partition without one is a raw block volume.
	// +optional
	Filesystem Filesystem `json:"filesystem,omitempty"`
	// MkfsOptions are further arguments of mkfs, one each.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	MkfsOptions []string `json:"mkfsOptions,omitempty"`
	// MountOptions as in fstab(5), one each.
	// +optional
	// +kubebuilder:validation:MaxItems=16
	// +listType=atomic
	MountOptions []string `json:"mountOptions,omitempty"`
	// StorageClass of the volumes that the partitions become.
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$`
	// +kubebuilder:validation:MaxLength=253
	StorageClass string `json:"storageClass"`
}

// Filesystem is one that node preparation can make.
// +kubebuilder:validation:Enum=ext4;xfs
type Filesystem string

// File systems.
const (
	FilesystemExt4 Filesystem = "ext4"
	FilesystemXFS  Filesystem = "xfs"
)

// VolumeGroupLayout says how the disks of a group become LVM volume groups. All
// volume groups of a group form one pool, which bears the group's name.
type VolumeGroupLayout struct {
	// Spread is All for one volume group over all disks of the group, and
	// PerDisk for one on each: there a volume never depends on two disks.
	// +kubebuilder:validation:Enum=All;PerDisk
	// +kubebuilder:default=PerDisk
	Spread VolumeGroupSpread `json:"spread,omitempty"`
	// ThinPoolPercent of each volume group becomes a thin pool; 0 makes none.
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=95
	// +optional
	ThinPoolPercent int32 `json:"thinPoolPercent,omitempty"`
}

// VolumeGroupSpread says how many disks a volume group spans.
type VolumeGroupSpread string

// Spreads.
const (
	SpreadAll     VolumeGroupSpread = "All"
	SpreadPerDisk VolumeGroupSpread = "PerDisk"
)

// DiskRole is what a flavor uses a disk for.
// +kubebuilder:validation:Enum=system;static;lvm;raw
type DiskRole string

// Disk roles.
const (
	RoleSystem DiskRole = "system"
	RoleStatic DiskRole = "static"
	RoleLVM    DiskRole = "lvm"
	RoleRaw    DiskRole = "raw"
)

// Media is what a disk is made of.
// +kubebuilder:validation:Enum=nvme;ssd;hdd;virtual
type Media string

// Media of disks. MediaVirtual is a disk with no hardware of its own: a loop device.
const (
	MediaNVMe    Media = "nvme"
	MediaSSD     Media = "ssd"
	MediaHDD     Media = "hdd"
	MediaVirtual Media = "virtual"
)

// NodeFlavorList is a list of NodeFlavor.
//
// +kubebuilder:object:root=true
type NodeFlavorList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NodeFlavor `json:"items"`
}
