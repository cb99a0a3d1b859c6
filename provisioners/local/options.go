package local

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
)

// Options of the daemon.
type Options struct {
	NodeName       string
	HostRoot       string
	MetricsAddress string
	LogLevel       slog.Level
}

// BindFlags registers the options' flags with their defaults.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.NodeName, "node-name", "", "name of this Node")
	fs.StringVar(&o.HostRoot, "host-root", "/host", "where the host's / is mounted")
	fs.StringVar(&o.MetricsAddress, "metrics-address", "127.0.0.1:9809", "address of /metrics, /healthz and /readyz")
	fs.TextVar(&o.LogLevel, "log-level", slog.LevelInfo, "debug or info")
}

// Validate checks the options. The node's name must be a label value: volumes
// are found and tied to their node by it.
func (o *Options) Validate() error {
	if o.NodeName == "" {
		return errors.New("check --node-name: it is empty (give the Node's name, in a pod spec.nodeName)")
	}
	if e := validation.IsValidLabelValue(o.NodeName); len(e) > 0 {
		return fmt.Errorf("check --node-name: %q is no label value: %s", o.NodeName, strings.Join(e, "; "))
	}
	if _, _, err := net.SplitHostPort(o.MetricsAddress); err != nil {
		return fmt.Errorf("check --metrics-address: %w", err)
	}
	return nil
}
