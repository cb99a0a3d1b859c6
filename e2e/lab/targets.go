package lab

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/e2e/lab/monitoring"
)

// targetInterval is how long a pod that has moved is not scraped.
const targetInterval = 2 * time.Second

// metricsPort is the name of the port that all addons serve metrics on.
const metricsPort = "metrics"

// watchTargets keeps what Prometheus scrapes as it is in production: every
// node's disk monitor, whether there is a pod or not, and the other addons'
// pods wherever they are now. It returns with ctx.
func (l *Lab) watchTargets(ctx context.Context) {
	var before []monitoring.Target
	tick := time.NewTicker(targetInterval)
	defer tick.Stop()
	for {
		// An API server that does not answer does not change what is scraped.
		if targets, err := l.targets(ctx); err == nil && !slices.EqualFunc(before, targets, func(a, b monitoring.Target) bool { return a.Job == b.Job && a.Address == b.Address }) {
			if err := l.Monitoring.SetTargets(targets); err != nil {
				l.say("set what Prometheus scrapes: %v", err)
			} else {
				before = targets
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (l *Lab) targets(ctx context.Context) ([]monitoring.Target, error) {
	var targets []monitoring.Target
	add := func(job, host, port, node string, https bool) {
		targets = append(targets, monitoring.Target{HTTPS: https, Job: job, Address: net.JoinHostPort(host, port), Labels: map[string]string{"cluster": ClusterName, "node": node}})
	}
	for _, n := range l.Nodes {
		add("disk-monitor", n.Address, "9808", n.Name, false)
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	var pods corev1.PodList
	if err := l.Client.List(ctx, &pods, client.InNamespace(SystemNamespace)); err != nil {
		return nil, err
	}
	slices.SortFunc(pods.Items, func(a, b corev1.Pod) int { return strings.Compare(a.Name, b.Name) })
	for _, p := range pods.Items {
		job := p.Labels["app.kubernetes.io/name"]
		if job == "disk-monitor" || job == "" || p.Status.PodIP == "" || p.DeletionTimestamp != nil {
			continue
		}
		for _, c := range p.Spec.Containers {
			for _, port := range c.Ports {
				if port.Name == metricsPort {
					add(job, p.Status.PodIP, strconv.Itoa(int(port.ContainerPort)), p.Spec.NodeName, p.Annotations["prometheus.io/scheme"] == "https")
				}
			}
		}
	}
	return targets, nil
}

// metricsToken is a token of who may read the metrics that are served over HTTPS, as
// the addon's own ClusterRole says; that role comes with the first push.
func (l *Lab) metricsToken(ctx context.Context) (string, error) {
	const role = "holdfast-storage-scheduler-metrics"
	sa := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "prometheus", Namespace: metav1.NamespaceDefault}}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To[int64](30 * 24 * 3600)}}
	err := l.Client.Create(ctx, sa)
	if err == nil {
		err = l.Client.Create(ctx, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "prometheus"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
			Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: sa.Name, Namespace: sa.Namespace}},
		})
	}
	if err == nil {
		err = l.Client.SubResource("token").Create(ctx, sa, request)
	}
	if err != nil {
		return "", fmt.Errorf("make a token for Prometheus: %w", err)
	}
	return request.Status.Token, nil
}
