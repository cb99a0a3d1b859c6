package docker

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/vg"
)

const namespace = "holdfast_docker_volume"

// Operations of the daemon's loop.
const (
	opRefresh = "refresh"
	opFinish  = "finish"
)

// Metrics of one plugin. A nil one counts nothing.
type Metrics struct {
	calls   *prometheus.HistogramVec
	errors  *prometheus.CounterVec
	volumes *prometheus.GaugeVec
	ready   *prometheus.GaugeVec
}

// NewMetrics registers the plugin's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: namespace + "_call_duration_seconds", Help: "Time that calls of Docker took, by method and result: ok or error.",
			Buckets: []float64{.005, .02, .1, .5, 2, 10, 60}}, []string{"method", "result"}),
		errors:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + "_errors_total", Help: "Errors of the daemon's own loop, by operation."}, []string{"operation"}),
		volumes: prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: namespace + "_volumes", Help: "Volumes of Docker by phase: creating, ready, deleting."}, []string{"volume_group", "phase"}),
		ready:   prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: namespace + "_volume_group_ready", Help: "1 when the volume group answers and is complete."}, []string{"volume_group"}),
	}
	reg.MustRegister(m.calls, m.errors, m.volumes, m.ready)
	for _, op := range []string{opRefresh, opFinish} {
		m.errors.WithLabelValues(op)
	}
	return m
}

func (m *Metrics) call(method string, err error, took time.Duration) {
	if m == nil {
		return
	}
	result := "ok"
	if err != nil {
		result = "error"
	}
	m.calls.WithLabelValues(method, result).Observe(took.Seconds())
}

func (m *Metrics) failed(op string) {
	if m != nil {
		m.errors.WithLabelValues(op).Inc()
	}
}

// observe fills the gauges with what is known of the groups.
func (m *Metrics) observe(d *Driver) {
	n := map[[2]string]int{}
	for _, v := range d.seen() {
		n[[2]string{v.Info.Name, v.Phase()}]++
	}
	for _, g := range d.Groups {
		for _, phase := range []string{vg.Creating, vg.Ready, vg.Deleting} {
			m.volumes.WithLabelValues(g.Name, phase).Set(float64(n[[2]string{g.Name, phase}]))
		}
		m.ready.WithLabelValues(g.Name).Set(0)
	}
	for _, c := range d.Engine.Candidates(lvm.Quarantine{}) {
		if c.Group != nil && c.Err == nil && c.Group.Complete() == nil {
			m.ready.WithLabelValues(c.Group.Name).Set(1)
		}
	}
}
