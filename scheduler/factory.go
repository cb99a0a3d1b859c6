package scheduler

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/klog/v2"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/apis/config"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/volumebinding"
	frameworkruntime "k8s.io/kubernetes/pkg/scheduler/framework/runtime"
)

// Args are the plugin's arguments in a KubeSchedulerConfiguration.
type Args struct {
	// BindTimeoutSeconds is how long a pod waits for its claims to be bound; 600
	// when it is not set, as for upstream's VolumeBinding.
	BindTimeoutSeconds *int64 `json:"bindTimeoutSeconds,omitempty"`
}

const defaultBindTimeout = 600

// parseArgs reads the arguments strictly; none are given as nil.
func parseArgs(obj runtime.Object) (Args, error) {
	var a Args
	if raw, ok := obj.(*runtime.Unknown); ok && len(raw.Raw) > 0 {
		d := json.NewDecoder(bytes.NewReader(raw.Raw))
		d.DisallowUnknownFields()
		if err := d.Decode(&a); err != nil {
			return a, fmt.Errorf("read the arguments of plugin %s: %w", Name, err)
		}
	}
	if a.BindTimeoutSeconds == nil {
		t := int64(defaultBindTimeout)
		a.BindTimeoutSeconds = &t
	}
	if *a.BindTimeoutSeconds <= 0 {
		return a, fmt.Errorf("check the arguments of plugin %s: bindTimeoutSeconds is %d and must be above zero", Name, *a.BindTimeoutSeconds)
	}
	return a, nil
}

// NewFactory makes the factory to register under Name. The plugins that it
// makes for the profiles of one scheduler share the ledger: two profiles must not
// promise the same room. The metrics go to reg.
func NewFactory(reg prometheus.Registerer) frameworkruntime.PluginFactory {
	s := &sharing{reg: reg}
	return func(ctx context.Context, obj runtime.Object, h fwk.Handle) (fwk.Plugin, error) {
		args, err := parseArgs(obj)
		if err != nil {
			return nil, err
		}
		return s.plugin(ctx, args, h)
	}
}

// sharing is what the profiles share.
type sharing struct {
	reg prometheus.Registerer

	mu      sync.Mutex
	of      informers.SharedInformerFactory
	core    *core
	retry   *retry
	binder  *binder // without its timeout
	metrics *metrics
}

func (s *sharing) plugin(ctx context.Context, args Args, h fwk.Handle) (fwk.Plugin, error) {
	upstream, err := newUpstream(ctx, args, h)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.of == nil {
		if err := s.start(ctx, h); err != nil {
			return nil, fmt.Errorf("start plugin %s: %w", Name, err)
		}
		s.of = h.SharedInformerFactory()
	}
	if s.of != h.SharedInformerFactory() {
		return nil, errors.New("one factory of plugin " + Name + " serves one scheduler: make another")
	}
	p := &Plugin{upstream: upstream, core: s.core, retry: s.retry, metrics: s.metrics,
		binder: &binder{client: s.binder.client, core: s.core, nodes: s.binder.nodes, pods: s.binder.pods, wakers: s.binder.wakers,
			metrics: s.metrics, timeout: time.Duration(*args.BindTimeoutSeconds) * time.Second}}
	return p, nil
}

// newUpstream makes VolumeBinding as kube-scheduler itself does.
func newUpstream(ctx context.Context, args Args, h fwk.Handle) (*volumebinding.VolumeBinding, error) {
	plugin, err := plugins.NewInTreeRegistry()[volumebinding.Name](ctx, &config.VolumeBindingArgs{BindTimeoutSeconds: *args.BindTimeoutSeconds}, h)
	if err != nil {
		return nil, fmt.Errorf("make plugin %s: %w", volumebinding.Name, err)
	}
	upstream, ok := plugin.(*volumebinding.VolumeBinding)
	if !ok {
		return nil, fmt.Errorf("plugin %s is a %T", volumebinding.Name, plugin)
	}
	return upstream, nil
}

func (s *sharing) start(ctx context.Context, h fwk.Handle) error {
	f := h.SharedInformerFactory()
	topology := &topologyKeys{}
	volumes, claims := f.Core().V1().PersistentVolumes().Informer(), f.Core().V1().PersistentVolumeClaims().Informer()
	capacities := f.Storage().V1().CSIStorageCapacities().Informer()
	s.retry = &retry{now: time.Now, pods: map[types.UID]*corev1.Pod{}, activate: func(pods map[string]*corev1.Pod) {
		h.Activate(klog.FromContext(ctx), pods)
	}}
	quar, err := watchQuarantine(ctx, h.KubeConfig(), s.retry.fire)
	if err != nil {
		return err
	}
	s.retry.known = quar.known
	s.core = &core{ledger: newLedger(), now: time.Now, stores: stores{
		volumes: volumes.GetIndexer(), claims: claims.GetIndexer(), capacities: capacities.GetIndexer(),
		class: f.Storage().V1().StorageClasses().Lister().Get, quarantine: quar, topology: topology,
	}}
	if s.metrics, err = newMetrics(s.reg, s.core); err != nil {
		return err
	}
	s.binder = &binder{client: h.ClientSet(), core: s.core, nodes: f.Core().V1().Nodes().Lister(), pods: f.Core().V1().Pods().Lister(), wakers: newWakers()}
	return errors.Join(
		volumes.AddIndexers(volumeIndexers()), claims.AddIndexers(claimIndexers()), capacities.AddIndexers(capacityIndexers(topology)),
		handle(volumes.AddEventHandler(s.binder.wakers.handler())), handle(claims.AddEventHandler(s.binder.wakers.handler())),
	)
}

func handle(_ any, err error) error { return err }
