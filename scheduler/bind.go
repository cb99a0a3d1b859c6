package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/component-helpers/storage/volume"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
)

const (
	callTimeout = 30 * time.Second
	attempts    = 3 // of a compare-and-swap that was lost to a change that does not matter
	recheck     = 5 * time.Second

	catchUpTimeout = 250 * time.Millisecond // it holds up all pods
)

// catchUp waits a moment for claims that the API server has and the store has
// not: a pod's event may overtake those of its claims, which were made before it.
// The attempt would fail, and the pod back off, for nothing. The claim of an
// ephemeral volume is made after the pod, and is not waited for.
func (b *binder) catchUp(ctx context.Context, pod *corev1.Pod) {
	for i := range pod.Spec.Volumes {
		v := pod.Spec.Volumes[i].PersistentVolumeClaim
		if v == nil || b.has(pod.Namespace+"/"+v.ClaimName) {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, catchUpTimeout)
		defer cancel()
		if _, err := b.client.CoreV1().PersistentVolumeClaims(pod.Namespace).Get(ctx, v.ClaimName, metav1.GetOptions{}); err != nil {
			return // upstream says what is wrong
		}
		tick := time.NewTicker(2 * time.Millisecond)
		defer tick.Stop()
		for !b.has(pod.Namespace + "/" + v.ClaimName) {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
		}
	}
}

func (b *binder) has(claim string) bool {
	_, ok := byKey[*corev1.PersistentVolumeClaim](b.core.claims, claim)
	return ok
}

// plan is what PreBind has to do for one pod.
type plan struct {
	node    string
	volumes []chosenVolume // to be given to their claims
	made    []choice       // to be made
	wait    []claim        // all of them, and those that were decided before
}

func newPlan(node string, p *podClaims, f fit) plan {
	pl := plan{node: node, volumes: p.volumes, wait: append(append([]claim{}, p.waiting...), p.free...)}
	for _, ch := range f.choices {
		if ch.volume != nil {
			pl.volumes = append(pl.volumes, chosenVolume{ch.claim.PersistentVolumeClaim, ch.volume})
		} else {
			pl.made = append(pl.made, ch)
		}
	}
	return pl
}

// binder writes choices.
type binder struct {
	client  kubernetes.Interface
	core    *core
	nodes   corelisters.NodeLister
	pods    corelisters.PodLister
	timeout time.Duration
	wakers  *wakers
	metrics *metrics
}

// write writes the whole plan: volumes first, since only their writes can be
// lost to somebody else for good.
func (b *binder) write(ctx context.Context, pl plan) error {
	for _, v := range pl.volumes {
		if err := b.writeVolume(ctx, v); err != nil {
			return err
		}
	}
	for _, ch := range pl.made {
		if err := b.writeClaim(ctx, pl.node, ch); err != nil {
			return err
		}
	}
	return nil
}

// writeVolume gives a volume to a claim.
func (b *binder) writeVolume(ctx context.Context, v chosenVolume) error {
	pv := v.pv
	for n := 1; ; n++ {
		if err := b.givable(pv, v.claim); err != nil {
			return err
		}
		bound, dirty, err := volume.GetBindVolumeToClaim(pv, v.claim)
		if err != nil {
			return fmt.Errorf("give volume %s to claim %s: %w", pv.Name, nameOf(v.claim), err)
		}
		if !dirty {
			return nil
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		done, err := b.client.CoreV1().PersistentVolumes().Update(call, bound, metav1.UpdateOptions{})
		cancel()
		if err == nil {
			b.wrote(v.claim, done.ResourceVersion)
			return nil
		}
		if !apierrors.IsConflict(err) || n == attempts {
			b.failed(v.claim, err)
			return fmt.Errorf("give volume %s to claim %s: %w", pv.Name, nameOf(v.claim), err)
		}
		b.metrics.conflicts.Inc()
		call, cancel = context.WithTimeout(ctx, callTimeout)
		pv, err = b.client.CoreV1().PersistentVolumes().Get(call, pv.Name, metav1.GetOptions{})
		cancel()
		if err != nil {
			return fmt.Errorf("read volume %s again: %w", v.pv.Name, err)
		}
	}
}

// givable looks a last time whether the volume may go to the claim.
func (b *binder) givable(pv *corev1.PersistentVolume, pvc *corev1.PersistentVolumeClaim) error {
	if volume.IsVolumeBoundToClaim(pv, pvc) {
		return nil
	}
	switch {
	case pv.Spec.ClaimRef != nil:
		return fmt.Errorf("volume %s was given to claim %s/%s meanwhile", pv.Name, pv.Spec.ClaimRef.Namespace, pv.Spec.ClaimRef.Name)
	case pv.DeletionTimestamp != nil:
		return fmt.Errorf("volume %s is being deleted", pv.Name)
	case marked(pv) || b.core.quarantine.closed(diskOf(pv)):
		return fmt.Errorf("disk %s of volume %s was put in quarantine meanwhile", pv.Labels[v1alpha1.LabelDisk], pv.Name)
	}
	return nil
}

// writeClaim asks the provisioner for a claim's volume.
func (b *binder) writeClaim(ctx context.Context, node string, ch choice) error {
	pvc := ch.claim.PersistentVolumeClaim
	group, disk := ch.group.Labels[v1alpha1.LabelVolumeGroup], ch.group.Labels[v1alpha1.LabelDisk]
	for n := 1; ; n++ {
		switch {
		case pvc.UID != ch.claim.UID || pvc.DeletionTimestamp != nil:
			return fmt.Errorf("claim %s was deleted meanwhile", ch.claim.name)
		case pvc.Spec.VolumeName != "" || pvc.Annotations[volume.AnnSelectedNode] != "":
			return fmt.Errorf("claim %s was taken up by another scheduler meanwhile", ch.claim.name)
		case b.core.quarantine.closed(diskid.Key(node, disk)):
			return fmt.Errorf("disk %s of volume group %s was put in quarantine meanwhile", disk, group)
		}
		asked := pvc.DeepCopy()
		metav1.SetMetaDataAnnotation(&asked.ObjectMeta, volume.AnnSelectedNode, node)
		metav1.SetMetaDataAnnotation(&asked.ObjectMeta, v1alpha1.LabelVolumeGroup, group)
		metav1.SetMetaDataAnnotation(&asked.ObjectMeta, v1alpha1.VolumeGroupNode, node)
		delete(asked.Annotations, v1alpha1.LabelDisk)
		if disk != "" {
			metav1.SetMetaDataAnnotation(&asked.ObjectMeta, v1alpha1.LabelDisk, disk)
		}
		call, cancel := context.WithTimeout(ctx, callTimeout)
		done, err := b.client.CoreV1().PersistentVolumeClaims(pvc.Namespace).Update(call, asked, metav1.UpdateOptions{})
		cancel()
		if err == nil {
			b.wrote(pvc, done.ResourceVersion)
			return nil
		}
		if !apierrors.IsConflict(err) || n == attempts {
			b.failed(pvc, err)
			return fmt.Errorf("ask for a volume of claim %s on node %s: %w", ch.claim.name, node, err)
		}
		b.metrics.conflicts.Inc()
		call, cancel = context.WithTimeout(ctx, callTimeout)
		pvc, err = b.client.CoreV1().PersistentVolumeClaims(pvc.Namespace).Get(call, pvc.Name, metav1.GetOptions{})
		cancel()
		if err != nil {
			return fmt.Errorf("read claim %s again: %w", ch.claim.name, err)
		}
	}
}

// wrote notes in the ledger which version carries the choice.
func (b *binder) wrote(pvc *corev1.PersistentVolumeClaim, version string) {
	b.core.ledger.Lock()
	defer b.core.ledger.Unlock()
	if r := b.core.ledger.byClaim[pvc.UID]; r != nil {
		r.written = version
	}
}

// failed notes a write that may have been done although it gave an error. Only
// what the API server refused was certainly not done.
func (b *binder) failed(pvc *corev1.PersistentVolumeClaim, err error) {
	var status apierrors.APIStatus
	if errors.As(err, &status) && status.Status().Code < 500 && status.Status().Code > 0 {
		return
	}
	b.core.ledger.Lock()
	defer b.core.ledger.Unlock()
	if r := b.core.ledger.byClaim[pvc.UID]; r != nil {
		r.doubt = b.core.now().Add(settleTime)
	}
}

// wait returns when all claims are bound, with an error when one will not be.
// It is woken by what happens to the claims and their volumes.
func (b *binder) wait(ctx context.Context, pod *corev1.Pod, pl plan) error {
	ctx, cancel := context.WithTimeoutCause(ctx, b.timeout,
		fmt.Errorf("the claims were not bound within %s: look at their events, and at the provisioner", b.timeout))
	defer cancel()
	wake, stop := b.wakers.add(pl)
	defer stop()
	tick := time.NewTicker(recheck)
	defer tick.Stop()
	for {
		done, err := b.check(pod, pl)
		if done || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the volumes of pod %s: %w", nameOf(pod), context.Cause(ctx))
		case <-wake:
		case <-tick.C:
		}
	}
}

func (b *binder) check(pod *corev1.Pod, pl plan) (done bool, err error) {
	if _, err := b.pods.Pods(pod.Namespace).Get(pod.Name); apierrors.IsNotFound(err) {
		return false, fmt.Errorf("pod %s was deleted", nameOf(pod))
	}
	done = true
	for _, cl := range pl.wait {
		pvc, ok := byKey[*corev1.PersistentVolumeClaim](b.core.claims, cl.name)
		if !ok || pvc.UID != cl.UID {
			return false, fmt.Errorf("claim %s was deleted", cl.name)
		}
		if pvc.Spec.VolumeName != "" && metav1.HasAnnotation(pvc.ObjectMeta, volume.AnnBindCompleted) {
			continue
		}
		done = false
		if err := b.alive(pvc, pl); err != nil {
			return false, err
		}
	}
	return done, nil
}

// alive says why a claim that is not bound yet will not be.
func (b *binder) alive(pvc *corev1.PersistentVolumeClaim, pl plan) error {
	for _, v := range pl.volumes {
		if v.claim.UID != pvc.UID || pvc.Spec.VolumeName != "" {
			continue
		}
		pv, ok := byKey[*corev1.PersistentVolume](b.core.volumes, v.pv.Name)
		if !ok || b.behind(pvc, pv.ResourceVersion) || volume.IsVolumeBoundToClaim(pv, pvc) {
			return nil
		}
		return fmt.Errorf("volume %s was taken from claim %s again", pv.Name, nameOf(pvc))
	}
	for _, ch := range pl.made {
		if ch.claim.UID != pvc.UID || pvc.Spec.VolumeName != "" {
			continue
		}
		if !b.behind(pvc, pvc.ResourceVersion) && pvc.Annotations[volume.AnnSelectedNode] != pl.node {
			return fmt.Errorf("no volume could be made for claim %s on node %s: its events say why", nameOf(pvc), pl.node)
		}
		return nil
	}
	// A claim that was decided before: by an earlier attempt, or by another pod.
	if pvc.Spec.VolumeName == "" && pvc.Annotations[volume.AnnSelectedNode] == "" && !b.reserved(pvc) && b.core.prebound(pvc) == nil {
		return fmt.Errorf("claim %s lost its place on node %s: its events may say why", nameOf(pvc), pl.node)
	}
	return nil
}

func (b *binder) reserved(pvc *corev1.PersistentVolumeClaim) bool {
	b.core.ledger.RLock()
	defer b.core.ledger.RUnlock()
	return b.core.ledger.byClaim[pvc.UID] != nil
}

// behind says whether a store shows an object as it was before it was written.
func (b *binder) behind(pvc *corev1.PersistentVolumeClaim, version string) bool {
	b.core.ledger.RLock()
	defer b.core.ledger.RUnlock()
	r := b.core.ledger.byClaim[pvc.UID]
	return r != nil && older(version, r.written)
}

// wakers tell the pods that wait about what happens to their claims and volumes.
type wakers struct {
	mu    sync.Mutex
	byKey map[string]map[chan struct{}]struct{}
}

func newWakers() *wakers { return &wakers{byKey: map[string]map[chan struct{}]struct{}{}} }

func (w *wakers) add(pl plan) (wake <-chan struct{}, stop func()) {
	var keys []string
	for _, c := range pl.wait {
		keys = append(keys, c.name)
	}
	for _, v := range pl.volumes {
		keys = append(keys, v.pv.Name)
	}
	ch := make(chan struct{}, 1)
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, k := range keys {
		if w.byKey[k] == nil {
			w.byKey[k] = map[chan struct{}]struct{}{}
		}
		w.byKey[k][ch] = struct{}{}
	}
	return ch, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, k := range keys {
			if delete(w.byKey[k], ch); len(w.byKey[k]) == 0 {
				delete(w.byKey, k)
			}
		}
	}
}

// handler wakes who waits for an object.
func (w *wakers) handler() cache.ResourceEventHandler {
	wake := func(obj any) {
		m, ok := objectOf(obj)
		if !ok {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		for ch := range w.byKey[nameOf(m)] {
			select {
			case ch <- struct{}{}:
			default: // it is woken already
			}
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: wake, UpdateFunc: func(_, now any) { wake(now) }, DeleteFunc: wake}
}
