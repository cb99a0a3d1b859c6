package cleaner

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local"
	"holdfast.dev/provisioners/local/wipe"
)

const (
	retryFirst = 5 * time.Second // doubled up to retryMax while a volume cannot be cleaned
	retryMax   = 5 * time.Minute
	minGap     = 250 * time.Millisecond
	watchEvery = 10 * time.Second // how often running cleanings are looked at for a stall
	tellEvery  = 10 * time.Minute // of progress
	proofAfter = 365 * 24 * time.Hour
	stuckAfter = 5 * time.Minute // without a finished pass the daemon is not alive
)

// Config of a Controller.
type Config struct {
	Node     string
	Cached   client.Reader // this node's own volumes and its ComputeNode
	Cluster  *Cluster
	Cleaning Cleaning // its Progress is the controller's
	Prover   Prover
	// Certified says whether a raw partition has an unused certificate.
	Certified func(disk string, p nodedisks.Partition, bytes int64) (bool, error)
	Deadline  time.Duration // of one chunk or step
	Metrics   *Metrics
	Log       *slog.Logger
	Now       func() time.Time
}

// Controller cleans what there is to clean on one node: one partition at a time of
// each disk, all disks side by side. A disk that hangs keeps its own worker and
// nobody else's.
type Controller struct {
	Config
	wake     chan struct{}
	finished atomic.Int64            // Unix nanoseconds of the last finished pass; 0 before the first
	seen     map[types.UID]types.UID // volumes that were noted as Bound, and their claims; of the passes alone

	mu    sync.Mutex
	work  map[string]*work     // by disk
	waits map[string]*waiting  // by volume
	proof map[string]time.Time // when the raw partition of a volume may be read again
	wg    sync.WaitGroup

	boundMu sync.Mutex
	bound   []*corev1.PersistentVolume // seen Bound since the last pass
}

// work is one cleaning or proof that is under way.
type work struct {
	volume string
	pv     *corev1.PersistentVolume // nil for a proof
	cancel context.CancelCauseFunc
	moved  time.Time // when it last got on
	told   time.Time
	done   int64
	stuck  bool
}

// waiting is a volume that could not be cleaned.
type waiting struct {
	reason Reason
	at     time.Time // when it is tried again
	delay  time.Duration
}

// NewController wires a controller.
func NewController(c Config) *Controller {
	ctl := &Controller{
		Config: c, wake: make(chan struct{}, 1), seen: map[types.UID]types.UID{}, work: map[string]*work{}, waits: map[string]*waiting{}, proof: map[string]time.Time{},
	}
	ctl.Cleaning.Progress = ctl.progress
	return ctl
}

// Changed is what a watch tells. A volume that is Bound is kept in mind for the next
// pass, which may find it released already.
func (c *Controller) Changed(obj any) {
	if pv, ok := obj.(*corev1.PersistentVolume); ok && pv.Status.Phase == corev1.VolumeBound {
		c.boundMu.Lock()
		c.bound = append(c.bound, pv)
		c.boundMu.Unlock()
	}
	c.Wake()
}

// Wake asks for a pass soon. It never blocks.
func (c *Controller) Wake() {
	select {
	case c.wake <- struct{}{}:
	default: // one is asked for already
	}
}

// Run starts and stops cleanings until ctx ends, and returns when they have
// ended, but for those of disks that hang. Nothing is looked at on a fixed
// interval but what is under way: a change of a volume or of the ComputeNode
// wakes it, and what failed is tried again after a growing delay.
func (c *Controller) Run(ctx context.Context) {
	for ctx.Err() == nil {
		next := c.pass(ctx)
		c.finished.Store(c.Now().UnixNano())
		pause(ctx, minGap, (chan struct{})(nil))
		pause(ctx, next, c.wake)
	}
	ended := make(chan struct{})
	go func() { c.wg.Wait(); close(ended) }()
	pause(context.WithoutCancel(ctx), callTimeout, ended)
}

func pause[T any](ctx context.Context, d time.Duration, wake <-chan T) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-wake:
	}
}

// pass compares what is under way with what should be, and says when to look again.
func (c *Controller) pass(ctx context.Context) time.Duration {
	var list corev1.PersistentVolumeList
	if err := c.Cached.List(ctx, &list, client.MatchingLabels{v1alpha1.LabelNode: c.Node}); err != nil {
		c.Log.Info("list volumes", "error", err)
		return retryFirst
	}
	c.boundMu.Lock()
	bound := c.bound
	c.bound = nil
	c.boundMu.Unlock()
	volumes := make(map[string]*corev1.PersistentVolume, len(list.Items))
	for i := range list.Items {
		volumes[list.Items[i].Name] = &list.Items[i]
		bound = append(bound, &list.Items[i])
	}
	c.remember(bound)
	closed := c.quarantined(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	for disk, w := range c.work {
		c.revise(disk, w, volumes, closed)
	}
	for name := range c.waits {
		if pv := volumes[name]; pv == nil || !Candidate(pv) {
			delete(c.waits, name)
		}
	}
	next := c.start(ctx, list.Items)
	if t := c.prove(ctx, volumes, closed); t < next {
		next = t
	}
	reasons := map[Reason]int{}
	for _, w := range c.waits {
		reasons[w.reason]++
	}
	c.Metrics.waits(reasons)
	return next
}

// remember notes the volumes that are Bound, whatever their reclaim policy is now. It
// is done at every pass; one that was Bound only while this daemon was not there is not
// cleaned until a person says so.
func (c *Controller) remember(volumes []*corev1.PersistentVolume) {
	for _, pv := range volumes {
		disk, part := pv.Annotations[v1alpha1.AnnotationDisk], pv.Annotations[v1alpha1.AnnotationPartition]
		if pv.Status.Phase != corev1.VolumeBound || pv.Spec.ClaimRef == nil || pv.Spec.ClaimRef.UID == "" || pv.Name != local.VolumeName(disk, part) {
			continue
		}
		t := tenancy(pv)
		if c.seen[pv.UID] == t.Claim {
			continue
		}
		t.Time = c.Now().UTC()
		if err := c.Cleaning.Histories.NoteBound(part, t); err != nil {
			c.Metrics.errors.Inc()
			c.Log.Info("volume not noted as bound", "volume", pv.Name, "error", err)
			continue
		}
		c.seen[pv.UID] = t.Claim
	}
}

// quarantined are the disks that the watched ComputeNode closes.
func (c *Controller) quarantined(ctx context.Context) map[string]bool {
	closed := map[string]bool{}
	var cn v1alpha1.ComputeNode
	if err := c.Cached.Get(ctx, client.ObjectKey{Name: c.Node}, &cn); err != nil {
		return closed // a cleaning reads it live before it begins
	}
	for _, q := range cn.Spec.Quarantine {
		closed[q.Disk] = true
	}
	return closed
}

// revise ends a cleaning whose volume is not what it was, and tells of stalls.
func (c *Controller) revise(disk string, w *work, volumes map[string]*corev1.PersistentVolume, closed map[string]bool) {
	pv := volumes[w.volume]
	switch {
	case closed[disk]:
		w.cancel(refuse(ReasonQuarantined, "the disk was quarantined"))
	case w.pv == nil && pv != nil:
		w.cancel(errors.New("the volume was made by somebody else"))
	case w.pv != nil && (pv == nil || pv.UID != w.pv.UID || !Candidate(pv)):
		w.cancel(refuse(ReasonNotReleased, "the volume is gone or was changed"))
	}
	late := c.Now().Sub(w.moved)
	if stuck := late > c.Deadline; stuck != w.stuck {
		w.stuck = stuck
		c.Metrics.stalled.WithLabelValues(disk).Set(map[bool]float64{true: 1}[stuck])
		if stuck {
			c.say(corev1.EventTypeWarning, "CleaningStalled", w.volume,
				fmt.Sprintf("disk %s has not answered for %s; other disks go on", disk, late.Round(time.Second)))
		}
	}
}

// start begins what is due, one for each idle disk.
func (c *Controller) start(ctx context.Context, volumes []corev1.PersistentVolume) time.Duration {
	next := retryMax
	if len(c.work) > 0 {
		next = watchEvery
	}
	for i := range volumes {
		pv := volumes[i].DeepCopy()
		disk := pv.Annotations[v1alpha1.AnnotationDisk]
		delete(c.proof, pv.Name) // what its partition holds may change from now on
		if !Candidate(pv) || c.work[disk] != nil {
			continue
		}
		if w := c.waits[pv.Name]; w != nil {
			if left := w.at.Sub(c.Now()); left > 0 {
				next = min(next, left)
				continue
			}
		}
		c.begin(ctx, disk, pv.Name, pv, func(ctx context.Context) error { return c.Cleaning.Run(ctx, pv.Name) })
		next = min(next, watchEvery)
	}
	return next
}

// begin runs one piece of work of a disk.
func (c *Controller) begin(ctx context.Context, disk, volume string, pv *corev1.PersistentVolume, run func(context.Context) error) {
	ctx, cancel := context.WithCancelCause(ctx)
	c.work[disk] = &work{volume: volume, pv: pv, cancel: cancel, moved: c.Now(), told: c.Now(), done: -1}
	c.wg.Go(func() {
		err := run(ctx)
		if cause := context.Cause(ctx); err != nil && cause != nil {
			err = cause
		}
		cancel(nil)
		c.mu.Lock()
		delete(c.work, disk)
		c.mu.Unlock()
		c.Metrics.stalled.DeleteLabelValues(disk)
		c.Metrics.progress.DeleteLabelValues(disk, volume)
		if pv != nil {
			c.ended(volume, disk, err)
		} else if err != nil && !errors.Is(err, context.Canceled) {
			c.Log.Info("raw partition not read", "volume", volume, "disk", disk, "error", err)
		}
		c.Wake()
	})
}

// ended notes how a cleaning ended.
func (c *Controller) ended(volume, disk string, err error) {
	switch {
	case err == nil:
		c.mu.Lock()
		delete(c.waits, volume)
		c.mu.Unlock()
		c.Metrics.cleaned.Inc()
		c.Log.Info("volume cleaned", "volume", volume, "disk", disk)
		c.say(corev1.EventTypeNormal, "VolumeCleaned", volume, fmt.Sprintf("volume %s of disk %s was cleaned and is offered anew", volume, disk))
		return
	case errors.Is(err, context.Canceled):
		return // the daemon ends; the record leads on
	}
	reason := ReasonFailed
	var no *Refusal
	if errors.As(err, &no) {
		reason = no.Reason
	} else if errors.Is(err, wipe.ErrBusy) {
		reason = ReasonInUse
	}
	if reason == ReasonFailed {
		c.Metrics.errors.Inc()
	}
	c.mu.Lock()
	w := c.waits[volume]
	news := w == nil || w.reason != reason
	if w == nil {
		w = &waiting{delay: retryFirst}
		c.waits[volume] = w
	}
	w.reason, w.at, w.delay = reason, c.Now().Add(w.delay), min(2*w.delay, retryMax)
	c.mu.Unlock()
	c.Log.Info("volume not cleaned", "volume", volume, "disk", disk, "reason", string(reason), "error", err)
	if news {
		c.say(corev1.EventTypeWarning, "VolumeNotCleaned", volume, fmt.Sprintf("%s: disk %s, volume %s: %v", reason, disk, volume, err))
	}
}

// progress is told by a cleaning.
func (c *Controller) progress(j Job, step Step, done int64) {
	c.mu.Lock()
	w := c.work[j.Disk]
	if w == nil {
		c.mu.Unlock()
		return
	}
	now := c.Now()
	first := w.done < 0
	if step == StepWipe && !first && done > w.done {
		c.Metrics.bytes.Add(float64(done - w.done))
	}
	w.done, w.moved = done, now
	tell := now.Sub(w.told) >= tellEvery
	if tell {
		w.told = now
	}
	c.mu.Unlock()
	ratio := 1.0
	if step == StepWipe {
		ratio = float64(done) / float64(j.Bytes)
	}
	c.Metrics.progress.WithLabelValues(j.Disk, j.Volume).Set(ratio)
	if step != StepWipe || first || tell {
		c.Log.Info("cleaning", "volume", j.Volume, "disk", j.Disk, "partition", j.Partition, "method", string(j.Method),
			"step", string(step), "zeroed", done, "bytes", j.Bytes)
	}
	if tell {
		c.say(corev1.EventTypeNormal, "VolumeCleaning", j.Volume, fmt.Sprintf("volume %s of disk %s: %s, %.0f%%", j.Volume, j.Disk, step, 100*ratio))
	}
}

// say tells people without waiting for the API server.
func (c *Controller) say(kind, reason, volume, note string) {
	c.wg.Go(func() {
		if err := c.Cluster.tell(context.Background(), kind, reason, volume, note); err != nil {
			c.Log.Info("event lost", "error", err)
		}
	})
}

// prove begins to read raw partitions of idle disks that nobody can vouch for.
func (c *Controller) prove(ctx context.Context, volumes map[string]*corev1.PersistentVolume, closed map[string]bool) time.Duration {
	f, err := c.Cluster.Disks.Disks(ctx)
	if err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			c.Log.Info("read disks", "error", err)
		}
		return retryMax
	}
	for _, d := range f.Disks {
		for _, p := range d.Partitions {
			name := local.VolumeName(d.ID, p.UUID)
			_, _, listed := local.Listed(f, name)
			if !listed || p.Filesystem != "" || volumes[name] != nil || closed[d.ID] || c.proof[name].After(c.Now()) || c.work[d.ID] != nil {
				continue
			}
			c.begin(ctx, d.ID, name, nil, func(ctx context.Context) error { return c.read(ctx, name, d, p) })
			break
		}
	}
	return retryMax
}

// read reads one raw partition, unless it has a certificate. Each is read once,
// until its volume was seen again.
func (c *Controller) read(ctx context.Context, volume string, d nodedisks.Disk, p nodedisks.Partition) (err error) {
	c.readAgain(volume, proofAfter)
	defer func() {
		if err != nil {
			c.readAgain(volume, retryMax)
		}
	}()
	s, err := c.Prover.Looker.Sight(ctx, d, p)
	if err != nil || s.Device == nil {
		return err
	}
	if ok, err := c.Certified(d.ID, p, s.Device.Bytes); err != nil || ok {
		return err
	}
	c.Log.Info("reading raw partition, which has no volume and no certificate", "volume", volume, "disk", d.ID, "partition", p.UUID)
	clean, err := c.Prover.Run(ctx, d, p)
	if err != nil {
		return err
	}
	found := "dirty"
	if clean {
		found = "clean"
	}
	c.Metrics.proved.WithLabelValues(found).Inc()
	c.Log.Info("raw partition read", "volume", volume, "disk", d.ID, "found", found)
	return nil
}

func (c *Controller) readAgain(volume string, after time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.proof[volume] = c.Now().Add(after)
}
