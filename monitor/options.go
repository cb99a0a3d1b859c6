package monitor

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"holdfast.dev/monitor/smart"
	"holdfast.dev/monitor/verdict"
)

// DefaultSocket is the socket that "disk-monitor check" asks unless it is told otherwise.
const DefaultSocket = "/run/holdfast/disk-monitor.sock"

// defaultScanInterval is long, for the kernel announces each change of a block
// device; blindScanInterval is for a process that cannot hear it.
const (
	defaultScanInterval = 30 * time.Second
	blindScanInterval   = 5 * time.Second
)

// Options are the settings of one monitor.
type Options struct {
	// NodeName is the Node whose disks these are, and the ComputeNode's name.
	NodeName string
	// HostRoot is where the host's root directory is mounted.
	HostRoot string
	// MetricsAddress is where /metrics, /healthz and /readyz are served.
	MetricsAddress string
	// Socket is the UNIX socket that programs of the node ask; empty for none.
	Socket string
	// KernelLog is where the kernel's lines come from: kmsg, journal, or auto: the
	// journal when /dev/kmsg cannot be opened.
	KernelLog string
	// ScanInterval is the time between two looks at the disks when the kernel
	// announces no change.
	ScanInterval time.Duration
	// Settle is how long a disk must be absent to be missing.
	Settle time.Duration
	// BootSettle is how long after the host's boot no disk is missing yet.
	BootSettle time.Duration
	// SmartInterval is the time between two questions to a disk for its health;
	// 0 asks none. A disk whose numbers are bad is asked every 20 s.
	SmartInterval time.Duration
	// Thresholds judge the answers; nil are the default ones.
	Thresholds *verdict.Thresholds
	// Adapters are the disks that smartctl is asked about; nil none.
	Adapters *smart.Adapters
	LogLevel slog.Level
}

// BindFlags adds the options' flags to fs, with their defaults.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.NodeName, "node-name", "", "name of the Node that this process runs on (required)")
	fs.StringVar(&o.HostRoot, "host-root", "/", "directory where the host's root is mounted")
	fs.StringVar(&o.MetricsAddress, "metrics-address", "127.0.0.1:9808", "address of /metrics, /healthz and /readyz")
	fs.StringVar(&o.Socket, "socket", "", "UNIX socket that \"disk-monitor check\" asks, such as "+DefaultSocket+"; empty for none")
	fs.StringVar(&o.KernelLog, "kernel-log", "auto", "where the kernel's lines come from: kmsg (/dev/kmsg), journal (the host's journalctl), or auto: the journal when /dev/kmsg cannot be opened")
	fs.DurationVar(&o.ScanInterval, "scan-interval", defaultScanInterval, "time between two looks at the disks when the kernel announces no change; at most 5s when it cannot be heard")
	fs.DurationVar(&o.Settle, "settle", 2*time.Second, "how long a disk must be absent to be missing")
	fs.DurationVar(&o.BootSettle, "boot-settle", 30*time.Second, "how long after the host's boot no disk is missing yet")
	fs.DurationVar(&o.SmartInterval, "smart-interval", 5*time.Minute, "time between two questions to a disk for its health; 0 asks none")
	file(fs, "thresholds", "which numbers of a disk's health speak against it: a file, or the text of one that begins with { (default: none), laid over monitor/verdict/thresholds.yaml", &o.Thresholds, verdict.ParseThresholds)
	file(fs, "smartctl", "which disks are drives behind RAID adapters and are asked by the host's smartctl: a file, or the text of one that begins with { (default: none)", &o.Adapters, smart.ParseAdapters)
	fs.TextVar(&o.LogLevel, "log-level", slog.LevelInfo, "least level that is logged: debug, info, warn or error")
}

// file adds a flag that is a file, or the text of one.
func file[T any](fs *flag.FlagSet, name, usage string, to **T, parse func(name string, data []byte) (*T, error)) {
	fs.Func(name, usage, func(v string) (err error) {
		from, data := "--"+name, []byte(v)
		if !strings.HasPrefix(v, "{") {
			from = v
			if data, err = os.ReadFile(v); err != nil {
				return err
			}
		}
		*to, err = parse(from, data)
		return err
	})
}

// Validate says what is wrong with the options.
func (o *Options) Validate() error {
	var errs []error
	if o.NodeName == "" {
		errs = append(errs, errors.New("--node-name is missing: set it from the downward API's spec.nodeName"))
	}
	if !slices.Contains([]string{"", "auto", "kmsg", "journal"}, o.KernelLog) {
		errs = append(errs, fmt.Errorf("--kernel-log is %q, want auto, kmsg or journal", o.KernelLog))
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
	if o.SmartInterval != 0 && o.SmartInterval < healthGap {
		errs = append(errs, fmt.Errorf("--smart-interval %s is less than %s, and not 0", o.SmartInterval, healthGap))
	}
	return errors.Join(errs...)
}
