package monitor

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/report"
)

const namespace = "holdfast_disk_monitor"

var diskStates = [...]v1alpha1.DiskState{v1alpha1.DiskHealthy, v1alpha1.DiskUnknown, v1alpha1.DiskDegraded, v1alpha1.DiskFailed, v1alpha1.DiskMissing}

// metrics shows the published status and the monitor's own counters. What is
// said of disks comes from the status, so that both always agree.
type metrics struct {
	m *Monitor

	scans, scanErrors     prometheus.Counter
	scanSeconds, lastScan prometheus.Gauge
	unattributed          *prometheus.CounterVec
	discounted            *prometheus.CounterVec

	state, info, size, faults, condition            *prometheus.Desc
	records, lost, malformed                        *prometheus.Desc
	writes, writeErrors, writeConflicts, lastReport *prometheus.Desc
	smart                                           smartMetrics
}

func newMetrics(m *Monitor) *metrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(namespace+"_"+name, help, labels, nil)
	}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help})
	}
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Namespace: namespace, Name: name, Help: help})
	}
	return &metrics{
		m:           m,
		scans:       counter("inventory_scans_total", "Looks at the disks of the host."),
		scanErrors:  counter("inventory_errors_total", "Looks at the disks that failed in whole or in part."),
		scanSeconds: gauge("inventory_scan_duration_seconds", "How long the last look at the disks took."),
		lastScan:    gauge("inventory_last_success_timestamp_seconds", "When the disks were last listed without an error."),
		unattributed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "kernel_log_unattributed_total",
			Help: "Fault records that name no disk of this host.",
		}, []string{"class"}),
		discounted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Name: "kernel_log_discounted_total",
			Help: "Records of disks that are no fault: too few of them (below_threshold), a device above the disk that repeats what the disk has said (echo), or of a name that the log has given anew since, before the monitor started (outdated).",
		}, []string{"class", "reason"}),
		state:          desc("disk_state", "1 for the state that the disk is in, else 0.", "disk", "state"),
		info:           desc("disk_info", "1 for each disk, with what may change beside its id.", "disk", "device", "model", "serial", "media", "slot", "group"),
		size:           desc("disk_size_bytes", "Capacity of the disk.", "disk"),
		faults:         desc("faults_total", "Fault records of the disk, a lower bound: the kernel limits their rate.", "disk", "class"),
		condition:      desc("condition", "1 for the status that the condition of the ComputeNode has, else 0.", "type", "status"),
		records:        desc("kernel_log_records_total", "Kernel log records that were read."),
		lost:           desc("kernel_log_lost_records_total", "Kernel log records that were overwritten before they were read, since boot."),
		malformed:      desc("kernel_log_malformed_records_total", "Kernel log records that could not be parsed."),
		writes:         desc("report_writes_total", "Writes of the ComputeNode's status."),
		writeErrors:    desc("report_errors_total", "Failed writes of the ComputeNode's status."),
		writeConflicts: desc("report_conflicts_total", "Writes that were made again because the object had changed."),
		smart:          newSmartMetrics(desc),
		lastReport:     desc("last_report_timestamp_seconds", "When the ComputeNode's status was last written; 0 if never."),
	}
}

// Describe implements prometheus.Collector.
func (c *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, x := range c.own() {
		x.Describe(ch)
	}
	for _, d := range []*prometheus.Desc{c.state, c.info, c.size, c.faults, c.condition, c.records, c.lost, c.malformed, c.writes, c.writeErrors, c.writeConflicts, c.lastReport} {
		ch <- d
	}
	c.smart.describe(ch)
}

func (c *metrics) own() []prometheus.Collector {
	return []prometheus.Collector{c.scans, c.scanErrors, c.scanSeconds, c.lastScan, c.unattributed, c.discounted}
}

// Collect implements prometheus.Collector.
func (c *metrics) Collect(ch chan<- prometheus.Metric) {
	for _, x := range c.own() {
		x.Collect(ch)
	}
	emit := func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string) {
		// A label that is no UTF-8 is an error of this scrape, and not the end of the process.
		metric, err := prometheus.NewConstMetric(d, kind, v, labels...)
		if err != nil {
			metric = prometheus.NewInvalidMetric(d, err)
		}
		ch <- metric
	}
	stats := &c.m.stats
	emit(c.records, prometheus.CounterValue, float64(stats.Records.Load()))
	emit(c.lost, prometheus.CounterValue, float64(stats.Lost.Load()))
	emit(c.malformed, prometheus.CounterValue, float64(stats.Malformed.Load()))
	p := c.m.published.Load()
	var w report.WriteCounts
	if p != nil && p.writer != nil {
		w = p.writer.Counts()
	}
	emit(c.writes, prometheus.CounterValue, float64(w.Writes))
	emit(c.writeErrors, prometheus.CounterValue, float64(w.Errors))
	emit(c.writeConflicts, prometheus.CounterValue, float64(w.Conflicts))
	last := 0.0
	if !w.Last.IsZero() {
		last = float64(w.Last.UnixMilli()) / 1e3
	}
	emit(c.lastReport, prometheus.GaugeValue, last)

	if p == nil {
		return
	}
	for i := range p.status.Disks {
		d := &p.status.Disks[i]
		for _, s := range diskStates {
			emit(c.state, prometheus.GaugeValue, truth(d.State == s), d.ID, string(s))
		}
		emit(c.info, prometheus.GaugeValue, 1, d.ID, d.Device, d.Model, d.Serial, string(d.Media), d.Slot, d.Group)
		emit(c.size, prometheus.GaugeValue, float64(d.SizeBytes), d.ID)
		for _, f := range d.Faults {
			if f.Class == v1alpha1.FaultSMART {
				emit(c.smart.findings, prometheus.GaugeValue, float64(f.Count), d.ID)
				continue
			}
			emit(c.faults, prometheus.CounterValue, float64(f.Count), d.ID, string(f.Class))
		}
	}
	for i := range p.readings {
		c.smart.collect(emit, &p.readings[i])
	}
	for _, cond := range p.status.Conditions {
		for _, s := range []metav1.ConditionStatus{metav1.ConditionTrue, metav1.ConditionFalse, metav1.ConditionUnknown} {
			emit(c.condition, prometheus.GaugeValue, truth(cond.Status == s), cond.Type, strings.ToLower(string(s)))
		}
	}
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
