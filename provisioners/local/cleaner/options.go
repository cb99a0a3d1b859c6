package cleaner

import (
	"flag"
	"fmt"
	"log/slog"
	"net"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"

	"holdfast.dev/provisioners/local"
)

// Options of the daemon.
type Options struct {
	NodeName       string
	HostRoot       string
	StateDir       string
	MetricsAddress string
	LogLevel       slog.Level
	Clean          local.Classes
	Chunk          int64
	Rate           int64
	Deadline       time.Duration
}

// BindFlags registers the options' flags with their defaults.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.NodeName, "node-name", "", "name of this Node")
	fs.StringVar(&o.HostRoot, "host-root", "/host", "where the host's / is mounted, with mount propagation both ways")
	fs.StringVar(&o.StateDir, "state-dir", "/var/lib/holdfast/local", "where records and certificates are kept, on the node's own disk")
	fs.StringVar(&o.MetricsAddress, "metrics-address", "127.0.0.1:9815", "address of /metrics, /healthz and /readyz")
	fs.TextVar(&o.LogLevel, "log-level", slog.LevelInfo, "debug or info")
	fs.Var(&o.Clean, "clean", "CLASS=METHOD: how released volumes of this storage class are cleaned (discard, zero or secure-discard); may be repeated")
	fs.Int64Var(&o.Chunk, "chunk-bytes", 16<<20, "bytes that are erased and read back at once; a power of two")
	o.Rate = 256 << 20
	fs.Func("rate", "bytes per second and disk that are written and read, such as 256Mi, which is the default; 0 for no limit", func(s string) error {
		q, err := resource.ParseQuantity(s)
		o.Rate = q.Value()
		return err
	})
	fs.DurationVar(&o.Deadline, "deadline", 2*time.Minute, "after which a disk that has not finished a chunk is said to be stalled")
}

// Validate checks the options.
func (o *Options) Validate() error {
	if err := local.ValidateNodeName(o.NodeName); err != nil {
		return err
	}
	if _, _, err := net.SplitHostPort(o.MetricsAddress); err != nil {
		return fmt.Errorf("check --metrics-address: %w", err)
	}
	if o.Chunk < 4096 || o.Chunk > 1<<30 || o.Chunk&(o.Chunk-1) != 0 {
		return fmt.Errorf("check --chunk-bytes: %d is no power of two between 4096 and 2^30", o.Chunk)
	}
	if o.Rate < 0 || o.Deadline <= 0 {
		return fmt.Errorf("check --rate and --deadline: %d, %s", o.Rate, o.Deadline)
	}
	return nil
}
