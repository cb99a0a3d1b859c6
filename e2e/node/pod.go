package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"

	"holdfast.dev/e2e/node/disk"
)

// host is what all pods of a node share.
type host struct {
	root    string
	address string
	images  *images
	volumes *volumes
	objs    objects
	events  record.EventRecorder
	log     *slog.Logger
	server  apiServer
}

// pod runs one pod. Its lock guards every container's state.
type pod struct {
	host *host
	dir  string
	ip   string

	namespace, name string
	uid             types.UID
	policy          corev1.RestartPolicy
	logDir          string

	mu       sync.Mutex
	spec     *corev1.Pod
	prepared bool
	terminal bool
	init     []*container
	main     []*container

	mounts atomic.Pointer[map[string]string] // volume name to its path
	access atomic.Pointer[string]            // the pod's kubeconfig, if it has an account

	ctx      context.Context // ends when the pod is to end
	stop     context.CancelFunc
	deadline atomic.Int64  // grace period in seconds, once it is to end
	hurry    chan struct{} // closed to end it without grace
	once     sync.Once
	changed  chan struct{}
	done     chan struct{}
}

func newPod(ctx context.Context, h *host, spec *corev1.Pod, ip string) *pod {
	ctx, cancel := context.WithCancel(ctx)
	p := &pod{
		host: h, spec: spec, ip: ip, ctx: ctx, stop: cancel,
		dir:       filepath.Join(h.root, "var/lib/kubelet/pods", string(spec.UID)),
		namespace: spec.Namespace, name: spec.Name, uid: spec.UID, policy: spec.Spec.RestartPolicy,
		logDir:  filepath.Join(h.root, "var/log/pods", fmt.Sprintf("%s_%s_%s", spec.Namespace, spec.Name, spec.UID)),
		hurry:   make(chan struct{}),
		changed: make(chan struct{}, 1), done: make(chan struct{}),
	}
	p.deadline.Store(gracePeriod(spec))
	for i := range spec.Spec.InitContainers {
		p.init = append(p.init, newContainer(p, &spec.Spec.InitContainers[i], spec.Status.InitContainerStatuses, true))
	}
	for i := range spec.Spec.Containers {
		p.main = append(p.main, newContainer(p, &spec.Spec.Containers[i], spec.Status.ContainerStatuses, false))
	}
	go p.run(ctx)
	return p
}

func gracePeriod(spec *corev1.Pod) int64 {
	switch {
	case spec.DeletionGracePeriodSeconds != nil:
		return *spec.DeletionGracePeriodSeconds
	case spec.Spec.TerminationGracePeriodSeconds != nil:
		return *spec.Spec.TerminationGracePeriodSeconds
	}
	return corev1.DefaultTerminationGracePeriodSeconds
}

// run brings the pod from its volumes to its last container's end.
func (p *pod) run(ctx context.Context) {
	defer close(p.done)
	var wg sync.WaitGroup
	defer wg.Wait()
	work, cancel := context.WithCancel(ctx)
	defer cancel()
	if refresh, ok := p.prepare(ctx); ok {
		wg.Go(func() { p.refresh(work, refresh) })
		p.runContainers(ctx)
	}
	p.set(func() { p.terminal = p.over(ctx) })
}

// over tells a pod whose containers are all done from one that its node takes
// down: that one starts again with the node. The lock is held.
func (p *pod) over(ctx context.Context) bool {
	return ctx.Err() == nil || p.spec.DeletionTimestamp != nil
}

func (p *pod) runContainers(ctx context.Context) {
	for _, c := range p.init {
		if ok := c.supervise(ctx, true); !ok {
			return
		}
	}
	var wg sync.WaitGroup
	for _, c := range p.main {
		wg.Go(func() { c.supervise(ctx, false) })
	}
	wg.Wait()
}

// prepare makes the pod's directories and volumes, as often as it takes.
func (p *pod) prepare(ctx context.Context) (time.Time, bool) {
	for wait := 50 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		refresh, err := p.mount(ctx)
		if err == nil {
			p.set(func() { p.prepared = true })
			return refresh, true
		}
		if ctx.Err() != nil {
			return time.Time{}, false
		}
		if wait > time.Second { // the API server learns only soon after binding what the node may read
			p.host.events.Event(p.object(), corev1.EventTypeWarning, "FailedMount", err.Error())
			p.set(func() {
				for _, c := range append(p.init, p.main...) {
					c.state.state = waiting("ContainerCreating", err.Error())
				}
			})
		}
		select {
		case <-ctx.Done():
			return time.Time{}, false
		case <-time.After(wait):
		}
	}
}

// seclude keeps other users of this machine out of a pod's directory: there are
// tokens in it. With several users in one pod it must stay open.
func seclude(dir string, spec *corev1.Pod) error {
	if os.Geteuid() != 0 {
		return os.Chmod(dir, 0o700)
	}
	uid, one := onlyUser(spec)
	for _, c := range spec.Spec.Containers {
		if runAsUser(spec, &c) != nil && !one {
			return nil
		}
	}
	if err := os.Chown(dir, int(uid), -1); err != nil { // 0 when no container names a user
		return err
	}
	return os.Chmod(dir, 0o700)
}

// mount makes every volume, or renews those that come from the API, and says
// when to do so again.
func (p *pod) mount(ctx context.Context) (time.Time, error) {
	spec := p.object()
	if err := os.MkdirAll(p.workDir(), 0o755); err != nil {
		return time.Time{}, err
	}
	if err := seclude(p.dir, spec); err != nil {
		return time.Time{}, err
	}
	var refresh time.Time
	paths := map[string]string{}
	for i := range spec.Spec.Volumes {
		v, err := p.host.volumes.make(ctx, spec, p.dir, &spec.Spec.Volumes[i])
		if err != nil {
			return refresh, err
		}
		paths[spec.Spec.Volumes[i].Name] = v.path
		if !v.refresh.IsZero() && (refresh.IsZero() || v.refresh.Before(refresh)) {
			refresh = v.refresh
		}
	}
	p.mounts.Store(&paths)
	return refresh, nil
}

// refresh renews the volumes when they are due, tokens before they expire.
func (p *pod) refresh(ctx context.Context, at time.Time) {
	for !at.IsZero() {
		select {
		case <-ctx.Done():
			return
		case <-time.After(time.Until(at)):
		}
		next, err := p.mount(ctx)
		if err != nil {
			if ctx.Err() == nil {
				p.host.events.Event(p.object(), corev1.EventTypeWarning, "FailedMount", err.Error())
			}
			next = time.Now().Add(10 * time.Second)
		}
		at = next
	}
}

func (p *pod) workDir() string { return filepath.Join(p.dir, "work") }

// object is the pod as it is known now, with its addresses.
func (p *pod) object() *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.spec.DeepCopy()
	o.Status.HostIP, o.Status.HostIPs = p.host.address, []corev1.HostIP{{IP: p.host.address}}
	o.Status.PodIP, o.Status.PodIPs = p.ip, []corev1.PodIP{{IP: p.ip}}
	return o
}

// withStatus is the pod with its status computed.
func (p *pod) withStatus() *corev1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := podState{pod: p.spec, hostIP: p.host.address, ip: p.ip, prepared: p.prepared, terminal: p.terminal, now: time.Now()}
	for _, c := range p.init {
		s.init = append(s.init, c.state)
	}
	for _, c := range p.main {
		s.main = append(s.main, c.state)
	}
	o := p.spec.DeepCopy()
	o.Status = s.status()
	p.spec.Status.Conditions = o.Status.DeepCopy().Conditions // transition times
	p.spec.Status.StartTime = o.Status.StartTime.DeepCopy()
	return o
}

// set changes state and has it reported.
func (p *pod) set(change func()) {
	p.mu.Lock()
	change()
	p.mu.Unlock()
	select {
	case p.changed <- struct{}{}:
	default: // a report is due already
	}
}

// update takes over a changed object. A container whose image changed starts anew.
func (p *pod) update(spec *corev1.Pod) {
	var restart []*container
	p.set(func() {
		spec = spec.DeepCopy()
		own := p.spec.Status
		p.spec = spec
		p.spec.Status.Conditions = mergeConditions(spec.Status.Conditions, own.Conditions)
		p.spec.Status.StartTime = own.StartTime
		for i, c := range p.main {
			if i < len(spec.Spec.Containers) && c.spec.Image != spec.Spec.Containers[i].Image {
				c.spec = spec.Spec.Containers[i].DeepCopy()
				restart = append(restart, c)
			}
		}
	})
	for _, c := range restart {
		c.end("its image changed")
	}
}

// mergeConditions takes the kubelet's conditions from own and the others from api.
func mergeConditions(api, own []corev1.PodCondition) []corev1.PodCondition {
	kubelets := map[corev1.PodConditionType]bool{
		corev1.PodReady: true, corev1.PodInitialized: true, corev1.ContainersReady: true, corev1.PodReadyToStartContainers: true,
	}
	var out []corev1.PodCondition
	for _, c := range own {
		if kubelets[c.Type] {
			out = append(out, c)
		}
	}
	for _, c := range api {
		if !kubelets[c.Type] {
			out = append(out, c)
		}
	}
	return out
}

// end asks the pod to end as its deletion says. It may be called again with
// less grace.
func (p *pod) end(deleted *corev1.Pod) {
	grace := gracePeriod(deleted)
	p.set(func() {
		now := metav1.Now()
		if p.spec.DeletionTimestamp == nil {
			p.spec.DeletionTimestamp = &now
		}
		if deleted.DeletionTimestamp != nil {
			p.spec.DeletionTimestamp = deleted.DeletionTimestamp
		}
		p.spec.DeletionGracePeriodSeconds = &grace
	})
	p.halt(grace)
}

// halt ends the containers and waits for nothing.
func (p *pod) halt(grace int64) {
	p.deadline.Store(grace)
	p.stop()
	if grace <= 0 {
		p.once.Do(func() { close(p.hurry) })
	}
}

// stopped is closed when the pod has been asked to end.
func (p *pod) stopped() <-chan struct{} { return p.ctx.Done() }

// wake has the state reported, though it did not change.
func (p *pod) wake() { p.set(func() {}) }

// kill sends SIGKILL to the processes of all running containers and returns their ids.
func (p *pod) kill() []int {
	var pids []int
	for _, c := range append(append([]*container(nil), p.init...), p.main...) {
		if pid := c.kill(); pid > 0 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// remove deletes the pod's directory. The logs stay.
func (p *pod) remove() error {
	if err := os.RemoveAll(p.dir); err != nil {
		return fmt.Errorf("remove directory of pod %s/%s: %w", p.namespace, p.name, err)
	}
	return nil
}

// kubeconfig writes the configuration of clients in the pod: the API server as
// this node reaches it, and the service account's own files, which are renewed.
func (p *pod) kubeconfig(access string) (string, error) {
	if have := p.access.Load(); have != nil {
		return *have, nil
	}
	name := filepath.Join(p.dir, "kubeconfig")
	data, err := p.host.server.kubeconfig(access, p.namespace)
	if err != nil {
		return "", err
	}
	if err := disk.WriteFile(name, data, 0o644); err != nil {
		return "", err
	}
	p.access.Store(&name)
	return name, nil
}
