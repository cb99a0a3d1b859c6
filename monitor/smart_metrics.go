package monitor

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast.dev/monitor/smart"
)

// smartMetrics show what disks say of themselves. A disk that has not answered
// when it was asked last has none of the numbers, only the age of its last answer.
type smartMetrics struct {
	findings, answers, lastAnswer                                       *prometheus.Desc
	failing, celsius, powerOn, powerCycles, used, tests                 *prometheus.Desc
	attribute, margin, ataErrors, uncorrectable                         *prometheus.Desc
	warning, spare, spareLeast, unsafeShutdowns                         *prometheus.Desc
	mediaErrors, errorEntries, bytesRead, bytesWritten                  *prometheus.Desc
	scsiUncorrected, scsiCorrected, scsiBytes, scanErrors, grownDefects *prometheus.Desc
}

func newSmartMetrics(desc func(name, help string, labels ...string) *prometheus.Desc) smartMetrics {
	d := func(name, help string, labels ...string) *prometheus.Desc {
		return desc("smart_"+name, help, append([]string{"disk"}, labels...)...)
	}
	return smartMetrics{
		findings:        d("findings", "Thresholds that the disk's numbers are beyond."),
		answers:         d("answers", "1 when the disk answered when it was last asked for its health, else 0."),
		lastAnswer:      d("last_answer_timestamp_seconds", "When the disk last told its health; 0 if never."),
		failing:         d("failing", "1 when the disk predicts its failure, else 0."),
		celsius:         d("temperature_celsius", "Temperature of the disk."),
		powerOn:         d("power_on_seconds_total", "How long the disk has been powered on in its life; disks count hours."),
		powerCycles:     d("power_cycles_total", "Times that the disk was powered on."),
		used:            d("endurance_used_ratio", "The vendor's estimate of the endurance used up; may exceed 1."),
		tests:           d("failed_self_tests", "Failed self-tests among the last ones that the disk remembers."),
		attribute:       d("ata_attribute", "What counts of an ATA attribute's raw value.", "attribute", "name"),
		margin:          d("ata_attribute_margin", "Value of an ATA attribute less its threshold; 0 or less has failed.", "attribute", "name"),
		ataErrors:       d("ata_errors_total", "Errors that an ATA disk has logged in its life."),
		uncorrectable:   d("ata_uncorrectable_errors_total", "Uncorrectable errors that an ATA disk without attribute 187 has reported in its life."),
		warning:         d("nvme_critical_warning", "1 for each reason of the critical warning that is set, else 0.", "reason"),
		spare:           d("nvme_available_spare_ratio", "Spare capacity that is left."),
		spareLeast:      d("nvme_spare_threshold_ratio", "Spare capacity below which the disk warns."),
		unsafeShutdowns: d("nvme_unsafe_shutdowns_total", "Times that the disk lost its power without a notice."),
		mediaErrors:     d("nvme_media_errors_total", "Data that the disk could not correct."),
		errorEntries:    d("nvme_error_log_entries_total", "Entries of the error log in the disk's life."),
		bytesRead:       d("nvme_read_bytes_total", "Bytes read by the host."),
		bytesWritten:    d("nvme_written_bytes_total", "Bytes written by the host."),
		scsiUncorrected: d("scsi_uncorrected_errors_total", "Uncorrected errors of a SCSI disk.", "operation"),
		scsiCorrected:   d("scsi_corrected_errors_total", "Corrected errors of a SCSI disk.", "operation"),
		scsiBytes:       d("scsi_processed_bytes_total", "Bytes that a SCSI disk has processed.", "operation"),
		grownDefects:    d("scsi_grown_defects", "Places that a SCSI disk has reassigned since it left the factory."),
		scanErrors:      d("scsi_scan_errors", "Places that the background scan of a SCSI disk found bad."),
	}
}

func (s *smartMetrics) describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		s.findings, s.answers, s.lastAnswer, s.failing, s.celsius, s.powerOn, s.powerCycles, s.used, s.tests, s.attribute, s.margin, s.ataErrors, s.uncorrectable,
		s.warning, s.spare, s.spareLeast, s.unsafeShutdowns, s.mediaErrors, s.errorEntries, s.bytesRead, s.bytesWritten,
		s.scsiUncorrected, s.scsiCorrected, s.scsiBytes, s.scanErrors, s.grownDefects,
	} {
		ch <- d
	}
}

type emitFunc func(d *prometheus.Desc, kind prometheus.ValueType, v float64, labels ...string)

func (s *smartMetrics) collect(emit emitFunc, last *smartReading) {
	r := last.report
	at := 0.0
	if !last.at.IsZero() {
		at = float64(last.at.UnixMilli()) / 1e3
	}
	emit(s.answers, prometheus.GaugeValue, truth(r != nil), last.disk)
	emit(s.lastAnswer, prometheus.GaugeValue, at, last.disk)
	if r == nil {
		return
	}
	if r.Failing != nil {
		emit(s.failing, prometheus.GaugeValue, truth(*r.Failing), last.disk)
	}
	if r.Celsius != nil {
		emit(s.celsius, prometheus.GaugeValue, float64(*r.Celsius), last.disk)
	}
	if r.PowerOnHours != nil {
		emit(s.powerOn, prometheus.CounterValue, 3600*float64(*r.PowerOnHours), last.disk)
	}
	if r.PowerCycles != nil {
		emit(s.powerCycles, prometheus.CounterValue, float64(*r.PowerCycles), last.disk)
	}
	if r.PercentUsed != nil {
		emit(s.used, prometheus.GaugeValue, float64(*r.PercentUsed)/100, last.disk)
	}
	switch {
	case r.ATA != nil:
		s.collectATA(emit, last.disk, r.ATA)
	case r.NVMe != nil:
		s.collectNVMe(emit, last.disk, r.NVMe)
	case r.SCSI != nil:
		s.collectSCSI(emit, last.disk, r.SCSI)
	}
}

func (s *smartMetrics) selfTests(emit emitFunc, disk string, failures *int) {
	if failures != nil {
		emit(s.tests, prometheus.GaugeValue, float64(*failures), disk)
	}
}

func (s *smartMetrics) collectATA(emit emitFunc, disk string, h *smart.ATAHealth) {
	s.selfTests(emit, disk, h.SelfTestFailures)
	if h.Errors != nil {
		emit(s.ataErrors, prometheus.CounterValue, float64(*h.Errors), disk)
	}
	if h.Uncorrectable != nil {
		emit(s.uncorrectable, prometheus.CounterValue, float64(*h.Uncorrectable), disk)
	}
	seen := map[uint8]bool{} // a disk that names an attribute twice must not break the scrape
	for _, a := range h.Attributes {
		if seen[a.ID] {
			continue
		}
		seen[a.ID] = true
		id := strconv.Itoa(int(a.ID))
		emit(s.attribute, prometheus.GaugeValue, float64(a.Count), disk, id, a.Name)
		if a.Threshold != nil {
			emit(s.margin, prometheus.GaugeValue, float64(a.Value)-float64(*a.Threshold), disk, id, a.Name)
		}
	}
}

func (s *smartMetrics) collectNVMe(emit emitFunc, disk string, h *smart.NVMeHealth) {
	s.selfTests(emit, disk, h.SelfTestFailures)
	for _, w := range []struct {
		bit  smart.CriticalWarning
		name string
	}{
		{smart.SpareLow, "spare"}, {smart.TemperatureOutside, "temperature"}, {smart.ReliabilityDegraded, "reliability"},
		{smart.ReadOnly, "read-only"}, {smart.BackupFailed, "backup"}, {smart.PersistentMemoryUnreliable, "persistent-memory"},
	} {
		emit(s.warning, prometheus.GaugeValue, truth(h.CriticalWarning&w.bit != 0), disk, w.name)
	}
	emit(s.spare, prometheus.GaugeValue, float64(h.AvailableSpare)/100, disk)
	emit(s.spareLeast, prometheus.GaugeValue, float64(h.SpareThreshold)/100, disk)
	emit(s.unsafeShutdowns, prometheus.CounterValue, float64(h.UnsafeShutdowns), disk)
	emit(s.mediaErrors, prometheus.CounterValue, float64(h.MediaErrors), disk)
	emit(s.errorEntries, prometheus.CounterValue, float64(h.ErrorLogEntries), disk)
	emit(s.bytesRead, prometheus.CounterValue, float64(h.BytesRead), disk)
	emit(s.bytesWritten, prometheus.CounterValue, float64(h.BytesWritten), disk)
}

func (s *smartMetrics) collectSCSI(emit emitFunc, disk string, h *smart.SCSIHealth) {
	s.selfTests(emit, disk, h.SelfTestFailures)
	for _, op := range []struct {
		name string
		*smart.ErrorCounters
	}{{"read", h.Read}, {"write", h.Write}, {"verify", h.Verify}} {
		if op.ErrorCounters == nil {
			continue
		}
		for _, c := range []struct {
			desc *prometheus.Desc
			n    *uint64
		}{{s.scsiUncorrected, op.Uncorrected}, {s.scsiCorrected, op.Corrected}, {s.scsiBytes, op.BytesProcessed}} {
			if c.n != nil {
				emit(c.desc, prometheus.CounterValue, float64(*c.n), disk, op.name)
			}
		}
	}
	if h.ScanErrors != nil {
		emit(s.scanErrors, prometheus.GaugeValue, float64(*h.ScanErrors), disk)
	}
	if h.GrownDefects != nil {
		emit(s.grownDefects, prometheus.GaugeValue, float64(*h.GrownDefects), disk)
	}
}
