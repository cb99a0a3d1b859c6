package cleaner

import "github.com/prometheus/client_golang/prometheus"

const (
	// component names the cleaner in events and certificates; the binary has the same name.
	component = "local-volume-cleaner"
	namespace = "holdfast_local_volume_cleaner"
)

// Metrics of one cleaner.
type Metrics struct {
	waiting  *prometheus.GaugeVec
	progress *prometheus.GaugeVec
	stalled  *prometheus.GaugeVec
	cleaned  prometheus.Counter
	bytes    prometheus.Counter
	proved   *prometheus.CounterVec
	errors   prometheus.Counter
}

// NewMetrics registers the cleaner's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: namespace + "_waiting",
			Help: "Released volumes of this node that are not cleaned now, by reason.",
		}, []string{"reason"}),
		progress: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: namespace + "_progress_ratio",
			Help: "How much of a partition that is being cleaned is zero, between 0 and 1.",
		}, []string{"disk", "volume"}),
		stalled: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: namespace + "_stalled",
			Help: "1 while a disk has not finished one chunk or step within the deadline.",
		}, []string{"disk"}),
		cleaned: prometheus.NewCounter(prometheus.CounterOpts{
			Name: namespace + "_cleaned_total", Help: "Volumes that were cleaned and deleted.",
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: namespace + "_zeroed_bytes_total", Help: "Bytes that were erased and read back as zero.",
		}),
		proved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: namespace + "_proofs_total", Help: "Raw partitions without a certificate that were read whole, by what was found: clean or dirty.",
		}, []string{"found"}),
		errors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: namespace + "_errors_total", Help: "Cleanings that ended with an error.",
		}),
	}
	reg.MustRegister(m.waiting, m.progress, m.stalled, m.cleaned, m.bytes, m.proved, m.errors)
	m.proved.WithLabelValues("clean")
	m.proved.WithLabelValues("dirty")
	m.waits(nil)
	return m
}

func (m *Metrics) waits(reasons map[Reason]int) {
	for _, r := range Reasons() {
		m.waiting.WithLabelValues(string(r)).Set(float64(reasons[r]))
	}
}
