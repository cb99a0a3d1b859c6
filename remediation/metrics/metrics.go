// Package metrics exposes what remediation decides and how the cluster stands:
// counters of decisions, and gauges read from the cache when they are scraped.
package metrics

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/policy"
)

const subsystem = "holdfast_remediation_"

// scrapeTimeout bounds one scrape's reads of the cache.
const scrapeTimeout = 5 * time.Second

// Collector is a prometheus.Collector. It must be made by New.
type Collector struct {
	cache     client.Reader
	decisions *prometheus.CounterVec

	plans, volumes, disks, slots, orphans, paused *prometheus.Desc
}

// decisions are counted from zero, so that a rate is right from the first one.
var decisions = [...]string{"quarantine", "lift", "mark", "unmark", "notify", "plan", "step", "finish"}

// New makes a collector that reads from a cache.
func New(cache client.Reader) *Collector {
	c := &Collector{
		cache: cache,
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: subsystem + "decisions_total",
			Help: "Decisions that were carried out, by kind.",
		}, []string{"decision"}),
		plans:   prometheus.NewDesc(subsystem+"plans", "Plans, by phase.", []string{"phase"}, nil),
		volumes: prometheus.NewDesc(subsystem+"quarantined_volumes", "PersistentVolumes that no new claim may bind.", nil, nil),
		disks:   prometheus.NewDesc(subsystem+"quarantined_disks", "Disks in quarantine.", nil, nil),
		slots:   prometheus.NewDesc(subsystem+"budget_slots_used", "Budget slots that plans hold.", nil, nil),
		orphans: prometheus.NewDesc(subsystem+"budget_slots_orphaned", "Budget slots whose plan is not there: only a person may free them.", nil, nil),
		paused:  prometheus.NewDesc(subsystem+"blocked", "1 while the policy lets no plan go on: it is paused, has no budgets, or is not there.", nil, nil),
	}
	for _, d := range decisions {
		c.decisions.WithLabelValues(d)
	}
	return c
}

// Decided counts a decision.
func (c *Collector) Decided(decision string) { c.decisions.WithLabelValues(decision).Inc() }

// Describe implements prometheus.Collector.
func (c *Collector) Describe(ch chan<- *prometheus.Desc) {
	c.decisions.Describe(ch)
	for _, d := range []*prometheus.Desc{c.plans, c.volumes, c.disks, c.slots, c.orphans, c.paused} {
		ch <- d
	}
}

// Collect implements prometheus.Collector. What cannot be read is left out.
func (c *Collector) Collect(ch chan<- prometheus.Metric) {
	c.decisions.Collect(ch)
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	// Nothing below changes what it reads, so the cache need not copy it.
	read := func(l client.ObjectList) bool { return c.cache.List(ctx, l, client.UnsafeDisableDeepCopy) == nil }

	var volumes corev1.PersistentVolumeList
	if read(&volumes) {
		n := 0
		for i := range volumes.Items {
			if volumes.Items[i].Labels[v1alpha1.LabelQuarantined] == "true" {
				n++
			}
		}
		gauge(c.volumes, n)
	}
	var nodes v1alpha1.ComputeNodeList
	if read(&nodes) {
		n := 0
		for i := range nodes.Items {
			n += len(nodes.Items[i].Spec.Quarantine)
		}
		gauge(c.disks, n)
	}
	var plans v1alpha1.RemediationList
	if !read(&plans) {
		return
	}
	phases := map[v1alpha1.Phase]int{}
	for i := range plans.Items {
		phase := plans.Items[i].Status.Phase
		if phase == "" {
			phase = v1alpha1.PhasePending
		}
		phases[phase]++
	}
	for _, p := range []v1alpha1.Phase{v1alpha1.PhasePending, v1alpha1.PhaseRunning, v1alpha1.PhaseSucceeded, v1alpha1.PhaseCancelled, v1alpha1.PhaseEscalated} {
		gauge(c.plans, phases[p], string(p))
	}
	c.policy(ctx, plans.Items, gauge)
}

// policy collects what the policy object says.
func (c *Collector) policy(ctx context.Context, plans []v1alpha1.Remediation, gauge func(*prometheus.Desc, int, ...string)) {
	var pol v1alpha1.RemediationPolicy
	err := c.cache.Get(ctx, types.NamespacedName{Name: v1alpha1.DefaultPolicy}, &pol)
	if client.IgnoreNotFound(err) != nil {
		return
	}
	blocked := 0
	if err != nil || policy.Blocked(&pol.Spec, &v1alpha1.ComputeNode{}) != "" {
		blocked = 1
	}
	there := map[types.UID]bool{}
	for i := range plans {
		there[plans[i].UID] = true
	}
	orphans := 0
	for _, r := range pol.Status.Reservations {
		if !there[r.UID] {
			orphans++
		}
	}
	gauge(c.slots, len(pol.Status.Reservations))
	gauge(c.orphans, orphans)
	gauge(c.paused, blocked)
}
