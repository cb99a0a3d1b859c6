package smart

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// count is a number that smartctl counts: none is below 0. One of more than 64 bits
// (smartctl writes counters of NVMe whole) is the greatest number, as it is when read natively.
type count struct{ uint64 }

// UnmarshalJSON implements json.Unmarshaler.
func (c *count) UnmarshalJSON(data []byte) error {
	n, err := strconv.ParseUint(string(data), 10, 64)
	if errors.Is(err, strconv.ErrRange) {
		n, err = math.MaxUint64, nil
	}
	if err != nil {
		return fmt.Errorf("%.40q is no count", data)
	}
	c.uint64 = n
	return nil
}

func (c *count) pointer() *uint64 {
	if c == nil {
		return nil
	}
	return &c.uint64
}

type value[T any] struct {
	Value T `json:"value"`
}

// smartctlJSON is what is used of smartctl's document, format 1.x (json_format_version;
// keys as in smartmontools' smartctl.cpp, ataprint.cpp, scsiprint.cpp and nvmeprint.cpp of 7.0 to 7.5).
type smartctlJSON struct {
	Format   []int `json:"json_format_version"`
	Smartctl *struct {
		ExitStatus *int `json:"exit_status"`
		Messages   []struct {
			String string `json:"string"`
		} `json:"messages"`
	} `json:"smartctl"`
	Device struct {
		Name     string `json:"name"`
		Protocol string `json:"protocol"`
	} `json:"device"`
	Model    string `json:"model_name"`
	Vendor   string `json:"scsi_vendor"`
	Product  string `json:"scsi_product"`
	Revision string `json:"scsi_revision"`
	Firmware string `json:"firmware_version"`
	Serial   string `json:"serial_number"`
	Capacity struct {
		Bytes count `json:"bytes"`
	} `json:"user_capacity"`
	TotalCapacity count   `json:"nvme_total_capacity"`
	RPM           *uint16 `json:"rotation_rate"`
	Support       *struct {
		Available bool  `json:"available"`
		Enabled   *bool `json:"enabled"`
	} `json:"smart_support"`
	Status *struct {
		Passed bool `json:"passed"`
		SCSI   *struct {
			ASC  uint8 `json:"asc"`
			ASCQ uint8 `json:"ascq"`
		} `json:"scsi"`
	} `json:"smart_status"`
	Temperature struct {
		Current *int `json:"current"`
		Trip    *int `json:"drive_trip"`
	} `json:"temperature"`
	PowerOn struct {
		Hours *count `json:"hours"`
	} `json:"power_on_time"`
	PowerCycles *count `json:"power_cycle_count"`
	Endurance   struct {
		Used *uint8 `json:"current_percent"`
	} `json:"endurance_used"`
	SCSIEndurance *uint8 `json:"scsi_percentage_used_endurance_indicator"` // before 7.4

	ATA          *ataJSON  `json:"ata_smart_attributes"`
	NVMe         *nvmeJSON `json:"nvme_smart_health_information_log"`
	ATAErrors    *ataLog   `json:"ata_smart_error_log"`
	ATASelfTests *struct {
		Standard *ataTests `json:"standard"`
		Extended *ataTests `json:"extended"`
	} `json:"ata_smart_self_test_log"`

	SCSIErrors *struct {
		Read   *scsiCountersJSON `json:"read"`
		Write  *scsiCountersJSON `json:"write"`
		Verify *scsiCountersJSON `json:"verify"`
	} `json:"scsi_error_counter_log"`
	GrownDefects *count `json:"scsi_grown_defect_list"`
	WWN          string `json:"logical_unit_id"`
	StartStop    struct {
		Cycles *count `json:"accumulated_start_stop_cycles"`
	} `json:"scsi_start_stop_cycle_counter"`
	Background map[string]json.RawMessage `json:"scsi_background_scan"`

	NVMeErrors *struct {
		Table []struct {
			Count  count         `json:"error_count"`
			Queue  uint16        `json:"submission_queue_id"`
			Status value[uint16] `json:"status_field"`
			LBA    value[count]  `json:"lba"`
			NSID   uint32        `json:"nsid"`
		} `json:"table"`
	} `json:"nvme_error_information_log"`
	NVMeSelfTests *struct {
		Percent *uint8 `json:"current_self_test_completion_percent"`
		Table   []struct {
			Code   value[uint8] `json:"self_test_code"`
			Result value[uint8] `json:"self_test_result"`
		} `json:"table"`
	} `json:"nvme_self_test_log"`

	scsiSelfTests []json.RawMessage // scsi_self_test_0 and so on
}

type ataJSON struct {
	Table []struct {
		ID    uint8 `json:"id"`
		Value uint8 `json:"value"`
		Worst uint8 `json:"worst"`
		// Threshold is 0 as well when it could not be read.
		Threshold uint8 `json:"thresh"`
		Flags     struct {
			Prefailure bool `json:"prefailure"`
		} `json:"flags"`
		Raw struct {
			Value count `json:"value"`
		} `json:"raw"`
	} `json:"table"`
}

// ataLog has the extended log in place of the summary when the drive has both.
type ataLog struct {
	Summary  *ataErrors `json:"summary"`
	Extended *ataErrors `json:"extended"`
}

// ataErrors is without a count when the log is garbage.
type ataErrors struct {
	Count *count `json:"count"`
}

func (l *ataErrors) count() *uint64 {
	if l == nil {
		return nil
	}
	return l.Count.pointer()
}

// ataTests is without a count when the extended log is garbage; the standard one has none when it is empty.
type ataTests struct {
	Count *count     `json:"count"`
	Table []struct { // the newest first, as the others
		Type   value[uint8] `json:"type"`
		Status value[uint8] `json:"status"`
	} `json:"table"`
}

type nvmeJSON struct {
	Warning       uint8  `json:"critical_warning"`
	Temperature   *int   `json:"temperature"`
	Spare         uint8  `json:"available_spare"`
	SpareLeast    uint8  `json:"available_spare_threshold"`
	Used          uint8  `json:"percentage_used"`
	UnitsRead     count  `json:"data_units_read"`
	UnitsWritten  count  `json:"data_units_written"`
	Reads         count  `json:"host_reads"`
	Writes        count  `json:"host_writes"`
	Busy          count  `json:"controller_busy_time"`
	PowerCycles   count  `json:"power_cycles"`
	PowerOnHours  count  `json:"power_on_hours"`
	Unsafe        count  `json:"unsafe_shutdowns"`
	MediaErrors   count  `json:"media_errors"`
	Entries       count  `json:"num_err_log_entries"`
	WarningTemp   uint32 `json:"warning_temp_time"`
	CriticalTemp  uint32 `json:"critical_comp_time"`
	SensorCelsius []int  `json:"temperature_sensors"`
}

type scsiCountersJSON struct {
	Corrected   *count `json:"total_errors_corrected"`
	Uncorrected *count `json:"total_uncorrected_errors"`
	Gigabytes   string `json:"gigabytes_processed"` // of 10^9, with three decimals
}

func (c *scsiCountersJSON) counters() *ErrorCounters {
	if c == nil {
		return nil
	}
	out := &ErrorCounters{Corrected: c.Corrected.pointer(), Uncorrected: c.Uncorrected.pointer()}
	if whole, part, ok := strings.Cut(c.Gigabytes, "."); ok && len(part) == 3 {
		if n, err := strconv.ParseUint(whole+part, 10, 64); err == nil {
			out.BytesProcessed = ptr(times(n, 1e6))
		}
	}
	return out
}

// parseSmartctl makes a report of what smartctl has printed. An answer that contradicts
// itself, the question or the exit code is an error, never a report.
func parseSmartctl(data []byte, code int, device string, a *Adapter, db *DriveDB) (*Report, error) {
	d := &smartctlJSON{}
	dec := json.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(d); err != nil {
		return nil, fmt.Errorf("smartctl's JSON: %w", err)
	}
	if dec.More() {
		return nil, errors.New("smartctl's JSON: more than one document")
	}
	switch {
	case len(d.Format) == 0 || d.Format[0] != 1:
		return nil, fmt.Errorf("smartctl's JSON has format %v, want 1", d.Format)
	case d.Smartctl == nil || d.Smartctl.ExitStatus == nil:
		return nil, errors.New("smartctl's JSON has no exit status")
	case *d.Smartctl.ExitStatus != code:
		return nil, fmt.Errorf("smartctl's JSON has exit status %d, the program %d", *d.Smartctl.ExitStatus, code)
	}
	if err := d.refusalOf(code); err != nil {
		return nil, err
	}
	if d.Device.Name != device {
		return nil, fmt.Errorf("smartctl answers for %q, want %q", d.Device.Name, device)
	}
	if a.Serial != "" && d.Serial != a.Serial {
		return nil, fmt.Errorf("the drive at -d %s has serial %q, want %q (correct smartctl:, or look for the drive)", a.Type, d.Serial, a.Serial)
	}
	if s := d.Support; s != nil && !s.Available {
		return nil, fmt.Errorf("%w: no SMART", ErrUnsupported)
	} else if s != nil && s.Enabled != nil && !*s.Enabled && d.Device.Protocol == "ATA" { // a SCSI drive has its counters all the same
		return nil, fmt.Errorf("%w: SMART is turned off (smartctl -s on)", ErrUnsupported)
	}
	if err := d.readSelfTests(data); err != nil {
		return nil, fmt.Errorf("smartctl's JSON: %w", err)
	}
	r := &Report{Model: d.Model, Serial: d.Serial, Firmware: d.Firmware, CapacityBytes: d.Capacity.Bytes.uint64, RPM: d.RPM, Celsius: d.Temperature.Current,
		PowerOnHours: d.PowerOn.Hours.pointer(), PowerCycles: d.PowerCycles.pointer(), PercentUsed: d.Endurance.Used, db: db}
	if d.Status != nil {
		r.Failing = ptr(!d.Status.Passed)
	}
	for _, m := range d.Smartctl.Messages {
		if code&exitCommand != 0 {
			r.problem("smartctl", errors.New(m.String))
		}
	}
	if code&exitCommand != 0 && len(r.Problems) == 0 {
		r.problem("smartctl", errors.New("a command failed"))
	}
	return d.health(r)
}

// health adds what is of the drive's protocol.
func (d *smartctlJSON) health(r *Report) (*Report, error) {
	switch {
	case d.Device.Protocol == "ATA" && d.ATA != nil:
		return d.ata(r), nil
	case d.Device.Protocol == "NVMe" && d.NVMe != nil:
		return d.nvme(r), nil
	case d.Device.Protocol == "SCSI" && (d.Status != nil || d.SCSIErrors != nil):
		return d.scsi(r), nil
	}
	return nil, fmt.Errorf("smartctl tells no health of the drive, whose protocol is %q", d.Device.Protocol)
}

func (d *smartctlJSON) ata(r *Report) *Report {
	r.Protocol, r.ATA = ATA, &ATAHealth{}
	for _, e := range d.ATA.Table {
		a := Attribute{ID: e.ID, Prefailure: e.Flags.Prefailure, Value: e.Value, Worst: e.Worst, Threshold: ptr(e.Threshold), Raw: e.Raw.Value.uint64 & (1<<48 - 1)}
		a.Name, a.Count = r.db.attribute(a.ID, a.Raw, r.Model, r.Firmware)
		r.ATA.Attributes = append(r.ATA.Attributes, a)
	}
	if e := d.ATAErrors; e != nil {
		r.ATA.Errors = cmp.Or(e.Extended.count(), e.Summary.count())
	}
	if l := d.ATASelfTests; l != nil {
		log := l.Standard
		empty := func(t *ataTests) bool { return t == nil || len(t.Table) == 0 }
		if l.Extended != nil && l.Extended.Count != nil && (!empty(l.Extended) || empty(log)) { // as when read natively
			log = l.Extended
		}
		if log != nil {
			var tests []selfTest
			for _, t := range log.Table {
				tests = append(tests, ataTest(t.Type.Value, t.Status.Value))
			}
			r.ATA.SelfTestFailures, r.ATA.StandingTestFailures = failures(tests)
		}
	}
	return r
}

func (d *smartctlJSON) nvme(r *Report) *Report {
	n := d.NVMe
	h := &NVMeHealth{
		CriticalWarning: CriticalWarning(n.Warning), AvailableSpare: n.Spare, SpareThreshold: n.SpareLeast,
		BytesRead: times(n.UnitsRead.uint64, 512_000), BytesWritten: times(n.UnitsWritten.uint64, 512_000), ReadCommands: n.Reads.uint64, WriteCommands: n.Writes.uint64,
		BusyMinutes: n.Busy.uint64, UnsafeShutdowns: n.Unsafe.uint64, MediaErrors: n.MediaErrors.uint64, ErrorLogEntries: n.Entries.uint64,
		WarningTempMins: n.WarningTemp, CriticalTempMins: n.CriticalTemp, SensorsCelsius: n.SensorCelsius,
	}
	r.Protocol, r.NVMe, r.RPM = NVMe, h, ptr(uint16(0))
	if n := d.TotalCapacity.uint64; n > 0 { // of all namespaces, as when read natively
		r.CapacityBytes = n
	}
	r.Celsius, r.PercentUsed = n.Temperature, &n.Used
	r.PowerCycles, r.PowerOnHours = n.PowerCycles.pointer(), n.PowerOnHours.pointer()
	r.Failing = ptr(h.CriticalWarning&^TemperatureOutside != 0) // as when read natively
	if d.NVMeErrors != nil {
		for _, e := range d.NVMeErrors.Table {
			if e.Count.uint64 == 0 { // a place that is not used
				continue
			}
			h.Errors = append(h.Errors, NVMeError{
				Count: e.Count.uint64, Queue: e.Queue, Type: uint8(e.Status.Value>>8) & 7, Code: uint8(e.Status.Value), LBA: e.LBA.Value.uint64, Namespace: e.NSID,
			})
		}
	}
	if t := d.NVMeSelfTests; t != nil {
		var tests []selfTest
		for _, e := range t.Table {
			tests = append(tests, nvmeTest(e.Code.Value, e.Result.Value))
		}
		h.SelfTestInPercent = t.Percent
		h.SelfTestFailures, h.StandingTestFailures = failures(tests)
	}
	return r
}

func (d *smartctlJSON) scsi(r *Report) *Report {
	h := &SCSIHealth{WWN: strings.TrimPrefix(d.WWN, "0x"), TripCelsius: d.Temperature.Trip, StartStopCycles: d.StartStop.Cycles.pointer(), GrownDefects: d.GrownDefects.pointer()}
	r.Protocol, r.SCSI, r.Vendor, r.Model, r.Firmware = SCSI, h, d.Vendor, d.Product, d.Revision
	if r.PowerCycles == nil {
		r.PowerCycles = h.StartStopCycles
	}
	if r.PercentUsed == nil {
		r.PercentUsed = d.SCSIEndurance
	}
	if e := d.SCSIErrors; e != nil {
		h.Read, h.Write, h.Verify = e.Read.counters(), e.Write.counters(), e.Verify.counters()
	}
	if s := d.Status; s != nil && s.SCSI != nil {
		h.ASC, h.ASCQ = &s.SCSI.ASC, &s.SCSI.ASCQ
		r.Failing = ptr(scsiPredicts(s.SCSI.ASC, s.SCSI.ASCQ)) // smartctl also fails what only warns
	}
	if d.Background != nil {
		bad := 0
		for name, raw := range d.Background {
			var e struct {
				Reassign value[uint8] `json:"reassign_status"`
			}
			if strings.HasPrefix(name, "result_") && json.Unmarshal(raw, &e) == nil && scanFoundBad(e.Reassign.Value) {
				bad++
			}
		}
		h.ScanErrors = &bad
	}
	if len(d.scsiSelfTests) > 0 {
		var tests []selfTest
		for _, raw := range d.scsiSelfTests {
			var e struct {
				Code   value[uint8] `json:"code"`
				Result value[uint8] `json:"result"`
			}
			if json.Unmarshal(raw, &e) == nil {
				tests = append(tests, scsiTest(e.Code.Value, e.Result.Value))
			}
		}
		h.SelfTestFailures, h.StandingTestFailures = failures(tests)
	}
	return r
}

// readSelfTests takes in the keys that have a number in their name.
func (d *smartctlJSON) readSelfTests(data []byte) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(data, &all); err != nil {
		return err
	}
	for i := range 20 {
		if raw, ok := all["scsi_self_test_"+strconv.Itoa(i)]; ok {
			d.scsiSelfTests = append(d.scsiSelfTests, raw)
		}
	}
	return nil
}
