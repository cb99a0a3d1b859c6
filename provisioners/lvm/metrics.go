package lvm

import "github.com/prometheus/client_golang/prometheus"

const namespace = "holdfast_lvm_csi_driver"

// Metrics of one driver. A nil one counts nothing.
type Metrics struct {
	commands *prometheus.CounterVec
	calls    *prometheus.HistogramVec
	errors   *prometheus.CounterVec
	free     *prometheus.GaugeVec
	size     *prometheus.GaugeVec
	ready    *prometheus.GaugeVec
	thin     *prometheus.GaugeVec
	volumes  *prometheus.GaugeVec
}

// NewMetrics registers the driver's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: namespace + "_" + name, Help: help}, labels)
	}
	m := &Metrics{
		commands: prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + "_lvm_commands_total", Help: "Commands of LVM that were run, by command."}, []string{"command"}),
		calls: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: namespace + "_call_duration_seconds", Help: "Time that CSI calls took, by method and code.",
			Buckets: []float64{.005, .02, .1, .5, 2, 10, 60}}, []string{"method", "code"}),
		errors:  prometheus.NewCounterVec(prometheus.CounterOpts{Name: namespace + "_errors_total", Help: "Errors of the daemon's own loops, by operation."}, []string{"operation"}),
		free:    gauge("volume_group_free_bytes", "Room for linear volumes in a volume group.", "volume_group"),
		size:    gauge("volume_group_size_bytes", "Size of a volume group.", "volume_group"),
		ready:   gauge("volume_group_ready", "1 when the volume group answers and is complete.", "volume_group"),
		thin:    gauge("thin_pool_used_ratio", "How full a thin pool is, by part: data or metadata.", "volume_group", "part"),
		volumes: gauge("volumes", "Logical volumes of the driver by phase: creating, ready, deleting.", "volume_group", "phase"),
	}
	reg.MustRegister(m.commands, m.calls, m.errors, m.free, m.size, m.ready, m.thin, m.volumes)
	for _, op := range []string{opRefresh, opCapacity, opResize, opGrow} {
		m.errors.WithLabelValues(op)
	}
	return m
}

// Operations of the daemon's loops.
const (
	opRefresh  = "refresh"
	opCapacity = "capacity"
	opResize   = "resize"
	opGrow     = "grow"
)

func (m *Metrics) command(name string) {
	if m != nil {
		m.commands.WithLabelValues(name).Inc()
	}
}

func (m *Metrics) failed(op string) {
	if m != nil {
		m.errors.WithLabelValues(op).Inc()
	}
}
