package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	fwk "k8s.io/kube-scheduler/framework"
	"k8s.io/kubernetes/pkg/scheduler/framework/plugins/volumebinding"

	"holdfast.dev/internal/placement"
)

// Name is the plugin's name in a KubeSchedulerConfiguration.
const Name = "HoldfastVolumes"

// Plugin is the plugin of one profile.
type Plugin struct {
	upstream *volumebinding.VolumeBinding
	core     *core
	binder   *binder
	retry    *retry
	metrics  *metrics
}

var (
	_ fwk.PreFilterPlugin   = &Plugin{}
	_ fwk.FilterPlugin      = &Plugin{}
	_ fwk.PreScorePlugin    = &Plugin{}
	_ fwk.ScorePlugin       = &Plugin{}
	_ fwk.ReservePlugin     = &Plugin{}
	_ fwk.PreBindPlugin     = &Plugin{}
	_ fwk.EnqueueExtensions = &Plugin{}
	_ fwk.SignPlugin        = &Plugin{}
)

const stateKey fwk.StateKey = Name

// state is what one scheduling attempt of a pod with own claims knows.
type state struct {
	claims *podClaims
	// upstream is false when the upstream plugin has nothing to do.
	upstream bool

	mu    sync.Mutex // Filter runs in parallel
	costs map[string]placement.Cost

	plan plan // from Reserve on
}

// Clone returns the same state: a simulated preemption frees no disk.
func (s *state) Clone() fwk.StateData { return s }

// stateOf is nil for a pod without own claims.
func stateOf(cs fwk.CycleState) *state {
	d, err := cs.Read(stateKey)
	if err != nil {
		return nil
	}
	s, ok := d.(*state)
	if !ok {
		return nil
	}
	return s
}

// Name is the plugin's name.
func (p *Plugin) Name() string { return Name }

// PreFilter sorts the pod's claims.
func (p *Plugin) PreFilter(ctx context.Context, cs fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) (*fwk.PreFilterResult, *fwk.Status) {
	if !hasClaims(pod) {
		return p.upstream.PreFilter(ctx, cs, pod, nodes)
	}
	start := time.Now()
	p.binder.catchUp(ctx, pod)
	claims, refused, settles := p.core.look(pod)
	if refused != "" {
		p.retry.later(pod, settles)
		return nil, fwk.NewStatus(fwk.UnschedulableAndUnresolvable, refused)
	}
	if !claims.own() {
		return p.upstream.PreFilter(ctx, cs, pod, nodes)
	}
	if err := p.retry.ready(ctx); err != nil {
		return nil, fwk.AsStatus(err)
	}
	p.retry.later(pod, settles)
	s := &state{claims: claims, costs: map[string]placement.Cost{}}
	result, status := p.upstream.PreFilter(ctx, cs, claims.rest, nodes)
	if !status.IsSuccess() && !status.IsSkip() {
		return nil, status
	}
	s.upstream = status.IsSuccess()
	cs.Write(stateKey, s)
	if claims.node != "" {
		only := &fwk.PreFilterResult{NodeNames: sets.New(claims.node)}
		result = result.Merge(only)
	}
	p.metrics.observe("prefilter", start)
	return result, nil
}

func hasClaims(pod *corev1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if v := &pod.Spec.Volumes[i]; v.PersistentVolumeClaim != nil || v.Ephemeral != nil {
			return true
		}
	}
	return false
}

// PreFilterExtensions is nil: pods that come and go change nothing of the pod's claims.
func (p *Plugin) PreFilterExtensions() fwk.PreFilterExtensions { return nil }

// Filter asks whether all claims fit on the node.
func (p *Plugin) Filter(ctx context.Context, cs fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) *fwk.Status {
	s := stateOf(cs)
	if s == nil {
		return p.upstream.Filter(ctx, cs, pod, node)
	}
	if s.upstream {
		if status := p.upstream.Filter(ctx, cs, s.claims.rest, node); !status.IsSuccess() {
			return status
		}
	}
	f := p.core.ask(s.claims, node.Node())
	if f.refused != "" {
		return fwk.NewStatus(fwk.UnschedulableAndUnresolvable, string(f.refused))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.costs[node.Node().Name] = f.cost
	return nil
}

// PreScore leaves pods without own claims to the upstream plugin.
func (p *Plugin) PreScore(ctx context.Context, cs fwk.CycleState, pod *corev1.Pod, nodes []fwk.NodeInfo) *fwk.Status {
	if s := stateOf(cs); s != nil {
		if len(s.claims.free) == 0 || len(nodes) < 2 {
			return fwk.NewStatus(fwk.Skip)
		}
		return nil
	}
	return p.upstream.PreScore(ctx, cs, pod, nodes)
}

// Two costs in one number, until NormalizeScore has those of all nodes: broken
// preferences above the bits of load.
const loadBits = 31

// Score puts a node's cost into a number. Less is better until NormalizeScore.
func (p *Plugin) Score(ctx context.Context, cs fwk.CycleState, pod *corev1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	s := stateOf(cs)
	if s == nil {
		return p.upstream.Score(ctx, cs, pod, node)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	cost := s.costs[node.Node().Name]
	return cost.Violations<<loadBits | min(cost.Load, 1<<loadBits-1), nil
}

// ScoreExtensions turns costs into scores.
func (p *Plugin) ScoreExtensions() fwk.ScoreExtensions { return p }

// minSpread keeps small differences of load small: with fewer volumes between
// the emptiest and the fullest disk, a volume is 10 points of 100.
const minSpread = 10

// NormalizeScore ranks the nodes: the fewest broken preferences first, then the
// least loaded disks.
func (p *Plugin) NormalizeScore(_ context.Context, cs fwk.CycleState, _ *corev1.Pod, scores fwk.NodeScoreList) *fwk.Status {
	if stateOf(cs) == nil || len(scores) == 0 {
		return nil // upstream's Score is a score
	}
	split := func(n int64) (violations, load int64) { return n >> loadBits, n & (1<<loadBits - 1) }
	worst, low := split(scores[0].Score)
	high := low
	for _, s := range scores {
		v, l := split(s.Score)
		worst, low, high = max(worst, v), min(low, l), max(high, l)
	}
	top := fwk.MaxScore
	if worst > 0 {
		top /= 2
	}
	for i := range scores {
		v, l := split(scores[i].Score)
		score := top - top*(l-low)/max(high-low, minSpread)
		if worst > 0 {
			score += top * (worst - v) / worst
		}
		scores[i].Score = score
	}
	return nil
}

// Reserve decides for the chosen node and reserves the choice.
func (p *Plugin) Reserve(ctx context.Context, cs fwk.CycleState, pod *corev1.Pod, nodeName string) *fwk.Status {
	s := stateOf(cs)
	if s == nil {
		return p.upstream.Reserve(ctx, cs, pod, nodeName)
	}
	node, err := p.binder.nodes.Get(nodeName)
	if err != nil {
		return fwk.AsStatus(fmt.Errorf("read node %s: %w", nodeName, err))
	}
	start := time.Now()
	claims, f := p.core.reserve(pod, node)
	p.metrics.observe("reserve", start)
	if f.refused != "" {
		p.metrics.refused.Inc()
		return fwk.NewStatus(fwk.Unschedulable, string(f.refused))
	}
	if !claims.own() { // bound by somebody since PreFilter; the next attempt sees bound claims
		return fwk.AsStatus(errors.New("the pod's claims were bound by another scheduler meanwhile"))
	}
	if !f.proven {
		p.metrics.bounded.Inc()
	}
	p.retry.done(pod)
	p.metrics.placed.Add(float64(len(f.choices)))
	s.plan = newPlan(node.Name, claims, f)
	if s.upstream {
		return p.upstream.Reserve(ctx, cs, claims.restOf(pod), nodeName)
	}
	return nil
}

// Unreserve gives back what was reserved and not yet written.
func (p *Plugin) Unreserve(ctx context.Context, cs fwk.CycleState, pod *corev1.Pod, nodeName string) {
	s := stateOf(cs)
	if s == nil {
		p.upstream.Unreserve(ctx, cs, pod, nodeName)
		return
	}
	if s.upstream {
		p.upstream.Unreserve(ctx, cs, s.claims.restOf(pod), nodeName)
	}
	p.core.release(pod)
}

// PreBindPreFlight says whether PreBind has work.
func (p *Plugin) PreBindPreFlight(ctx context.Context, cs fwk.CycleState, pod *corev1.Pod, nodeName string) (*fwk.PreBindPreFlightResult, *fwk.Status) {
	if stateOf(cs) == nil {
		return p.upstream.PreBindPreFlight(ctx, cs, pod, nodeName)
	}
	return &fwk.PreBindPreFlightResult{AllowParallel: true}, nil
}

// PreBind writes the choice and waits until the claims are bound.
func (p *Plugin) PreBind(ctx context.Context, cs fwk.CycleState, pod *corev1.Pod, nodeName string) *fwk.Status {
	s := stateOf(cs)
	if s == nil {
		return p.upstream.PreBind(ctx, cs, pod, nodeName)
	}
	if err := p.binder.write(ctx, s.plan); err != nil {
		p.metrics.failed("write")
		return fwk.AsStatus(err)
	}
	// The two waits are one after the other, but what they wait for is not:
	// the upstream plugin's writes come after ours and before its wait.
	if s.upstream {
		view := s.claims.restOf(pod)
		if status := p.upstream.PreBind(ctx, cs, view, nodeName); !status.IsSuccess() {
			return status
		}
	}
	if err := p.binder.wait(ctx, pod, s.plan); err != nil {
		p.metrics.failed("wait")
		return fwk.AsStatus(err)
	}
	return nil
}

// SignPod signs a pod as the upstream plugin does: by its volumes. A pod with
// claims is like no other but one with the same claims, and Reserve decides for
// each anew.
func (p *Plugin) SignPod(ctx context.Context, pod *corev1.Pod) ([]fwk.SignFragment, *fwk.Status) {
	return p.upstream.SignPod(ctx, pod)
}

// restOf is the view of a later copy of the pod, which has its node's name.
func (p *podClaims) restOf(pod *corev1.Pod) *corev1.Pod {
	view := *pod
	view.Spec.Volumes = p.rest.Spec.Volumes
	return &view
}
