package lvm

import (
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
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

const (
	callTimeout = 10 * time.Second
	// minGap is between two publications of capacity: volumes are made in bursts.
	minGap   = 250 * time.Millisecond
	growLook = time.Minute
	workers  = 10 // claims and volumes that are worked on at once
)

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

// Run is the daemon until ctx ends. It ends by itself, without an error, when
// disks.yaml changes: the next start reads it.
func Run(ctx context.Context, o Options, cfg *rest.Config, version string, log *slog.Logger) error {
	root, err := hostfs.Open(o.HostRoot)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // read only
	disks, err := ReadDisks(root)
	if err != nil {
		return err
	}
	host := NewNodeHost(root)
	d, err := NewDriver(ctx, o, cfg, version, Groups(disks), host, host, log)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := WatchDisks(ctx, root, cancel, log); err != nil {
		return err
	}
	return d.Run(ctx)
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

// finish removes what pods have left, again and again. It may wipe for hours, and so is
// no part of refresh, whose turns say that the daemon is alive.
func (d *Driver) finish(ctx context.Context) {
	t := time.NewTicker(d.o.Refresh)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		if err := d.engine.FinishEphemeral(ctx); err != nil && ctx.Err() == nil {
			d.metrics.failed(opRefresh)
			d.log.Info("volume of a pod that is gone stays for now", "error", err)
		}
	}
}

// provision runs the parts that work on objects.
func (d *Driver) provision(ctx context.Context) error {
	kube, err := kubernetes.NewForConfig(d.cfg)
	if err != nil {
		return fmt.Errorf("build client: %w", err)
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var node corev1.Node
	if err := d.api.Get(call, client.ObjectKey{Name: d.o.NodeName}, &node); err != nil {
		return fmt.Errorf("read node %s: %w", d.o.NodeName, err)
	}
	own := func(o *metav1.ListOptions) {
		o.LabelSelector = labels.SelectorFromSet(labels.Set{v1alpha1.LabelNode: d.o.NodeName}).String()
	}
	volumes := toolscache.NewSharedIndexInformer(toolscache.NewFilteredListWatchFromClient(kube.CoreV1().RESTClient(), "persistentvolumes", "", own),
		&corev1.PersistentVolume{}, 0, toolscache.Indexers{})
	classes := toolscache.NewSharedIndexInformer(toolscache.NewListWatchFromClient(kube.StorageV1().RESTClient(), "storageclasses", "", fields.Everything()),
		&storagev1.StorageClass{}, 0, toolscache.Indexers{})
	filter := newClaims(kube, d.o.NodeName)
	claims := filter.informer()
	for _, i := range []toolscache.SharedIndexInformer{volumes, classes, claims} {
		if err := i.SetTransform(strip); err != nil {
			return fmt.Errorf("watch: %w", err)
		}
	}

	queue := workqueue.NewTypedRateLimitingQueueWithConfig(workqueue.DefaultTypedControllerRateLimiter[string](), workqueue.TypedRateLimitingQueueConfig[string]{Name: "resize"})
	if err := d.subscribe(ctx, filter, queue, volumes, classes, claims); err != nil {
		return err
	}
	p := NewProvisioner(d.service, d.api, d.log)
	ctrl := controller.NewProvisionController(ctx, kube, DriverName, p,
		controller.LeaderElection(false), controller.AddFinalizer(true), controller.ResyncPeriod(0), controller.MetricsPort(0), controller.Threadiness(workers),
		controller.ClaimsInformer(claims), controller.VolumesInformer(volumes), controller.ClassesInformer(classes),
		controller.FailedProvisionThreshold(0), controller.FailedDeleteThreshold(0),
		controller.RateLimiter(workqueue.NewTypedItemExponentialFailureRateLimiter[string](time.Second, 5*time.Minute)))

	eg, ctx := errgroup.WithContext(ctx)
	go volumes.RunWithContext(ctx)
	go classes.RunWithContext(ctx)
	if !toolscache.WaitForCacheSync(ctx.Done(), volumes.HasSynced, classes.HasSynced) {
		return nil
	}
	go claims.RunWithContext(ctx) // after the volumes: it keeps claims by them
	capacity := NewCapacity(d.engine, d.api, d.o.Namespace, &node, func() []*storagev1.StorageClass {
		var all []*storagev1.StorageClass
		for _, o := range classes.GetStore().List() {
			all = append(all, o.(*storagev1.StorageClass))
		}
		return all
	})
	eg.Go(func() error { ctrl.Run(ctx); return nil })
	eg.Go(func() error { return d.watchQuarantine(ctx) })
	eg.Go(func() error { d.publish(ctx, capacity); return nil })
	eg.Go(func() error { d.resize(ctx, queue, claims.GetStore(), volumes.GetStore()); return nil })
	eg.Go(func() error { d.grow(ctx, claims.GetStore(), volumes.GetStore()); return nil })
	return eg.Wait()
}

// strip takes away what nobody here reads.
func strip(o any) (any, error) {
	if m, ok := o.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return o, nil
}

// subscribe routes what the informers see.
func (d *Driver) subscribe(ctx context.Context, filter *claims, queue workqueue.TypedRateLimitingInterface[string], volumes, classes, claims toolscache.SharedIndexInformer) error {
	each := func(f func(o any)) toolscache.ResourceEventHandlerFuncs {
		return toolscache.ResourceEventHandlerFuncs{AddFunc: f, UpdateFunc: func(_, o any) { f(o) }, DeleteFunc: func(any) {}}
	}
	h := each(func(o any) { filter.volume(o.(*corev1.PersistentVolume).Name, true) })
	h.DeleteFunc = func(o any) {
		if key, err := toolscache.DeletionHandlingMetaNamespaceKeyFunc(o); err == nil {
			filter.volume(key, false)
		}
	}
	_, err1 := volumes.AddEventHandler(h)
	h = each(func(any) { d.changed() })
	h.DeleteFunc = func(any) { d.changed() }
	_, err2 := classes.AddEventHandler(h)
	_, err3 := claims.AddEventHandler(each(func(o any) {
		if key, err := toolscache.MetaNamespaceKeyFunc(o); err == nil {
			queue.Add(key)
		}
	}))
	context.AfterFunc(ctx, queue.ShutDown)
	return errors.Join(err1, err2, err3)
}

// watchQuarantine publishes anew when this node's ComputeNode changes. A cluster without
// that API is retried: then no volume is made anyway.
func (d *Driver) watchQuarantine(ctx context.Context) error {
	c, err := cache.New(d.cfg, cache.Options{Scheme: d.api.Scheme(), DefaultTransform: cache.TransformStripManagedFields(), ByObject: map[client.Object]cache.ByObject{
		&v1alpha1.ComputeNode{}: {Field: fields.OneTermEqualSelector("metadata.name", d.o.NodeName)},
	}})
	if err != nil {
		return fmt.Errorf("watch compute node: %w", err)
	}
	go func() {
		inf, err := c.GetInformer(ctx, &v1alpha1.ComputeNode{}, cache.BlockUntilSynced(false))
		if err == nil {
			_, err = inf.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
				AddFunc: func(any) { d.changed() }, UpdateFunc: func(_, _ any) { d.changed() }, DeleteFunc: func(any) { d.changed() },
			})
		}
		if err != nil && ctx.Err() == nil {
			d.log.Info("quarantine is seen at the next refresh only", "error", err)
		}
	}()
	return c.Start(ctx)
}

// publish publishes capacity at each change, and again after a failure.
func (d *Driver) publish(ctx context.Context, c *Capacity) {
	retry := minGap
	for {
		d.metrics.observe(d.engine)
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := c.Publish(call)
		cancel()
		if ctx.Err() != nil {
			return
		}
		var again <-chan time.Time
		if err != nil {
			d.metrics.failed(opCapacity)
			d.log.Info("capacity is not published", "error", err, "retryIn", retry.String())
			again, retry = time.After(retry), min(2*retry, time.Minute)
		} else {
			retry = minGap
		}
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-again:
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(minGap):
		}
	}
}

// resize works through the claims that changed.
func (d *Driver) resize(ctx context.Context, queue workqueue.TypedRateLimitingInterface[string], claims, volumes toolscache.Store) {
	r := NewResizer(d.service, d.api, d.log)
	eg := errgroup.Group{}
	for range workers {
		eg.Go(func() error {
			for {
				key, quit := queue.Get()
				if quit {
					return nil
				}
				if err := d.resizeOne(ctx, r, key, claims, volumes); err != nil && ctx.Err() == nil {
					d.metrics.failed(opResize)
					d.log.Info("claim is not expanded", "claim", key, "error", err)
					queue.AddRateLimited(key)
				} else {
					queue.Forget(key)
				}
				queue.Done(key)
			}
		})
	}
	_ = eg.Wait() // none of them returns an error
}

// grow looks once a minute at the claims with a policy of growth.
func (d *Driver) grow(ctx context.Context, claims, volumes toolscache.Store) {
	g := NewGrower(d.engine, d.api, d.log)
	t := time.NewTicker(growLook)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		for _, o := range claims.List() {
			claim := o.(*corev1.PersistentVolumeClaim)
			v, there, err := volumes.GetByKey(claim.Spec.VolumeName)
			if err != nil || !there {
				continue
			}
			if err := g.Sync(ctx, claim, v.(*corev1.PersistentVolume)); err != nil && ctx.Err() == nil {
				d.metrics.failed(opGrow)
				d.log.Info("claim does not grow", "claim", claim.Namespace+"/"+claim.Name, "error", err)
			}
		}
	}
}

func (d *Driver) resizeOne(ctx context.Context, r *Resizer, key string, claims, volumes toolscache.Store) error {
	o, there, err := claims.GetByKey(key)
	if err != nil || !there {
		return err
	}
	claim := o.(*corev1.PersistentVolumeClaim)
	v, there, err := volumes.GetByKey(claim.Spec.VolumeName)
	if err != nil || !there {
		return err
	}
	return r.Sync(ctx, claim, v.(*corev1.PersistentVolume))
}
