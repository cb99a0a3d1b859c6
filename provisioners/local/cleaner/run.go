package cleaner

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/rest"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local"
)

const (
	readTimeout = 10 * time.Second // of one disk
	saveEvery   = 5 * time.Second  // of a wipe's offset
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
	cluster := &Cluster{Node: o.NodeName, Methods: o.Clean, Live: live, Disks: host, Looker: machine, History: Histories{o.StateDir}.Load, Now: time.Now}
	reg := prometheus.NewRegistry()
	c := NewController(Config{
		Node: o.NodeName, Cached: cached, Cluster: cluster,
		Cleaning: Cleaning{
			Records: Records{o.StateDir}, Histories: Histories{o.StateDir}, Disk: machine, Filesystem: machine, Volume: cluster,
			Chunk: o.Chunk, Rate: o.Rate, SaveEvery: saveEvery, Now: time.Now,
		},
		Prover: Prover{Dir: o.StateDir, Looker: machine, Disk: machine, Absent: cluster.Absent, Chunk: o.Chunk, Rate: o.Rate, Now: time.Now},
		Certified: func(disk string, p nodedisks.Partition, bytes int64) (bool, error) {
			id, _, err := host.Certified(disk, p, bytes)
			return id != "", err
		},
		Deadline: o.Deadline, Metrics: NewMetrics(reg), Log: log, Now: time.Now,
	})
	d := local.Daemon{Address: o.MetricsAddress, Metrics: reg, Cached: cached, Changed: c.Changed, Finished: &c.finished, StuckAfter: retryMax + stuckAfter, Now: time.Now}
	return d.Run(ctx, c.Run)
}
