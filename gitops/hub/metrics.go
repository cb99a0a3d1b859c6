package hub

import "github.com/prometheus/client_golang/prometheus"

// Metrics is what the hub says to a scraper.
func (h *Hub) Metrics() prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: "holdfast", Subsystem: "hub", Name: "trouble",
		Help: "1 while something of its own keeps the hub from taking commits and approvals or from publishing, which holdfast status names, else 0.",
	}, func() float64 {
		if len(h.Trouble()) > 0 {
			return 1
		}
		return 0
	})
}
