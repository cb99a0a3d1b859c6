package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/wait"
)

const (
	benchPushes = 20
	benchFaults = 50
	idleFor     = 6 * time.Minute // watches are renewed after 5 to 10
)

// measure takes the figures that need many samples or much time.
func (d *demo) measure(ctx context.Context) error {
	d.rep.line("\nMeasuring: %d pushes, %d faults, %s of idling", benchPushes, benchFaults, idleFor)
	if err := d.measurePushes(ctx); err != nil {
		return err
	}
	if err := d.measureFaults(ctx); err != nil {
		return err
	}
	return d.measureIdle(ctx)
}

// measurePushes times push to applied on the first ring, which no gate holds back.
func (d *demo) measurePushes(ctx context.Context) error {
	w := d.world
	file := "salt/pillar/common.sls"
	if err := w.fleet.AddFile(file, "\nremediation-controller:\n  planTimeout: 100h\n"); err != nil {
		return err
	}
	d.pushToApplied = nil
	var commit string
	for i := range benchPushes {
		if err := w.fleet.Edit(file, fmt.Sprintf("planTimeout: %dh", 100+i), fmt.Sprintf("planTimeout: %dh", 101+i)); err != nil {
			return err
		}
		var err error
		if commit, err = w.fleet.Commit(ctx, fmt.Sprintf("sample %d", i)); err != nil {
			return err
		}
		start, err := w.fleet.Push(ctx)
		if err != nil {
			return err
		}
		got, err := w.fleet.AwaitRollout(ctx, commit, rolloutTimeout, "canary")
		if err != nil {
			return err
		}
		d.pushToApplied = append(d.pushToApplied, got["canary"].Applied.Sub(start).Seconds())
	}
	_, err := w.awaitRollout(ctx, commit)
	d.rep.line("   %d pushes: applied on the canary after %.2f s at the median", benchPushes, percentile(d.pushToApplied, 50))
	return err
}

// measureFaults fails one disk after another, and replaces each.
func (d *demo) measureFaults(ctx context.Context) error {
	d.faults = nil
	var nodes []*simNode
	var sites []*site
	for _, name := range []string{"canary", "az2-c1"} {
		s := d.world.site(name)
		for _, n := range s.nodes {
			nodes, sites = append(nodes, n), append(sites, s)
		}
	}
	for i := range benchFaults {
		n, s := nodes[i%len(nodes)], sites[i%len(nodes)]
		disk, err := n.diskOf(ctx, (i/len(nodes))%disksPerNode)
		if err != nil {
			return err
		}
		fault, err := n.api.Fail(ctx, disk.Name)
		if err != nil {
			return err
		}
		t, err := s.awaitFault(ctx, n.name, disk.ID, v1alpha1.DiskFailed, fault.Time)
		if err != nil {
			return err
		}
		d.faults = append(d.faults, t)
		if (i+1)%10 == 0 {
			d.rep.line("   %d faults: the last was quarantined after %s", i+1, seconds(t.quarantine))
		}
		if _, err := n.api.Replace(ctx, disk.Name); err != nil {
			return err
		}
		if _, err := wait.Until(ctx, time.Minute, "repair of "+disk.ID, func() (bool, error) {
			cn, gone, err := s.reported(ctx, n.name, disk.ID)
			return err == nil && gone == nil && cn.Status.State == v1alpha1.DiskHealthy && len(cn.Spec.Quarantine) == 0, err
		}); err != nil {
			return err
		}
	}
	return nil
}

// measureIdle counts what the agents ask while nothing happens.
func (d *demo) measureIdle(ctx context.Context) error {
	if err := d.measureMemory(ctx); err != nil {
		return err
	}
	before, err := d.agentRequests(ctx)
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(idleFor):
	}
	after, err := d.agentRequests(ctx)
	if err != nil {
		return err
	}
	worst := 0.0
	for name, n := range after {
		if before[name] == 0 {
			return fmt.Errorf("the agent of %s counts no request", name)
		}
		worst = max(worst, (n-before[name])/idleFor.Seconds())
	}
	d.rep.bench("agent_idle_requests_per_second", worst, "1/s", 0.1)
	return nil
}

// measureMemory reads the resident memory of every disk-monitor.
func (d *demo) measureMemory(ctx context.Context) error {
	worst := 0.0
	for _, s := range d.world.sites {
		for _, n := range s.nodes {
			st, err := n.api.State(ctx)
			if err != nil {
				return err
			}
			for _, p := range st.Pods {
				if !strings.HasPrefix(p.Name, "disk-monitor-") {
					continue
				}
				for _, c := range p.Containers {
					kib, err := residentKiB(c.PID)
					if err != nil {
						return err
					}
					worst = max(worst, float64(kib)/1024)
				}
			}
		}
	}
	if worst == 0 {
		return errors.New("no disk-monitor runs")
	}
	d.rep.bench("monitor_rss_mib", worst, "MiB", 40)
	return nil
}

// residentKiB is VmRSS of a process (proc_pid_status(5)).
func residentKiB(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			return strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
		}
	}
	return 0, fmt.Errorf("process %d has no VmRSS", pid)
}

// agentRequests is how many requests each cluster's agent has sent to its API server.
func (d *demo) agentRequests(ctx context.Context) (map[string]float64, error) {
	counts := map[string]float64{}
	for _, s := range d.world.sites {
		var pods corev1.PodList
		if err := s.client.List(ctx, &pods, client.InNamespace("holdfast-system"), client.MatchingLabels{"app.kubernetes.io/name": "holdfast-agent"}); err != nil {
			return nil, err
		}
		for _, p := range pods.Items {
			body, err := get(ctx, fmt.Sprintf("http://%s:9811/metrics", p.Status.PodIP))
			if err != nil {
				return nil, err
			}
			parser := expfmt.NewTextParser(model.UTF8Validation)
			families, err := parser.TextToMetricFamilies(strings.NewReader(body))
			if err != nil {
				return nil, err
			}
			for _, m := range families["rest_client_requests_total"].GetMetric() {
				counts[s.name] += m.GetCounter().GetValue()
			}
		}
	}
	return counts, nil
}
