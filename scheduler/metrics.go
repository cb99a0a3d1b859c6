package scheduler

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics of one scheduler, beside kube-scheduler's own.
type metrics struct {
	placed    prometheus.Counter
	refused   prometheus.Counter
	bounded   prometheus.Counter
	conflicts prometheus.Counter
	failures  *prometheus.CounterVec
	seconds   *prometheus.HistogramVec
}

// RegisterMetrics registers the metrics of a scheduler that does nothing, for
// checks of what is said about them.
func RegisterMetrics(reg prometheus.Registerer) error {
	_, err := newMetrics(reg, &core{ledger: newLedger(), stores: stores{quarantine: quarantine{known: func() bool { return false }}}})
	return err
}

const subsystem = "holdfast_scheduler"

func newMetrics(reg prometheus.Registerer, c *core) (*metrics, error) {
	m := &metrics{
		placed: prometheus.NewCounter(prometheus.CounterOpts{Name: subsystem + "_placed_claims_total",
			Help: "Claims that were given a place, which was reserved for them."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: subsystem + "_reserve_refusals_total",
			Help: "Pods that fitted a node when it was asked, and not any more when it was chosen."}),
		bounded: prometheus.NewCounter(prometheus.CounterOpts{Name: subsystem + "_unproven_total",
			Help: "Placements that are allowed but were not proven to be the best, since the search ended at its bound."}),
		conflicts: prometheus.NewCounter(prometheus.CounterOpts{Name: subsystem + "_conflicts_total",
			Help: "Writes that were lost to another writer of the same volume or claim, and tried again."}),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{Name: subsystem + "_bind_failures_total",
			Help: "Pods whose claims could not be bound, by step: write or wait."}, []string{"step"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: subsystem + "_duration_seconds",
			Help: "Time that a pod's claims took in a step that holds up scheduling: prefilter or reserve.", Buckets: []float64{.0001, .0003, .001, .003, .01, .03, .1, .3, 1}}, []string{"step"}),
	}
	for _, step := range []string{"write", "wait"} {
		m.failures.WithLabelValues(step)
	}
	known := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: subsystem + "_quarantine_known",
		Help: "1 when the record of quarantine has been read; while it is 0 no claim gets a volume on a named disk."}, func() float64 {
		if c.quarantine.known() {
			return 1
		}
		return 0
	})
	reservations := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: subsystem + "_reservations",
		Help: "Claims whose choice the cluster's objects do not show yet."}, func() float64 {
		c.ledger.RLock()
		defer c.ledger.RUnlock()
		return float64(len(c.ledger.byClaim))
	})
	for _, col := range []prometheus.Collector{m.placed, m.refused, m.bounded, m.conflicts, m.failures, m.seconds, known, reservations} {
		if err := reg.Register(col); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) failed(step string) { m.failures.WithLabelValues(step).Inc() }

func (m *metrics) observe(step string, start time.Time) {
	m.seconds.WithLabelValues(step).Observe(time.Since(start).Seconds())
}
