package remediation

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

// get reads one endpoint.
func get(url string) (int, string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, "", err
	}
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), errors.Join(err, resp.Body.Close())
}

// TestLiveEndpoints: probes answer, the whole of /metrics passes promtool's
// linter, a standby is ready too, and a clean stop gives the Lease away.
func TestLiveEndpoints(t *testing.T) {
	l := newLive(t)
	var stops []*running
	var bases []string
	for range 2 {
		free, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		o := settings()
		o.MetricsAddress = free.Addr().String()
		if err := free.Close(); err != nil {
			t.Fatal(err)
		}
		stops = append(stops, l.runWith(l.cfg, o))
		base := "http://" + o.MetricsAddress
		bases = append(bases, base)
		l.eventually("readiness", func() string {
			code, body, err := get(base + "/readyz")
			if err != nil {
				return err.Error()
			}
			if code != http.StatusOK {
				return body
			}
			return ""
		})
		if code, body, err := get(base + "/healthz"); err != nil || code != http.StatusOK {
			t.Errorf("/healthz: %d %q %v", code, body, err)
		}
		code, body, err := get(base + "/metrics")
		if err != nil || code != http.StatusOK || !strings.Contains(body, `holdfast_remediation_plans{phase="Running"}`) {
			t.Fatalf("/metrics: %d %v:\n%s", code, err, body)
		}
		problems, err := promlint.New(strings.NewReader(body)).Lint()
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range problems {
			t.Errorf("promlint: %s: %s", p.Metric, p.Text)
		}
	}
	holder := func() string {
		var lease coordinationv1.Lease
		if err := l.get(&lease, systemNamespace, LeaseName); err != nil || lease.Spec.HolderIdentity == nil {
			return ""
		}
		return *lease.Spec.HolderIdentity
	}
	l.eventually("a leader", func() string {
		if holder() == "" {
			return "none"
		}
		return ""
	})
	first, begin := holder(), time.Now()
	l.end(stops[0])
	l.eventually("the standby to take over", func() string {
		if h := holder(); h == "" || h == first {
			return "holder is " + h
		}
		return ""
	})
	t.Logf("the standby took over in %v", time.Since(begin))
	// The Lease has its name before it has the answer: a leader that is ended
	// between the two does not know that it has one to give away.
	l.eventually("the standby to know that it leads", func() string {
		_, body, err := get(bases[1] + "/metrics")
		if err != nil {
			return err.Error()
		}
		if !strings.Contains(body, `leader_election_master_status{name="`+LeaseName+`"} 1`) {
			return "its metrics say it does not"
		}
		return ""
	})
	l.end(stops[1])
	if h := holder(); h != "" {
		t.Errorf("after a clean stop %s still has the Lease", h)
	}
}

func TestOptions(t *testing.T) {
	good := settings()
	cases := map[string]struct {
		reason string
		change func(*Options)
		want   string
	}{
		"Good":        {reason: "the defaults and a namespace", change: func(*Options) {}},
		"NoNamespace": {reason: "outside of a pod nothing says where the Lease is", change: func(o *Options) { o.LeaderElectionNamespace = "" }, want: "--leader-election-namespace is not set"},
		"Address":     {reason: "not an address", change: func(o *Options) { o.MetricsAddress = "9810" }, want: "--metrics-address"},
		"Lease":       {reason: "a lease shorter than its renewal", change: func(o *Options) { o.LeaseDuration = time.Second }, want: "leader election needs"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			o := good
			c.change(&o)
			err := o.Validate()
			if (err == nil) != (c.want == "") || (err != nil && !strings.Contains(err.Error(), c.want)) {
				t.Errorf("%s: Validate = %v, want %q", c.reason, err, c.want)
			}
		})
	}
}
