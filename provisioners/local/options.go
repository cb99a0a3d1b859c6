package local

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"holdfast.dev/provisioners/local/wipe"
)

// Options of the daemon.
type Options struct {
	NodeName       string
	HostRoot       string
	StateDir       string
	MetricsAddress string
	LogLevel       slog.Level
	Clean          Classes
	// Pod is NAMESPACE/NAME of this daemon's pod, for the commands that it tells people.
	Pod string
}

// Classes are the storage classes whose released volumes are cleaned, and how.
// Volumes of all others are retained.
type Classes map[string]wipe.Method

// String is what Set takes.
func (c Classes) String() string {
	var all []string
	for _, name := range slices.Sorted(maps.Keys(c)) {
		all = append(all, name+"="+string(c[name]))
	}
	return strings.Join(all, ",")
}

// Set adds "class=method,…", as a flag.
func (c *Classes) Set(s string) error {
	if *c == nil {
		*c = Classes{}
	}
	for item := range strings.SplitSeq(s, ",") {
		class, method, ok := strings.Cut(item, "=")
		if !ok || class == "" || !slices.Contains(wipe.Methods(), wipe.Method(method)) {
			return fmt.Errorf("%q is not CLASS=METHOD with a method of %v", item, wipe.Methods())
		}
		(*c)[class] = wipe.Method(method)
	}
	return nil
}

// Has are the classes' names.
func (c Classes) Has() map[string]bool {
	names := make(map[string]bool, len(c))
	for name := range c {
		names[name] = true
	}
	return names
}

// BindFlags registers the options' flags with their defaults.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.NodeName, "node-name", "", "name of this Node")
	fs.StringVar(&o.HostRoot, "host-root", "/host", "where the host's / is mounted")
	fs.StringVar(&o.StateDir, "state-dir", "", "where "+OfferedDir+" of the host is mounted for writing (default: below --host-root)")
	fs.StringVar(&o.MetricsAddress, "metrics-address", "127.0.0.1:9809", "address of /metrics, /healthz and /readyz")
	fs.TextVar(&o.LogLevel, "log-level", slog.LevelInfo, "debug or info")
	fs.Var(&o.Clean, "clean", "CLASS=METHOD: volumes of this storage class get reclaim policy Delete, and local-volume-cleaner cleans them; may be repeated")
}

// Validate checks the options. The node's name must be a label value: volumes
// are found and tied to their node by it.
func (o *Options) Validate() error {
	if err := ValidateNodeName(o.NodeName); err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(o.MetricsAddress); err != nil {
		return fmt.Errorf("check --metrics-address: %w", err)
	}
	return nil
}

// ValidateNodeName checks --node-name.
func ValidateNodeName(name string) error {
	if name == "" {
		return errors.New("check --node-name: it is empty (give the Node's name, in a pod spec.nodeName)")
	}
	if e := validation.IsValidLabelValue(name); len(e) > 0 {
		return fmt.Errorf("check --node-name: %q is no label value: %s", name, strings.Join(e, "; "))
	}
	return nil
}
