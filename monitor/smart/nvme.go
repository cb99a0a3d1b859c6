package smart

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/bits"
	"strings"
)

// AdminCommand is what differs between NVMe's admin commands that read.
type AdminCommand struct {
	Opcode       uint8
	NSID         uint32
	CDW10, CDW11 uint32
}

// Opcodes, log pages and structures of the NVM Express Base Specification 2.0.
const (
	opGetLogPage = 0x02
	opIdentify   = 0x06

	logErrors   = 0x01
	logHealth   = 0x02
	logSelfTest = 0x06

	identifyNamespace  = 0x00
	identifyController = 0x01

	allNamespaces = math.MaxUint32
)

// StatusError is the status of an NVMe command that the disk refused: its type
// and its code (Base Specification 2.0, status field).
type StatusError struct{ Type, Code uint8 }

func (e StatusError) Error() string {
	return fmt.Sprintf("NVMe status: type 0x%x, code 0x%02x", e.Type, e.Code)
}

// Is makes errors.Is(e, ErrUnsupported) true for commands, fields and log pages
// that the disk does not have.
func (e StatusError) Is(target error) bool {
	return target == ErrUnsupported && (e.Type == 0 && (e.Code == 0x01 || e.Code == 0x02) || e.Type == 1 && e.Code == 0x09)
}

// NVMeHealth is the SMART / Health Information log (Base Specification
// 2.0). Counters are 128 bits wide there; more than 64 bits read as the
// greatest number.
type NVMeHealth struct {
	CriticalWarning   CriticalWarning `json:"criticalWarning"`
	AvailableSpare    uint8           `json:"availableSpare"` // percent
	SpareThreshold    uint8           `json:"spareThreshold"` // percent
	BytesRead         uint64          `json:"bytesRead"`      // rounded up to 512,000
	BytesWritten      uint64          `json:"bytesWritten"`
	ReadCommands      uint64          `json:"readCommands"`
	WriteCommands     uint64          `json:"writeCommands"`
	BusyMinutes       uint64          `json:"busyMinutes"`
	UnsafeShutdowns   uint64          `json:"unsafeShutdowns"`
	MediaErrors       uint64          `json:"mediaErrors"`
	ErrorLogEntries   uint64          `json:"errorLogEntries"` // over the disk's life
	WarningTempMins   uint32          `json:"warningTemperatureMinutes"`
	CriticalTempMins  uint32          `json:"criticalTemperatureMinutes"`
	SensorsCelsius    []int           `json:"sensorsCelsius,omitempty"`
	Errors            []NVMeError     `json:"errors,omitempty"` // the newest first
	SelfTestInPercent *uint8          `json:"selfTestPercent,omitempty"`
	// SelfTestFailures counts among the last 20 tests; StandingTestFailures are those of them
	// since which no test of the same kind, or extended one, has passed.
	SelfTestFailures     *int `json:"selfTestFailures,omitempty"`
	StandingTestFailures *int `json:"standingTestFailures,omitempty"`
}

// CriticalWarning is a set of bits.
type CriticalWarning uint8

// Bits of CriticalWarning.
const (
	SpareLow CriticalWarning = 1 << iota
	TemperatureOutside
	ReliabilityDegraded
	ReadOnly
	BackupFailed
	PersistentMemoryUnreliable
)

var warningNames = []string{"spare below its threshold", "temperature outside its thresholds", "reliability degraded", "read only", "volatile memory's backup failed", "persistent memory region read only or unreliable"}

// Reasons are the names of the bits that are set.
func (w CriticalWarning) Reasons() []string {
	var out []string
	for i := range 8 {
		if w&(1<<i) == 0 {
			continue
		}
		if i < len(warningNames) {
			out = append(out, warningNames[i])
		} else {
			out = append(out, fmt.Sprintf("reserved bit %d", i))
		}
	}
	return out
}

// NVMeError is an entry of the Error Information log.
type NVMeError struct {
	Count     uint64 `json:"count"`
	Queue     uint16 `json:"queue"`
	Type      uint8  `json:"type"` // status code type, as in StatusError
	Code      uint8  `json:"code"`
	LBA       uint64 `json:"lba"`
	Namespace uint32 `json:"namespace"`
}

func readNVMe(ctx context.Context, d Device) (*Report, error) {
	id := make([]byte, 4096)
	if err := d.Admin(AdminCommand{Opcode: opIdentify, CDW10: identifyController}, id); err != nil {
		return nil, fmt.Errorf("identify controller: %w", refusal(err))
	}
	r := &Report{Protocol: NVMe, Serial: text(id[4:24]), Model: text(id[24:64]), Firmware: text(id[64:72])}
	r.CapacityBytes = wide(id[280:296]) // TNVMCAP; 0 without namespace management
	rpm := uint16(0)
	r.RPM = &rpm
	if r.CapacityBytes == 0 {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		size, err := namespaceBytes(d)
		if err != nil {
			r.problem("capacity", err)
		}
		r.CapacityBytes = size
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	page := make([]byte, 512)
	if err := logPage(d, logHealth, page); err != nil { // every controller has it
		return nil, fmt.Errorf("read health log: %w", refusal(err))
	}
	if err := r.nvmeHealth(page); err != nil {
		return nil, fmt.Errorf("read health log: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := r.nvmeErrors(d, int(id[262])+1); err != nil { // ELPE counts from 0
		r.problem("error log", err)
	}
	if binary.LittleEndian.Uint16(id[256:])&(1<<4) == 0 { // OACS bit 4: self-tests
		return r, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := r.nvmeSelfTests(d); err != nil {
		r.problem("self-test log", err)
	}
	return r, nil
}

// namespaceBytes is the size of the device's namespace, or of a controller's first (NVM
// Command Set Specification 1.0, Identify Namespace).
func namespaceBytes(d Device) (uint64, error) {
	nsid := uint32(1)
	if n, ok := d.(Namespaced); ok {
		switch id, err := n.Namespace(); {
		case err == nil:
			nsid = id
		case !errors.Is(err, ErrUnsupported):
			return 0, fmt.Errorf("ask for the namespace: %w", err)
		}
	}
	ns := make([]byte, 4096)
	if err := d.Admin(AdminCommand{Opcode: opIdentify, NSID: nsid, CDW10: identifyNamespace}, ns); err != nil {
		return 0, err
	}
	format := int(ns[26]&0x0f) | int(ns[26]&0x60)>>1
	shift := ns[128+4*format+2]
	if shift < 9 || shift > 32 {
		return 0, fmt.Errorf("a block of 2^%d bytes", shift)
	}
	return binary.LittleEndian.Uint64(ns) << shift, nil
}

func logPage(d Device, id uint8, page []byte) error {
	dwords := uint32(len(page)/4 - 1) // counts from 0
	return d.Admin(AdminCommand{Opcode: opGetLogPage, NSID: allNamespaces, CDW10: uint32(id) | dwords<<16, CDW11: dwords >> 16}, page)
}

func (r *Report) nvmeHealth(p []byte) error {
	kelvin := binary.LittleEndian.Uint16(p[1:])
	if kelvin == 0 && p[3] == 0 && wide(p[112:128]) == 0 {
		return errors.New("the log is empty: no temperature, no spare, no power cycle")
	}
	h := &NVMeHealth{
		CriticalWarning: CriticalWarning(p[0]), AvailableSpare: p[3], SpareThreshold: p[4],
		BytesRead: times(wide(p[32:48]), 512_000), BytesWritten: times(wide(p[48:64]), 512_000),
		ReadCommands: wide(p[64:80]), WriteCommands: wide(p[80:96]), BusyMinutes: wide(p[96:112]),
		UnsafeShutdowns: wide(p[144:160]), MediaErrors: wide(p[160:176]), ErrorLogEntries: wide(p[176:192]),
		WarningTempMins: binary.LittleEndian.Uint32(p[192:]), CriticalTempMins: binary.LittleEndian.Uint32(p[196:]),
	}
	for i := range 8 {
		if k := binary.LittleEndian.Uint16(p[200+2*i:]); k != 0 {
			h.SensorsCelsius = append(h.SensorsCelsius, int(k)-273)
		}
	}
	r.NVMe = h
	if kelvin != 0 {
		r.Celsius = ptr(int(kelvin) - 273)
	}
	r.PercentUsed = ptr(p[5])
	r.PowerCycles, r.PowerOnHours = ptr(wide(p[112:128])), ptr(wide(p[128:144]))
	// A temperature passes; the others do not.
	r.Failing = ptr(h.CriticalWarning&^TemperatureOutside != 0)
	return nil
}

func (r *Report) nvmeErrors(d Device, entries int) error {
	const size, most = 64, 64
	page := make([]byte, size*min(entries, most))
	if err := logPage(d, logErrors, page); err != nil {
		return err
	}
	for ; len(page) >= size; page = page[size:] {
		count := binary.LittleEndian.Uint64(page)
		if count == 0 {
			continue
		}
		status := binary.LittleEndian.Uint16(page[12:]) >> 1 // bit 0 is the phase tag
		r.NVMe.Errors = append(r.NVMe.Errors, NVMeError{
			Count: count, Queue: binary.LittleEndian.Uint16(page[8:]), Code: uint8(status), Type: uint8(status>>8) & 7,
			LBA: binary.LittleEndian.Uint64(page[16:]), Namespace: binary.LittleEndian.Uint32(page[24:]),
		})
	}
	return nil
}

// nvmeSelfTests reads the Device Self-test log: the test that runs, and 20 results.
func (r *Report) nvmeSelfTests(d Device) error {
	page := make([]byte, 564)
	if err := logPage(d, logSelfTest, page); err != nil {
		return err
	}
	if page[0]&0x0f != 0 {
		r.NVMe.SelfTestInPercent = ptr(page[1] & 0x7f)
	}
	var tests []selfTest
	for i := range 20 { // the newest first
		tests = append(tests, nvmeTest(page[4+28*i]>>4, page[4+28*i]&0x0f))
	}
	r.NVMe.SelfTestFailures, r.NVMe.StandingTestFailures = failures(tests)
	return nil
}

// nvmeTestFailed says whether a self-test ended with a fatal or unknown error, or a
// segment that failed.
func nvmeTestFailed(result uint8) bool { return result >= 0x5 && result <= 0x7 }

// wide reads a little-endian number of 128 bits.
func wide(b []byte) uint64 {
	if binary.LittleEndian.Uint64(b[8:]) != 0 {
		return math.MaxUint64
	}
	return binary.LittleEndian.Uint64(b)
}

func times(n, factor uint64) uint64 {
	if high, low := bits.Mul64(n, factor); high == 0 {
		return low
	}
	return math.MaxUint64
}

// text is a field of fixed width, filled up with spaces or zeros.
func text(b []byte) string {
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if c < ' ' || c > '~' {
			return ' '
		}
		return c
	}, string(b)))
}

func ptr[T any](v T) *T { return &v }
