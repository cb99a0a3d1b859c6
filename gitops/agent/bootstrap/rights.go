package bootstrap

import (
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// readName names the role of an agent that only looks. It is another one than that
// of an agent that applies: the role of a binding cannot be changed.
const readName = name + "-read"

func subjects() []rbacv1.Subject {
	return []rbacv1.Subject{{Kind: "ServiceAccount", Name: name, Namespace: Namespace}}
}

// everything is for an agent that installs addons, their RBAC included: whoever
// may grant every right must have every right (RBAC escalation check).
func everything(labels map[string]string) []any {
	return []any{&rbacv1.ClusterRoleBinding{TypeMeta: typ(rbacv1.SchemeGroupVersion.String(), "ClusterRoleBinding"),
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"}, Subjects: subjects()}}
}

// reading is for an agent beside Flux or Argo CD. It reads the kinds that bundles
// are made of, Secrets not among them, and writes its AddonStatuses and its identity.
// That Secret is made here: who may make one may make one that Kubernetes fills with
// the token of another ServiceAccount of the namespace.
func reading(labels map[string]string) []any {
	const api = rbacv1.GroupName
	cluster := metav1.ObjectMeta{Name: readName, Labels: labels}
	inside := metav1.ObjectMeta{Name: readName, Namespace: Namespace, Labels: labels}
	read := []string{"get", "list", "watch"}
	version := rbacv1.SchemeGroupVersion.String()
	identity := &corev1.Secret{TypeMeta: typ("v1", "Secret"), ObjectMeta: metav1.ObjectMeta{Name: name + "-identity", Namespace: Namespace, Labels: labels}}
	return []any{
		&rbacv1.ClusterRole{TypeMeta: typ(version, "ClusterRole"), ObjectMeta: cluster, Rules: []rbacv1.PolicyRule{
			{Verbs: read, APIGroups: []string{corev1.GroupName}, Resources: []string{"configmaps", "endpoints", "limitranges", "namespaces", "nodes", "persistentvolumeclaims", "persistentvolumes",
				"pods", "podtemplates", "replicationcontrollers", "resourcequotas", "serviceaccounts", "services"}},
			{Verbs: read, Resources: []string{"*"}, APIGroups: []string{"admissionregistration.k8s.io", "apiextensions.k8s.io", "apiregistration.k8s.io", "apps", "autoscaling", "batch",
				"coordination.k8s.io", "flowcontrol.apiserver.k8s.io", "holdfast.dev", "monitoring.coreos.com", "networking.k8s.io", "node.k8s.io", "policy", "rbac.authorization.k8s.io",
				"resource.k8s.io", "scheduling.k8s.io", "snapshot.storage.k8s.io", "storage.k8s.io"}},
			{Verbs: []string{"create", "delete"}, APIGroups: []string{"holdfast.dev"}, Resources: []string{"addonstatuses"}},
			{Verbs: []string{"update"}, APIGroups: []string{"holdfast.dev"}, Resources: []string{"addonstatuses/status"}},
		}},
		&rbacv1.ClusterRoleBinding{TypeMeta: typ(version, "ClusterRoleBinding"), ObjectMeta: cluster, RoleRef: rbacv1.RoleRef{APIGroup: api, Kind: "ClusterRole", Name: readName}, Subjects: subjects()},
		identity,
		&rbacv1.Role{TypeMeta: typ(version, "Role"), ObjectMeta: inside, Rules: []rbacv1.PolicyRule{
			{Verbs: []string{"get", "update"}, APIGroups: []string{corev1.GroupName}, Resources: []string{"secrets"}, ResourceNames: []string{identity.Name}}}},
		&rbacv1.RoleBinding{TypeMeta: typ(version, "RoleBinding"), ObjectMeta: inside, RoleRef: rbacv1.RoleRef{APIGroup: api, Kind: "Role", Name: readName}, Subjects: subjects()},
	}
}
