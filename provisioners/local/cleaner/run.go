package cleaner

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/client-go/rest"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local"
)

const (
	readTimeout     = 10 * time.Second // of one disk
	shutdownTimeout = 3 * time.Second
	saveEvery       = 5 * time.Second // of a wipe's offset
)

// Run is the daemon: it cleans the node's released volumes and serves its metrics
// and health until ctx ends.
func Run(ctx context.Context, o Options, cfg *rest.Config, log *slog.Logger) error {
	root, err := hostfs.Open(o.HostRoot)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // read only
	cached, live, err := local.Clients(o.NodeName, cfg)
	if err != nil {
		return err
	}
	host := local.NewHost(root, readTimeout)
	machine := NewMachine(root, host)
	cluster := &Cluster{Node: o.NodeName, Methods: o.Clean, Live: live, Disks: host, Looker: machine, Now: time.Now}
	reg := prometheus.NewRegistry()
	c := NewController(Config{
		Node: o.NodeName, Cached: cached, Cluster: cluster,
		Cleaning: Cleaning{
			Records: Records{o.StateDir}, Disk: machine, Filesystem: machine, Volume: cluster,
			Chunk: o.Chunk, Rate: o.Rate, SaveEvery: saveEvery, Now: time.Now,
		},
		Prover: Prover{Dir: o.StateDir, Looker: machine, Disk: machine, Absent: cluster.Absent, Chunk: o.Chunk, Rate: o.Rate, Now: time.Now},
		Certified: func(disk string, p nodedisks.Partition, bytes int64) (bool, error) {
			id, _, err := host.Certified(disk, p, bytes)
			return id != "", err
		},
		Deadline: o.Deadline, Metrics: NewMetrics(reg), Log: log, Now: time.Now,
	})

	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	server := &http.Server{Addr: o.MetricsAddress, Handler: c.Handler(reg), ReadHeaderTimeout: callTimeout}
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
		if err := cached.Start(ctx); err != nil {
			cancel(fmt.Errorf("watch volumes: %w", err))
		}
	}()
	if err := local.Subscribe(ctx, cached, c.Wake); err != nil {
		return err
	}
	c.Run(ctx)
	if asked.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// Handler serves /metrics of reg, /healthz and /readyz. A cleaning that hangs is
// no reason to be killed: the metrics tell of it.
func (c *Controller) Handler(reg *prometheus.Registry) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		last := c.finished.Load()
		if idle := c.Now().Sub(time.Unix(0, last)); last != 0 && idle > retryMax+stuckAfter {
			http.Error(w, "no pass has ended for "+idle.Round(time.Second).String(), http.StatusServiceUnavailable)
		}
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if c.finished.Load() == 0 {
			http.Error(w, "the first pass has not ended", http.StatusServiceUnavailable)
		}
	})
	return mux
}
