// Package v1alpha1 is the shared vocabulary of Holdfast: the custom resources
// of the group holdfast.dev, the labels and annotations put on Kubernetes
// objects, and the classes of disk faults. It holds words and no logic.
//
// +kubebuilder:object:generate=true
// +groupName=holdfast.dev
package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is the API group and version of every type in this package.
var GroupVersion = schema.GroupVersion{Group: "holdfast.dev", Version: "v1alpha1"}

// AddToScheme registers the types of this package.
func AddToScheme(s *runtime.Scheme) error {
	s.AddKnownTypes(GroupVersion,
		&NodeFlavor{}, &NodeFlavorList{},
		&ComputeNode{}, &ComputeNodeList{},
		&RemediationPolicy{}, &RemediationPolicyList{},
		&Remediation{}, &RemediationList{},
		&AddonStatus{}, &AddonStatusList{},
	)
	metav1.AddToGroupVersion(s, GroupVersion)
	return nil
}
