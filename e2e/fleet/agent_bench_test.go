//go:build bench

package fleet

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/e2e/wait"
)

// objects is how many the agent has: the figure for its memory.
const objects = 1000

// TestBenchAgent measures one agent with 1,000 objects on a real API server.
func TestBenchAgent(t *testing.T) {
	noteLoad(t, "before the agent's figures")
	r := newRig(t, 1)
	s := r.sites[0]
	addons := map[string]int{}
	for i := range 5 {
		addons[fmt.Sprintf("load%d", i)] = objects / 5 / 4
	}
	r.begin(r.names(), gatesOff(1), addons)
	r.startAgents()
	commit, start := r.commit("the fleet")
	r.landed(commit, start)
	rates := []float64{s.rate(t)}
	for i := range samples(5, 1) {
		for a := range addons {
			// Every ConfigMap changes; the other objects are compared only.
			r.edit(settingsFile, fmt.Sprintf("%s: {groups: %d, value: v%d}", a, addons[a], i), fmt.Sprintf("%s: {groups: %d, value: v%d}", a, addons[a], i+1))
		}
		commit, start := r.commit("other values")
		r.landed(commit, start)
		rates = append(rates, s.rate(t))
	}
	note("apply_objects_per_second: %d objects anew: %.0f/s; then a quarter of them changed: %.0f/s", objects, rates[0], rates[1:])
	bench("apply_objects_per_second", slices.Min(rates), "1/s")

	s.drifts(t, samples(40, 5))

	idle := 6 * time.Minute // watches are renewed after 5 to 10
	if short() {
		idle = 20 * time.Second
	}
	before := s.requests(t)
	note("the agent is left alone for %s", idle)
	time.Sleep(idle)
	after := s.requests(t)
	all, writes := 0.0, 0.0
	for method, n := range after {
		all += n - before[method]
		if method != http.MethodGet {
			writes += n - before[method]
		}
	}
	bench("agent_rss_mib", residentMiB(t, s.agent.PID()), "MiB")
	bench("agent_idle_requests_per_second", all/idle.Seconds(), "1/s")
	bench("agent_idle_writes", writes, "requests")
	noteLoad(t, "after the agent's figures")
}

// rate is how many objects the agent applied in a second, by its own log: from the
// bundle that it accepted last to its last addon.
func (s *site) rate(t *testing.T) float64 {
	t.Helper()
	accepted, applied := s.logged(t, "bundle accepted"), s.logged(t, "addon applied")
	return objects / applied[len(applied)-1].Sub(accepted[len(accepted)-1]).Seconds()
}

// drifts changes or deletes one object after the other, and times its return.
func (s *site) drifts(t *testing.T, n int) {
	t.Helper()
	var out []float64
	for i := range n {
		key := client.ObjectKey{Namespace: "default", Name: fmt.Sprintf("load%d-%d", i%5, i%40)}
		var cm corev1.ConfigMap
		if err := s.client.Get(t.Context(), key, &cm); err != nil {
			t.Fatal(err)
		}
		want := cm.Data["value"]
		var err error
		switch i % 3 {
		case 0:
			cm.Data["value"] = "a person's"
			err = s.client.Update(t.Context(), &cm)
		case 1:
			err = s.client.Delete(t.Context(), &cm)
		case 2:
			clear(cm.Labels)
			cm.Data["value"] = "nobody's"
			err = s.client.Update(t.Context(), &cm)
		}
		if err != nil {
			t.Fatal(err)
		}
		took, err := wait.Until(t.Context(), time.Minute, "the return of "+key.Name, func() (bool, error) {
			var now corev1.ConfigMap
			err := s.client.Get(t.Context(), key, &now)
			return err == nil && now.Data["value"] == want && len(now.Labels) > 0, client.IgnoreNotFound(err)
		})
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, took.Seconds())
	}
	benchPercentile("drift_correct_seconds_p95", 95, out, "s")
}

// requests is how many the agent has sent to its API server, by method.
func (s *site) requests(t *testing.T) map[string]float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.metrics+"/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(string(body)))
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, m := range families["rest_client_requests_total"].GetMetric() {
		for _, l := range m.GetLabel() {
			if l.GetName() == "method" {
				counts[l.GetValue()] += m.GetCounter().GetValue()
			}
		}
	}
	if counts[http.MethodGet] == 0 {
		t.Fatalf("the agent of %s counts no request", s.name)
	}
	return counts
}

// residentMiB is VmRSS of a process (proc_pid_status(5)).
func residentMiB(t *testing.T, pid int) float64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(data), "VmRSS:")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatal(err)
	}
	return kib / 1024
}
