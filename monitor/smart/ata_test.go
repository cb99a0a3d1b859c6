package smart_test

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"holdfast.dev/monitor/smart"
)

func sum(b []byte) []byte {
	b[511] = 0
	var s uint8
	for _, c := range b {
		s += c
	}
	b[511] = -s
	return b
}

const (
	identify   = "85080e00"
	smartRead  = "85080e00d0"
	thresholds = "85080e00d1"
	logRead    = "85080e00d5"
	status     = "85062000da"
	pass       = 0x4fc2
	fail       = 0xf42c
)

type attr struct {
	id    uint8
	flags uint8
	value uint8
	limit uint8
	raw   uint64
}

func ataDisk(model string, registers uint16, attrs ...attr) *disk {
	id, data, limits, errLog, tests := make([]byte, 512), make([]byte, 512), make([]byte, 512), make([]byte, 512), make([]byte, 512)
	swap := func(at, n int, s string) {
		s += strings.Repeat(" ", n-len(s))
		for i := 0; i < n; i += 2 {
			id[at+i], id[at+i+1] = s[i+1], s[i]
		}
	}
	swap(20, 20, "ZA1234XY")
	swap(46, 8, "SN05")
	swap(54, 40, model)
	word := func(i int, v uint16) { binary.LittleEndian.PutUint16(id[2*i:], v) }
	word(82, 1)
	word(83, 1<<10)
	word(85, 1)
	binary.LittleEndian.PutUint64(id[200:], 15628053168)
	word(217, 7200)
	id[510] = 0xa5
	for i, a := range attrs {
		e := data[2+12*i:]
		e[0], e[1], e[3], e[4] = a.id, a.flags, a.value, a.value
		for j := range 6 {
			e[5+j] = byte(a.raw >> (8 * j))
		}
		limits[2+12*i], limits[2+12*i+1] = a.id, a.limit
	}
	binary.LittleEndian.PutUint16(errLog[452:], 7)
	tests[3], tests[3+24] = 0x70, 0x00
	d := &disk{scsi: map[string][]byte{
		"120000":            []byte("\x00\x00\x06\x12\x5b\x00\x00\x02ATA     " + "EXAMPLE         SN05" + strings.Repeat("\x00", 60)),
		identify + "000001": sum(id), smartRead: sum(data), thresholds: sum(limits),
		logRead + "0001" + "0001": sum(errLog), logRead + "0001" + "0006": sum(tests),
	}, sense: map[string]smart.Sense{}}
	d.sense[status] = smart.Sense{0x72, 1, 0, 0x1d, 0, 0, 0, 14, 0x09, 0x0c, 0, 0, 0, 0, 0, 0, 0, byte(registers >> 8), 0, byte(registers), 0, 0x50}
	return d
}

func TestATA(t *testing.T) {
	d := ataDisk("ST8000NM0055-1RM112", pass,
		attr{5, 3, 100, 10, 8}, attr{9, 0x32, 90, 0, 0x1234_0000_2bc1}, attr{188, 0x32, 100, 0, 51540393996},
		attr{194, 0x22, 36, 0, 0x0014_0000_0024}, attr{197, 0x12, 100, 0, 2}, attr{7, 0xf, 84, 30, 3<<32 | 229_000_000}, attr{250, 2, 1, 0, 77})
	r := read(t, d)
	if r.Model != "ST8000NM0055-1RM112" || r.Serial != "ZA1234XY" || r.Firmware != "SN05" || r.CapacityBytes != 15628053168*512 || *r.RPM != 7200 {
		t.Errorf("identity: %+v", r)
	}
	if *r.Failing || *r.PowerOnHours != 0x2bc1 || *r.Celsius != 36 || *r.ATA.Errors != 7 || *r.ATA.SelfTestFailures != 1 || len(r.Problems) != 0 {
		t.Errorf("health: %+v %+v", r, r.ATA)
	}
	for id, want := range map[uint8]uint64{5: 8, 188: 12, 197: 2, 7: 3, 250: 77} {
		if a, ok := r.ATA.Attribute(id); !ok || a.Count != want {
			t.Errorf("attribute %d counts %d, want %d", id, a.Count, want)
		}
	}
	if a, _ := r.ATA.Attribute(5); !a.Prefailure || a.Failed() || a.Name != "reallocated sectors" {
		t.Errorf("attribute 5: %+v", a)
	}
}

func TestATAFailing(t *testing.T) {
	r := read(t, ataDisk("EXAMPLE", fail, attr{5, 3, 9, 10, 4000}))
	if a, _ := r.ATA.Attribute(5); !*r.Failing || !a.Failed() {
		t.Errorf("failing disk: %+v %+v", r, a)
	}
	// Registers in sense of the fixed format, as a kernel or an adapter without descriptors gives them.
	d := ataDisk("EXAMPLE", pass)
	d.sense[status] = smart.Sense{0x70, 0, 1, 0, 0x50, 0, 0, 10, 0, 0, 0xf4, 0x2c, 0x00, 0x1d, 0, 0, 0, 0}
	if r := read(t, d); !*r.Failing {
		t.Errorf("fixed format: %+v", r)
	}
}

// What the disk does not say is not "passed".
func TestATASilence(t *testing.T) {
	d := ataDisk("EXAMPLE", pass, attr{5, 3, 100, 10, 8})
	d.sense[status] = smart.Sense{}
	if r := read(t, d); r.Failing != nil || len(r.Problems) != 1 {
		t.Errorf("registers that do not come back: %+v", r)
	}
	for _, page := range []string{thresholds, logRead + "00010006"} {
		d = ataDisk("EXAMPLE", pass, attr{5, 3, 9, 10, 8})
		d.scsi[page][100]++
		r := read(t, d)
		a, _ := r.ATA.Attribute(5)
		if len(r.Problems) != 1 || (page == thresholds) != (a.Threshold == nil) || (page != thresholds) != (r.ATA.SelfTestFailures == nil) {
			t.Errorf("page %s with a wrong checksum: %+v, problems %q", page, r.ATA, r.Problems)
		}
	}
	// A wrong checksum of the attributes discarded the disk's own prediction as well.
	for _, registers := range []uint16{pass, fail} {
		d = ataDisk("EXAMPLE", registers, attr{5, 3, 9, 10, 8})
		d.scsi[smartRead][20]++
		r := read(t, d)
		if r.Failing == nil || *r.Failing != (registers == fail) || len(r.ATA.Attributes) != 0 || r.ATA.Errors == nil || len(r.Problems) != 1 || !strings.Contains(r.Problems[0], "SMART data: the checksum") {
			t.Errorf("wrong checksum: %+v %+v", r, r.ATA)
		}
	}
	d.sense[status] = smart.Sense{}
	if r, err := smart.Read(t.Context(), d); err == nil || !strings.Contains(err.Error(), "checksum") {
		t.Errorf("wrong checksum, and no prediction: %+v, %v", r, err)
	}
	d = ataDisk("EXAMPLE", pass)
	binary.LittleEndian.PutUint16(d.scsi[identify+"000001"][170:], 0)
	sum(d.scsi[identify+"000001"])
	if _, err := smart.Read(t.Context(), d); !errors.Is(err, smart.ErrUnsupported) {
		t.Errorf("SMART turned off: %v", err)
	}
}

// A drive that refused its attributes was not heard when it said that it fails.
func TestATAFailingWithoutAttributes(t *testing.T) {
	for name, err := range map[string]error{"refused": smart.SenseError{Status: 2, Key: 5, ASC: 0x24}, "no answer": errors.New("host status 0x03")} {
		for _, said := range []uint16{fail, pass, 0} {
			d := ataDisk("EXAMPLE", said, attr{5, 3, 100, 10, 8})
			d.errs = map[string]error{smartRead: err}
			r, err := smart.Read(t.Context(), d)
			if said != fail { // what says that all is well is not believed without a number
				if err == nil || !strings.Contains(err.Error(), "SMART data") || errors.Is(err, smart.ErrUnsupported) {
					t.Errorf("%s, status %#x: %+v, %v", name, said, r, err)
				}
				continue
			}
			if err != nil || !*r.Failing || len(r.ATA.Attributes) != 0 || *r.ATA.Errors != 7 || len(r.Problems) != 1 || !strings.HasPrefix(r.Problems[0], "SMART data: ") {
				t.Errorf("%s: %+v, %v", name, r, err)
			}
		}
	}
}
