package lab

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
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
	add := func(job, host, port, node string) {
		targets = append(targets, monitoring.Target{Job: job, Address: net.JoinHostPort(host, port), Labels: map[string]string{"cluster": ClusterName, "node": node}})
	}
	for _, n := range l.Nodes {
		add("disk-monitor", n.Address, "9808", n.Name)
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
					add(job, p.Status.PodIP, strconv.Itoa(int(port.ContainerPort)), p.Spec.NodeName)
				}
			}
		}
	}
	return targets, nil
}
