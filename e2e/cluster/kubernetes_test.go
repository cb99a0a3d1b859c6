package cluster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"

	"holdfast.dev/e2e/cluster"
)

// namespace makes one with the service account that pods need.
func namespace(t *testing.T, client *kubernetes.Clientset, name string) {
	t.Helper()
	if _, err := client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "default service account", func(ctx context.Context) error {
		_, err := client.CoreV1().ServiceAccounts(name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
}

// readyNode makes a Node and reports it Ready, both as the node's kubelet does.
func readyNode(t *testing.T, c *cluster.Cluster, name string) *kubernetes.Clientset {
	t.Helper()
	path, err := c.NodeKubeconfig(name)
	if err != nil {
		t.Fatal(err)
	}
	kubelet := withKubeconfig(t, path)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	if _, err := kubelet.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "node status", func(ctx context.Context) error {
		n, err := kubelet.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		n.Status.Capacity = corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("8Gi"), corev1.ResourcePods: resource.MustParse("110"),
		}
		n.Status.Allocatable = n.Status.Capacity
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}
		_, err = kubelet.CoreV1().Nodes().UpdateStatus(ctx, n, metav1.UpdateOptions{})
		return err
	})
	return kubelet
}

func podSpec() corev1.PodSpec {
	return corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "registry.example/c:1"}}}
}

func TestVersion(t *testing.T) {
	v, err := admin(t, cluster.ForTest(t)).Discovery().ServerVersion()
	if err != nil {
		t.Fatal(err)
	}
	if v.GitVersion != "v1.36.3" || v.Major != "1" || v.Minor != "36" {
		t.Errorf("the API server says %s (%s.%s), want v1.36.3", v.GitVersion, v.Major, v.Minor)
	}
}

func TestDaemonSetAndDeployment(t *testing.T) {
	c := cluster.ForTest(t)
	client := admin(t, c)
	namespace(t, client, "workloads")
	readyNode(t, c, "work-1")
	readyNode(t, c, "work-2")
	labels := map[string]string{"app": "d"}
	template := corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: podSpec()}
	template.Spec.NodeSelector = map[string]string{}
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "d"}, Spec: appsv1.DaemonSetSpec{Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: template}}
	if _, err := client.AppsV1().DaemonSets("workloads").Create(t.Context(), ds, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, node := range []string{"work-1", "work-2"} {
		eventually(t, "daemon's pod on "+node, func(ctx context.Context) error {
			l, err := client.CoreV1().Pods("workloads").List(ctx, metav1.ListOptions{LabelSelector: "app=d", FieldSelector: "spec.nodeName=" + node})
			if err == nil && len(l.Items) != 1 {
				err = fmt.Errorf("%d pods", len(l.Items))
			}
			return err
		})
	}
	template.Labels = map[string]string{"app": "r"}
	deployment := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: appsv1.DeploymentSpec{
		Replicas: ptr.To[int32](3), Selector: &metav1.LabelSelector{MatchLabels: template.Labels}, Template: template,
	}}
	if _, err := client.AppsV1().Deployments("workloads").Create(t.Context(), deployment, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "three scheduled pods", func(ctx context.Context) error {
		l, err := client.CoreV1().Pods("workloads").List(ctx, metav1.ListOptions{LabelSelector: "app=r"})
		scheduled := 0
		for i := range l.Items {
			if l.Items[i].Spec.NodeName != "" {
				scheduled++
			}
		}
		if err == nil && scheduled != 3 {
			err = fmt.Errorf("%d of %d are scheduled", scheduled, len(l.Items))
		}
		return err
	})
	// The garbage collector and the namespace controller.
	if err := client.AppsV1().Deployments("workloads").Delete(t.Context(), "r", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "collection of the replica set", func(ctx context.Context) error {
		l, err := client.AppsV1().ReplicaSets("workloads").List(ctx, metav1.ListOptions{})
		if err == nil && len(l.Items) > 0 {
			err = errors.New("it is still there")
		}
		return err
	})
}

func TestUsers(t *testing.T) {
	c := cluster.ForTest(t)
	kubeconfig := func(user string, groups ...string) *kubernetes.Clientset {
		path, err := c.UserKubeconfig(user, groups...)
		if err != nil {
			t.Fatal(err)
		}
		return withKubeconfig(t, path)
	}
	bad := rest.AnonymousClientConfig(c.RESTConfig())
	bad.BearerToken = "nonsense"
	for name, tc := range map[string]struct {
		reason string
		client *kubernetes.Clientset
		want   func(error) bool
	}{
		"Nobody":        {"without a binding a user may read nothing", kubeconfig("nobody"), apierrors.IsForbidden},
		"Anonymous":     {"RBAC gives nothing to who does not say who he is", clientset(t, rest.AnonymousClientConfig(c.RESTConfig())), apierrors.IsForbidden},
		"WrongToken":    {"a wrong token is worse than none", clientset(t, bad), apierrors.IsUnauthorized},
		"Administrator": {"the group is in the certificate", kubeconfig("somebody", "system:masters"), func(err error) bool { return err == nil }},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := tc.client.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{})
			if !tc.want(err) {
				t.Errorf("%s: got %v", tc.reason, err)
			}
		})
	}
}

func TestNodeMayOnlyChangeItself(t *testing.T) {
	c := cluster.ForTest(t)
	one := readyNode(t, c, "self-1")
	readyNode(t, c, "self-2")
	patch := []byte(`{"metadata":{"annotations":{"example.com/by":"self-1"}}}`)
	const merge = "application/merge-patch+json"
	if _, err := one.CoreV1().Nodes().Patch(t.Context(), "self-1", merge, patch, metav1.PatchOptions{}); err != nil {
		t.Errorf("a node may annotate itself: %v", err)
	}
	if _, err := one.CoreV1().Nodes().Patch(t.Context(), "self-2", merge, patch, metav1.PatchOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a node may not annotate another: got %v", err)
	}
	label := []byte(`{"metadata":{"labels":{"node-restriction.kubernetes.io/zone":"x"}}}`)
	if _, err := one.CoreV1().Nodes().Patch(t.Context(), "self-1", merge, label, metav1.PatchOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("NodeRestriction forbids this label: got %v", err)
	}
	if _, err := one.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a node reads no secrets but those of its pods: got %v", err)
	}
}

// A token of a pod on a node carries the node's name, which admission policies
// tie what a daemon may write to.
func TestPodToken(t *testing.T) {
	c := cluster.ForTest(t)
	client := admin(t, c)
	namespace(t, client, "tokens")
	kubelet := readyNode(t, c, "token-1")
	spec := podSpec()
	spec.NodeName = "token-1"
	pod, err := client.CoreV1().Pods("tokens").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p"}, Spec: spec}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var token string
	eventually(t, "token for the node's pod", func(ctx context.Context) error {
		r, err := kubelet.CoreV1().ServiceAccounts("tokens").CreateToken(ctx, "default", &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
		}}, metav1.CreateOptions{})
		if err == nil {
			token = r.Status.Token
		}
		return err
	})
	config := rest.AnonymousClientConfig(c.RESTConfig())
	config.BearerToken = token
	who, err := clientset(t, config).AuthenticationV1().SelfSubjectReviews().Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	user := who.Status.UserInfo
	node := user.Extra["authentication.kubernetes.io/node-name"]
	if user.Username != "system:serviceaccount:tokens:default" || len(node) != 1 || node[0] != "token-1" {
		t.Errorf("the token's user is %s on node %s", user.Username, node)
	}
}

func TestValidatingAdmissionPolicy(t *testing.T) {
	client := admin(t, cluster.ForTest(t))
	namespace(t, client, "policies")
	policy := &admissionv1.ValidatingAdmissionPolicy{ObjectMeta: metav1.ObjectMeta{Name: "no-bad"}, Spec: admissionv1.ValidatingAdmissionPolicySpec{
		MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
			Operations: []admissionv1.OperationType{admissionv1.Create},
			Rule:       admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"configmaps"}},
		}}}},
		Validations: []admissionv1.Validation{{Expression: "object.metadata.name != 'bad'", Message: "bad is refused"}},
	}}
	if _, err := client.AdmissionregistrationV1().ValidatingAdmissionPolicies().Create(t.Context(), policy, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	binding := &admissionv1.ValidatingAdmissionPolicyBinding{ObjectMeta: metav1.ObjectMeta{Name: "no-bad"}, Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
		PolicyName: "no-bad", ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
	}}
	if _, err := client.AdmissionregistrationV1().ValidatingAdmissionPolicyBindings().Create(t.Context(), binding, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "refusal", func(ctx context.Context) error {
		_, err := client.CoreV1().ConfigMaps("policies").Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "bad"}}, metav1.CreateOptions{DryRun: []string{"All"}})
		if err == nil {
			return errors.New("it was accepted")
		}
		if !strings.Contains(err.Error(), "bad is refused") {
			return err
		}
		return nil
	})
}

// The stock scheduler and PV controller bind a claim to the volume on the
// pod's node, and pass over one whose claimRef names a claim that is not there.
func TestVolumes(t *testing.T) {
	c := cluster.ForTest(t)
	client := admin(t, c)
	namespace(t, client, "volumes")
	readyNode(t, c, "disk-1")
	class := &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "local"}, Provisioner: "kubernetes.io/no-provisioner",
		VolumeBindingMode: ptr.To(storagev1.VolumeBindingWaitForFirstConsumer)}
	if _, err := client.StorageV1().StorageClasses().Create(t.Context(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]string{"reserved": "1Gi", "free": "2Gi"} {
		pv := localVolume(name, size, "disk-1")
		if name == "reserved" {
			pv.Spec.ClaimRef = &corev1.ObjectReference{Namespace: "volumes", Name: "somebody-elses"}
		}
		if _, err := client.CoreV1().PersistentVolumes().Create(t.Context(), pv, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	pvc := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "claim"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}, StorageClassName: ptr.To("local"),
		Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
	}}
	if _, err := client.CoreV1().PersistentVolumeClaims("volumes").Create(t.Context(), pvc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	spec := podSpec()
	spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "claim"}}}}
	if _, err := client.CoreV1().Pods("volumes").Create(t.Context(), &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "user"}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "binding", func(ctx context.Context) error {
		claim, err := client.CoreV1().PersistentVolumeClaims("volumes").Get(ctx, "claim", metav1.GetOptions{})
		if err != nil {
			return err
		}
		pod, err := client.CoreV1().Pods("volumes").Get(ctx, "user", metav1.GetOptions{})
		if err == nil && (claim.Status.Phase != corev1.ClaimBound || claim.Spec.VolumeName != "free" || pod.Spec.NodeName != "disk-1") {
			err = fmt.Errorf("claim is %s to %q, pod is on %q", claim.Status.Phase, claim.Spec.VolumeName, pod.Spec.NodeName)
		}
		return err
	})
}

func localVolume(name, size, node string) *corev1.PersistentVolume {
	return &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
		Capacity:         corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
		AccessModes:      []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		StorageClassName: "local", PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
		PersistentVolumeSource: corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: "/mnt/" + name}},
		NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
			MatchExpressions: []corev1.NodeSelectorRequirement{{Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}},
		}}}},
	}}
}
