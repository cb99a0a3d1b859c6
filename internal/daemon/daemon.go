// Package daemon is what every long-running binary of Holdfast shares: its log,
// its signals and the one port with /metrics, /healthz and /readyz.
package daemon

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Options are the settings that every daemon has.
type Options struct {
	LogLevel       string
	MetricsAddress string
}

// BindFlags binds the options to flags. address is the default of
// --metrics-address; empty turns the port off.
func (o *Options) BindFlags(fs *flag.FlagSet, address string) {
	fs.StringVar(&o.LogLevel, "log-level", "info", "info or debug")
	fs.StringVar(&o.MetricsAddress, "metrics-address", address, "host:port of /metrics, /healthz and /readyz; empty for none")
}

// Logger makes the log.
func (o *Options) Logger(w io.Writer) (*slog.Logger, error) {
	var level slog.Level
	switch o.LogLevel {
	case "info":
	case "debug":
		level = slog.LevelDebug
	default:
		return nil, fmt.Errorf("--log-level %q is not info or debug", o.LogLevel)
	}
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level})), nil
}

// Context ends at SIGTERM or SIGINT.
func Context() (context.Context, context.CancelFunc) {
	return signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
}

// Serve answers on the metrics port until ctx ends. alive says whether the daemon
// does its work; nil is always.
func (o *Options) Serve(ctx context.Context, g prometheus.Gatherer, alive func() error) error {
	if o.MetricsAddress == "" {
		<-ctx.Done()
		return nil
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{}))
	check := func(w http.ResponseWriter, _ *http.Request) {
		if alive != nil {
			if err := alive(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
				return
			}
		}
		w.WriteHeader(http.StatusNoContent)
	}
	mux.HandleFunc("GET /healthz", check)
	mux.HandleFunc("GET /readyz", check)
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", o.MetricsAddress)
	if err != nil {
		return fmt.Errorf("serve metrics: %w", err)
	}
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 10 * time.Second}
	stop := context.AfterFunc(ctx, func() { _ = srv.Close() }) // scrapes in flight are not worth waiting for
	defer stop()
	if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve metrics: %w", err)
	}
	return nil
}

// UsageError is a command line that is not understood.
type UsageError struct{ err error }

func (e *UsageError) Error() string { return e.err.Error() }

func (e *UsageError) Unwrap() error { return e.err }

// Parse reads flags, and answers --help with [flag.ErrHelp]. What is wrong with them is
// a *UsageError of one line that is for the caller to print: the flag package alone
// prints it as well, with the whole usage after it.
func Parse(fs *flag.FlagSet, args []string) error {
	fs.Init(fs.Name(), flag.ContinueOnError)
	out := fs.Output()
	fs.SetOutput(io.Discard)
	err := fs.Parse(args)
	fs.SetOutput(out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		if fs.Usage == nil {
			fmt.Fprintf(out, "Usage of %s:\n", fs.Name())
			fs.PrintDefaults()
		} else {
			fs.Usage()
		}
		return err
	case err != nil:
		return &UsageError{fmt.Errorf("%w (see %s --help)", err, fs.Name())}
	}
	return nil
}

// ParseAll is Parse for a command that takes flags alone.
func ParseAll(fs *flag.FlagSet, args []string) error {
	err := Parse(fs, args)
	if err == nil && fs.NArg() > 0 {
		err = &UsageError{fmt.Errorf("unexpected argument %q (see %s --help)", fs.Arg(0), fs.Name())}
	}
	return err
}

// ErrStartAnew is what a daemon's run returns that must read again what it read at its start.
var ErrStartAnew = errors.New("start anew")

// Main runs a daemon until SIGTERM or SIGINT and returns its exit code: 0 after an
// orderly end or --help; after an error, which is printed for a person, that of [Fail].
//
// After ErrStartAnew the program takes its own place, with the same arguments: nothing of
// what it was doing goes on, as after an end, and nobody counts a crash (the kubelet
// starts a container later and later that ends again and again, with no error too).
func Main(name string, run func(ctx context.Context, args []string) error) int {
	ctx, stop := Context()
	defer stop()
	err := run(ctx, os.Args[1:])
	if errors.Is(err, ErrStartAnew) {
		if ctx.Err() != nil {
			return 0
		}
		err = fmt.Errorf("start anew: %w", syscall.Exec("/proc/self/exe", os.Args, os.Environ()))
	}
	if err != nil {
		return Fail(name, err)
	}
	return 0
}

// Fail prints the error for a person and returns the exit code: 2 for a command line
// that is not understood, else 1. --help is no error, and 0.
func Fail(name string, err error) int {
	if errors.Is(err, flag.ErrHelp) {
		return 0
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	var usage *UsageError
	if errors.As(err, &usage) {
		return 2
	}
	return 1
}
