package render

import "slices"

// scope of a kind.
type scope int

const (
	unknownScope scope = iota
	namespaced
	clusterWide
)

// clusterKinds are the cluster-wide kinds of Kubernetes 1.36's own groups
// (client-go's scheme); every other kind of those groups is namespaced.
var clusterKinds = map[string][]string{
	"":                             {"ComponentStatus", "Namespace", "Node", "PersistentVolume"},
	"admissionregistration.k8s.io": {"MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding", "MutatingWebhookConfiguration", "ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding", "ValidatingWebhookConfiguration"},
	"apiextensions.k8s.io":         {"CustomResourceDefinition"},
	"authentication.k8s.io":        {"SelfSubjectReview", "TokenReview"},
	"authorization.k8s.io":         {"SelfSubjectAccessReview", "SelfSubjectRulesReview", "SubjectAccessReview"},
	"certificates.k8s.io":          {"CertificateSigningRequest", "ClusterTrustBundle"},
	"flowcontrol.apiserver.k8s.io": {"FlowSchema", "PriorityLevelConfiguration"},
	"internal.apiserver.k8s.io":    {"StorageVersion"},
	"networking.k8s.io":            {"IPAddress", "IngressClass", "ServiceCIDR"},
	"node.k8s.io":                  {"RuntimeClass"},
	"rbac.authorization.k8s.io":    {"ClusterRole", "ClusterRoleBinding"},
	"resource.k8s.io":              {"DeviceClass", "DeviceTaintRule", "ResourceSlice", "ResourcePoolStatusRequest"},
	"scheduling.k8s.io":            {"PriorityClass"},
	"storage.k8s.io":               {"CSIDriver", "CSINode", "StorageClass", "VolumeAttachment", "VolumeAttributesClass"},
	"storagemigration.k8s.io":      {"StorageVersionMigration"},
	"holdfast.dev":                 {"AddonStatus", "ComputeNode", "NodeFlavor", "Remediation", "RemediationPolicy"},
}

// scope of the object's kind; unknown for custom resources of others.
func (o *object) scope() scope {
	s, err := known()
	if err != nil || !s.IsGroupRegistered(o.gvk.Group) {
		return unknownScope
	}
	if slices.Contains(clusterKinds[o.gvk.Group], o.gvk.Kind) {
		return clusterWide
	}
	return namespaced
}
