package smart

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
)

// SCSIHealth is what the log pages of a SCSI or SAS disk tell (SPC-6 and
// SBC-4, log parameters). A nil pointer is a page or parameter that it does not have.
type SCSIHealth struct {
	// WWN is the disk's own name (VPD page 83h), empty when it has none.
	WWN string `json:"wwn,omitempty"`
	// Read, Write and Verify are the error counters.
	Read   *ErrorCounters `json:"read,omitempty"`
	Write  *ErrorCounters `json:"write,omitempty"`
	Verify *ErrorCounters `json:"verify,omitempty"`
	// ASC and ASCQ are the informational exception; 0x5d is a predicted failure.
	ASC             *uint8  `json:"asc,omitempty"`
	ASCQ            *uint8  `json:"ascq,omitempty"`
	TripCelsius     *int    `json:"tripCelsius,omitempty"`
	StartStopCycles *uint64 `json:"startStopCycles,omitempty"`
	// ScanErrors are the places that the background scan found bad.
	ScanErrors *int `json:"scanErrors,omitempty"`
	// GrownDefects are the places that the disk has reassigned since it left the factory.
	GrownDefects *uint64 `json:"grownDefects,omitempty"`
	// SelfTestFailures counts among the last 20 tests; StandingTestFailures are those of them
	// since which no test of the same kind, or extended one, has passed.
	SelfTestFailures     *int `json:"selfTestFailures,omitempty"`
	StandingTestFailures *int `json:"standingTestFailures,omitempty"`
}

// ErrorCounters are the parameters of the log pages 0x02, 0x03 and 0x05. A
// counter that the disk does not have is nil, not 0.
type ErrorCounters struct {
	Corrected      *uint64 `json:"corrected,omitempty"`
	Uncorrected    *uint64 `json:"uncorrected,omitempty"`
	BytesProcessed *uint64 `json:"bytesProcessed,omitempty"`
}

// Log pages.
const (
	pageSupported   = 0x00
	pageWriteErrors = 0x02
	pageReadErrors  = 0x03
	pageVerify      = 0x05
	pageTemperature = 0x0d
	pageStartStop   = 0x0e
	pageSelfTests   = 0x10
	pageSolidState  = 0x11
	pageBackground  = 0x15
	pageExceptions  = 0x2f
)

type inquiry struct {
	kind                      uint8
	vendor, product, revision string
}

// Peripheral device types of disks.
const blockDevice, zonedBlockDevice = 0x00, 0x14

// inquire asks for the 36 bytes that every disk has: no more is read here, and of USB disks
// "many devices choke if asked for more or less than 36 bytes" (Linux, drivers/usb/storage/scsiglue.c).
func inquire(d Device) (inquiry, error) {
	data := make([]byte, 36)
	n, _, err := d.SCSI([]byte{0x12, 0, 0, 0, byte(len(data)), 0}, data)
	if err != nil {
		return inquiry{}, fmt.Errorf("inquiry: %w", err)
	}
	if n < len(data) {
		return inquiry{}, fmt.Errorf("inquiry: %d bytes, want %d", n, len(data))
	}
	kind := data[0] & 0x1f
	if kind != blockDevice && kind != zonedBlockDevice {
		return inquiry{}, fmt.Errorf("%w: it is a SCSI device of type 0x%02x and no disk", ErrUnsupported, kind)
	}
	return inquiry{kind, text(data[8:16]), text(data[16:32]), text(data[32:36])}, nil
}

func readSCSI(ctx context.Context, d Device, inq inquiry, known *knownSCSI) (*Report, error) {
	r := &Report{Protocol: SCSI, Vendor: inq.vendor, Model: inq.product, Firmware: inq.revision, SCSI: &SCSIHealth{}}
	pages, serial, err := known.begin(d, inq)
	if err == nil {
		r.Serial = text(serial)
	} else {
		r.problem("serial number", err)
	}
	// SBC-4, Block Device Characteristics VPD page: 1 is a disk that does not rotate, up to 0x400 is reserved.
	if c, err := known.page(pages, 0xb1); err == nil && len(c) >= 2 {
		if rpm := binary.BigEndian.Uint16(c); rpm == 1 {
			r.RPM = new(uint16)
		} else if rpm > 0x400 && rpm != 0xffff {
			r.RPM = &rpm
		}
	} else if err != nil && !errors.Is(err, ErrUnsupported) {
		r.problem("rotation rate", err)
	}
	identification, err := known.page(pages, 0x83)
	if err == nil {
		r.SCSI.WWN = designation(identification)
	} else if !errors.Is(err, ErrUnsupported) {
		r.problem("device identification", err)
	}
	if size, err := capacity16(d); err == nil {
		r.CapacityBytes = size
	} else {
		r.problem("capacity", err)
	}
	logs := newLogPages(d, identification, known)
	supported, err := logs.supported()
	if err != nil {
		return nil, fmt.Errorf("list log pages: %w", err)
	}
	for _, p := range []struct {
		page uint8
		name string
		read func(params)
	}{
		{pageExceptions, "informational exceptions", r.exceptions},
		{pageReadErrors, "read errors", func(l params) { r.SCSI.Read = l.counters() }},
		{pageWriteErrors, "write errors", func(l params) { r.SCSI.Write = l.counters() }},
		{pageVerify, "verify errors", func(l params) { r.SCSI.Verify = l.counters() }},
		{pageTemperature, "temperature", r.temperature},
		{pageStartStop, "start-stop cycles", r.startStop},
		{pageSelfTests, "self-tests", r.scsiSelfTests},
		{pageSolidState, "solid state media", r.solidState},
		{pageBackground, "background scan", r.backgroundScan},
	} {
		if !slices.Contains(supported, p.page) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		data, err := logs.read(p.page)
		if err != nil {
			r.problem(p.name, err)
			continue
		}
		l, err := parameters(data)
		if err != nil {
			r.problem(p.name, err)
		}
		p.read(l)
	}
	if r.RPM != nil && *r.RPM == 0 {
		return r, nil // an SSD keeps no list of defects
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if n, ok, err := grownDefects(d); ok {
		r.SCSI.GrownDefects = &n
	} else if err != nil && !errors.Is(err, ErrUnsupported) {
		r.problem("grown defects", err)
	}
	return r, nil
}

func capacity16(d Device) (uint64, error) {
	data := make([]byte, 32)
	n, _, err := d.SCSI([]byte{0x9e, 0x10, 13: byte(len(data)), 15: 0}, data)
	if err != nil {
		return 0, err
	}
	if n < 12 {
		return 0, fmt.Errorf("%d bytes, want 12 at least", n)
	}
	last, block := binary.BigEndian.Uint64(data), uint64(binary.BigEndian.Uint32(data[8:]))
	if block == 0 || last+1 == 0 || last+1 > (1<<63)/block {
		return 0, fmt.Errorf("%d+1 blocks of %d bytes", last, block)
	}
	return (last + 1) * block, nil
}

// params are the parameters of a log page by their code.
type params map[uint16][]byte

// parameters takes a page apart. With an error it returns those before the error.
func parameters(data []byte) (params, error) {
	out := params{}
	for len(data) >= 4 {
		code, length := binary.BigEndian.Uint16(data), int(data[3])
		if len(data) < 4+length {
			return out, fmt.Errorf("parameter 0x%04x has %d bytes of %d", code, len(data)-4, length)
		}
		out[code] = data[4 : 4+length]
		data = data[4+length:]
	}
	return out, nil
}

// number is a big-endian counter, which may have any width; more than 64 bits
// read as the greatest number.
func (l params) number(code uint16) (uint64, bool) {
	b, ok := l[code]
	if !ok || len(b) == 0 {
		return 0, false
	}
	var n uint64
	for _, c := range b {
		if n>>56 != 0 {
			return 1<<64 - 1, true
		}
		n = n<<8 | uint64(c)
	}
	return n, true
}

// counters reads an Error Counter log page (SPC-6).
func (l params) counters() *ErrorCounters {
	if len(l) == 0 {
		return nil
	}
	counter := func(code uint16) *uint64 {
		if n, ok := l.number(code); ok {
			return &n
		}
		return nil
	}
	return &ErrorCounters{Corrected: counter(0x0003), BytesProcessed: counter(0x0005), Uncorrected: counter(0x0006)}
}

func (r *Report) exceptions(l params) {
	p := l[0]
	if len(p) < 3 {
		return
	}
	r.SCSI.ASC, r.SCSI.ASCQ = &p[0], &p[1]
	r.Failing = ptr(scsiPredicts(p[0], p[1]))
	if r.Celsius == nil && p[2] != 0 && p[2] != 0xff {
		r.Celsius = ptr(int(p[2]))
	}
}

func (r *Report) temperature(l params) {
	if p := l[0]; len(p) >= 2 && p[1] != 0xff { // not available
		r.Celsius = ptr(int(p[1]))
	}
	if p := l[1]; len(p) >= 2 && p[1] != 0 && p[1] != 0xff {
		r.SCSI.TripCelsius = ptr(int(p[1]))
	}
}

func (r *Report) startStop(l params) {
	if n, ok := l.number(0x0004); ok && n != 0xffffffff {
		r.SCSI.StartStopCycles, r.PowerCycles = &n, &n
	}
}

func (r *Report) scsiSelfTests(l params) {
	if len(l) == 0 {
		return
	}
	var tests []selfTest
	for code := range uint16(20) { // 1 is the newest
		if p := l[code+1]; len(p) >= 1 {
			tests = append(tests, scsiTest(p[0]>>5, p[0]&0x0f))
		}
	}
	r.SCSI.SelfTestFailures, r.SCSI.StandingTestFailures = failures(tests)
}

func (r *Report) solidState(l params) {
	if p := l[0x0001]; len(p) >= 4 { // SBC-4, Solid State Media log page
		r.PercentUsed = ptr(p[3])
	}
}

func (r *Report) backgroundScan(l params) {
	if p := l[0]; len(p) >= 4 { // SBC-4, Background Scan log page, accumulated minutes
		r.PowerOnHours = ptr(uint64(binary.BigEndian.Uint32(p)) / 60)
	}
	if len(l) == 0 {
		return
	}
	bad := 0
	for code, p := range l {
		if code == 0 || code > 0x0800 || len(p) < 8 {
			continue
		}
		if scanFoundBad(p[4] >> 4) {
			bad++
		}
	}
	r.SCSI.ScanErrors = &bad
}

// scsiPredicts says whether an informational exception is a predicted failure: additional
// sense code 5Dh is, and 5Dh/FFh is a test of the report.
func scsiPredicts(asc, ascq uint8) bool { return asc == 0x5d && ascq != 0xff }

// scsiTestFailed says whether a self-test failed (SPC-6, Self-Test Results log page).
func scsiTestFailed(result uint8) bool { return result >= 0x3 && result <= 0x7 }

// scanFoundBad is what the reassign status says of a place (SBC-4, Background Scan Results log
// page; reassign_status in smartmontools' scsiprint.cpp and sg3_utils' sg_logs.c): 0 needs nothing, 2 and 5
// were reassigned or rewritten by the disk, 6 by those who use it, all with the data. 1 waits for that,
// 4 and 8 are its failure, 7 was without the data; the rest is reserved.
func scanFoundBad(reassign uint8) bool {
	return reassign != 0 && reassign != 2 && reassign != 5 && reassign != 6
}
