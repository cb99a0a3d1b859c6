package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// RemediationPolicy says which disk states lead to which plan, and how many
// plans may run at once. Exactly one policy is in force: the one named default.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=rp
// +kubebuilder:printcolumn:name="Paused",type=boolean,JSONPath=`.spec.paused`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type RemediationPolicy struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              RemediationPolicySpec `json:"spec"`
	// +optional
	Status RemediationPolicyStatus `json:"status,omitempty"`
}

// DefaultPolicy is the name of the policy in force.
const DefaultPolicy = "default"

// RemediationPolicySpec is what a platform team decides.
type RemediationPolicySpec struct {
	// Paused stops every new step of every plan. Quarantine goes on.
	// +optional
	Paused bool `json:"paused,omitempty"`
	// QuarantineStates are the disk states that close a disk to new claims.
	// +kubebuilder:default={Failed,Missing}
	// +optional
	// +listType=set
	QuarantineStates []DiskState `json:"quarantineStates,omitempty"`
	// Rules are tried in order; the first match decides. No match: no plan.
	// +optional
	// +listType=atomic
	Rules []RemediationRule `json:"rules,omitempty"`
	// Budgets must all have room before a plan starts. With none, no plan starts.
	// +optional
	// +listType=map
	// +listMapKey=scope
	Budgets []Budget `json:"budgets,omitempty"`
	// PlanTimeout is how long a plan may take before it is Escalated to a person.
	// +kubebuilder:default="168h"
	// +optional
	PlanTimeout *metav1.Duration `json:"planTimeout,omitempty"`
}

// RemediationRule leads from a disk state to a plan.
type RemediationRule struct {
	// States that the rule is for.
	// +kubebuilder:validation:MinItems=1
	States []DiskState `json:"states"`
	// FaultClasses narrows the rule to disks with a fault of one of these classes.
	// +optional
	FaultClasses []FaultClass `json:"faultClasses,omitempty"`
	// Action is the plan.
	Action Action `json:"action"`
	// After is how long the disk must have been in the state.
	// +optional
	After metav1.Duration `json:"after,omitempty"`
}

// Action names a kind of plan.
// +kubebuilder:validation:Enum=ReplaceDisk
type Action string

// ActionReplaceDisk asks for a new disk, waits for it, retires the old disk's volumes and lifts its quarantine.
const ActionReplaceDisk Action = "ReplaceDisk"

// Budget bounds how many disks may be under repair at once in one scope.
type Budget struct {
	Scope BudgetScope `json:"scope"`
	// +kubebuilder:validation:Minimum=0
	Max int32 `json:"max"`
}

// BudgetScope is what a budget counts over.
// +kubebuilder:validation:Enum=Cluster;Zone;Node
type BudgetScope string

// Budget scopes. A zone is the Node label topology.kubernetes.io/zone.
const (
	ScopeCluster BudgetScope = "Cluster"
	ScopeZone    BudgetScope = "Zone"
	ScopeNode    BudgetScope = "Node"
)

// RemediationPolicyStatus holds the budget's slots. They live in this one
// object so that an update of it is the compare-and-swap that reserves one.
type RemediationPolicyStatus struct {
	// +optional
	// +listType=map
	// +listMapKey=remediation
	Reservations []Reservation `json:"reservations,omitempty"`
}

// Reservation is one used slot of every budget that counts its node.
type Reservation struct {
	Remediation string      `json:"remediation"`
	UID         types.UID   `json:"uid"`
	Node        string      `json:"node"`
	Zone        string      `json:"zone,omitempty"`
	Since       metav1.Time `json:"since"`
}

// Remediation is one plan: an ordered list of steps that repairs one disk.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster,shortName=rem
// +kubebuilder:printcolumn:name="Node",type=string,JSONPath=`.spec.node`
// +kubebuilder:printcolumn:name="Disk",type=string,JSONPath=`.spec.disk`
// +kubebuilder:printcolumn:name="Action",type=string,JSONPath=`.spec.action`
// +kubebuilder:printcolumn:name="Phase",type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name="Step",type=string,JSONPath=`.status.step`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type Remediation struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`
	Spec              RemediationSpec `json:"spec"`
	// +optional
	Status RemediationStatus `json:"status,omitempty"`
}

// RemediationSpec is the plan's target. It does not change, but for Cancel.
//
// +kubebuilder:validation:XValidation:rule="self.node == oldSelf.node && self.disk == oldSelf.disk && self.action == oldSelf.action && self.planHash == oldSelf.planHash",message="a plan does not change; cancel it and let a new one be made"
type RemediationSpec struct {
	Node    string    `json:"node"`
	NodeUID types.UID `json:"nodeUID,omitempty"`
	Disk    string    `json:"disk"`
	// Slot is where the disk sat when the plan was made.
	// +optional
	Slot string `json:"slot,omitempty"`
	// Group is the flavor's group of disks that the disk belonged to.
	// +optional
	Group  string    `json:"group,omitempty"`
	Reason DiskState `json:"reason"`
	Action Action    `json:"action"`
	// Steps are the plan, in order.
	Steps []StepName `json:"steps"`
	// PlanHash is the SHA-256 of the target and the steps.
	PlanHash string `json:"planHash"`
	// Cancel set by a person ends the plan before its next step.
	// +optional
	Cancel bool `json:"cancel,omitempty"`
}

// StepName names a step. A step has one effect.
type StepName string

// Steps of ReplaceDisk.
const (
	// StepReserveBudget takes a slot of every budget.
	StepReserveBudget StepName = "ReserveBudget"
	// StepConfirmQuarantine waits until every volume of the disk carries its marks.
	StepConfirmQuarantine StepName = "ConfirmQuarantine"
	// StepRequestReplacement writes the request for a new disk into ComputeNode.spec.
	StepRequestReplacement StepName = "RequestReplacement"
	// StepAwaitReplacement waits until another, healthy disk took the old one's place, or the old one is back and healthy.
	StepAwaitReplacement StepName = "AwaitReplacement"
	// StepRetireVolumes deletes the old disk's unbound PersistentVolumes and waits for the owners of bound ones.
	StepRetireVolumes StepName = "RetireVolumes"
	// StepLiftQuarantine removes the old disk's quarantine and request.
	StepLiftQuarantine StepName = "LiftQuarantine"
	// StepReleaseBudget gives the slot back.
	StepReleaseBudget StepName = "ReleaseBudget"
)

// RemediationStatus is the plan's write-ahead state.
type RemediationStatus struct {
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Step is the step at work.
	// +optional
	Step StepName `json:"step,omitempty"`
	// Message says in one line what is waited for, or how it ended.
	// +optional
	Message string `json:"message,omitempty"`
	// Steps is the state of each step: intent is written before its effect, the outcome after.
	// +optional
	// +listType=atomic
	Steps []StepStatus `json:"steps,omitempty"`
	// Audit lists every effect, once.
	// +optional
	// +listType=atomic
	Audit []AuditEntry `json:"audit,omitempty"`
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// +optional
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`
}

// Phase of a plan.
// +kubebuilder:validation:Enum=Pending;Running;Succeeded;Cancelled;Escalated
type Phase string

// Phases. Succeeded, Cancelled and Escalated are final.
const (
	PhasePending   Phase = "Pending"
	PhaseRunning   Phase = "Running"
	PhaseSucceeded Phase = "Succeeded"
	PhaseCancelled Phase = "Cancelled"
	PhaseEscalated Phase = "Escalated"
)

// StepStatus is the write-ahead state of one step.
type StepStatus struct {
	Name  StepName  `json:"name"`
	State StepState `json:"state"`
	// +optional
	StartedAt *metav1.Time `json:"startedAt,omitempty"`
	// +optional
	FinishedAt *metav1.Time `json:"finishedAt,omitempty"`
	// +optional
	Message string `json:"message,omitempty"`
}

// StepState of a step.
// +kubebuilder:validation:Enum=Pending;Started;Done
type StepState string

// Step states.
const (
	StepPending StepState = "Pending"
	StepStarted StepState = "Started"
	StepDone    StepState = "Done"
)

// AuditEntry is one effect on the world.
type AuditEntry struct {
	Time metav1.Time `json:"time"`
	Step StepName    `json:"step"`
	// Effect says what was done to which object.
	Effect string `json:"effect"`
}

// RemediationPolicyList is a list of RemediationPolicy.
//
// +kubebuilder:object:root=true
type RemediationPolicyList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []RemediationPolicy `json:"items"`
}

// RemediationList is a list of Remediation.
//
// +kubebuilder:object:root=true
type RemediationList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []Remediation `json:"items"`
}
