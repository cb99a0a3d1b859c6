//go:build lab

package monitoring_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/fstest"
	"time"

	"holdfast.dev/e2e/lab/monitoring"
	"holdfast.dev/e2e/wait"
)

// eventually polls until check succeeds.
func eventually(t *testing.T, what string, limit time.Duration, check func(ctx context.Context) error) {
	t.Helper()
	took, err := wait.Until(t.Context(), limit, what, func() (bool, error) {
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		return true, check(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s after %.2f s", what, took.Seconds())
}

// node is a host name that only the proxy knows.
const node = "n1.lab.invalid:9808"

// monitorOf serves the metrics of a disk monitor whose disk is failed or not.
func monitorOf(t *testing.T, failed *atomic.Bool) *httptest.Server {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/metrics" {
			http.NotFound(w, r)
			return
		}
		state := 0
		if failed.Load() {
			state = 1
		}
		_, _ = fmt.Fprintf(w, `holdfast_disk_monitor_condition{type="InventoryRead",status="true"} 1
holdfast_disk_monitor_condition{type="KernelLogRead",status="true"} 1
holdfast_disk_monitor_disk_info{disk="d1",device="sda"} 1
holdfast_disk_monitor_disk_state{disk="d1",state="Healthy"} %d
holdfast_disk_monitor_disk_state{disk="d1",state="Failed"} %d
`, 1-state, state) // a scrape that left
	}))
	t.Cleanup(s.Close)
	return s
}

// proxyTo serves a proxy that leads requests for node to s, and counts them.
func proxyTo(t *testing.T, s *httptest.Server, count *atomic.Int64) *httptest.Server {
	plain := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		count.Add(1)
		r.Out.URL.Host = strings.TrimPrefix(s.URL, "http://")
	}}
	p := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Host != node {
			http.Error(w, "no route to "+r.URL.Host, http.StatusBadGateway)
			return
		}
		plain.ServeHTTP(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

func start(t *testing.T, o monitoring.Options) *monitoring.Pair {
	t.Helper()
	began := time.Now()
	p, err := monitoring.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Stop)
	t.Logf("started in %.2f s", time.Since(began).Seconds())
	return p
}

// firing fails unless the alert is, or is not, there.
func firing(p *monitoring.Pair, name string, labels map[string]string, want bool) func(context.Context) error {
	return func(ctx context.Context) error {
		got, err := p.Firing(ctx, name, labels)
		if err == nil && got != want {
			alerts, _ := p.Alerts(ctx)
			err = fmt.Errorf("%s %v: firing is %t; all alerts: %v", name, labels, got, alerts)
		}
		return err
	}
}

func up(p *monitoring.Pair, want string) func(context.Context) error {
	return func(ctx context.Context) error {
		v, err := p.Query(ctx, `up{job!="prometheus"}`)
		if err == nil && v.String() != want && (len(v) == 0 || !strings.HasPrefix(v.String(), want)) {
			err = errors.New("Prometheus scrapes " + v.String())
		}
		return err
	}
}

func TestAlertOfAFailedDisk(t *testing.T) {
	var failed atomic.Bool
	var scrapes atomic.Int64
	disks := monitorOf(t, &failed)
	dir := t.TempDir()
	p := start(t, monitoring.Options{Dir: dir, ProxyURL: proxyTo(t, disks, &scrapes).URL, MaxFor: time.Second})
	if alerts, err := p.Alerts(t.Context()); err != nil || len(alerts) != 0 {
		t.Fatalf("alerts before there is a target: %v, %v", alerts, err)
	}

	target := monitoring.Target{Job: "disk-monitor", Address: node, Labels: map[string]string{"cluster": "c1", "node": "n1"}}
	if err := p.SetTargets([]monitoring.Target{target}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "target is scraped", 30*time.Second, up(p, `up{cluster="c1", instance="`+node+`", job="disk-monitor", node="n1"} => 1`))
	if scrapes.Load() == 0 {
		t.Error("Prometheus did not go through the proxy")
	}

	failed.Store(true)
	disk := map[string]string{"disk": "d1", "instance": node, "cluster": "c1", "node": "n1", "severity": "critical"}
	eventually(t, "alert", 15*time.Second, firing(p, "HoldfastDiskFailed", disk, true))
	alerts, err := p.Alerts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range alerts {
		if a.Name() != "HoldfastDiskFailed" {
			continue
		}
		if want := "Disk d1 (sda) on " + node + " is Failed"; a.Annotations["summary"] != want {
			t.Errorf("got summary %q, want %q", a.Annotations["summary"], want)
		}
		if age := time.Since(a.StartsAt); age < 0 || age > time.Minute {
			t.Errorf("the alert started at %s, %s ago", a.StartsAt, age)
		}
	}
	if ok, err := p.Firing(t.Context(), "HoldfastDiskFailed", map[string]string{"disk": "d2"}); err != nil || ok {
		t.Errorf("an alert for a disk that has none: %t, %v", ok, err)
	}
	failed.Store(false)
	eventually(t, "alert is over", 15*time.Second, firing(p, "HoldfastDiskFailed", nil, false))

	// The node's power goes while its disk is failed: both alerts stand.
	failed.Store(true)
	eventually(t, "alert again", 15*time.Second, firing(p, "HoldfastDiskFailed", disk, true))
	disks.Close()
	eventually(t, "monitor is down", 15*time.Second, firing(p, "HoldfastDiskMonitorDown", map[string]string{"node": "n1"}, true))
	if err := firing(p, "HoldfastDiskFailed", disk, true)(t.Context()); err != nil {
		t.Error(err)
	}
	if err := p.SetTargets(nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "no target is left", 30*time.Second, up(p, ""))
	eventually(t, "nothing fires for it", 15*time.Second, firing(p, "HoldfastDiskFailed", nil, false))
	rss(t, p)
}

// rss logs how much memory both hold.
func rss(t *testing.T, p *monitoring.Pair) {
	prometheus, alertmanager := p.PIDs()
	for name, pid := range map[string]int{"prometheus": prometheus, "alertmanager": alertmanager} {
		data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "status"))
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(data)) {
			if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
				t.Logf("%s holds %s", name, strings.TrimSpace(rest))
			}
		}
	}
}

// Stop after one was killed returns, and what is asked of it says why there is no answer.
func TestKilled(t *testing.T) {
	p := start(t, monitoring.Options{Dir: t.TempDir()})
	prometheus, alertmanager := p.PIDs()
	if err := syscall.Kill(prometheus, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a query says that Prometheus is gone", 10*time.Second, func(ctx context.Context) error {
		_, err := p.Query(ctx, "up")
		if err == nil || !strings.Contains(err.Error(), "prometheus is gone: run prometheus: signal: killed") {
			return fmt.Errorf("got %w", err)
		}
		return nil
	})
	p.Stop()
	p.Stop()
	for _, pid := range []int{prometheus, alertmanager} {
		if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
			t.Errorf("process %d is there after Stop: %v", pid, err)
		}
	}
	for _, url := range []string{p.PrometheusURL(), p.AlertmanagerURL()} {
		if resp, err := http.Get(url); err == nil {
			_ = resp.Body.Close()
			t.Errorf("%s answers after Stop", url)
		}
	}
}

// People open these pages.
func TestPages(t *testing.T) {
	p := start(t, monitoring.Options{Dir: t.TempDir()})
	for url, want := range map[string]string{p.PrometheusURL() + "/classic/alerts": "HoldfastDiskFailed", p.AlertmanagerURL() + "/": "lertmanager"} {
		resp, err := http.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s, %v:\n%s", url, resp.Status, err, body)
		}
	}
	if _, err := p.Query(t.Context(), "1"); err == nil || err.Error() != `query "1": the answer is a scalar and not a vector` {
		t.Errorf("a scalar: %v", err)
	}
}

func TestRefused(t *testing.T) {
	bad := fstest.MapFS{"x/alerts.yaml": {Data: []byte("groups:\n- name: x\n  rules:\n  - {alert: X, expr: 'up =='}\n")}}
	cases := map[string]struct {
		reason string
		o      monitoring.Options
		want   string
	}{
		"NoDir":    {"nothing is written somewhere", monitoring.Options{}, "no directory is given"},
		"NoRules":  {"a pair that never alerts proves nothing", monitoring.Options{Rules: fstest.MapFS{}}, "there is no */alerts.yaml"},
		"BadRule":  {"the log says what Prometheus does not like", monitoring.Options{Rules: bad}, "parse error"},
		"Proxy":    {"no scheme", monitoring.Options{ProxyURL: "127.0.0.1:1"}, `the proxy "127.0.0.1:1" is not http://host:port`},
		"Interval": {"as Prometheus reads it", monitoring.Options{ScrapeInterval: time.Microsecond}, "the interval 1µs is too short"},
		"Address":  {"no port", monitoring.Options{Targets: []monitoring.Target{{Job: "j", Address: "n1"}}}, `"n1" of job "j": a target needs host:port and a job`},
		"Job":      {"no job", monitoring.Options{Targets: []monitoring.Target{{Address: "n1:1"}}}, `"n1:1" of job "": a target needs host:port and a job`},
		"Label":    {"Prometheus would drop the whole file", monitoring.Options{Targets: []monitoring.Target{{Job: "j", Address: "n1:1", Labels: map[string]string{"a-b": "c"}}}}, `the label name "a-b" is not valid`},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if name != "NoDir" {
				tc.o.Dir = t.TempDir()
			}
			p, err := monitoring.Start(t.Context(), tc.o)
			if err == nil {
				p.Stop()
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got  %v\nwant %s\nreason: %s", err, tc.want, tc.reason)
			}
		})
	}
}
