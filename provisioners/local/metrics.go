package local

import "github.com/prometheus/client_golang/prometheus"

const namespace = "holdfast_local_volume_provisioner"

// operation is what went wrong, as the label of errors_total.
type operation string

const (
	opReadDisks      operation = "read_disks"
	opReadNode       operation = "read_node"
	opReadQuarantine operation = "read_quarantine"
	opListVolumes    operation = "list_volumes"
	opReadVolume     operation = "read_volume"
	opCreate         operation = "create"
	opConflict       operation = "conflict"
	opWatch          operation = "watch"
	opEvent          operation = "event"
	opCertificate    operation = "certificate"
)

// Metrics of one provisioner.
type Metrics struct {
	volumes  *prometheus.GaugeVec
	withheld *prometheus.GaugeVec
	creates  prometheus.Counter
	errors   *prometheus.CounterVec
	passes   prometheus.Histogram
}

// NewMetrics registers the provisioner's metrics.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		volumes: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: namespace + "_volumes",
			Help: "Persistent volumes of this node by state: verified, released (to be cleaned), unverified (partition not confirmed now), orphaned (not in disks.yaml).",
		}, []string{"state"}),
		withheld: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: namespace + "_withheld",
			Help: "Partitions that get no persistent volume now, by reason.",
		}, []string{"reason"}),
		creates: prometheus.NewCounter(prometheus.CounterOpts{
			Name: namespace + "_creates_total",
			Help: "Persistent volumes created.",
		}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: namespace + "_errors_total",
			Help: "Errors by operation.",
		}, []string{"operation"}),
		passes: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    namespace + "_pass_duration_seconds",
			Help:    "Time that one look at the whole node took.",
			Buckets: []float64{.001, .005, .025, .1, .5, 2, 10},
		}),
	}
	reg.MustRegister(m.volumes, m.withheld, m.creates, m.errors, m.passes)
	for _, op := range []operation{
		opReadDisks, opReadNode, opReadQuarantine, opListVolumes, opReadVolume, opCreate, opConflict, opWatch, opEvent, opCertificate,
	} {
		m.errors.WithLabelValues(string(op))
	}
	m.set(Decision{})
	return m
}

func (m *Metrics) set(d Decision) {
	states := map[State]int{StateVerified: 0, StateReleased: 0, StateUnverified: 0, StateOrphaned: 0}
	for _, s := range d.Volumes {
		states[s]++
	}
	for s, n := range states {
		m.volumes.WithLabelValues(string(s)).Set(float64(n))
	}
	reasons := map[Reason]int{}
	for _, w := range d.Withheld {
		reasons[w.Reason]++
	}
	for _, r := range Reasons() {
		m.withheld.WithLabelValues(string(r)).Set(float64(reasons[r]))
	}
}

func (m *Metrics) failed(op operation) { m.errors.WithLabelValues(string(op)).Inc() }
