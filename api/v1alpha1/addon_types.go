package v1alpha1

import metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

// AddonStatus is what the agent did with one addon in this cluster. It carries
// the addon's name.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=addon
// +kubebuilder:printcolumn:name="Version",type=string,JSONPath=`.status.version`
// +kubebuilder:printcolumn:name="Health",type=string,JSONPath=`.status.health`
// +kubebuilder:printcolumn:name="Objects",type=integer,JSONPath=`.status.objectCount`
// +kubebuilder:printcolumn:name="Applied",type=string,JSONPath=`.status.appliedDigest`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`
// +kubebuilder:printcolumn:name="Desired",type=string,JSONPath=`.status.desiredDigest`,priority=1
type AddonStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	// +optional
	Status AddonStatusStatus `json:"status,omitempty"`
}

// AddonStatusStatus is written by the agent alone.
type AddonStatusStatus struct {
	// +optional
	Version string `json:"version,omitempty"`
	// DesiredDigest is the unit's digest in the newest bundle that the agent has seen.
	// +optional
	DesiredDigest string `json:"desiredDigest,omitempty"`
	// AppliedDigest is the digest of the last unit that was applied in full.
	// +optional
	AppliedDigest string `json:"appliedDigest,omitempty"`
	// Health is of AppliedDigest's objects, at this UID and this generation.
	// +optional
	Health Health `json:"health,omitempty"`
	// Message says what is wrong or waited for.
	// +optional
	Message string `json:"message,omitempty"`
	// +optional
	ObjectCount int32 `json:"objectCount"`
	// Inventory lists every object that the agent may prune. It is written
	// before objects are applied, as the union of old and new.
	// +optional
	// +listType=map
	// +listMapKey=id
	Inventory []InventoryEntry `json:"inventory,omitempty"`
	// AppliedAt is when AppliedDigest was applied.
	// +optional
	AppliedAt *metav1.MicroTime `json:"appliedAt,omitempty"`
	// HealthySince is when AppliedDigest's objects became healthy.
	// +optional
	HealthySince *metav1.MicroTime `json:"healthySince,omitempty"`
}

// InventoryEntry is one object of an addon.
type InventoryEntry struct {
	// ID is namespace_name_group_kind, as cli-utils writes it.
	ID string `json:"id"`
	// Version is the API version without its group.
	Version string `json:"version"`
}

// Health of an addon.
// +kubebuilder:validation:Enum=Progressing;Healthy;Degraded
type Health string

// Health values. Degraded: an object failed, or was not ready in time.
const (
	HealthProgressing Health = "Progressing"
	HealthHealthy     Health = "Healthy"
	HealthDegraded    Health = "Degraded"
)

// AddonStatusList is a list of AddonStatus.
//
// +kubebuilder:object:root=true
type AddonStatusList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AddonStatus `json:"items"`
}
