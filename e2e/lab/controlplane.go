package lab

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
)

// nodeGrace is how long a silent node stays Ready. Kubernetes' own 50 s suit a
// network, the lab's nodes are emulated and slow: 40 s is what the tests wait.
const nodeGrace = 40 * time.Second

// bootstrapGroup is who may ask for a node's certificate, as kubeadm names it.
const bootstrapGroup = "system:bootstrappers:kubeadm:default-node-token"

// startCluster starts the control plane and lets nodes join by a bootstrap token.
func (l *Lab) startCluster(ctx context.Context) error {
	egress, err := l.writeEgressConfig()
	if err != nil {
		return err
	}
	l.Cluster, err = cluster.Start(ctx, cluster.Options{
		Name: ClusterName, Binary: filepath.Join(l.o.BinDir, "holdfast-cluster"), Parent: filepath.Join(l.dir, "c"),
		LogDir: filepath.Join(l.o.LogDir, "cluster"), NodeMonitorGracePeriod: nodeGrace, ReadyTimeout: bootTimeout,
		// By address: nobody in the machines' network knows their names.
		Args: []string{"--apiserver-arg=--egress-selector-config-file=" + egress, "--apiserver-arg=--kubelet-preferred-address-types=InternalIP"},
	})
	if err != nil {
		return err
	}
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		corev1.AddToScheme, appsv1.AddToScheme, eventsv1.AddToScheme, rbacv1.AddToScheme, storagev1.AddToScheme, v1alpha1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	if l.Client, err = client.NewWithWatch(l.Cluster.RESTConfig(), client.Options{Scheme: scheme}); err != nil {
		return err
	}
	return l.allowBootstrap(ctx)
}

// writeEgressConfig tells the API server to reach kubelets through a proxy
// into the machines' network (KEP-1281), so that kubectl logs and exec work.
func (l *Lab) writeEgressConfig() (string, error) {
	socket := filepath.Join(l.dir, "egress.sock")
	if _, err := l.startProxy("unix", socket); err != nil {
		return "", err
	}
	path := filepath.Join(l.dir, "egress.yaml")
	return path, os.WriteFile(path, fmt.Appendf(nil, `apiVersion: apiserver.k8s.io/v1beta1
kind: EgressSelectorConfiguration
egressSelections:
- name: cluster
  connection:
    proxyProtocol: HTTPConnect
    transport: {uds: {udsName: %s}}
`, socket), 0o600)
}

// allowBootstrap makes a bootstrap token and the bindings that kubeadm makes
// for it (https://kubernetes.io/docs/reference/access-authn-authz/kubelet-tls-bootstrapping/).
func (l *Lab) allowBootstrap(ctx context.Context) error {
	id, secret := randomHex(3), randomHex(8)
	objects := []client.Object{&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id, Namespace: metav1.NamespaceSystem},
		Type:       corev1.SecretTypeBootstrapToken,
		StringData: map[string]string{"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true", "auth-extra-groups": bootstrapGroup},
	}}
	for _, b := range [][3]string{
		{"lab:node-bootstrapper", "system:node-bootstrapper", bootstrapGroup},
		{"lab:approve-new-nodes", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", bootstrapGroup},
		{"lab:approve-renewals", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", "system:nodes"},
	} {
		objects = append(objects, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: b[0]},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: b[1]},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: b[2]}},
		})
	}
	for _, o := range objects {
		if err := l.Client.Create(ctx, o); err != nil {
			return fmt.Errorf("allow nodes to join: %w", err)
		}
	}
	cfg := l.Cluster.RESTConfig()
	l.ca = cfg.CAData
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters[ClusterName] = &clientcmdapi.Cluster{Server: "https://" + apiService + ":443", CertificateAuthorityData: l.ca}
	kubeconfig.AuthInfos["bootstrap"] = &clientcmdapi.AuthInfo{Token: id + "." + secret}
	kubeconfig.Contexts[ClusterName] = &clientcmdapi.Context{Cluster: ClusterName, AuthInfo: "bootstrap"}
	kubeconfig.CurrentContext = ClusterName
	var err error
	l.bootstrap, err = clientcmd.Write(*kubeconfig)
	return err
}

// randomHex is n random bytes in hex.
func randomHex(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails (crypto/rand)
	return hex.EncodeToString(b)
}
