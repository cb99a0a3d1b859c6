package scheduler

import (
	"context"
	"errors"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// recordTimeout is how long the first pod with own claims waits for the record of quarantine.
const recordTimeout = 5 * time.Second

// maxRetry bounds the pods that are kept. Beyond it they wait for events, and for
// the scheduler's own retry after five minutes.
const maxRetry = 10000

// retry wakes pods for what no event of the scheduler tells: a reservation that
// ends by time, a disk that leaves quarantine, and the record of quarantine
// being read at last.
type retry struct {
	activate func(pods map[string]*corev1.Pod)
	known    func() bool
	now      func() time.Time

	mu    sync.Mutex
	pods  map[types.UID]*corev1.Pod
	timer *time.Timer
	at    time.Time
	tried bool // the record was waited for once
}

// ready waits for the record of quarantine, for a while and once. Without it
// volumes on named disks are refused, which Filter says.
func (r *retry) ready(ctx context.Context) error {
	r.mu.Lock()
	wait := !r.tried
	r.tried = true
	r.mu.Unlock()
	if !wait || r.known() {
		return nil
	}
	deadline := time.NewTimer(recordTimeout)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !r.known() {
		select {
		case <-ctx.Done():
			return errors.New("the scheduler ends")
		case <-deadline.C:
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// later remembers a pod that is tried now, until it is done, and wakes it at the
// given time, if any.
func (r *retry) later(pod *corev1.Pod, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.pods) < maxRetry {
		r.pods[pod.UID] = pod
	}
	if at.IsZero() || (r.timer != nil && !at.Before(r.at)) {
		return
	}
	if r.timer != nil {
		r.timer.Stop()
	}
	r.at = at
	r.timer = time.AfterFunc(max(at.Sub(r.now()), time.Millisecond), r.fire)
}

// done forgets a pod that was placed.
func (r *retry) done(pod *corev1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.pods, pod.UID)
}

// fire has all remembered pods tried again. Those that the queue does not have
// any more are ignored by it.
func (r *retry) fire() {
	r.mu.Lock()
	pods := make(map[string]*corev1.Pod, len(r.pods))
	for _, p := range r.pods {
		pods[nameOf(p)] = p
	}
	clear(r.pods)
	if r.timer != nil {
		r.timer.Stop()
		r.timer = nil
	}
	r.mu.Unlock()
	if len(pods) > 0 {
		r.activate(pods)
	}
}
