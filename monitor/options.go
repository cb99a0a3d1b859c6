package monitor

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"time"
)

// Options are the settings of one monitor.
type Options struct {
	// NodeName is the Node whose disks these are, and the ComputeNode's name.
	NodeName string
	// HostRoot is where the host's root directory is mounted.
	HostRoot string
	// MetricsAddress is where /metrics, /healthz and /readyz are served.
	MetricsAddress string
	// ScanInterval is the time between two looks at the disks when the kernel
	// announces no change.
	ScanInterval time.Duration
	// Settle is how long a disk must be absent to be missing.
	Settle time.Duration
	// BootSettle is how long after the host's boot no disk is missing yet.
	BootSettle time.Duration
	LogLevel   slog.Level
}

// BindFlags adds the options' flags to fs, with their defaults.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.NodeName, "node-name", "", "name of the Node that this process runs on (required)")
	fs.StringVar(&o.HostRoot, "host-root", "/", "directory where the host's root is mounted")
	fs.StringVar(&o.MetricsAddress, "metrics-address", "127.0.0.1:9808", "address of /metrics, /healthz and /readyz")
	fs.DurationVar(&o.ScanInterval, "scan-interval", 5*time.Second, "time between two looks at the disks when the kernel announces no change")
	fs.DurationVar(&o.Settle, "settle", 2*time.Second, "how long a disk must be absent to be missing")
	fs.DurationVar(&o.BootSettle, "boot-settle", 30*time.Second, "how long after the host's boot no disk is missing yet")
	fs.TextVar(&o.LogLevel, "log-level", slog.LevelInfo, "least level that is logged: debug, info, warn or error")
}

// Validate says what is wrong with the options.
func (o *Options) Validate() error {
	var errs []error
	if o.NodeName == "" {
		errs = append(errs, errors.New("--node-name is missing: set it from the downward API's spec.nodeName"))
	}
	if o.HostRoot == "" {
		errs = append(errs, errors.New("--host-root is empty"))
	}
	if _, _, err := net.SplitHostPort(o.MetricsAddress); err != nil {
		errs = append(errs, fmt.Errorf("--metrics-address: %w", err))
	}
	if o.ScanInterval < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("--scan-interval %s is less than 100ms", o.ScanInterval))
	}
	if o.Settle < 0 || o.BootSettle < 0 {
		errs = append(errs, errors.New("--settle and --boot-settle must not be negative"))
	}
	return errors.Join(errs...)
}
