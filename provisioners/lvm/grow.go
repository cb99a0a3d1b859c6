package lvm

import (
	"context"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/provisioners/lvm/vg"
)

// AnnotationAutoGrow on a PersistentVolumeClaim is a policy of growth, such as
//
//	threshold=80%,step=20%,ceiling=500Gi
//
// When the file system is fuller than the threshold, the claim asks for step more (a
// share of its size, or a quantity), up to the ceiling. All three must be there: growth
// without a ceiling is somebody else's outage.
const AnnotationAutoGrow = "holdfast.dev/auto-grow"

// growEvery is how long a claim is left alone after it grew, and how often is looked:
// a runaway writer must not eat a pool in minutes.
const growEvery = 5 * time.Minute

// Policy is a policy of growth.
type Policy struct {
	Threshold float64 // share of the file system, 0 to 1
	StepShare float64 // of the size; 0 when Step is set
	Step      int64   // bytes
	Ceiling   int64   // bytes
}

// ParsePolicy reads the annotation. The error names what is wrong in it.
func ParsePolicy(s string) (Policy, error) {
	var p Policy
	seen := map[string]bool{}
	for field := range strings.SplitSeq(s, ",") {
		k, v, _ := strings.Cut(strings.TrimSpace(field), "=")
		share, err := strconv.ParseFloat(strings.TrimSuffix(v, "%"), 64)
		isShare := strings.HasSuffix(v, "%") && err == nil && share > 0
		q, qerr := resource.ParseQuantity(v)
		switch {
		case seen[k]:
			return Policy{}, fmt.Errorf("annotation %s: %s is there twice: %w", AnnotationAutoGrow, k, ErrInvalid)
		case k == "threshold" && isShare && share >= 10 && share <= 99:
			p.Threshold = share / 100
		case k == "step" && isShare && share <= 100:
			p.StepShare = share / 100
		case k == "step" && qerr == nil && q.Value() > 0:
			p.Step = q.Value()
		case k == "ceiling" && qerr == nil && q.Value() > 0:
			p.Ceiling = q.Value()
		default:
			return Policy{}, fmt.Errorf("annotation %s: %q (give threshold=80%%,step=20%%,ceiling=500Gi): %w", AnnotationAutoGrow, field, ErrInvalid)
		}
		seen[k] = true
	}
	if len(seen) != 3 {
		return Policy{}, fmt.Errorf("annotation %s=%q: give threshold, step and ceiling: %w", AnnotationAutoGrow, s, ErrInvalid)
	}
	return p, nil
}

// Next is the size that a volume of so many bytes is to have when used of total bytes
// of its file system are in use; 0 for no change.
func (p Policy) Next(size, used, total int64) int64 {
	if total <= 0 || size >= p.Ceiling || float64(used) < p.Threshold*float64(total) {
		return 0
	}
	step := p.Step
	if p.StepShare > 0 {
		step = int64(float64(size) * p.StepShare)
	}
	const round = 1 << 20
	return min((size+step+round-1)/round*round, p.Ceiling)
}

// Grower asks for more storage in the name of claims that allow it.
type Grower struct {
	engine *Engine
	api    client.Client
	log    *slog.Logger
	last   map[string]time.Time // by UID of the claim
}

// NewGrower makes a grower.
func NewGrower(e *Engine, api client.Client, log *slog.Logger) *Grower {
	return &Grower{engine: e, api: api, log: log, last: map[string]time.Time{}}
}

// Sync looks at one claim. Only the request is changed: the resizer does the rest, as if a
// person had asked. It is refused beforehand when the volume group or thin pool would
// not have the room.
func (g *Grower) Sync(ctx context.Context, claim *corev1.PersistentVolumeClaim, pv *corev1.PersistentVolume) error {
	text, asked := claim.Annotations[AnnotationAutoGrow]
	if !asked || claim.Status.Phase != corev1.ClaimBound || pv.Spec.CSI == nil || pv.Spec.CSI.Driver != DriverName {
		return nil
	}
	p, err := ParsePolicy(text)
	if err != nil {
		return err
	}
	request, has := claim.Spec.Resources.Requests[corev1.ResourceStorage], claim.Status.Capacity[corev1.ResourceStorage]
	if request.Cmp(has) > 0 || g.engine.now().Sub(g.last[string(claim.UID)]) < growEvery {
		return nil // it grows already, or did right now
	}
	h, err := ParseHandle(pv.Spec.CSI.VolumeHandle)
	if err != nil {
		return err
	}
	v, err := g.engine.Volume(ctx, h)
	if err != nil {
		return err
	}
	mounts, err := g.engine.mounts.Of(v.Device())
	if err != nil || len(mounts) == 0 || v.LV.Tags.Get(vg.KeyFS) == Block {
		return err // not in use, or nobody knows how full it is
	}
	u, err := g.engine.mounts.Usage(ctx, podPath(mounts))
	if err != nil {
		return err
	}
	next := p.Next(v.LV.Size, u.Used, u.Total)
	if next <= v.LV.Size {
		return nil
	}
	if err := g.engine.fits(h, next-v.LV.Size); err != nil {
		return fmt.Errorf("grow claim %s/%s to %d bytes: %w", claim.Namespace, claim.Name, next, err)
	}
	patch, err := merge(map[string]any{"metadata": map[string]any{"resourceVersion": claim.ResourceVersion},
		"spec": map[string]any{"resources": map[string]any{"requests": map[string]any{"storage": resource.NewQuantity(next, resource.BinarySI).String()}}}})
	if err == nil {
		err = g.api.Patch(ctx, claim.DeepCopy(), patch)
	}
	if err != nil {
		return fmt.Errorf("grow claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	g.last[string(claim.UID)] = g.engine.now()
	g.log.Info("claim grows by its policy", "claim", claim.Namespace+"/"+claim.Name, "bytes", next, "used", u.Used, "total", u.Total)
	return nil
}

// podPath prefers a mount below the kubelet's directory, which this process sees.
func podPath(mounts []Mount) string {
	for _, m := range mounts {
		if podOf(m.Target) != "" {
			return m.Target
		}
	}
	return mounts[0].Target
}

// fits is nil when a volume's group has so many more bytes, as known now.
func (e *Engine) fits(h Handle, more int64) error {
	g, err := e.group(h)
	if err != nil {
		return err
	}
	s, _, err := g.last()
	if err != nil {
		return err
	}
	lv := s.Find(h.LV)
	if lv == nil {
		return fmt.Errorf("volume %s: %w", h.LV, ErrNotFound)
	}
	return room(s, lv, more)
}
