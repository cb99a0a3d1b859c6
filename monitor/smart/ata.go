package smart

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// ATAHealth is what is of ATA disks alone.
type ATAHealth struct {
	Attributes []Attribute `json:"attributes"`
	// Errors is how many errors the disk has logged over its life.
	Errors *uint64 `json:"errors,omitempty"`
	// Uncorrectable are errors that the host was told of, by the device statistics. It is nil of a
	// disk that counts them in attribute 187.
	Uncorrectable *uint64 `json:"uncorrectable,omitempty"`
	// SelfTestFailures counts among the tests that the disk remembers, the last 21 or, in its extended log,
	// 19 or more; StandingTestFailures are those of them
	// since which no test of the same kind, or extended one, has passed.
	SelfTestFailures     *int `json:"selfTestFailures,omitempty"`
	StandingTestFailures *int `json:"standingTestFailures,omitempty"`
}

// Attribute is a vendor's attribute: a number that the standards leave to the
// vendor, see attributes.go.
type Attribute struct {
	ID   uint8  `json:"id"`
	Name string `json:"name"` // empty when it has no meaning that vendors share
	// Value falls from 100, 200 or 253 on; at or below Threshold the attribute has failed.
	// A nil Threshold could not be read.
	Value     uint8  `json:"value"`
	Worst     uint8  `json:"worst"`
	Threshold *uint8 `json:"threshold,omitempty"`
	// Prefailure attributes predict a failure, the others tell of age.
	Prefailure bool `json:"prefailure"`
	// Raw is all 48 bits, Count those that count, once taken out of what the
	// vendor packs beside.
	Raw   uint64 `json:"raw"`
	Count uint64 `json:"count"`
}

// Failed says that the attribute is at or below its threshold. A threshold of 0
// never fails; false with a threshold that was not read means nothing.
func (a Attribute) Failed() bool {
	return a.Threshold != nil && *a.Threshold > 0 && a.Value <= *a.Threshold
}

// Attribute returns the attribute with an id.
func (h *ATAHealth) Attribute(id uint8) (Attribute, bool) {
	for _, a := range h.Attributes {
		if a.ID == id {
			return a, true
		}
	}
	return Attribute{}, false
}

// refusal is the error of a command that every such disk has: one that refuses
// it is not one without health to tell, so that the error is not ErrUnsupported. A
// kernel without a way to send it is another thing.
func refusal(err error) error {
	var sense SenseError
	var status StatusError
	if errors.As(err, &sense) || errors.As(err, &status) || errors.Is(err, errAborted) {
		return refused{err}
	}
	return err
}

// refused is an error that errors.As finds, and errors.Is does not.
type refused struct{ err error }

func (e refused) Error() string      { return "the disk refuses: " + e.err.Error() }
func (e refused) As(target any) bool { return errors.As(e.err, target) }

// errAborted is ErrUnsupported as an ATA disk says it.
var errAborted = fmt.Errorf("%w: command aborted", ErrUnsupported)

func ataError(r ataRegisters) error {
	if r.error&0x04 != 0 { // ABRT
		return fmt.Errorf("%w: ATA status 0x%02x, error 0x%02x", errAborted, r.status, r.error)
	}
	return fmt.Errorf("ATA status 0x%02x, error 0x%02x", r.status, r.error)
}

func readATA(ctx context.Context, dev Device, inq inquiry, db *DriveDB, known *knownATA) (*Report, error) {
	d, id, err := identifyATA(dev, inq)
	if err != nil {
		return nil, fmt.Errorf("identify: %w", refusal(err))
	}
	// ACS-4, IDENTIFY DEVICE word 255: with the signature there is a checksum.
	if id[510] == 0xa5 && checksum(id) != 0 {
		return nil, errors.New("identify: the checksum is wrong")
	}
	word := func(i int) uint16 { return binary.LittleEndian.Uint16(id[2*i:]) }
	r := &Report{Protocol: ATA, Serial: swapped(id[20:40]), Firmware: swapped(id[46:54]), Model: swapped(id[54:94]), ATA: &ATAHealth{}, db: db}
	r.CapacityBytes = ataCapacity(word)
	if rpm := word(217); rpm == 1 {
		r.RPM = new(uint16)
	} else if rpm > 0x400 && rpm != 0xffff {
		r.RPM = &rpm
	}
	if word(82)&1 == 0 {
		return nil, fmt.Errorf("%w: no SMART", ErrUnsupported)
	}
	if word(85)&1 == 0 {
		return nil, fmt.Errorf("%w: SMART is turned off (smartctl -s on)", ErrUnsupported)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if r.Failing, err = returnStatus(d); err != nil {
		r.problem("SMART status", err)
	}
	if err := r.attributesOf(ctx, d); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	r.ataLogs(ctx, d, known, r.hasGeneralLogs(d, word))
	return r, nil
}

// attributesOf reads the attributes. Without them there is no health to tell, but for what the disk has
// concluded itself.
func (r *Report) attributesOf(ctx context.Context, d ataDevice) error {
	data, err := d.read(smartData, 1)
	switch {
	case err != nil && r.Failing != nil && *r.Failing: // it needs no number to be failing
		r.problem("SMART data", refusal(err))
		return nil
	case err != nil:
		return fmt.Errorf("read SMART data: %w", refusal(err))
	}
	// smartctl warns of a wrong checksum, and no more (smartmontools' atacmds.cpp, checksumwarning). Numbers
	// that may be garbage judge no disk here, but what the disk tells beside them does.
	if wrong := errors.New("the checksum is wrong"); checksum(data) != 0 {
		if r.Failing == nil {
			return fmt.Errorf("read SMART data: %w", wrong)
		}
		r.problem("SMART data", wrong)
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	thresholds, err := d.read(smartThresholds, 1)
	if err != nil {
		r.problem("thresholds", err)
	}
	r.attributes(data, thresholds)
	return nil
}

// ataCapacity is the number of sectors that can be addressed times their size
// (ACS-4, IDENTIFY DEVICE words 60, 100, 106 and 117).
func ataCapacity(word func(int) uint16) uint64 {
	sectors := uint64(word(61))<<16 | uint64(word(60))
	if word(83)&(1<<10) != 0 {
		sectors = uint64(word(103))<<48 | uint64(word(102))<<32 | uint64(word(101))<<16 | uint64(word(100))
	}
	size := uint64(sector)
	if w := word(106); w&0xd000 == 0x5000 { // valid, and sectors of another size
		size = 2 * (uint64(word(118))<<16 | uint64(word(117)))
	}
	return times(sectors, size)
}

// returnStatus is the disk's own prediction (ACS-3, SMART RETURN STATUS): the
// registers come back as they were sent, or as 0xf4 and 0x2c.
func returnStatus(d ataDevice) (failing *bool, err error) {
	_, sense, err := d.SCSI(d.passThrough(smartStatus, nil), nil)
	if err != nil {
		return nil, err
	}
	regs, ok := sense.ata()
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: the registers did not come back", ErrUnsupported)
	case regs.status&0x01 != 0:
		return nil, ataError(regs)
	case regs.lbaMid == 0x4f && regs.lbaHigh == 0xc2:
		return ptr(false), nil
	case regs.lbaMid == 0xf4 && regs.lbaHigh == 0x2c:
		return ptr(true), nil
	}
	return nil, fmt.Errorf("LBA registers 0x%02x and 0x%02x mean nothing", regs.lbaMid, regs.lbaHigh)
}

// mostHours is more than a drive can have been on: a greater number is of another unit,
// that of drives for notebooks mostly (libatasmart takes no more than 30 years either:
// atasmart.c, SK_MSECOND_VALID_LONG_MAX).
const mostHours = 30 * 365 * 24

// attributes takes apart the 30 entries of 12 bytes that follow the revision
// number, as SFF-8035i has them. thresholds may be nil.
func (r *Report) attributes(data, thresholds []byte) {
	limits := map[uint8]*uint8{}
	if thresholds != nil && checksum(thresholds) == 0 {
		for i := range 30 {
			if e := thresholds[2+12*i:]; e[0] != 0 {
				limits[e[0]] = ptr(e[1])
			}
		}
	} else if thresholds != nil {
		r.problem("thresholds", errors.New("the checksum is wrong"))
	}
	for i := range 30 {
		e := data[2+12*i:]
		if e[0] == 0 {
			continue
		}
		a := Attribute{ID: e[0], Prefailure: e[1]&1 != 0, Value: e[3], Worst: e[4], Threshold: limits[e[0]]}
		for j := range 6 {
			a.Raw |= uint64(e[5+j]) << (8 * j)
		}
		a.Name, a.Count = r.db.attribute(a.ID, a.Raw, r.Model, r.Firmware)
		r.ATA.Attributes = append(r.ATA.Attributes, a)
	}
	if a, ok := r.ATA.Attribute(attrPowerOn); ok && a.Count <= mostHours {
		r.PowerOnHours = &a.Count
	}
	if a, ok := r.ATA.Attribute(attrPowerCycles); ok {
		r.PowerCycles = &a.Count
	}
	for _, id := range []uint8{attrTemperature, attrAirflow} {
		if a, ok := r.ATA.Attribute(id); ok && a.Count > 0 && a.Count < 128 {
			r.Celsius = ptr(int(a.Count))
			break
		}
	}
}

// ataLogs reads the logs of errors and of self-tests: the extended ones of a disk that is known to have them, else
// the plain ones. At its first reading it is asked for both, since nobody knows how it takes to be asked for the former.
func (r *Report) ataLogs(ctx context.Context, d ataDevice, known *knownATA, general bool) {
	var told ataTold
	first := known.begin(r)
	if general && !first {
		told = known.read(ctx, d, r)
	}
	var errorLog, testLog error
	if told.errors == nil {
		told.errors, errorLog = summaryErrors(d)
	}
	var plain *[]selfTest
	if (told.tests == nil || !ran(*told.tests)) && ctx.Err() == nil {
		plain, testLog = plainTests(d)
	}
	if general && first {
		more := r.firstTime(ctx, d, known)
		more.errors = cmp.Or(more.errors, told.errors)
		told = more
	}
	switch {
	case told.tests == nil:
		told.tests = plain
	case plain != nil && !ran(*told.tests) && ran(*plain): // its extended log is there, and the disk does not keep it
		told.tests = plain
		delete(known.pages, logExtendedTests)
	}
	if r.ATA.Errors = told.errors; told.errors == nil && errorLog != nil {
		r.problem("error log", errorLog)
	}
	if told.tests != nil {
		r.ATA.SelfTestFailures, r.ATA.StandingTestFailures = failures(*told.tests)
	} else if testLog != nil {
		r.problem("self-test log", testLog)
	}
	r.ATA.Uncorrectable, r.Celsius, r.PercentUsed = told.uncorrectable, cmp.Or(r.Celsius, told.celsius), cmp.Or(r.PercentUsed, told.used)
}

// summaryErrors is the count of the summary error log (ATA/ATAPI-7, SMART READ LOG).
func summaryErrors(d ataDevice) (*uint64, error) {
	log, err := d.readSummed(smartErrorSummary)
	if err != nil {
		return nil, err
	}
	return ptr(uint64(binary.LittleEndian.Uint16(log[452:]))), nil
}

// plainTests are those of the self-test log (ATA/ATAPI-7, SMART READ LOG), the newest first.
func plainTests(d ataDevice) (*[]selfTest, error) {
	log, err := d.readSummed(smartSelfTestLog)
	if err != nil {
		return nil, err
	}
	var tests []selfTest
	for i := range 21 { // a ring; byte 508 is the number of the newest, from 1
		e := log[2+24*((int(log[508])+20-i)%21):]
		tests = append(tests, ataTest(e[0], e[1]))
	}
	return &tests, nil
}

// ataTestFailed says whether a self-test ended with a failure of the drive (ATA/ATAPI-7,
// self-test execution status).
func ataTestFailed(status uint8) bool { return status >= 0x3 && status <= 0x8 }

// checksum is 0 for a sector whose last byte makes it so.
func checksum(b []byte) (sum uint8) {
	for _, c := range b {
		sum += c
	}
	return sum
}

// swapped is an ATA string: the bytes of each word are exchanged.
func swapped(b []byte) string {
	out := make([]byte, len(b))
	for i := 0; i+1 < len(b); i += 2 {
		out[i], out[i+1] = b[i+1], b[i]
	}
	return strings.TrimSpace(text(out))
}
