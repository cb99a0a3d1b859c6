package remediation

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Options are the settings of the remediation controller.
type Options struct {
	// MetricsAddress is where /metrics, /healthz and /readyz are served.
	MetricsAddress string
	// LeaderElectionNamespace holds the Lease that the one acting controller has.
	LeaderElectionNamespace string
	// LogLevel is the least level that is logged.
	LogLevel slog.Level

	// QPS and Burst bound requests to the API server. A node with many volumes is
	// closed in one burst; client-go's defaults would take seconds for that.
	QPS   float32
	Burst int
	// LeaseDuration, RenewDeadline and RetryPeriod are those of k8s.io/client-go/tools/leaderelection. A
	// controller whose machine stands still for longer than it may take to renew ends, and the kubelet waits longer
	// each time before it starts it again: a deadline that is too short costs minutes without a quarantine.
	LeaseDuration, RenewDeadline, RetryPeriod time.Duration
}

// DefaultOptions are what production uses.
func DefaultOptions() Options {
	return Options{
		MetricsAddress: "127.0.0.1:9810",
		QPS:            200,
		Burst:          400,
		LeaseDuration:  15 * time.Second, // as Kubernetes' own controllers
		RenewDeadline:  10 * time.Second,
		RetryPeriod:    2 * time.Second,
	}
}

// BindFlags makes the settings flags; the current values are the defaults.
func (o *Options) BindFlags(f *flag.FlagSet) {
	f.StringVar(&o.MetricsAddress, "metrics-address", o.MetricsAddress, "`host:port` for /metrics, /healthz and /readyz")
	f.StringVar(&o.LeaderElectionNamespace, "leader-election-namespace", o.LeaderElectionNamespace, "`namespace` of the leader election Lease: the pod's own")
	f.TextVar(&o.LogLevel, "log-level", o.LogLevel, "least `level` that is logged: debug, info, warn or error")
}

// Validate says what is wrong with the settings.
func (o *Options) Validate() error {
	if o.LeaderElectionNamespace == "" {
		return errors.New("--leader-election-namespace is not set: give the pod's namespace, as the downward API has it")
	}
	if _, _, err := net.SplitHostPort(o.MetricsAddress); err != nil {
		return fmt.Errorf("--metrics-address: %w", err)
	}
	if o.RetryPeriod >= o.RenewDeadline || o.RenewDeadline >= o.LeaseDuration {
		return errors.New("leader election needs retry period < renew deadline < lease duration")
	}
	return nil
}
