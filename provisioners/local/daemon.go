package local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/go-logr/logr"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"
)

const shutdownTimeout = 3 * time.Second

// Connect makes the log of a daemon, which the libraries write to as well, and finds the API server.
func Connect(name string, level slog.Level) (*slog.Logger, *rest.Config, error) {
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctrllog.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.SetSlogLogger(log)
	cfg, err := config.GetConfig()
	if err != nil {
		return nil, nil, fmt.Errorf("find the API server: %w", err)
	}
	cfg.UserAgent = name
	return log, cfg, nil
}

// Daemon is how the provisioner and the cleaner start and end: both pass over their
// node again and again, woken by a cache.
type Daemon struct {
	Address string // of /metrics, /healthz and /readyz
	Metrics *prometheus.Registry
	Cached  cache.Cache
	Changed func(obj any) // one of the cached objects was added, changed or removed
	// Finished is when the last pass ended, in Unix nanoseconds; 0 before the first.
	Finished *atomic.Int64
	// StuckAfter is how long no pass may have ended while the daemon is alive.
	StuckAfter time.Duration
	Now        func() time.Time
}

// Run serves and watches, and calls work when the volumes are known, until ctx ends
// or one of these fails.
func (d Daemon) Run(ctx context.Context, work func(context.Context)) error {
	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	server := &http.Server{Addr: d.Address, Handler: d.Handler(), ReadHeaderTimeout: callTimeout}
	go func() {
		if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
			cancel(fmt.Errorf("serve metrics: %w", err))
		}
	}()
	defer func() {
		stop, done := context.WithTimeout(context.Background(), shutdownTimeout)
		defer done()
		_ = server.Shutdown(stop) // the process ends anyway
	}()
	go func() {
		if err := d.Cached.Start(ctx); err != nil {
			cancel(fmt.Errorf("watch volumes: %w", err))
		}
	}()
	if err := subscribe(ctx, d.Cached, d.Changed); err != nil {
		return err
	}
	work(ctx)
	if asked.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// Handler serves /metrics, /healthz and /readyz. A disk that hangs is no reason to be
// killed: the metrics tell of it.
func (d Daemon) Handler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.Metrics, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		last := d.Finished.Load()
		if idle := d.Now().Sub(time.Unix(0, last)); last != 0 && idle > d.StuckAfter {
			http.Error(w, "no pass has ended for "+idle.Round(time.Second).String(), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if d.Finished.Load() == 0 {
			http.Error(w, "the first pass has not ended", http.StatusServiceUnavailable)
		}
	})
	return mux
}
