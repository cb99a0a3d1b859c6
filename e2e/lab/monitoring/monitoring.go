// Package monitoring runs Prometheus and Alertmanager, as Debian packages them,
// with Holdfast's alert rules, so that tests assert on real alerts and people
// see what an on-call would.
//
// Both listen on loopback only and keep everything in a directory of the
// caller. They die with their parent.
package monitoring

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/api"
	promv1 "github.com/prometheus/client_golang/api/prometheus/v1"

	"holdfast.dev/addons"
	"holdfast.dev/internal/atomicfile"
	"holdfast.dev/internal/hostexec"
)

const (
	prometheusProgram   = "prometheus"
	alertmanagerProgram = "prometheus-alertmanager"

	defaultInterval = time.Second
	// resendDelay is how long an alert that Alertmanager did not hear of, because
	// it was busy, stays unheard. Prometheus lets an alert end four times this
	// after it was last sent (rules/manager.go, sendAlerts).
	resendDelay = 10 * time.Second
	// retention is far more than a run of the lab takes.
	retention = 24 * time.Hour
)

// Options of a pair.
type Options struct {
	// Dir is where configuration, data and logs go. It is made when it is not
	// there, and never removed: it is the caller's.
	Dir string
	// Targets to begin with; SetTargets replaces them.
	Targets []Target
	// Rules hold rule files at <addon>/alerts.yaml; nil for the catalogue of addons.
	Rules fs.FS
	// Addons are those whose rules are loaded; nil for all of Rules. An addon that is
	// not installed is down, by its own rules.
	Addons []string
	// MaxFor shortens every "for" of the rules that is longer: tests do not wait
	// a quarter of an hour. 0 takes the rules as they are.
	MaxFor time.Duration
	// ProxyURL is the HTTP proxy of every scrape; empty for none.
	ProxyURL string
	// Token is what is shown to targets with HTTPS, whose certificates nobody checks:
	// a pod's has no name that it could be checked against.
	Token string
	// ScrapeInterval and EvaluationInterval are 1 s when they are 0. A scrape
	// that takes longer than its interval counts as failed.
	ScrapeInterval, EvaluationInterval time.Duration
}

// Target is something to scrape, at http://Address/metrics, or https.
type Target struct {
	HTTPS bool
	// Job is the addon's name: the rules select by it.
	Job string
	// Address is host:port.
	Address string
	// Labels are added to everything that the target says.
	Labels map[string]string
}

// Pair is a Prometheus that sends its alerts to an Alertmanager. It must be made
// by Start. Its methods may be called concurrently.
type Pair struct {
	dir                      string
	prometheus, alertmanager *daemon
	client                   *http.Client
	api                      promv1.API
}

// Start starts both and returns when both are ready. ctx bounds the start only.
func Start(ctx context.Context, o Options) (*Pair, error) {
	if err := o.complete(); err != nil {
		return nil, err
	}
	p := &Pair{dir: o.Dir, client: &http.Client{Transport: &http.Transport{}, Timeout: callTimeout}}
	err := errors.Join(writeRules(o), p.SetTargets(o.Targets), atomicfile.Write(filepath.Join(o.Dir, tokenFile), []byte(o.Token), 0o600), writeYAML(filepath.Join(o.Dir, "alertmanager.yaml"), alertmanagerConfig()))
	if err != nil {
		return nil, err
	}
	p.alertmanager, err = startDaemon(ctx, p.client, alertmanagerProgram, o.Dir, func(address string) ([]string, error) {
		return []string{
			"--config.file=" + filepath.Join(o.Dir, "alertmanager.yaml"),
			"--storage.path=" + filepath.Join(o.Dir, "alertmanager"),
			"--web.listen-address=" + address,
			"--web.external-url=http://" + address + "/",
			"--cluster.listen-address=", // it has no peers
		}, nil
	})
	if err != nil {
		return nil, err
	}
	p.prometheus, err = startDaemon(ctx, p.client, prometheusProgram, o.Dir, func(address string) ([]string, error) {
		return []string{
			"--config.file=" + filepath.Join(o.Dir, "prometheus.yaml"),
			"--storage.tsdb.path=" + filepath.Join(o.Dir, "prometheus"),
			"--storage.tsdb.retention.time=" + retention.String(),
			"--web.listen-address=" + address,
			"--web.external-url=http://" + address + "/",
			"--rules.alert.resend-delay=" + resendDelay.String(),
		}, writeYAML(filepath.Join(o.Dir, "prometheus.yaml"), prometheusConfig(o, address, p.alertmanager.address))
	})
	if err != nil {
		p.Stop()
		return nil, err
	}
	c, err := api.NewClient(api.Config{Address: p.PrometheusURL(), Client: p.client})
	if err != nil {
		p.Stop()
		return nil, fmt.Errorf("make client of Prometheus: %w", err)
	}
	p.api = promv1.NewAPI(c)
	return p, nil
}

// complete sets defaults and checks.
func (o *Options) complete() error {
	if o.Dir == "" {
		return errors.New("start monitoring: no directory is given")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return fmt.Errorf("start monitoring: %w", err)
	}
	o.Dir = dir
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("start monitoring: %w", err)
	}
	if o.Rules == nil {
		o.Rules = addons.Catalogue
	}
	for _, d := range []*time.Duration{&o.ScrapeInterval, &o.EvaluationInterval} {
		if *d == 0 {
			*d = defaultInterval
		}
		if *d < time.Millisecond {
			return fmt.Errorf("start monitoring: the interval %s is too short", *d)
		}
	}
	if o.ProxyURL != "" {
		if u, err := url.Parse(o.ProxyURL); err != nil || u.Scheme != "http" || u.Host == "" {
			return fmt.Errorf("start monitoring: the proxy %q is not http://host:port", o.ProxyURL)
		}
	}
	for _, program := range []string{prometheusProgram, alertmanagerProgram} {
		if _, err := hostexec.LookPath(program); err != nil {
			return fmt.Errorf("start monitoring: %w (on Debian: apt-get install --no-install-recommends prometheus prometheus-alertmanager)", err)
		}
	}
	return nil
}

// Stop ends both, and returns when both are gone. It may be called again.
func (p *Pair) Stop() {
	var ending sync.WaitGroup
	for _, d := range []*daemon{p.prometheus, p.alertmanager} {
		if d != nil {
			ending.Go(d.stop)
		}
	}
	ending.Wait()
	p.client.CloseIdleConnections()
}

// PrometheusURL is where a person looks at metrics, targets and rules.
func (p *Pair) PrometheusURL() string { return p.prometheus.url() }

// AlertmanagerURL is where a person looks at alerts.
func (p *Pair) AlertmanagerURL() string { return p.alertmanager.url() }

// Logs are the files that both write their logs to.
func (p *Pair) Logs() []string { return []string{p.prometheus.log.Name(), p.alertmanager.log.Name()} }

// PIDs are the process ids.
func (p *Pair) PIDs() (prometheus, alertmanager int) {
	return p.prometheus.process.PID(), p.alertmanager.process.PID()
}
