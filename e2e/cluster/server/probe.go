package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
)

// probe asks the API server how far the start has come.
type probe struct {
	client *kubernetes.Clientset
}

func newProbe(kubeconfig string) (*probe, error) {
	c, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return nil, fmt.Errorf("read kubeconfig: %w", err)
	}
	c.QPS = -1
	client, err := kubernetes.NewForConfig(c)
	if err != nil {
		return nil, fmt.Errorf("make client: %w", err)
	}
	return &probe{client: client}, nil
}

func (p *probe) apiServerReady(ctx context.Context) error {
	b, err := p.client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx)
	if err != nil {
		return fmt.Errorf("%w: %s", err, strings.TrimSpace(string(b)))
	}
	return nil
}

// controllersReady waits for what the service account controller and the root
// CA publisher make: without these no pod is admitted or finds the API server.
func (p *probe) controllersReady(ctx context.Context) error {
	_, sa := p.client.CoreV1().ServiceAccounts("default").Get(ctx, "default", metav1.GetOptions{})
	_, ca := p.client.CoreV1().ConfigMaps("default").Get(ctx, "kube-root-ca.crt", metav1.GetOptions{})
	return errors.Join(sa, ca)
}

// logTail is the end of a log, errors preferred, and short enough for an error
// message whose own end is all that is kept of it.
func logTail(path string) string {
	const lines, width = 6, 200
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	var bad, all []string
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		line = line[:min(len(line), width)]
		all = append(all, line)
		if strings.Contains(line, "level=ERROR") || strings.Contains(line, `"level":"error"`) {
			bad = append(bad, line)
		}
	}
	if len(bad) == 0 {
		bad = all
	}
	return strings.Join(bad[max(0, len(bad)-lines):], "\n")
}
