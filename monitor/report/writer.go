package report

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
)

// StatusClient reads and writes the node's own ComputeNode.
type StatusClient interface {
	GetNode(ctx context.Context) (*v1alpha1.ComputeNode, error)
	UpdateStatus(ctx context.Context, n *v1alpha1.ComputeNode) (*v1alpha1.ComputeNode, error)
}

// Pace says how often the status is written.
type Pace struct {
	Coalesce  time.Duration // between a change and its write
	Burst     int           // writes that are made at once
	Each      time.Duration // time that makes up for one write of a burst
	Counts    time.Duration // least time between writes that change only counts and evidence
	Heartbeat time.Duration // time between writes when nothing changes
	Deadline  time.Duration // of one call
	Retry     time.Duration // after the first failure; doubles
	RetryMax  time.Duration
}

// DefaultPace is what a node uses. A disk that fails is written within a fraction of a
// second, as remediation needs it, and so are the disks of an adapter that go one after another; what
// goes on to change, such as a disk that comes and goes, costs the API server 6 writes a minute,
// and is then as much as 10 s old. A storm that adds to counts alone costs 4.
func DefaultPace() Pace {
	return Pace{Coalesce: 20 * time.Millisecond, Burst: 10, Each: 10 * time.Second, Counts: 15 * time.Second, Heartbeat: 5 * time.Minute, Deadline: 10 * time.Second, Retry: 200 * time.Millisecond, RetryMax: 15 * time.Second}
}

// Writer writes the newest status that it is offered. It creates no object: it
// waits until there is one. Its methods are safe for concurrent use.
type Writer struct {
	client StatusClient
	pace   Pace
	log    *slog.Logger
	wake   chan struct{}
	bucket *rate.Limiter // a token is a write that may be made at once

	mu      sync.Mutex
	want    *v1alpha1.ComputeNodeStatus
	base    *v1alpha1.ComputeNode // newest known; nil while there is none
	written *v1alpha1.ComputeNodeStatus
	last    time.Time // of the last write
	dirty   time.Time // since when want differs in more than counts
	counts  WriteCounts
}

// WriteCounts is what the writer has done.
type WriteCounts struct {
	Writes, Conflicts, Errors int64
	Last                      time.Time // last success
}

// NewWriter starts from stored, the object as it was read at the start, or nil.
func NewWriter(client StatusClient, pace Pace, stored *v1alpha1.ComputeNode, log *slog.Logger) *Writer {
	w := &Writer{client: client, pace: pace, log: log, wake: make(chan struct{}, 1), bucket: rate.NewLimiter(rate.Every(pace.Each), pace.Burst), base: stored}
	if stored != nil {
		w.written = stored.Status.DeepCopy()
		if t := stored.Status.ReportTime; t != nil && t.Time.Before(time.Now()) {
			w.last = t.Time // a restart is no reason to write
		}
	}
	return w
}

// Offer replaces the status to be written. The writer does not change it, and
// the caller must not either.
func (w *Writer) Offer(s *v1alpha1.ComputeNodeStatus) {
	w.mu.Lock()
	w.want = s
	if w.dirty.IsZero() && compare(w.written, s) == changed {
		w.dirty = time.Now()
	}
	w.mu.Unlock()
	w.poke()
}

// Seen tells of the object as a watch shows it, nil when it was deleted.
func (w *Writer) Seen(n *v1alpha1.ComputeNode) {
	w.mu.Lock()
	if n == nil || w.base == nil || w.base.UID != n.UID {
		w.written = nil // another object: it has none of what was written
	}
	w.base = n
	w.mu.Unlock()
	w.poke()
}

// Counts is what the writer has done so far.
func (w *Writer) Counts() WriteCounts {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.counts
}

func (w *Writer) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// Run writes until the context ends.
func (w *Writer) Run(ctx context.Context) {
	backoff := w.pace.Retry
	var notBefore time.Time
	for ctx.Err() == nil {
		wait, now := w.wait(), time.Now()
		if d := notBefore.Sub(now); d > wait {
			wait = d
		}
		if wait > 0 {
			t := time.NewTimer(wait)
			select {
			case <-ctx.Done():
			case <-w.wake:
			case <-t.C:
			}
			t.Stop()
			continue
		}
		err := w.write(ctx)
		if err == nil {
			backoff, notBefore = w.pace.Retry, time.Time{}
			continue
		}
		if ctx.Err() != nil {
			return
		}
		w.log.Info("status not written", "error", err.Error(), "retryIn", backoff.String())
		notBefore = time.Now().Add(backoff/2 + rand.N(backoff/2+1)) //nolint:gosec // jitter is no secret
		backoff = min(2*backoff, w.pace.RetryMax)
	}
}

type difference int

const (
	same difference = iota
	counted
	changed
)

// compare tells what kind of difference b makes to a.
func compare(a, b *v1alpha1.ComputeNodeStatus) difference {
	if a == nil {
		return changed
	}
	x, y := a.DeepCopy(), b.DeepCopy()
	for _, s := range []*v1alpha1.ComputeNodeStatus{x, y} {
		s.ReportTime = nil
		if s.KernelLog != nil {
			s.KernelLog.Sequence = 0 // lines that say nothing of disks move it too
		}
	}
	if equality.Semantic.DeepEqual(x, y) {
		return same
	}
	for _, s := range []*v1alpha1.ComputeNodeStatus{x, y} {
		s.KernelLog = nil
		for i := range s.Conditions {
			s.Conditions[i].Message = "" // which may tell each second of something else
		}
		for i := range s.Disks {
			for j := range s.Disks[i].Faults {
				f := &s.Disks[i].Faults[j]
				f.Count, f.Evidence, f.FirstSeen, f.LastSeen, f.Until = 0, "", metav1.Time{}, metav1.Time{}, nil
			}
		}
	}
	if equality.Semantic.DeepEqual(x, y) {
		return counted
	}
	return changed
}

// wait is how long nothing is to be written.
func (w *Writer) wait() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	const idle = time.Hour
	if w.want == nil {
		return idle
	}
	if w.base == nil {
		return w.pace.RetryMax - time.Since(w.last) // look whether there is one by now, in case the watch is broken
	}
	switch compare(w.written, w.want) {
	case changed:
		return max(w.pace.Coalesce-time.Since(w.dirty), w.untilToken())
	case counted:
		return w.pace.Counts - time.Since(w.last)
	}
	return w.pace.Heartbeat - time.Since(w.last)
}

// untilToken is how long the bucket has no token for a write.
func (w *Writer) untilToken() time.Duration {
	return time.Duration((1 - w.bucket.Tokens()) * float64(w.pace.Each))
}

// write writes what is wanted now. A conflict is tried again at once: the
// status has one writer, so only spec or metadata can have changed.
func (w *Writer) write(ctx context.Context) error {
	const tries = 4
	var err error
	for range tries {
		err = w.try(ctx)
		if !apierrors.IsConflict(err) {
			break
		}
		w.mu.Lock()
		w.base = nil
		w.counts.Conflicts++
		w.mu.Unlock()
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && !errors.Is(err, errNoNode) {
		w.counts.Errors++
		return err
	}
	w.last = time.Now()
	return nil
}

var errNoNode = errors.New("there is no ComputeNode of this name yet")

func (w *Writer) try(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, w.pace.Deadline)
	defer cancel()
	w.mu.Lock()
	base, want := w.base, w.want
	w.mu.Unlock()
	if base == nil {
		var err error
		if base, err = w.client.GetNode(ctx); apierrors.IsNotFound(err) {
			return errNoNode
		} else if err != nil {
			return fmt.Errorf("read ComputeNode: %w", err)
		}
	}
	n := base.DeepCopy()
	n.Status = *want.DeepCopy()
	now := metav1.Now()
	n.Status.ReportTime = &now
	got, err := w.client.UpdateStatus(ctx, n)
	w.mu.Lock()
	defer w.mu.Unlock()
	if apierrors.IsNotFound(err) {
		w.base, w.written = nil, nil
		return errNoNode
	}
	if err != nil {
		return fmt.Errorf("write status of ComputeNode: %w", err)
	}
	w.base, w.written = got, want
	w.counts.Writes++
	w.bucket.ReserveN(now.Time, 1) // those that failed have a pace of their own
	w.counts.Last = now.Time
	w.dirty = time.Time{}
	if compare(w.written, w.want) == changed {
		w.dirty = time.Now() // offered while this write was under way
	}
	return nil
}
