package node

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// apiServer is the API server as this node reaches it.
type apiServer struct {
	url        string
	serverName string
}

// connect reads the node's credentials.
func connect(kubeconfig string) (*kubernetes.Clientset, apiServer, error) {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, apiServer{}, fmt.Errorf("read node credentials: %w", err)
	}
	config.UserAgent = "holdfast-node"
	config.QPS, config.Burst = 50, 100
	config.Timeout = 0 // watches; each call has its own
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, apiServer{}, fmt.Errorf("make client: %w", err)
	}
	return client, apiServer{url: config.Host, serverName: config.ServerName}, nil
}

// kubeconfig is that of a pod whose service account's files lie in dir. The
// token is read from its file again and again, since it is renewed there.
func (a apiServer) kubeconfig(dir, namespace string) ([]byte, error) {
	const name = "pod"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: a.url, TLSServerName: a.serverName, CertificateAuthority: dir + "/ca.crt"}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{TokenFile: dir + "/token"}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name, Namespace: namespace}
	config.CurrentContext = name
	data, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("write kubeconfig of a pod: %w", err)
	}
	return data, nil
}

// liveObjects reads ConfigMaps and Secrets one by one, which is all that the
// node authorizer allows.
type liveObjects struct{ client kubernetes.Interface }

const readTimeout = 10 * time.Second

func (l liveObjects) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return l.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (l liveObjects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	return l.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}
