package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	vklog "github.com/virtual-kubelet/virtual-kubelet/log"
	vknode "github.com/virtual-kubelet/virtual-kubelet/node"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"

	"holdfast.dev/e2e/node/disk"
)

const (
	// stopGrace is what pods get when the node goes down.
	stopGrace = 5 * time.Second
	// startTimeout bounds everything before the node is ready.
	startTimeout = 2 * time.Minute
	podWorkers   = 8
)

// Run runs a node until ctx ends. When the node is ready it writes its State
// to ready, as one line of JSON. As root the process must be in a mount
// namespace of its own; see disk.EnterNamespace.
func Run(ctx context.Context, o *Options, ready io.Writer, log *slog.Logger) (err error) {
	// Pods of other users pass through the directories made here.
	unix.Umask(0o022)
	if err := o.prepareRoot(); err != nil {
		return err
	}
	unlock, err := lock(filepath.Join(o.Root, "lock"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	starting, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if _, err := Cleanup(starting, o.Root, log); err != nil {
		return err
	}
	client, server, err := connect(o.Kubeconfig)
	if err != nil {
		return err
	}
	disks, err := disk.Open(starting, disk.Config{
		Root: o.Root, Count: o.Disks, Size: o.diskSize, StorageClass: o.StorageClass, Group: o.Group, Simulate: o.Simulate,
	}, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, disks.Close()) }()
	events, stopEvents := recorder(client, o.Name)
	defer stopEvents()
	live, end := context.WithCancel(context.WithoutCancel(ctx)) // pods get their grace after ctx
	defer end()
	objs := liveObjects{client: client}
	h := &host{
		root: o.Root, address: o.Address, images: newImages(o.BinDir, o.Root), objs: objs, events: events, log: log, server: server,
		volumes: &volumes{client: client, root: o.Root, objs: objs},
	}
	p := newProvider(live, h, client.CoreV1(), newAddresses(o.podRange))
	defer p.close(stopGrace)
	a := &api{options: o, disks: disks, provider: p}
	stopServing, err := a.serve()
	if err != nil {
		return err
	}
	defer stopServing()
	return control(vklog.WithLogger(ctx, quietLogger{log}), client, o, p, events, func() error { return announce(a.state(), o.ReadyFile, ready) })
}

// control runs virtual-kubelet's controllers until ctx ends.
func control(ctx context.Context, client kubernetes.Interface, o *Options, p *provider, events record.EventRecorder, ready func() error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := setProviderID(ctx, client, o.Name); err != nil {
		return err
	}
	nodes, err := vknode.NewNodeController(vknode.NaiveNodeProvider{}, o.object(), client.CoreV1().Nodes(),
		vknode.WithNodeEnableLeaseV1(client.CoordinationV1().Leases(corev1.NamespaceNodeLease), vknode.DefaultLeaseDuration))
	if err != nil {
		return fmt.Errorf("make node controller: %w", err)
	}
	factory := informers.NewSharedInformerFactoryWithOptions(client, time.Minute, informers.WithTweakListOptions(func(l *metav1.ListOptions) {
		l.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", o.Name).String()
	}))
	// The node authorizer lets a node list no ConfigMaps and Secrets. These
	// informers are asked for by the controller and never started: pods are
	// resolved here (SkipDownwardAPIResolution).
	idle := informers.NewSharedInformerFactory(client, 0).Core().V1()
	pods, err := vknode.NewPodController(vknode.PodControllerConfig{
		PodClient: patientPods{client.CoreV1(), p}, PodInformer: factory.Core().V1().Pods(), EventRecorder: &record.FakeRecorder{}, Provider: p,
		ConfigMapInformer: idle.ConfigMaps(), SecretInformer: idle.Secrets(), ServiceInformer: idle.Services(),
		SkipDownwardAPIResolution:                true,
		SyncPodsFromKubernetesRateLimiter:        limiter(),
		DeletePodsFromKubernetesRateLimiter:      limiter(),
		SyncPodStatusFromProviderRateLimiter:     limiter(),
		SyncPodsFromKubernetesShouldRetryFunc:    retryForever,
		SyncPodStatusFromProviderShouldRetryFunc: retryForever,
	})
	if err != nil {
		return fmt.Errorf("make pod controller: %w", err)
	}
	factory.Start(ctx.Done())
	failed := make(chan error, 2)
	go func() { failed <- wrap("pod controller", pods.Run(ctx, podWorkers)) }()
	go func() { failed <- wrap("node controller", nodes.Run(ctx)) }()
	stopped := func(err error) error {
		cancel()
		err = errors.Join(err, <-failed)
		factory.Shutdown()
		return err
	}
	timeout := time.After(startTimeout)
	for _, up := range []<-chan struct{}{pods.Ready(), nodes.Ready()} {
		select {
		case <-up:
		case err := <-failed:
			return stopped(err)
		case <-timeout:
			return stopped(errors.Join(fmt.Errorf("node is not ready after %s", startTimeout), ctx.Err()))
		}
	}
	events.Event(nodeRef(o.Name), corev1.EventTypeNormal, "Starting", "Starting holdfast-node")
	if err := ready(); err != nil {
		return stopped(err)
	}
	return stopped(<-failed)
}

func nodeRef(name string) *corev1.ObjectReference {
	return &corev1.ObjectReference{Kind: "Node", APIVersion: "v1", Name: name}
}

func wrap(what string, err error) error {
	if err == nil || errors.Is(err, context.Canceled) {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

func limiter() workqueue.TypedRateLimiter[any] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[any](5*time.Millisecond, 5*time.Second)
}

// retryForever never drops a pod: its next change may be far off. The waiting
// time grows with the tries.
func retryForever(_ context.Context, _ string, tried int, _ time.Time, _ error) (*time.Duration, error) {
	d := min(20*time.Millisecond<<min(tried, 8), 5*time.Second)
	return &d, nil
}

func recorder(client kubernetes.Interface, name string) (record.EventRecorder, func()) {
	b := record.NewBroadcaster()
	b.StartRecordingToSink(&corev1client.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return b.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "holdfast-node", Host: name}), b.Shutdown
}

func announce(s State, file string, out io.Writer) error {
	line, err := json.Marshal(s)
	if err != nil {
		return err
	}
	line = append(line, '\n')
	if file != "" {
		if err := disk.WriteFile(file, line, 0o644); err != nil {
			return err
		}
	}
	_, err = out.Write(line)
	return err
}

// lock keeps a second runner away from the root. It goes with the process.
func lock(name string) (func() error, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock node root: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("node root %s is in use by another holdfast-node: %w", filepath.Dir(name), err), f.Close())
	}
	return f.Close, nil
}
