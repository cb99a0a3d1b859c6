package node

import (
	"context"
	"errors"
	"fmt"
	"sort"
	"sync"
	"time"

	"github.com/virtual-kubelet/virtual-kubelet/errdefs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
)

// provider runs the pods that virtual-kubelet hands it
// (node.PodLifecycleHandler and node.PodNotifier).
type provider struct {
	host *host
	pods corev1client.PodsGetter
	ctx  context.Context // pods outlive the calls that make them

	mu     sync.Mutex
	byUID  map[types.UID]*pod
	ips    *addresses
	notify func(*corev1.Pod)
	quiet  bool // the node goes down: its pods' ends are not reported
	wg     sync.WaitGroup
}

func newProvider(ctx context.Context, h *host, pods corev1client.PodsGetter, ips *addresses) *provider {
	return &provider{host: h, pods: pods, ctx: ctx, byUID: map[types.UID]*pod{}, ips: ips}
}

// NotifyPods registers the receiver of statuses.
func (p *provider) NotifyPods(_ context.Context, notify func(*corev1.Pod)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.notify = notify
}

// CreatePod starts a pod. What goes wrong is in its status.
func (p *provider) CreatePod(_ context.Context, spec *corev1.Pod) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.byUID[spec.UID] != nil || p.quiet {
		return nil
	}
	ip := p.host.address
	if !spec.Spec.HostNetwork {
		var err error
		if ip, err = p.ips.take(spec.Status.PodIP); err != nil {
			return err
		}
	}
	created := newPod(p.ctx, p.host, spec.DeepCopy(), ip)
	p.byUID[spec.UID] = created
	p.wg.Go(func() { p.report(created) })
	p.host.log.Debug("pod started", "namespace", spec.Namespace, "pod", spec.Name, "ip", ip)
	return nil
}

// UpdatePod takes over what may change in a pod.
func (p *provider) UpdatePod(ctx context.Context, spec *corev1.Pod) error {
	p.mu.Lock()
	have := p.byUID[spec.UID]
	p.mu.Unlock()
	if have == nil { // another pod of the same name came in its place
		if old := p.find(spec.Namespace, spec.Name); old != nil {
			old.end(old.object())
		}
		return p.CreatePod(ctx, spec)
	}
	have.update(spec)
	return nil
}

// DeletePod asks a pod to end and returns at once. The end is reported, and
// the object removed, when the processes are gone.
func (p *provider) DeletePod(_ context.Context, spec *corev1.Pod) error {
	p.mu.Lock()
	have := p.byUID[spec.UID]
	p.mu.Unlock()
	if have == nil {
		return errdefs.NotFoundf("pod %s/%s is not here", spec.Namespace, spec.Name)
	}
	have.end(spec)
	return nil
}

// find is the pod of that name which is not on its way out.
func (p *provider) find(namespace, name string) *pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, have := range p.byUID {
		if have.namespace == namespace && have.name == name && have.object().DeletionTimestamp == nil {
			return have
		}
	}
	return nil
}

// GetPod is the pod with its status.
func (p *provider) GetPod(_ context.Context, namespace, name string) (*corev1.Pod, error) {
	if have := p.find(namespace, name); have != nil {
		return have.withStatus(), nil
	}
	return nil, errdefs.NotFoundf("pod %s/%s is not here", namespace, name)
}

// GetPodStatus is the pod's status.
func (p *provider) GetPodStatus(ctx context.Context, namespace, name string) (*corev1.PodStatus, error) {
	have, err := p.GetPod(ctx, namespace, name)
	if err != nil {
		return nil, err
	}
	return &have.Status, nil
}

// GetPods is every pod.
func (p *provider) GetPods(context.Context) ([]*corev1.Pod, error) {
	var out []*corev1.Pod
	for _, have := range p.all() {
		out = append(out, have.withStatus())
	}
	return out, nil
}

func (p *provider) all() []*pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*pod
	for _, have := range p.byUID {
		out = append(out, have)
	}
	sort.Slice(out, func(i, j int) bool {
		return out[i].namespace+"/"+out[i].name < out[j].namespace+"/"+out[j].name
	})
	return out
}

// report tells of every change of a pod until it has ended and is removed.
func (p *provider) report(have *pod) {
	for ended := false; !ended; {
		select {
		case <-have.changed:
		case <-have.done:
			ended = true
		}
		p.mu.Lock()
		notify, quiet := p.notify, p.quiet
		p.mu.Unlock()
		if quiet {
			<-have.done
			return
		}
		// virtual-kubelet knows pods by name: a namesake's successor has it now.
		if now := p.find(have.namespace, have.name); notify != nil && (now == nil || now == have) {
			notify(have.withStatus())
		}
	}
	// A pod that ended by itself stays until it is deleted.
	<-have.stopped()
	p.remove(have)
}

// remove deletes a pod that has ended: first its object, as the kubelet does
// when the processes are gone. virtual-kubelet would wait for the whole grace period.
func (p *provider) remove(have *pod) {
	p.mu.Lock()
	quiet := p.quiet
	p.mu.Unlock()
	if quiet {
		return
	}
	if err := p.deleteObject(have); err != nil {
		p.host.log.Info("pod object not deleted", "namespace", have.namespace, "pod", have.name, "error", err)
	}
	p.mu.Lock()
	delete(p.byUID, have.uid)
	if have.ip != p.host.address {
		p.ips.release(have.ip)
	}
	p.mu.Unlock()
	if err := have.remove(); err != nil {
		p.host.log.Info("pod directory left", "error", err)
	}
	p.host.log.Debug("pod removed", "namespace", have.namespace, "pod", have.name)
}

func (p *provider) deleteObject(have *pod) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		ctx, cancel := context.WithTimeout(p.ctx, 10*time.Second)
		opts := metav1.NewDeleteOptions(0)
		opts.Preconditions = &metav1.Preconditions{UID: &have.uid}
		err := p.pods.Pods(have.namespace).Delete(ctx, have.name, *opts)
		cancel()
		if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil // gone, or another pod has the name
		}
		if !sleep(p.ctx, wait) {
			return err
		}
	}
}

// kill ends a pod's processes with SIGKILL.
func (p *provider) kill(namespace, name string) ([]int, error) {
	have := p.find(namespace, name)
	if have == nil {
		return nil, fmt.Errorf("pod %s/%s: %w", namespace, name, errNoPod)
	}
	return have.kill(), nil
}

var errNoPod = errors.New("no such pod on this node")

// close ends all pods within grace and reports nothing: to the cluster they
// are on a node that went down.
func (p *provider) close(grace time.Duration) {
	p.mu.Lock()
	p.quiet = true
	p.mu.Unlock()
	pods := p.all()
	for _, have := range pods {
		have.halt(int64(grace / time.Second))
		have.wake()
	}
	for _, have := range pods {
		<-have.done
	}
	p.wg.Wait()
}
