package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"k8s.io/client-go/rest"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/monitor/report"
)

// stuckAfter is how long the loop may stand still before the process is
// unhealthy. It turns at least every 10 s.
const stuckAfter = time.Minute

// Handler serves /metrics, /healthz and /readyz. The monitor is ready once it
// has looked at the disks; it does not wait for the API server or for its
// ComputeNode, which a component that starts later makes.
func (m *Monitor) Handler() http.Handler {
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.Collector(), collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(reg, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second}))
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, time.Since(time.Unix(m.alive.Load(), 0)) < stuckAfter, "the main loop stands still")
	})
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, m.looked.Load(), "the disks have not been looked at")
	})
	return mux
}

func answer(w http.ResponseWriter, ok bool, why string) {
	if !ok {
		http.Error(w, why, http.StatusServiceUnavailable)
		return
	}
	_, _ = w.Write([]byte("ok\n")) // a probe that left
}

// Run is a whole node monitor: it opens the host, serves HTTP, and watches and
// reports until the context ends.
func Run(ctx context.Context, o Options, cfg *rest.Config, log *slog.Logger) error {
	host, err := hostfs.Open(o.HostRoot)
	if err != nil {
		return err
	}
	defer func() { _ = host.Close() }() // read only
	api, err := report.NewClient(cfg, o.NodeName)
	if err != nil {
		return err
	}
	m, err := New(o, host, api, log)
	if err != nil {
		return err
	}
	return m.serve(ctx)
}

func (m *Monitor) serve(ctx context.Context) error {
	m.alive.Store(time.Now().Unix())
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", m.opts.MetricsAddress)
	if err != nil {
		return fmt.Errorf("listen for metrics: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	srv := &http.Server{Handler: m.Handler(), ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 15 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	served := make(chan error, 1)
	go func() {
		served <- srv.Serve(listener)
		cancel()
	}()
	if m.opts.Socket != "" {
		stop, err := m.serveSocket(m.opts.Socket)
		if err != nil {
			// The disks are watched all the same.
			m.log.Error("programs of the node cannot ask", "error", err.Error())
		} else {
			defer stop()
		}
	}
	m.log.Info("monitor started", "node", m.opts.NodeName, "hostRoot", m.opts.HostRoot, "address", listener.Addr().String())
	err = m.Run(ctx)
	shutCtx, done := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer done()
	if shutErr := srv.Shutdown(shutCtx); shutErr != nil {
		_ = srv.Close() // a scrape that hangs must not keep the process
	}
	if serveErr := <-served; !errors.Is(serveErr, http.ErrServerClosed) {
		err = errors.Join(err, fmt.Errorf("serve metrics: %w", serveErr))
	}
	return err
}

// serveSocket answers programs of the node, root alone, on a UNIX socket: the
// status as it is now, whether the API server knows it or not.
func (m *Monitor) serveSocket(socket string) (stop func(), err error) {
	if info, err := os.Lstat(socket); err == nil && info.Mode()&fs.ModeSocket != 0 {
		if err := os.Remove(socket); err != nil { // of a process that was killed
			return nil, fmt.Errorf("listen: %w", err)
		}
	}
	// The address of a socket has 107 bytes (unix(7)), a path may have more.
	dir, err := os.Open(filepath.Dir(socket))
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	defer func() { _ = dir.Close() }() // read only
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket)), Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	listener.SetUnlinkOnClose(false) // by a name that is gone then
	if err := os.Chmod(socket, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("listen: %w", err), listener.Close())
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /status", func(w http.ResponseWriter, _ *http.Request) {
		p := m.published.Load()
		if p == nil || p.writer == nil {
			// Without the stored status, what failed before would look well.
			http.Error(w, "what was known before the start has not been read yet", http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(p.status) // to one that left
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := srv.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			m.log.Error("programs of the node cannot ask", "error", err.Error())
		}
	}()
	return func() {
		_ = srv.Close() // nobody waits for its answers any more
		<-done
		_ = os.Remove(socket) // else the next start does
	}, nil
}
