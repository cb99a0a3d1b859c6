package docker

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/internal/daemon"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/provisioners/lvm"
)

// Run is the daemon until ctx ends. When disks.yaml changes it ends by itself, with
// daemon.ErrStartAnew: the next start reads it.
func Run(ctx context.Context, o Options, log *slog.Logger) error {
	root, err := hostfs.Open("/")
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // read only
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := lvm.WatchDisks(ctx, root, func() { cancel(daemon.ErrStartAnew) }, log); err != nil { // before they are read
		return err
	}
	disks, err := lvm.ReadDisks(root)
	if err != nil {
		return err
	}
	boot, err := root.ReadString("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return fmt.Errorf("read the id of this boot: %w", err)
	}
	host := lvm.NewNodeHost(root)
	err = o.run(ctx, machine{Groups: lvm.Groups(disks), Host: host, Mounts: host, Namespaces: NewProc(root), Boot: strings.TrimSpace(boot)}, log)
	return cmp.Or(err, lvm.Anew(ctx))
}

// machine is what the daemon runs on.
type machine struct {
	Groups     []lvm.GroupInfo
	Host       lvm.Host
	Mounts     lvm.Mounts
	Namespaces Namespaces
	Boot       string
}

func (o *Options) run(ctx context.Context, m machine, log *slog.Logger) error {
	records := filepath.Join(o.StateDir, "holders")
	free, err := Alone(o.StateDir)
	if err != nil {
		return err
	}
	defer free()
	for _, dir := range []string{records, o.MountDir} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("make directory: %w", err)
		}
	}
	if err := o.checkDefaults(m.Groups); err != nil {
		return err
	}
	node, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("read the host's name: %w", err)
	}
	reg := prometheus.NewRegistry()
	engine := lvm.NewEngine(lvm.EngineOptions{
		Node: node, Groups: m.Groups, Host: m.Host, Mounts: m.Mounts, Deadlines: lvm.DefaultDeadlines(), Log: log,
		Quarantine: func(context.Context) lvm.Quarantine { return lvm.Quarantine{Disks: o.closed()} },
	})
	d := NewDriver(ctx, Config{
		Engine: engine, Groups: m.Groups, Mounts: m.Mounts, Present: m.Host.Present, Records: Files{Dir: records}, Namespaces: m.Namespaces,
		MountDir: o.MountDir, Boot: m.Boot, Defaults: o.Defaults, Answer: DefaultAnswer, Metrics: NewMetrics(reg), Log: log,
	})
	// What is there, and who holds it, is known before Docker asks. A group that hangs is waited
	// for a second.
	if _, err := engine.Volumes(ctx); err != nil {
		log.Info("not every volume group can be read", "error", err)
	}
	d.adopt()
	var alive atomic.Int64
	eg, ctx := errgroup.WithContext(ctx)
	eg.Go(func() error {
		return Serve(ctx, o.Socket, d, func() { log.Info("Docker is answered", "socket", o.Socket, "groups", len(m.Groups)) })
	})
	eg.Go(func() error { o.refresh(ctx, d, &alive); return nil })
	eg.Go(func() error {
		return o.Serve(ctx, reg, func() error {
			if idle := time.Since(time.Unix(0, alive.Load())); alive.Load() != 0 && idle > o.Refresh+5*time.Minute {
				return fmt.Errorf("no volume group was looked at for %s", idle.Round(time.Second))
			}
			return nil
		})
	})
	return eg.Wait()
}

// checkDefaults refuses defaults that no volume could have. That there is no size, or no
// pool, is the request's to mend.
func (o *Options) checkDefaults(groups []lvm.GroupInfo) error {
	if len(groups) == 0 || len(o.Defaults) == 0 {
		return nil
	}
	given := map[string]string{}
	if o.Defaults[optSize] == "" {
		given[optSize] = "1Ti"
	}
	if o.Defaults[optPool] == "" && o.Defaults[optGroup] == "" {
		given[optPool] = groups[0].Pool
	}
	if _, err := parseVolume("defaults", given, o.Defaults, groups); err != nil {
		return fmt.Errorf("check --default: %w", err)
	}
	return nil
}

// refresh reads groups now and then, the first time all of them, and ends what an earlier
// call or process began.
func (o *Options) refresh(ctx context.Context, d *Driver, alive *atomic.Int64) {
	look := d.Engine.RefreshAll
	t := time.NewTicker(o.Refresh)
	defer t.Stop()
	for {
		alive.Store(time.Now().UnixNano())
		if err := look(ctx); err != nil && !errors.Is(err, context.Canceled) {
			d.Metrics.failed(opRefresh)
			d.Log.Info("volume group does not answer", "error", err)
		}
		look = d.Engine.Refresh
		d.Finish()
		d.Metrics.observe(d)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
