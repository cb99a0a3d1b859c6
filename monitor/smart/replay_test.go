package smart_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast.dev/monitor/smart"
)

// document is what is needed of smartctl's to make the drive's pages from it again.
type document struct {
	Smartctl struct {
		ExitStatus int `json:"exit_status"`
	} `json:"smartctl"`
	Device   struct{ Name, Protocol string } `json:"device"`
	Model    string                          `json:"model_name"`
	Vendor   string                          `json:"scsi_vendor"`
	Product  string                          `json:"scsi_product"`
	Revision string                          `json:"scsi_revision"`
	RPM      *uint16                         `json:"rotation_rate"`
	Capacity struct{ Bytes uint64 }          `json:"user_capacity"`
	Total    uint64                          `json:"nvme_total_capacity"`
	ATA      *struct {
		Table []struct {
			ID, Value, Worst, Thresh uint8
			Flags                    struct{ Value uint16 }
			Raw                      struct{ Value uint64 }
		}
	} `json:"ata_smart_attributes"`
	ATAErrors *struct {
		Summary  struct{ Count uint16 }
		Extended *struct{ Count, Sectors uint16 }
	} `json:"ata_smart_error_log"`
	ATATests struct {
		Extended *struct {
			Sectors int
			Table   []struct{ Type, Status struct{ Value byte } }
		}
	} `json:"ata_smart_self_test_log"`
	Statistics *struct {
		Pages []struct {
			Number   byte
			Revision uint16
			Table    []struct {
				Offset int
				Value  uint64
				Flags  struct{ Value uint64 }
			}
		}
	} `json:"ata_device_statistics"`
	NVMe map[string]any `json:"nvme_smart_health_information_log"`
	SCSI map[string]struct {
		Corrected   uint64 `json:"total_errors_corrected"`
		Uncorrected uint64 `json:"total_uncorrected_errors"`
		Gigabytes   string `json:"gigabytes_processed"`
	} `json:"scsi_error_counter_log"`
	Transport   struct{ Value byte } `json:"scsi_transport_protocol"`
	Grown       *uint32              `json:"scsi_grown_defect_list"`
	WWN         string               `json:"logical_unit_id"`
	Temperature struct {
		Current uint8
		Trip    *uint8 `json:"drive_trip"`
	} `json:"temperature"`
	PowerOn   *struct{ Hours, Minutes uint32 } `json:"power_on_time"`
	StartStop *struct {
		Cycles uint32 `json:"accumulated_start_stop_cycles"`
	} `json:"scsi_start_stop_cycle_counter"`
}

// drive answers as the drive did that smartctl was asked about: its pages, laid out again as
// the standards have them.
func (d *document) drive(t *testing.T) *disk {
	t.Helper()
	switch d.Device.Protocol {
	case "ATA":
		return d.ata()
	case "NVMe":
		return d.nvme(t)
	default:
		return d.scsi(t)
	}
}

func (d *document) ata() *disk {
	var attrs []attr
	for _, a := range d.ATA.Table {
		attrs = append(attrs, attr{a.ID, uint8(a.Flags.Value), a.Value, a.Thresh, a.Raw.Value})
	}
	out := ataDisk(d.Model, pass, attrs...)
	for i, a := range d.ATA.Table {
		out.scsi[smartRead][2+12*i+4] = a.Worst
	}
	sum(out.scsi[smartRead])
	id := out.scsi[identify+"000001"]
	binary.LittleEndian.PutUint64(id[200:], d.Capacity.Bytes/512)
	rpm := uint16(0)
	if d.RPM != nil {
		rpm = max(1, *d.RPM) // 1 says that it does not rotate
	}
	binary.LittleEndian.PutUint16(id[434:], rpm)
	sum(id)
	delete(out.scsi, logRead+"00010006")
	if d.ATAErrors == nil {
		delete(out.scsi, logRead+"00010001")
	} else {
		binary.LittleEndian.PutUint16(out.scsi[logRead+"00010001"][452:], d.ATAErrors.Summary.Count)
		sum(out.scsi[logRead+"00010001"])
	}
	if logs := d.general(); len(logs) > 0 {
		delete(out.scsi, logRead+"00010001")
		general(out, logs)
	}
	return out
}

// general are the drive's general purpose logs.
func (d *document) general() map[int][]byte {
	logs := map[int][]byte{}
	if d.ATAErrors != nil && d.ATAErrors.Extended != nil {
		e := d.ATAErrors.Extended
		logs[extendedErrors] = append(errorLog(e.Count, min(e.Count, 4*e.Sectors)), make([]byte, 512*(int(e.Sectors)-1))...)
	}
	if log := d.ATATests.Extended; log != nil {
		p := testLog(log.Sectors, len(log.Table))
		for i, e := range log.Table { // the newest first
			at := len(log.Table) - 1 - i
			copy(p[512*(at/19)+4+26*(at%19):], []byte{e.Type.Value, e.Status.Value, 1})
		}
		logs[extendedTests] = sums(p)
	}
	if d.Statistics != nil {
		p := statisticsLog(nil)
		for _, page := range d.Statistics.Pages {
			p[9+p[8]], p[8] = page.Number, p[8]+1
			at := p[512*int(page.Number):]
			binary.LittleEndian.PutUint16(at, page.Revision)
			at[2] = page.Number
			for _, e := range page.Table {
				binary.LittleEndian.PutUint64(at[e.Offset:], e.Value&(1<<56-1)|e.Flags.Value<<56)
			}
		}
		logs[statistics] = p
	}
	return logs
}

// statistic is the first number of a page of device statistics, as smartctl tells it; ok is false when it does not.
func (d *document) statistic(page byte) (n uint64, ok bool) {
	if d.Statistics == nil {
		return 0, false
	}
	for _, p := range d.Statistics.Pages {
		if p.Number == page && p.Table[0].Offset == 8 {
			return p.Table[0].Value, true
		}
	}
	return 0, false
}

func (d *document) nvme(t *testing.T) *disk {
	t.Helper()
	out := nvmeDisk()
	id, h := out.admin["identify 1"], out.admin["log 2"]
	copy(id[24:64], d.Model+strings.Repeat(" ", 40))
	binary.LittleEndian.PutUint64(id[280:], d.Total)
	if d.Total == 0 { // then it is the size of the namespace
		binary.LittleEndian.PutUint64(id[280:], d.Capacity.Bytes)
	}
	binary.LittleEndian.PutUint16(id[256:], 0)
	clear(out.admin["log 1"])
	if d.Capacity.Bytes == 0 {
		delete(out.admin, "identify 0")
	}
	clear(h)
	number := func(key string) uint64 {
		f, _ := d.NVMe[key].(float64)
		return uint64(f)
	}
	h[0], h[3], h[4], h[5] = uint8(number("critical_warning")), uint8(number("available_spare")), uint8(number("available_spare_threshold")), uint8(number("percentage_used"))
	binary.LittleEndian.PutUint16(h[1:], uint16(number("temperature")+273))
	for i, key := range []string{"data_units_read", "data_units_written", "host_reads", "host_writes", "controller_busy_time", "power_cycles", "power_on_hours", "unsafe_shutdowns", "media_errors", "num_err_log_entries"} {
		binary.LittleEndian.PutUint64(h[32+16*i:], number(key))
	}
	binary.LittleEndian.PutUint32(h[192:], uint32(number("warning_temp_time")))
	binary.LittleEndian.PutUint32(h[196:], uint32(number("critical_comp_time")))
	sensors, _ := d.NVMe["temperature_sensors"].([]any)
	for i, c := range sensors {
		if f, ok := c.(float64); ok {
			binary.LittleEndian.PutUint16(h[200+2*i:], uint16(int(f)+273))
		}
	}
	return out
}

func (d *document) scsi(t *testing.T) *disk {
	t.Helper()
	be := func(n uint64, width int) string {
		var b [8]byte
		binary.BigEndian.PutUint64(b[:], n)
		return string(b[8-width:])
	}
	pad := func(s string, n int) string { return (s + strings.Repeat(" ", n))[:n] }
	out := &disk{scsi: map[string][]byte{
		"120000": []byte("\x00\x00\x06\x12\x5b\x00\x00\x02" + pad(d.Vendor, 8) + pad(d.Product, 16) + pad(d.Revision, 4) + strings.Repeat("\x00", 60)),
		"120180": []byte("\x00\x80\x00\x02S1"),
	}}
	if d.RPM != nil {
		out.scsi["1201b1"] = []byte("\x00\xb1\x00\x3c" + be(max(1, uint64(*d.RPM)), 2) + strings.Repeat("\x00", 58))
	}
	if d.Capacity.Bytes > 0 {
		out.scsi["9e10"] = []byte(be(d.Capacity.Bytes/512-1, 8) + be(512, 4) + strings.Repeat("\x00", 20))
	}
	if wwn, err := strconv.ParseUint(strings.TrimPrefix(d.WWN, "0x"), 16, 64); err == nil {
		port := string([]byte{d.Transport.Value<<4 | 1, 0x93, 0, 8}) + be(wwn+1, 8)
		out.scsi["120183"] = []byte("\x00\x83\x00\x18\x01\x03\x00\x08" + be(wwn, 8) + port)
	}
	listed := "\x00"
	for _, code := range []byte{0x80, 0x83, 0xb1} {
		if out.scsi[fmt.Sprintf("1201%02x", code)] != nil {
			listed += string([]byte{code})
		}
	}
	out.scsi[vpdList] = vital(0x00, listed)
	if d.Grown != nil {
		out.scsi["b70c"] = []byte("\x00\x0c\x00\x00" + be(uint64(*d.Grown)*8, 4))
	}
	pages := "\x00"
	log := func(code byte, params ...string) {
		pages += string([]byte{code})
		out.scsi[strings.ToLower("4d00"+strconv.FormatUint(uint64(0x40|code), 16)+"00")] = page(code, params...)
	}
	for name, code := range map[string]byte{"write": 2, "read": 3, "verify": 5} {
		if c, ok := d.SCSI[name]; ok {
			whole, part, _ := strings.Cut(c.Gigabytes, ".")
			megabytes, err := strconv.ParseUint(whole+part, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			log(code, param(3, be(c.Corrected, 8)), param(5, be(megabytes*1e6, 8)), param(6, be(c.Uncorrected, 8)))
		}
	}
	trip := byte(0xff)
	if d.Temperature.Trip != nil {
		trip = *d.Temperature.Trip
	}
	log(0x0d, param(0, string([]byte{0, d.Temperature.Current})), param(1, string([]byte{0, trip})))
	if d.StartStop != nil {
		log(0x0e, param(4, be(uint64(d.StartStop.Cycles), 4)))
	}
	if d.PowerOn != nil {
		log(0x15, param(0, be(uint64(d.PowerOn.Hours*60+d.PowerOn.Minutes), 4)+strings.Repeat("\x00", 8)))
	}
	log(0x2f, param(0, "\x00\x00\x00\x00"))
	out.scsi["4d004000"] = page(0, pages)
	return out
}

// A drive that is read natively tells what smartctl has told of it: pages of drives of a
// dozen vendors, replayed. HOLDFAST_SMARTCTL_JSON names a directory of more of smartctl's documents.
//
// No page here is a dump of a drive: the numbers are the drives', the layout is ours, by the standards
// as this package reads them. A layout that both get wrong is seen in pages_test.go.
func TestReplayIsSmartctls(t *testing.T) {
	files, err := filepath.Glob("testdata/smartctl/*.json")
	if err != nil || len(files) < 7 {
		t.Fatalf("%q, %v", files, err)
	}
	if dir := os.Getenv("HOLDFAST_SMARTCTL_JSON"); dir != "" {
		more, err := filepath.Glob(filepath.Join(dir, "*.json"))
		if err != nil || len(more) == 0 {
			t.Fatalf("%s: %q, %v", dir, more, err)
		}
		files = append(files, more...)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var doc document
			if err := json.Unmarshal(data, &doc); err != nil {
				t.Fatal(err)
			}
			want, err := smart.ParseSmartctl(data, doc.Smartctl.ExitStatus, doc.Device.Name, drive3, nil)
			if err != nil {
				t.Fatal(err)
			}
			if n, ok := doc.statistic(7); ok {
				want.PercentUsed = ptr(uint8(n))
			}
			if n, ok := doc.statistic(4); ok && want.ATA != nil {
				if _, counted := want.ATA.Attribute(187); !counted {
					want.ATA.Uncorrectable = &n
				}
			}
			got := read(t, doc.drive(t))
			if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(smart.Report{}), cmpopts.IgnoreFields(smart.Report{}, "Serial", "Firmware", "Problems"),
				// Of these smartctl tells no more than that nothing is wrong, or was not asked.
				cmpopts.IgnoreFields(smart.SCSIHealth{}, "ASC", "ASCQ", "ScanErrors")); d != "" {
				t.Errorf("smartctl (-) and this package (+): %s", d)
			}
		})
	}
}
