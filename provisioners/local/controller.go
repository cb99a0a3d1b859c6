package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
)

const (
	callTimeout = 10 * time.Second
	resync      = time.Minute            // finds what no event told
	minGap      = 250 * time.Millisecond // between two passes: pods mount and unmount in bursts
	retryFirst  = time.Second            // doubled up to resync while a pass has errors
	stuckAfter  = 5 * time.Minute        // without a finished pass the daemon is not alive
)

// Controller offers one node's partitions. Only Run calls its passes.
type Controller struct {
	node    string
	host    *Host
	cached  client.Reader // this node's own volumes
	live    client.Client // asks the API server
	metrics *Metrics
	log     *slog.Logger
	now     func() time.Time

	wake     chan struct{}
	finished atomic.Int64 // Unix nanoseconds of the last finished pass; 0 before the first
	told     map[string]Reason
}

// NewController wires a controller. cached needs only to list the
// PersistentVolumes that carry this node's label; live must not be cached.
func NewController(node string, host *Host, cached client.Reader, live client.Client, m *Metrics, log *slog.Logger) *Controller {
	return &Controller{
		node: node, host: host, cached: cached, live: live, metrics: m, log: log, now: time.Now,
		wake: make(chan struct{}, 1), told: map[string]Reason{},
	}
}

// Wake asks for a pass soon. It never blocks.
func (c *Controller) Wake() {
	select {
	case c.wake <- struct{}{}:
	default: // one is asked for already
	}
}

// Run passes over the node at every wake and every minute until ctx ends. A
// failed pass is repeated after a growing delay. before runs ahead of each pass.
func (c *Controller) Run(ctx context.Context, before func(context.Context) error) {
	delay := retryFirst
	for {
		next := resync
		err := before(ctx)
		if err != nil {
			c.metrics.failed(opWatch)
		}
		if err = errors.Join(err, c.pass(ctx)); ctx.Err() != nil {
			return
		}
		if err != nil {
			c.log.Info("pass had errors", "error", err, "retryIn", delay.String())
			next, delay = delay, min(2*delay, resync)
		} else {
			delay = retryFirst
		}
		if !pause(ctx, minGap, nil) || !pause(ctx, next, c.wake) {
			return
		}
	}
}

// pause waits for d or wake, and is false when ctx ended.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
	case <-wake:
	}
	return true
}

// pass looks at the node once and creates what is to be created.
func (c *Controller) pass(ctx context.Context) error {
	start := c.now()
	err := c.offer(ctx)
	c.metrics.passes.Observe(c.now().Sub(start).Seconds())
	c.finished.Store(c.now().UnixNano())
	return err
}

func (c *Controller) offer(ctx context.Context) error {
	existing, err := c.existing(ctx)
	if err != nil {
		c.metrics.failed(opListVolumes)
		return err
	}
	disks, err := c.host.Disks(ctx)
	if err != nil {
		c.metrics.set(unknown(existing))
		if errors.Is(err, fs.ErrNotExist) {
			c.log.Debug("no disks.yaml, the node is not prepared")
			return nil
		}
		c.metrics.failed(opReadDisks)
		return err
	}
	evidence, present := c.host.Look(ctx, disks)
	in := Input{Node: c.node, Disks: disks, Evidence: evidence, Present: present, Existing: existing}
	out := Decide(in)
	var errs []error
	if len(out.Create) > 0 { // ask as late as can be, and only when it matters
		if in.Quarantine.Err = c.checkNode(ctx); in.Quarantine.Err == nil {
			in.Quarantine = c.quarantine(ctx)
		}
		errs = append(errs, in.Quarantine.Err)
		out = Decide(in)
	}
	for i, pv := range out.Create {
		if i > 0 && in.Quarantine.Err == nil { // the first answer is fresh; a server that is gone is asked once
			in.Quarantine = c.quarantine(ctx)
		}
		reason, msg := in.Quarantine.closes(pv.Annotations[v1alpha1.AnnotationDisk])
		if reason == "" {
			reason, err = c.create(ctx, pv)
			if err != nil {
				errs, msg = append(errs, err), err.Error()
			}
		}
		if reason == "" {
			out.Volumes[pv.Name] = StateVerified
			continue
		}
		out.Withheld = append(out.Withheld, withheld(pv, reason, msg))
	}
	c.metrics.set(out)
	c.tell(ctx, out.Withheld)
	return errors.Join(errs...)
}

// existing lists this node's own volumes.
func (c *Controller) existing(ctx context.Context) (map[string]*corev1.PersistentVolume, error) {
	var list corev1.PersistentVolumeList
	if err := c.cached.List(ctx, &list, client.MatchingLabels{v1alpha1.LabelNode: c.node}); err != nil {
		return nil, fmt.Errorf("list volumes of node %s: %w", c.node, err)
	}
	byName := make(map[string]*corev1.PersistentVolume, len(list.Items))
	for i := range list.Items {
		byName[list.Items[i].Name] = &list.Items[i]
	}
	return byName, nil
}

// unknown is the decision while disks.yaml cannot be read: nothing is concluded.
func unknown(existing map[string]*corev1.PersistentVolume) Decision {
	d := Decision{Volumes: make(map[string]State, len(existing))}
	for name := range existing {
		d.Volumes[name] = StateUnverified
	}
	return d
}

// checkNode asks whether the Node is there and carries its own name as
// hostname label, which is what volumes are tied to.
func (c *Controller) checkNode(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var node corev1.Node
	err := c.live.Get(ctx, client.ObjectKey{Name: c.node}, &node)
	if host := node.Labels[corev1.LabelHostname]; err == nil && host != c.node {
		err = fmt.Errorf("its label %s is %q, not its name: volumes would be tied to another node", corev1.LabelHostname, host)
	}
	if err != nil {
		c.metrics.failed(opReadNode)
		return fmt.Errorf("read node %s: %w", c.node, err)
	}
	return nil
}

// quarantine asks the API server for this node's quarantine. A node without a
// ComputeNode has none; a cluster without that API is an error, for then the
// record of quarantine is what is missing.
func (c *Controller) quarantine(ctx context.Context) Quarantine {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var cn v1alpha1.ComputeNode
	err := c.live.Get(ctx, client.ObjectKey{Name: c.node}, &cn)
	if apierrors.IsNotFound(err) && !apierrors.HasStatusCause(err, metav1.CauseTypeUnexpectedServerResponse) {
		return Quarantine{}
	}
	if err != nil {
		c.metrics.failed(opReadQuarantine)
		return Quarantine{Err: fmt.Errorf("read compute node %s: %w", c.node, err)}
	}
	q := Quarantine{Disks: make(map[string]string, len(cn.Spec.Quarantine))}
	for _, e := range cn.Spec.Quarantine {
		q.Disks[e.Disk] = e.Reason + " by " + e.By
	}
	return q
}

// create creates one volume. That it exists already is success when it stands
// for the same partition: the cache was late. Else it is left alone.
func (c *Controller) create(ctx context.Context, pv *corev1.PersistentVolume) (Reason, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err := c.live.Create(ctx, pv.DeepCopy())
	if err == nil {
		c.metrics.creates.Inc()
		c.log.Info("volume created", "volume", pv.Name, "disk", pv.Annotations[v1alpha1.AnnotationDisk],
			"partition", pv.Annotations[v1alpha1.AnnotationPartition], "path", localPath(pv))
		return "", nil
	}
	if !apierrors.IsAlreadyExists(err) {
		c.metrics.failed(opCreate)
		return ReasonRefused, fmt.Errorf("create volume %s: %w", pv.Name, err)
	}
	var have corev1.PersistentVolume
	if err := c.live.Get(ctx, client.ObjectKeyFromObject(pv), &have); err != nil {
		c.metrics.failed(opReadVolume)
		return ReasonUnreadable, fmt.Errorf("read volume %s: %w", pv.Name, err)
	}
	if msg := conflict(&have, pv); msg != "" {
		c.metrics.failed(opConflict)
		return ReasonConflict, errors.New(msg)
	}
	return "", nil
}

// tell logs and publishes each reason once, and again when it changes.
func (c *Controller) tell(ctx context.Context, withheld []Withheld) {
	now, lost := make(map[string]Reason, len(withheld)), false
	slices.SortStableFunc(withheld, func(a, b Withheld) int { return strings.Compare(a.Volume, b.Volume) })
	for _, w := range withheld {
		now[w.Volume] = w.Reason
		if c.told[w.Volume] == w.Reason || w.Reason == ReasonQuarantineUnknown {
			continue // the latter is the pass's error, and the same for every volume
		}
		c.log.Info("volume withheld", "volume", w.Volume, "disk", w.Disk, "partition", w.Partition,
			"path", w.Path, "reason", string(w.Reason), "why", w.Message)
		if lost { // the API server is gone: do not wait for it once per volume
			continue
		}
		if err := c.warn(ctx, w); err != nil {
			lost = true
			c.metrics.failed(opEvent)
			c.log.Debug("event lost", "error", err)
		}
	}
	c.told = now
}
