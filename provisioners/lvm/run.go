package lvm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/daemon"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

const callTimeout = 10 * time.Second

// Driver is one node's driver, put together.
type Driver struct {
	o       Options
	cfg     *rest.Config
	log     *slog.Logger
	metrics *Metrics
	reg     *prometheus.Registry

	engine  *Engine
	service *Service
	api     client.Client
	wake    chan struct{}
	alive   atomic.Int64 // when the refresh loop turned last
}

// Run is the daemon until ctx ends. When disks.yaml changes it ends by itself, with
// daemon.ErrStartAnew: the next start reads it.
func Run(ctx context.Context, o Options, cfg *rest.Config, version string, log *slog.Logger) error {
	root, err := hostfs.Open(o.HostRoot)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // read only
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := WatchDisks(ctx, root, func() { cancel(daemon.ErrStartAnew) }, log); err != nil { // before they are read
		return err
	}
	disks, err := ReadDisks(root)
	if err != nil {
		return err
	}
	host := NewNodeHost(root)
	d, err := NewDriver(ctx, o, cfg, version, Groups(disks), host, host, log)
	if err != nil {
		return cmp.Or(Anew(ctx), err)
	}
	return cmp.Or(d.Run(ctx), Anew(ctx))
}

// Anew is daemon.ErrStartAnew when that is what ended ctx.
func Anew(ctx context.Context) error {
	if err := context.Cause(ctx); errors.Is(err, daemon.ErrStartAnew) {
		return err
	}
	return nil
}

// ReadDisks reads disks.yaml. A node that was not prepared has no groups.
func ReadDisks(root *hostfs.FS) (*nodedisks.File, error) {
	data, err := root.ReadFile(nodedisks.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return &nodedisks.File{}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", nodedisks.Path, err)
	}
	return nodedisks.Parse(nodedisks.Path, data)
}

// NewDriver puts a driver together. Nothing runs before Run.
func NewDriver(ctx context.Context, o Options, cfg *rest.Config, version string, groups []GroupInfo, host Host, mounts Mounts, log *slog.Logger) (*Driver, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientgoscheme.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, fmt.Errorf("build scheme: %w", err)
		}
	}
	api, err := client.New(cfg, client.Options{Scheme: scheme})
	if err != nil {
		return nil, fmt.Errorf("build client: %w", err)
	}
	reg := prometheus.NewRegistry()
	d := &Driver{o: o, cfg: cfg, log: log, reg: reg, metrics: NewMetrics(reg), api: api, wake: make(chan struct{}, 1)}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var system corev1.Namespace
	if err := api.Get(call, client.ObjectKey{Name: metav1.NamespaceSystem}, &system); err != nil {
		return nil, fmt.Errorf("read namespace %s, whose UID is the cluster's: %w", metav1.NamespaceSystem, err)
	}
	d.engine = NewEngine(EngineOptions{
		Node: o.NodeName, Cluster: string(system.UID), Groups: groups, Host: host, Mounts: mounts, Deadlines: DefaultDeadlines(),
		Quarantine: d.quarantine, Changed: d.changed, Metrics: d.metrics, Log: log,
	})
	var qos QoS
	if o.CgroupRoot != "" {
		if cg, err := NewCgroups(o.CgroupRoot); err == nil {
			qos = cg
		} else {
			log.Info("volumes take no limits", "why", err)
		}
	}
	d.service = NewService(d.engine, version, qos)
	if !o.Provision {
		d.service.guard = NewProvisioner(d.service, api, nil, log).guard
	}
	return d, nil
}

// Engine is the driver's engine.
func (d *Driver) Engine() *Engine { return d.engine }

func (d *Driver) changed() {
	select {
	case d.wake <- struct{}{}:
	default: // one is asked for already
	}
}

// quarantine asks the API server. A node without a ComputeNode has none; a cluster
// without that API is an error, for then the record of quarantine is what is missing.
func (d *Driver) quarantine(ctx context.Context) Quarantine {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var cn v1alpha1.ComputeNode
	err := d.api.Get(ctx, client.ObjectKey{Name: d.o.NodeName}, &cn)
	if apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) {
		return Quarantine{}
	}
	if err != nil {
		return Quarantine{Err: fmt.Errorf("read compute node %s: %w", d.o.NodeName, err)}
	}
	q := Quarantine{Disks: make(map[string]string, len(cn.Spec.Quarantine)), Bad: map[string]string{}}
	for _, s := range cn.Status.Disks {
		if s.State == v1alpha1.DiskFailed || s.State == v1alpha1.DiskMissing {
			q.Bad[s.ID] = string(s.State)
		}
	}
	for _, e := range cn.Spec.Quarantine {
		q.Disks[e.Disk] = e.Reason + " by " + e.By
	}
	return q
}

// Run serves until ctx ends.
func (d *Driver) Run(ctx context.Context) error {
	eg, ctx := errgroup.WithContext(ctx)
	if err := os.MkdirAll(filepath.Dir(d.o.Socket), 0o750); err != nil {
		return fmt.Errorf("make directory of socket: %w", err)
	}
	if err := d.engine.RefreshAll(ctx); err != nil {
		d.log.Info("not every volume group can be read", "error", err)
	}
	serving := make(chan struct{})
	eg.Go(func() error {
		return Serve(ctx, d.o.Socket, d.service, d.metrics, d.log, func() { close(serving) })
	})
	if d.o.Registration != "" {
		eg.Go(func() error {
			select {
			case <-serving:
			case <-ctx.Done():
				return nil
			}
			return Register(ctx, d.o.Registration, d.o.Socket, d.log)
		})
	}
	eg.Go(func() error { d.refresh(ctx); return nil })
	eg.Go(func() error { d.finish(ctx); return nil })
	eg.Go(func() error { return d.o.Serve(ctx, d.reg, d.healthy) })
	if d.o.Provision {
		eg.Go(func() error { return d.provision(ctx) })
	}
	return eg.Wait()
}

// healthy is nil while the refresh loop turns. A hung volume group is no reason to
// restart: its deadline ends each look.
func (d *Driver) healthy() error {
	last := d.alive.Load()
	if idle := time.Since(time.Unix(0, last)); last != 0 && idle > d.o.Refresh+5*time.Minute {
		return fmt.Errorf("no volume group was looked at for %s", idle.Round(time.Second))
	}
	return nil
}

// refresh reads a group now and then: what others changed is seen, and a group that
// could not be read gets another chance.
func (d *Driver) refresh(ctx context.Context) {
	t := time.NewTicker(d.o.Refresh)
	defer t.Stop()
	for {
		d.alive.Store(time.Now().UnixNano())
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := d.engine.Refresh(ctx); err != nil && ctx.Err() == nil {
			d.metrics.failed(opRefresh)
			d.log.Info("volume group does not answer", "error", err)
		}
	}
}

// finish removes what pods, transfers and claims have left, again and again. It may wipe for hours, and so is
// no part of refresh, whose turns say that the daemon is alive.
func (d *Driver) finish(ctx context.Context) {
	t := time.NewTicker(d.o.Refresh)
	defer t.Stop()
	for {
		if err := d.engine.FinishEphemeral(ctx); err != nil && ctx.Err() == nil {
			d.metrics.failed(opRefresh)
			d.log.Info("volume of a pod that is gone stays for now", "error", err)
		}
		if err := d.engine.FinishTransfers(ctx); err != nil && ctx.Err() == nil {
			d.metrics.failed(opRefresh)
			d.log.Info("snapshot of a transfer stays for now", "error", err)
		}
		if err := d.engine.FinishUnready(ctx, d.api); err != nil && ctx.Err() == nil {
			d.metrics.failed(opRefresh)
			d.log.Info("what was begun for a claim stays for now", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}
