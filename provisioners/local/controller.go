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
	cleaned map[string]bool // storage classes
	pod     string          // of this daemon, as the options say

	wake     chan struct{}
	finished atomic.Int64 // Unix nanoseconds of the last finished pass; 0 before the first
	told     map[string]Reason
	closed   closed
}

// closed is the last answer about quarantine when it closed all that was asked
// for. A change of the ComputeNode is an event; until then the answer stands.
type closed struct {
	volumes string // those asked for
	answer  Quarantine
}

// NewController wires a controller for o.NodeName. cached needs only to list the
// PersistentVolumes that carry this node's label; live must not be cached.
func NewController(o Options, host *Host, cached client.Reader, live client.Client, m *Metrics, log *slog.Logger) *Controller {
	return &Controller{
		node: o.NodeName, cleaned: o.Clean.Has(), pod: o.Pod, host: host, cached: cached, live: live, metrics: m, log: log, now: time.Now,
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

// Run passes over the node at every wake until ctx ends. A failed pass is repeated
// after a growing delay. before runs ahead of each pass.
//
// It also looks once a minute. That finds what the kernel announces to nobody: ext4
// turns read-only after an error without a change of the mount table, a mount
// under /host comes late. Such a look reads files and asks the API server nothing,
// unless there is a volume to create.
func (c *Controller) Run(ctx context.Context, before func(context.Context) error) {
	delay, asked := retryFirst, true
	for {
		next := resync
		err := before(ctx)
		if err != nil {
			c.metrics.failed(opWatch)
		}
		if err = errors.Join(err, c.pass(ctx, asked)); ctx.Err() != nil {
			return
		}
		if err != nil {
			c.log.Info("pass had errors", "error", err, "retryIn", delay.String())
			next, delay = delay, min(2*delay, resync)
		} else {
			delay = retryFirst
		}
		pause(ctx, minGap, nil)
		asked = pause(ctx, next, c.wake) || err != nil
		if ctx.Err() != nil {
			return
		}
	}
}

// pause waits for d, wake or the end of ctx, and says whether it was wake.
func pause(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-wake:
		return true
	}
	return false
}

// pass looks at the node once and creates what is to be created. asked is false
// when nothing has changed as far as anybody knows.
func (c *Controller) pass(ctx context.Context, asked bool) error {
	start := c.now()
	err := c.offer(ctx, asked)
	c.metrics.passes.Observe(c.now().Sub(start).Seconds())
	c.finished.Store(c.now().UnixNano())
	return err
}

func (c *Controller) offer(ctx context.Context, asked bool) error {
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
	evidence, present := c.host.Look(ctx, disks, func(volume string) bool { return existing[volume] != nil })
	in := Input{Node: c.node, Disks: disks, Evidence: evidence, Present: present, Existing: existing, Cleaned: c.cleaned}
	out := Decide(in)
	var errs []error
	if wanted := volumeNames(out.Create); wanted != "" { // ask as late as can be, and only when it matters
		if !asked && c.closed.volumes == wanted {
			in.Quarantine = c.closed.answer
		} else {
			if in.Quarantine.Err = c.checkNode(ctx); in.Quarantine.Err == nil {
				in.Quarantine = c.quarantine(ctx)
			}
			c.closed = closed{}
		}
		errs = append(errs, in.Quarantine.Err)
		out = Decide(in)
		if in.Quarantine.Err == nil && len(out.Create) == 0 {
			c.closed = closed{wanted, in.Quarantine}
		}
	}
	errs = append(errs, c.useUp(out))
	for i, pv := range out.Create {
		if i > 0 && in.Quarantine.Err == nil { // the first answer is fresh; a server that is gone is asked once
			in.Quarantine = c.quarantine(ctx)
		}
		reason, msg := in.Quarantine.closes(pv.Annotations[v1alpha1.AnnotationDisk])
		if reason == "" {
			reason, err = c.offerOne(ctx, pv, out.Use[pv.Annotations[v1alpha1.AnnotationPartition]])
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

// useUp notes the certificates of partitions whose volume stands: made by hand, or
// by another's hand freed from its claim.
func (c *Controller) useUp(out Decision) error {
	creating := map[string]bool{}
	for _, pv := range out.Create {
		creating[pv.Annotations[v1alpha1.AnnotationPartition]] = true
	}
	var errs []error
	for partition, id := range out.Use {
		if creating[partition] {
			continue // when it is its turn
		}
		if err := c.host.use(partition, id); err != nil {
			c.metrics.failed(opCertificate)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// offerOne creates one volume. The certificate of a raw partition is used up first,
// and given back only when the API server has surely refused the volume.
func (c *Controller) offerOne(ctx context.Context, pv *corev1.PersistentVolume, certificate string) (Reason, error) {
	partition := pv.Annotations[v1alpha1.AnnotationPartition]
	if certificate == "" && pv.Spec.VolumeMode != nil && *pv.Spec.VolumeMode == corev1.PersistentVolumeBlock {
		return ReasonDirty, fmt.Errorf("create volume %s: its partition has no certificate", pv.Name) // Decide never asks for it
	}
	if certificate != "" {
		if err := c.host.use(partition, certificate); err != nil {
			c.metrics.failed(opCertificate)
			return ReasonUnreadable, err
		}
	}
	reason, err := c.create(ctx, pv)
	if certificate != "" && (apierrors.IsForbidden(err) || apierrors.IsInvalid(err) || apierrors.IsUnauthorized(err)) {
		if uerr := c.host.unuse(partition, certificate); uerr != nil {
			c.metrics.failed(opCertificate)
			err = errors.Join(err, uerr)
		}
	}
	return reason, err
}

// volumeNames joins the volumes' names.
func volumeNames(volumes []*corev1.PersistentVolume) string {
	var b strings.Builder
	for _, pv := range volumes {
		b.WriteString(pv.Name + " ")
	}
	return b.String()
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
		w.Message += c.hint(w)
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
