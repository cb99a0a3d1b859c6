package lvm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	toolscache "k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"

	"holdfast.dev/api/v1alpha1"
)

const (
	// minGap is between two publications of capacity: volumes are made in bursts.
	minGap   = 250 * time.Millisecond
	growLook = time.Minute
	workers  = 10 // claims and volumes that are worked on at once
)

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
	transfers, err := d.transfers(ctx, kube)
	if err != nil {
		return err
	}
	p := NewProvisioner(d.service, d.api, transfers, d.log)
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
	if transfers != nil {
		eg.Go(func() error { d.transfer(ctx, transfers, capacity.owner); return nil })
	}
	eg.Go(func() error { d.publish(ctx, capacity); return nil })
	eg.Go(func() error { d.resize(ctx, queue, claims.GetStore(), volumes.GetStore()); return nil })
	eg.Go(func() error { d.grow(ctx, claims.GetStore(), volumes.GetStore()); return nil })
	return eg.Wait()
}

// transfers are those of this node, or nil.
func (d *Driver) transfers(ctx context.Context, kube kubernetes.Interface) (*Transfers, error) {
	if d.o.Transfer == "" {
		return nil, nil
	}
	events := record.NewBroadcaster(record.WithContext(ctx))
	events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: kube.CoreV1().Events("")})
	recorder := events.NewRecorder(d.api.Scheme(), corev1.EventSource{Component: DriverName, Host: d.o.NodeName})
	return NewTransfers(d.engine, d.api, d.o.Namespace, d.log, func(claim *corev1.PersistentVolumeClaim, message string) {
		recorder.Event(claim, corev1.EventTypeNormal, "Copying", message)
	})
}

// transfer serves other nodes until ctx ends. That nobody can be served stops nothing else.
func (d *Driver) transfer(ctx context.Context, t *Transfers, owner metav1.OwnerReference) {
	for ctx.Err() == nil {
		l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", d.o.Transfer)
		if err == nil {
			serving, stop := context.WithCancel(ctx)
			go d.publishAddress(serving, t, owner, l.Addr().String())
			err = t.Serve(serving, l)
			stop()
		}
		if err != nil {
			d.log.Info("volumes are not given to other nodes for now", "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Minute):
		}
	}
}

// publishAddress publishes an address, again after a failure, and now and then because
// somebody may have deleted it.
func (d *Driver) publishAddress(ctx context.Context, t *Transfers, owner metav1.OwnerReference, address string) {
	for {
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := t.Publish(call, owner, address)
		cancel()
		gap := 5 * time.Minute
		if err != nil && ctx.Err() == nil {
			d.log.Info("other nodes do not learn the address yet", "error", err)
			gap = callTimeout
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(gap):
		}
	}
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
