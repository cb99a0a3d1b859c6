// Package remediation acts on what the nodes report: it quarantines bad disks,
// makes plans to replace them, and carries the plans out under a budget. This
// package only joins the controllers; each has a folder of its own.
package remediation

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/config"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	ctrlmetrics "sigs.k8s.io/controller-runtime/pkg/metrics"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/computenode"
	"holdfast.dev/remediation/index"
	"holdfast.dev/remediation/metrics"
	"holdfast.dev/remediation/nodestatus"
	"holdfast.dev/remediation/planner"
	"holdfast.dev/remediation/quarantine"
	"holdfast.dev/remediation/repair"
)

// LeaseName is the name of the leader election Lease.
const LeaseName = "holdfast-remediation-controller"

const (
	// workers is how many nodes are quarantined at once.
	workers = 8
	// reconcileTimeout bounds every call of one reconciliation together.
	reconcileTimeout = 30 * time.Second
	// retryFirst and retryLast bound the pause after an error. The default's last
	// is a thousand seconds, which is too late for a quarantine after an outage.
	retryFirst = 5 * time.Millisecond
	retryLast  = 10 * time.Second
)

// Scheme returns the types that the controllers use.
func Scheme() (*runtime.Scheme, error) {
	s := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(s); err != nil {
			return nil, fmt.Errorf("register API types: %w", err)
		}
	}
	return s, nil
}

// Run runs the controllers until ctx ends or leadership is lost. The caller
// must end the process then: the Lease has been given away.
func Run(ctx context.Context, cfg *rest.Config, o Options, log *slog.Logger) error {
	cfg = rest.CopyConfig(cfg)
	cfg.QPS, cfg.Burst = o.QPS, o.Burst
	cfg.UserAgent = v1alpha1.QuarantinedByController
	scheme, err := Scheme()
	if err != nil {
		return err
	}
	m, err := ctrl.NewManager(cfg, ctrl.Options{
		Scheme:                        scheme,
		Logger:                        logr.FromSlogHandler(log.Handler()),
		Cache:                         cache.Options{DefaultTransform: cache.TransformStripManagedFields()},
		Metrics:                       metricsserver.Options{BindAddress: "0"}, // served by serve, on the one port
		LeaderElection:                true,
		LeaderElectionID:              LeaseName,
		LeaderElectionNamespace:       o.LeaderElectionNamespace,
		LeaderElectionReleaseOnCancel: true,
		LeaseDuration:                 &o.LeaseDuration,
		RenewDeadline:                 &o.RenewDeadline,
		RetryPeriod:                   &o.RetryPeriod,
		Controller:                    config.Controller{SkipNameValidation: ptr.To(true)}, // tests run several in one process
	})
	if err != nil {
		return fmt.Errorf("set up controllers: %w", err)
	}
	if err := index.Register(ctx, m.GetFieldIndexer()); err != nil {
		return err
	}
	collector := metrics.New(m.GetCache())
	if err := serve(m, o.MetricsAddress, collector); err != nil {
		return err
	}
	if err := register(m, log, collector); err != nil {
		return err
	}
	if err := m.Start(ctx); err != nil {
		return fmt.Errorf("run controllers: %w", err)
	}
	return nil
}

// register adds the controllers.
func register(m ctrl.Manager, log *slog.Logger, collector *metrics.Collector) error {
	c, live, now := m.GetClient(), m.GetAPIReader(), time.Now
	for name, setup := range map[string]func(ctrl.Manager, controller.Options) error{
		"computenode": (&computenode.Controller{Client: c, Live: live, Log: log}).SetupWithManager,
		"quarantine":  (&quarantine.Controller{Client: c, Live: live, Log: log, Now: now, Decided: collector.Decided}).SetupWithManager,
		"planner":     (&planner.Controller{Client: c, Live: live, Log: log, Now: now, Decided: collector.Decided}).SetupWithManager,
		"nodestatus":  (&nodestatus.Controller{Client: c, Log: log, Now: now}).SetupWithManager,
		"repair":      (&repair.Controller{API: repair.API{Client: c, Live: live, Now: now}, Log: log, Decided: collector.Decided}).SetupWithManager,
	} {
		err := setup(m, controller.Options{
			MaxConcurrentReconciles: workers,
			ReconciliationTimeout:   reconcileTimeout,
			EnableWarmup:            ptr.To(true),
			RateLimiter:             workqueue.NewTypedItemExponentialFailureRateLimiter[reconcile.Request](retryFirst, retryLast),
		})
		if err != nil {
			return fmt.Errorf("set up %s controller: %w", name, err)
		}
	}
	return nil
}

// serve adds the server of metrics and probes. A standby serves them too.
func serve(m ctrl.Manager, address string, collector prometheus.Collector) error {
	reg := prometheus.NewRegistry()
	if err := reg.Register(collector); err != nil {
		return fmt.Errorf("register metrics: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", address)
	if err != nil {
		return fmt.Errorf("listen for metrics and probes: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("/metrics", promhttp.HandlerFor(prometheus.Gatherers{reg, ctrlmetrics.Registry}, promhttp.HandlerOpts{}))
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, "ok") })
	mux.HandleFunc("/readyz", func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), time.Second)
		defer cancel()
		if !m.GetCache().WaitForCacheSync(ctx) {
			answer(w, http.StatusServiceUnavailable, "the cache is not filled yet")
			return
		}
		answer(w, http.StatusOK, "ok")
	})
	return m.Add(&manager.Server{
		Name:     "metrics and probes",
		Server:   &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 30 * time.Second},
		Listener: l,
	})
}

func answer(w http.ResponseWriter, code int, text string) {
	w.WriteHeader(code)
	_, _ = fmt.Fprintln(w, text) // nobody is left to tell
}
