package smart_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"holdfast.dev/e2e/wait"
	"holdfast.dev/monitor/smart"
)

// disk answers commands from tables. It stands in for disks that no machine
// here has; what it serves is laid out as the standards say.
type disk struct {
	nvme  bool
	admin map[string][]byte // "identify 1", "log 2"
	scsi  map[string][]byte // the start of the CDB in hex
	sense map[string]smart.Sense
	errs  map[string]error
	asked []string
}

func (d *disk) NVMe() bool { return d.nvme }

func (d *disk) Admin(c smart.AdminCommand, data []byte) error {
	key := fmt.Sprintf("identify %d", c.CDW10)
	if c.Opcode == 2 {
		key = fmt.Sprintf("log %d", c.CDW10&0xff)
		if want := uint32(len(data)/4 - 1); c.CDW10>>16 != want&0xffff || c.CDW11 != want>>16 {
			return fmt.Errorf("%s: asks for %d dwords into %d bytes", key, c.CDW10>>16, len(data))
		}
	}
	d.asked = append(d.asked, key)
	if err := d.errs[key]; err != nil {
		return err
	}
	page, ok := d.admin[key]
	if !ok {
		return smart.StatusError{Type: 1, Code: 9}
	}
	copy(data, page)
	return nil
}

func (d *disk) SCSI(cdb, data []byte) (int, smart.Sense, error) {
	cmd := fmt.Sprintf("%x", cdb)
	d.asked = append(d.asked, cmd)
	for key, err := range d.errs {
		if strings.HasPrefix(cmd, key) {
			return 0, nil, err
		}
	}
	for key, s := range d.sense {
		if strings.HasPrefix(cmd, key) {
			return 0, s, nil
		}
	}
	for key, page := range d.scsi {
		if strings.HasPrefix(cmd, key) {
			return copy(data, page), nil, nil
		}
	}
	return 0, nil, smart.SenseError{Status: 2, Key: 5, ASC: 0x24}
}

func put(b []byte, at int, s string) { copy(b[at:], s) }

func nvmeDisk() *disk {
	id, ns, health, errs, tests := make([]byte, 4096), make([]byte, 4096), make([]byte, 512), make([]byte, 64*4), make([]byte, 564)
	put(id, 4, "S5GXNX0T        ")
	put(id, 24, "Example NVMe 3.84TB         ")
	put(id, 64, "GDC5602Q")
	binary.LittleEndian.PutUint16(id[256:], 1<<4)
	id[262] = 3
	binary.LittleEndian.PutUint64(ns, 7501476528)
	ns[26], ns[128+4+2] = 1, 9 // the second format, of 512 bytes
	health[0] = 0
	binary.LittleEndian.PutUint16(health[1:], 273+36)
	health[3], health[4], health[5] = 100, 10, 3
	binary.LittleEndian.PutUint64(health[32:], 1000)
	binary.LittleEndian.PutUint64(health[112:], 21)
	binary.LittleEndian.PutUint64(health[128:], 11237)
	binary.LittleEndian.PutUint64(health[160:], 2)
	binary.LittleEndian.PutUint64(health[176:], 5)
	binary.LittleEndian.PutUint16(health[200:], 273+35)
	binary.LittleEndian.PutUint64(errs, 5)
	binary.LittleEndian.PutUint16(errs[12:], 0x0281<<1|1)
	binary.LittleEndian.PutUint64(errs[16:], 81920)
	binary.LittleEndian.PutUint32(errs[24:], 1)
	tests[4], tests[4+28] = 0x20, 0x27 // extended: passed; failed in a segment
	return &disk{nvme: true, admin: map[string][]byte{"identify 1": id, "identify 0": ns, "log 1": errs, "log 2": health, "log 6": tests}}
}

func TestNVMe(t *testing.T) {
	d := nvmeDisk()
	r := read(t, d)
	if r.Model != "Example NVMe 3.84TB" || r.Serial != "S5GXNX0T" || r.Firmware != "GDC5602Q" || r.CapacityBytes != 7501476528*512 {
		t.Errorf("identity: %+v", r)
	}
	if *r.Celsius != 36 || *r.PowerOnHours != 11237 || *r.PowerCycles != 21 || *r.PercentUsed != 3 || *r.Failing || *r.RPM != 0 {
		t.Errorf("health: %+v", r)
	}
	h := r.NVMe
	if h.BytesRead != 512_000_000 || h.MediaErrors != 2 || h.ErrorLogEntries != 5 || *h.SelfTestFailures != 1 || len(h.SensorsCelsius) != 1 || h.SensorsCelsius[0] != 35 {
		t.Errorf("log: %+v", h)
	}
	if want := (smart.NVMeError{Count: 5, Type: 2, Code: 0x81, LBA: 81920, Namespace: 1}); len(h.Errors) != 1 || h.Errors[0] != want {
		t.Errorf("errors %+v, want %+v alone", h.Errors, want)
	}
	if len(r.Problems) != 0 {
		t.Errorf("problems: %q", r.Problems)
	}
}

// namespace is one of several that a disk has.
type namespace struct {
	*disk
	id    uint32
	err   error
	sizes map[uint32]uint64
}

func (n *namespace) Namespace() (uint32, error) { return n.id, n.err }

func (n *namespace) Admin(c smart.AdminCommand, data []byte) error {
	if c.Opcode == 6 && c.CDW10 == 0 {
		binary.LittleEndian.PutUint64(n.admin["identify 0"], n.sizes[c.NSID])
	}
	return n.disk.Admin(c, data)
}

// The capacity of nvme0n2 was that of nvme0n1.
func TestNVMeNamespaces(t *testing.T) {
	sizes := map[uint32]uint64{1: 1000, 2: 2000}
	for name, tc := range map[string]struct {
		reason string
		id     uint32
		err    error
		want   uint64
	}{
		"First":      {"nvme0n1", 1, nil, 1000 * 512},
		"Second":     {"nvme0n2", 2, nil, 2000 * 512},
		"Controller": {"nvme0 is of no namespace: its first", 0, fmt.Errorf("%w: inappropriate ioctl for device", smart.ErrUnsupported), 1000 * 512},
		"Unknown":    {"which one it is cannot be told, so no size is", 0, errors.New("input/output error"), 0},
	} {
		t.Run(name, func(t *testing.T) {
			r := read(t, &namespace{nvmeDisk(), tc.id, tc.err, sizes})
			if r.CapacityBytes != tc.want || (tc.want == 0) != (len(r.Problems) == 1) {
				t.Errorf("%s: %d bytes, want %d; problems %q", tc.reason, r.CapacityBytes, tc.want, r.Problems)
			}
		})
	}
}

func TestNVMeWarnings(t *testing.T) {
	for bits, failing := range map[smart.CriticalWarning]bool{0: false, smart.TemperatureOutside: false, smart.SpareLow: true, smart.ReliabilityDegraded: true, smart.ReadOnly | smart.TemperatureOutside: true} {
		d := nvmeDisk()
		d.admin["log 2"][0] = byte(bits)
		if r := read(t, d); *r.Failing != failing {
			t.Errorf("warning %#x (%q): failing %t", bits, bits.Reasons(), !failing)
		}
	}
}

func TestNVMeWideCounters(t *testing.T) {
	d := nvmeDisk()
	d.admin["log 2"][160+8] = 1
	binary.LittleEndian.PutUint64(d.admin["log 2"][48:], math.MaxUint64/2)
	if r := read(t, d); r.NVMe.MediaErrors != math.MaxUint64 || r.NVMe.BytesWritten != math.MaxUint64 {
		t.Errorf("counters beyond 64 bits: %+v", r.NVMe)
	}
}

// A refusal must not look like a disk without errors.
func TestNVMeRefusal(t *testing.T) {
	for _, key := range []string{"identify 1", "log 2"} {
		d := nvmeDisk()
		d.errs = map[string]error{key: smart.StatusError{Code: 0x06}}
		if r, err := smart.Read(t.Context(), d); !errors.As(err, new(smart.StatusError)) {
			t.Errorf("%s refused: %+v, %v", key, r, err)
		}
	}
	d := nvmeDisk()
	clear(d.admin["log 2"])
	if r, err := smart.Read(t.Context(), d); err == nil {
		t.Errorf("an empty health log reads as %+v", r.NVMe)
	}
	d = nvmeDisk()
	d.errs = map[string]error{"log 1": smart.StatusError{Type: 1, Code: 9}}
	if r := read(t, d); len(r.Problems) != 1 || r.NVMe.MediaErrors != 2 {
		t.Errorf("no error log: %+v", r)
	}
}

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

func page(code byte, params ...string) []byte {
	body := strings.Join(params, "")
	return []byte(string([]byte{code, 0, byte(len(body) >> 8), byte(len(body))}) + body)
}

func param(code uint16, data string) string {
	return string([]byte{byte(code >> 8), byte(code), 0x03, byte(len(data))}) + data
}

func scsiDisk() *disk {
	return &disk{scsi: map[string][]byte{
		"120000":   []byte("\x00\x00\x06\x12\x5b\x00\x00\x02EXAMPLE SAS DISK 1200GB C3P4" + strings.Repeat("\x00", 60)),
		vpdList:    vital(0x00, "\x00\x80\x83\xb1"),
		"120180":   []byte("\x00\x80\x00\x08WFK01234"),
		"1201b1":   []byte("\x00\xb1\x00\x3c\x2a\x30" + strings.Repeat("\x00", 58)),
		"120183":   []byte("\x00\x83\x00\x30" + "\x61\x93\x00\x08\x50\x00\xc5\x00\xa1\xb2\xc3\xd5" + "\x02\x01\x00\x08EXAMPLE " + "\x03\x08\x00\x08naa.x\x00\x00\x00" + "\x01\x03\x00\x08\x50\x00\xc5\x00\xa1\xb2\xc3\xd4"),
		"b70c":     []byte("\x00\x0c\x00\x00\x00\x00\x00\x18"),
		"9e10":     []byte("\x00\x00\x00\x00\x8b\xba\x0c\xaf\x00\x00\x02\x00" + strings.Repeat("\x00", 20)),
		"4d004000": page(0x00, "\x00\x02\x03\x05\x0d\x0e\x10\x11\x15\x2f"),
		"4d004200": page(0x02, param(3, "\x00\x00\x00\x07"), param(5, "\x00\x00\x01\x00\x00\x00\x00\x00"), param(6, "\x00\x00")),
		"4d004300": page(0x03, param(3, "\x01\x00"), param(6, "\x00\x00\x00\x05")),
		"4d004500": page(0x05, param(6, "\xff\xff\xff\xff\xff\xff\xff\xff\xff")),
		"4d004d00": page(0x0d, param(0, "\x00\x22"), param(1, "\x00\x3c")),
		"4d004e00": page(0x0e, param(4, "\x00\x00\x00\x19")),
		"4d005000": page(0x10, param(1, "\x40"+strings.Repeat("\x00", 15)), param(2, "\x27"+strings.Repeat("\x00", 15))),
		"4d005100": page(0x11, param(1, "\x00\x00\x00\x0b")),
		"4d005500": page(0x15, param(0, "\x00\x00\xea\x60\x00\x08\x00\x00\x00\x00\x00\x00"), param(1, "\x00\x00\x00\x01\x13\x11\x00\x00"+strings.Repeat("\x00", 12)), param(2, "\x00\x00\x00\x01\x53\x11\x00\x00"+strings.Repeat("\x00", 12))),
		"4d006f00": page(0x2f, param(0, "\x5d\x10\x22\x00")),
	}}
}

func TestSCSI(t *testing.T) {
	r := read(t, scsiDisk())
	if r.Vendor != "EXAMPLE" || r.Model != "SAS DISK 1200GB" || r.Serial != "WFK01234" || r.Firmware != "C3P4" || r.CapacityBytes != 2344225968*512 || *r.RPM != 10800 {
		t.Errorf("identity: %+v", r)
	}
	if !*r.Failing || *r.Celsius != 34 || *r.PowerCycles != 25 || *r.PowerOnHours != 1000 || *r.PercentUsed != 11 {
		t.Errorf("health: %+v", r)
	}
	h := r.SCSI
	if *h.Read.Uncorrected != 5 || *h.Read.Corrected != 256 || *h.Write.Corrected != 7 || *h.Write.BytesProcessed != 1<<40 || h.Verify.Corrected != nil || *h.Verify.Uncorrected != math.MaxUint64 {
		t.Errorf("counters: %+v %+v %+v", h.Read, h.Write, h.Verify)
	}
	if *h.ASC != 0x5d || *h.ASCQ != 0x10 || *h.TripCelsius != 60 || *h.SelfTestFailures != 1 || *h.ScanErrors != 1 || h.WWN != "5000c500a1b2c3d4" || *h.GrownDefects != 3 || len(r.Problems) != 0 {
		t.Errorf("log pages: %+v, problems %q", h, r.Problems)
	}
}

// "Unsuccessfully reassigned by app" (8) was a good place, and "successfully reassigned" (2) and
// "has valid data" (6) were bad ones.
func TestSCSIScan(t *testing.T) {
	good := map[uint8]bool{0: true, 2: true, 5: true, 6: true}
	for status := range uint8(16) {
		d := scsiDisk()
		d.scsi["4d005500"] = page(0x15, param(1, "\x00\x00\x00\x01"+string([]byte{status<<4 | 3})+"\x11\x00\x00"+strings.Repeat("\x00", 12)))
		if r := read(t, d); (*r.SCSI.ScanErrors == 0) != good[status] {
			t.Errorf("reassign status %d: %d bad places", status, *r.SCSI.ScanErrors)
		}
	}
}

// INQUIRY asked for 96 bytes, and there are USB disks that choke on more than 36.
func TestInquiryIsShort(t *testing.T) {
	for _, d := range []*disk{scsiDisk(), ataDisk("EXAMPLE", pass)} {
		read(t, d)
		if d.asked[0] != "120000002400" {
			t.Errorf("the first command is %s, want INQUIRY for 36 bytes", d.asked[0])
		}
	}
}

func TestSCSIWithoutPages(t *testing.T) {
	d := scsiDisk()
	d.scsi["4d004000"] = page(0, "\x00\x0d")
	r := read(t, d)
	if r.Failing != nil || r.SCSI.Read != nil || r.SCSI.ASC != nil || r.SCSI.ScanErrors != nil || r.SCSI.SelfTestFailures != nil || *r.Celsius != 34 {
		t.Errorf("only a temperature: %+v %+v", r, r.SCSI)
	}
	// Cut short within a parameter: what came before counts, and the rest is said to be missing.
	d = scsiDisk()
	p := d.scsi["4d004300"]
	p[3] -= 2
	d.scsi["4d004300"] = p[:len(p)-2]
	if r := read(t, d); len(r.Problems) != 1 || *r.SCSI.Read.Corrected != 256 || r.SCSI.Read.Uncorrected != nil {
		t.Errorf("page cut short: %+v, problems %q", r.SCSI.Read, r.Problems)
	}
	delete(d.scsi, "4d004000")
	if r, err := smart.Read(t.Context(), d); !errors.Is(err, smart.ErrUnsupported) {
		t.Errorf("no log pages at all: %+v, %v", r, err)
	}
}

// Whatever a disk answers, it is an error or a report.
func TestAnyAnswer(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 3000 {
		for _, d := range []*disk{nvmeDisk(), ataDisk("EXAMPLE", pass, attr{5, 3, 100, 10, 8}), scsiDisk()} {
			for _, table := range []map[string][]byte{d.admin, d.scsi} {
				for key, p := range table {
					for range rnd.IntN(6) {
						p[rnd.IntN(len(p))] = byte(rnd.Uint32())
					}
					if len(p) == 512 && rnd.IntN(2) == 0 {
						sum(p)
					}
					if rnd.IntN(8) == 0 {
						table[key] = p[:rnd.IntN(len(p))]
					}
				}
			}
			r, err := smart.Read(t.Context(), d)
			if (r == nil) == (err == nil) {
				t.Fatalf("round %d: report %v, error %v", i, r, err)
			}
		}
	}
}

// The ioctl succeeds when the disk refuses: its result is the status, with the
// bit "do not retry" (0x4000) beside.
func TestAdminStatus(t *testing.T) {
	if err := smart.AdminStatus(0); err != nil {
		t.Errorf("success is %v", err)
	}
	for result, want := range map[int]smart.StatusError{0x4002: {Type: 0, Code: 2}, 0x4109: {Type: 1, Code: 9}, 0x0281: {Type: 2, Code: 0x81}} {
		if err := smart.AdminStatus(result); !errors.Is(err, want) {
			t.Errorf("result %#x is %v, want %v", result, err, want)
		}
	}
	if !errors.Is(smart.AdminStatus(0x4109), smart.ErrUnsupported) || errors.Is(smart.AdminStatus(0x0281), smart.ErrUnsupported) {
		t.Error("an invalid log page is what the disk does not offer, a media error is not")
	}
}

func TestReaderOfHungDisk(t *testing.T) {
	hang := make(chan struct{})
	calls := 0
	r := &smart.Reader{Ask: func(_ context.Context, device string) (*smart.Report, error) {
		if device == "/dev/sdb" {
			return &smart.Report{}, nil
		}
		calls++
		<-hang // as a call in the kernel, which no context ends
		return &smart.Report{}, nil
	}}
	for range 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		began := time.Now()
		_, err := r.Read(ctx, "/dev/sda")
		cancel()
		if !errors.Is(err, smart.ErrNoAnswer) || time.Since(began) > 5*time.Second {
			t.Fatalf("hung disk: %v after %s", err, time.Since(began))
		}
	}
	if _, err := r.Read(t.Context(), "/dev/sdb"); err != nil {
		t.Errorf("the disk beside it: %v", err)
	}
	close(hang)
	// The first call is over soon.
	if _, err := wait.Until(t.Context(), 10*time.Second, "a disk that answers again", func() (bool, error) {
		_, err := r.Read(t.Context(), "/dev/sda")
		return true, err
	}); err != nil {
		t.Fatal(err)
	}
	if calls != 2 {
		t.Errorf("%d calls into the kernel, want 2: one that hung, one after it", calls)
	}
}

func TestOpenOfNoDisk(t *testing.T) {
	var r smart.Reader
	for device, want := range map[string]string{"/dev/does-not-exist": "no such file", t.TempDir(): "no device", "/dev/null": "does not offer"} {
		if _, err := r.Read(t.Context(), device); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", device, err, want)
		}
	}
}

func read(t *testing.T, d smart.Device) *smart.Report {
	t.Helper()
	r, err := smart.Read(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
