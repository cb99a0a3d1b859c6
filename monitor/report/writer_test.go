package report_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/monitor/report"
)

var resource = schema.GroupResource{Group: "holdfast.dev", Resource: "computenodes"}

// server is an API server with at most one object and optimistic concurrency.
type server struct {
	mu      sync.Mutex
	obj     *v1alpha1.ComputeNode
	version int
	writes  int
	fail    error
	changed chan struct{}
}

func newServer() *server { return &server{changed: make(chan struct{}, 1000)} }

func (s *server) put(uid string) *v1alpha1.ComputeNode {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	if s.obj == nil {
		s.obj = &v1alpha1.ComputeNode{}
	}
	s.obj.UID, s.obj.ResourceVersion = types.UID(uid), string(rune('a'+s.version))
	return s.obj.DeepCopy()
}

func (s *server) GetNode(context.Context) (*v1alpha1.ComputeNode, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.obj == nil {
		return nil, apierrors.NewNotFound(resource, "n")
	}
	return s.obj.DeepCopy(), nil
}

func (s *server) UpdateStatus(_ context.Context, n *v1alpha1.ComputeNode) (*v1alpha1.ComputeNode, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.fail != nil:
		return nil, s.fail
	case s.obj == nil:
		return nil, apierrors.NewNotFound(resource, "n")
	case n.ResourceVersion != s.obj.ResourceVersion:
		return nil, apierrors.NewConflict(resource, "n", errors.New("changed"))
	}
	s.version++
	s.writes++
	s.obj.Status = *n.Status.DeepCopy()
	s.obj.ResourceVersion = string(rune('a' + s.version))
	s.changed <- struct{}{}
	return s.obj.DeepCopy(), nil
}

func (s *server) await(t *testing.T) {
	t.Helper()
	select {
	case <-s.changed:
	case <-time.After(5 * time.Second):
		t.Fatal("not written")
	}
}

func (s *server) quiet(t *testing.T, d time.Duration) {
	t.Helper()
	select {
	case <-s.changed:
		t.Error("written for nothing")
	case <-time.After(d):
	}
}

func start(t *testing.T, s *server, stored *v1alpha1.ComputeNode, pace report.Pace) *report.Writer {
	t.Helper()
	w := report.NewWriter(s, pace, stored, slog.New(slog.NewTextHandler(t.Output(), nil)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { w.Run(ctx); close(done) }()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

func status(state v1alpha1.DiskState, count, seq int64) *v1alpha1.ComputeNodeStatus {
	return &v1alpha1.ComputeNodeStatus{
		State:     state,
		Disks:     []v1alpha1.Disk{{ID: "a", State: state, Faults: []v1alpha1.Fault{{Class: "Medium", Count: count}}}},
		KernelLog: &v1alpha1.KernelLogPosition{Sequence: seq},
	}
}

func slow() report.Pace {
	p := report.DefaultPace()
	p.Coalesce, p.Counts, p.Heartbeat, p.Retry, p.RetryMax = time.Millisecond, time.Hour, time.Hour, time.Millisecond, 5*time.Millisecond
	return p
}

func TestWriterWritesWhatMatters(t *testing.T) {
	s := newServer()
	w := start(t, s, s.put("u"), slow())
	w.Offer(status(v1alpha1.DiskHealthy, 0, 1))
	s.await(t)
	w.Offer(status(v1alpha1.DiskHealthy, 0, 99)) // lines that say nothing of disks
	w.Offer(status(v1alpha1.DiskHealthy, 5, 100))
	s.quiet(t, 50*time.Millisecond) // counts wait
	w.Offer(status(v1alpha1.DiskFailed, 7, 101))
	s.await(t)
	if got := s.obj.Status; got.State != v1alpha1.DiskFailed || got.Disks[0].Faults[0].Count != 7 || got.KernelLog.Sequence != 101 || got.ReportTime == nil {
		t.Errorf("status %+v", got)
	}
}

func TestWriterPacesCounts(t *testing.T) {
	s, p := newServer(), slow()
	p.Counts = 200 * time.Millisecond
	w := start(t, s, s.put("u"), p)
	w.Offer(status(v1alpha1.DiskFailed, 0, 1))
	s.await(t)
	begin := time.Now()
	for i := range int64(100) {
		w.Offer(status(v1alpha1.DiskFailed, i+1, i))
	}
	s.await(t)
	if d := time.Since(begin); d < 150*time.Millisecond {
		t.Errorf("counts were written after %s", d)
	}
	if n := s.obj.Status.Disks[0].Faults[0].Count; n != 100 {
		t.Errorf("count %d", n)
	}
}

// A storm of lines about some disks is a change of their states, which may take two writes, and then counts: with
// one each 10 s that makes eight in the first minute, where six are the goal.
func TestDefaultPaceOfStorms(t *testing.T) {
	if p := report.DefaultPace(); 2+int(time.Minute/p.Counts) > 6 {
		t.Errorf("counts are written every %s", p.Counts)
	}
}

// A disk that comes and goes: the first writes are made at once, then there are few, and the
// last word is written.
func TestWriterPacesStorms(t *testing.T) {
	s, p := newServer(), slow()
	p.Burst, p.Each = 3, 300*time.Millisecond
	w := start(t, s, s.put("u"), p)
	begin := time.Now()
	states := [...]v1alpha1.DiskState{v1alpha1.DiskHealthy, v1alpha1.DiskMissing}
	flap := time.NewTicker(time.Millisecond)
	defer flap.Stop()
	for i := 0; time.Since(begin) < time.Second; i++ {
		<-flap.C
		w.Offer(status(states[i%2], 0, int64(i)))
	}
	took := time.Since(begin)
	s.mu.Lock()
	n := s.writes
	s.mu.Unlock()
	if most := p.Burst + 1 + int(took/p.Each); n > most || n < p.Burst {
		t.Errorf("%d writes in %s, want %d to %d", n, took, p.Burst, most)
	}
	w.Offer(status(v1alpha1.DiskFailed, 0, 0))
	wait.For(t, 5*time.Second, "the last state", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.obj.Status.State == v1alpha1.DiskFailed
	})
}

func TestWriterBeats(t *testing.T) {
	s, p := newServer(), slow()
	p.Heartbeat = 50 * time.Millisecond
	w := start(t, s, s.put("u"), p)
	w.Offer(status(v1alpha1.DiskHealthy, 0, 1))
	s.await(t)
	s.await(t)
}

func TestWriterConflict(t *testing.T) {
	s := newServer()
	stale := s.put("u")
	s.put("u") // somebody changed the spec
	w := start(t, s, stale, slow())
	w.Offer(status(v1alpha1.DiskHealthy, 0, 1))
	s.await(t)
	if c := w.Counts(); c.Conflicts != 1 || c.Writes != 1 || c.Errors != 0 {
		t.Errorf("%+v", c)
	}
}

func TestWriterWaitsForTheObject(t *testing.T) {
	s := newServer()
	w := start(t, s, nil, slow())
	w.Offer(status(v1alpha1.DiskHealthy, 0, 1))
	s.quiet(t, 30*time.Millisecond)
	w.Seen(s.put("u"))
	s.await(t)

	s.mu.Lock()
	s.obj = nil // the Node's object is made anew
	s.mu.Unlock()
	w.Seen(nil)
	w.Seen(s.put("v"))
	s.await(t)
	if c := w.Counts(); c.Errors != 0 {
		t.Errorf("%+v", c)
	}
}

func TestWriterRetries(t *testing.T) {
	s := newServer()
	s.fail = errors.New("connection refused")
	w := start(t, s, s.put("u"), slow())
	w.Offer(status(v1alpha1.DiskFailed, 1, 1))
	wait.For(t, 5*time.Second, "the third try", func() bool { return w.Counts().Errors >= 3 })
	s.mu.Lock()
	s.fail = nil
	s.mu.Unlock()
	s.await(t)
}

// A restart is no reason to write.
func TestWriterResumes(t *testing.T) {
	s := newServer()
	stored := s.put("u")
	stored.Status = *status(v1alpha1.DiskHealthy, 3, 7)
	minuteAgo := metav1.NewTime(time.Now().Add(-time.Minute))
	stored.Status.ReportTime = &minuteAgo
	w := start(t, s, stored, slow())
	w.Offer(status(v1alpha1.DiskHealthy, 3, 9))
	s.quiet(t, 50*time.Millisecond)
}
