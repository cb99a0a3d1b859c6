package local

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/uevent"
)

const readTimeout = 5 * time.Second // of one disk

// Run is the daemon: it offers the node's volumes and serves its metrics and
// health until ctx ends.
func Run(ctx context.Context, o Options, cfg *rest.Config, log *slog.Logger) error {
	root, err := hostfs.Open(o.HostRoot)
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // read only

	cached, live, err := Clients(o.NodeName, cfg)
	if err != nil {
		return err
	}
	reg := prometheus.NewRegistry()
	host := NewHost(root, readTimeout)
	host.state = o.StateDir
	c := NewController(o, host, cached, live, NewMetrics(reg), log)
	watch, err := newHostWatch(root, c.Wake, log)
	if err != nil {
		return err
	}

	return c.daemon(o.MetricsAddress, reg, cached).Run(ctx, func(ctx context.Context) {
		go watch.run(ctx)
		go c.listen(ctx)
		c.Run(ctx, watch.ensure)
	})
}

func (c *Controller) daemon(address string, reg *prometheus.Registry, cached cache.Cache) Daemon {
	return Daemon{Address: address, Metrics: reg, Cached: cached, Changed: func(any) { c.Wake() }, Finished: &c.finished, StuckAfter: stuckAfter, Now: func() time.Time { return c.now() }}
}

// listen wakes at what the kernel announces of block devices: one comes, goes or
// changes its size. Without it udev's links tell most of that a little later.
func (c *Controller) listen(ctx context.Context) {
	l, err := uevent.Listen()
	if err == nil {
		err = l.Run(ctx, func(uevent.Event) { c.Wake() })
	}
	if err != nil {
		c.log.Info("the kernel's announcements cannot be heard; udev's links are watched", "error", err)
	}
}

// Clients make a cache that holds this node's volumes and its ComputeNode and
// nothing else, so that its size does not grow with the cluster, and a client
// that asks the API server. Both know their resources without discovery.
func Clients(node string, cfg *rest.Config) (cache.Cache, client.Client, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, eventsv1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return nil, nil, fmt.Errorf("build scheme: %w", err)
		}
	}
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{corev1.SchemeGroupVersion, eventsv1.SchemeGroupVersion, v1alpha1.GroupVersion})
	mapper.Add(corev1.SchemeGroupVersion.WithKind("PersistentVolume"), meta.RESTScopeRoot)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("Node"), meta.RESTScopeRoot)
	mapper.Add(corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"), meta.RESTScopeNamespace)
	mapper.Add(eventsv1.SchemeGroupVersion.WithKind("Event"), meta.RESTScopeNamespace)
	mapper.Add(v1alpha1.GroupVersion.WithKind("ComputeNode"), meta.RESTScopeRoot)

	cached, err := cache.New(cfg, cache.Options{
		Scheme: scheme, Mapper: mapper, DefaultTransform: cache.TransformStripManagedFields(), ReaderFailOnMissingInformer: true,
		ByObject: map[client.Object]cache.ByObject{
			&corev1.PersistentVolume{}: {Label: labels.SelectorFromSet(labels.Set{v1alpha1.LabelNode: node})},
			&v1alpha1.ComputeNode{}:    {Field: fields.OneTermEqualSelector("metadata.name", node)},
		},
	})
	if err != nil {
		return nil, nil, fmt.Errorf("build cache: %w", err)
	}
	live, err := client.New(cfg, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		return nil, nil, fmt.Errorf("build client: %w", err)
	}
	return cached, live, nil
}

// subscribe tells of every change of the cached objects and returns when the
// volumes are there. The ComputeNode is not waited for: it only wakes.
func subscribe(ctx context.Context, c cache.Cache, changed func(obj any)) error {
	var synced toolscache.InformerSynced
	for _, obj := range []client.Object{&v1alpha1.ComputeNode{}, &corev1.PersistentVolume{}} {
		inf, err := c.GetInformer(ctx, obj, cache.BlockUntilSynced(false))
		if err != nil {
			return fmt.Errorf("watch %T: %w", obj, err)
		}
		if _, err := inf.AddEventHandler(toolscache.ResourceEventHandlerFuncs{
			AddFunc:    changed,
			UpdateFunc: func(_, now any) { changed(now) },
			DeleteFunc: changed,
		}); err != nil {
			return fmt.Errorf("watch %T: %w", obj, err)
		}
		synced = inf.HasSynced
	}
	toolscache.WaitForCacheSync(ctx.Done(), synced) // false only when ctx ended
	return nil
}
