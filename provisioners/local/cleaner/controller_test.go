package cleaner

import (
	"context"
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/interceptor"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local/wipe"
)

// hangs makes every erasure of a disk hang until release.
func (w *world) hangs(disk string) {
	c := make(chan struct{})
	w.hang[disk], w.release = c, sync.OnceFunc(func() { close(c) })
}

// start runs a controller over the world until the test ends.
func (w *world) start(t *testing.T) (*Controller, *prometheus.Registry) {
	t.Helper()
	cleaning, cluster := w.cleaning(wipe.Discard)
	reg := prometheus.NewRegistry()
	c := NewController(Config{
		Node: testNode, Cached: w.api, Cluster: cluster, Cleaning: *cleaning, Prover: *w.prover(cluster),
		Certified: func(string, nodedisks.Partition, int64) (bool, error) { return w.offerable(uuidRaw), nil },
		Deadline:  50 * time.Millisecond, Metrics: NewMetrics(reg), Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: time.Now,
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { c.Run(ctx); close(done) }()
	t.Cleanup(func() {
		w.release()
		cancel()
		<-done
	})
	return c, reg
}

func eventually(t *testing.T, c *Controller, ok func() bool) {
	t.Helper()
	wait.For(t, 10*time.Second, "what the test waits for", func() bool {
		c.Wake() // what a watch does
		return ok()
	})
}

func (w *world) events(reason string) int {
	var list eventsv1.EventList
	if err := w.api.List(context.Background(), &list); err != nil {
		w.t.Fatal(err)
	}
	n := 0
	for _, e := range list.Items {
		if e.Reason == reason {
			n++
		}
	}
	return n
}

// A disk that hangs in the middle of a chunk keeps its own worker and is told of;
// the other disk's volume is cleaned meanwhile.
func TestHungDiskDelaysNoOther(t *testing.T) {
	w := newWorld(t, interceptor.Funcs{})
	w.volume(uuidFS)
	w.volume(uuidOther)
	w.hangs(diskA)
	c, reg := w.start(t)
	eventually(t, c, func() bool { return w.events("VolumeCleaned") == 1 && w.events("CleaningStalled") >= 1 })
	if got := testutil.ToFloat64(c.Metrics.stalled.WithLabelValues(diskA)); got != 1 {
		t.Errorf("stalled is %v", got)
	}
	if w.writes[uuidFS] != 1 { // it was unmounted
		t.Errorf("%d effects on the disk that hangs", w.writes[uuidFS])
	}
	if problems, err := testutil.GatherAndLint(reg); err != nil || len(problems) > 0 {
		t.Errorf("promlint: %v %v", problems, err)
	}
}

// A quarantine ends a cleaning that is under way; it is not begun again while that
// stands, and is finished when it is lifted.
func TestQuarantineEndsCleaning(t *testing.T) {
	w := newWorld(t, interceptor.Funcs{})
	w.volume(uuidFS)
	w.hangs(diskA)
	c, _ := w.start(t)
	eventually(t, c, func() bool { c.mu.Lock(); defer c.mu.Unlock(); return c.work[diskA] != nil && c.work[diskA].done == 0 })
	var cn v1alpha1.ComputeNode
	if err := w.api.Get(t.Context(), client.ObjectKey{Name: testNode}, &cn); err != nil {
		t.Fatal(err)
	}
	cn.Spec.Quarantine = []v1alpha1.Quarantine{{Disk: diskA, Reason: "Failed", By: "test"}}
	if err := w.api.Update(t.Context(), &cn); err != nil {
		t.Fatal(err)
	}
	for range 2 { // passes that have seen it; the chunk under way hangs on
		since := time.Now().UnixNano()
		eventually(t, c, func() bool { return c.finished.Load() > since })
	}
	w.release()
	eventually(t, c, func() bool {
		return testutil.ToFloat64(c.Metrics.waiting.WithLabelValues(string(ReasonQuarantined))) == 1
	})
	if !w.parts[uuidFS].residue() {
		t.Error("the rest of the evidence was wiped")
	}
	if w.offerable(uuidFS) {
		t.Error("offered")
	}
	cn.Spec.Quarantine = nil
	if err := w.api.Update(t.Context(), &cn); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	for _, wait := range c.waits { // not for five seconds
		wait.at = time.Now()
	}
	c.mu.Unlock()
	eventually(t, c, func() bool { return w.offerable(uuidFS) && !w.parts[uuidFS].residue() })
}
