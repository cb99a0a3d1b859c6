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
}

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
