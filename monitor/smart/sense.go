package smart

import "fmt"

// Sense is what a disk adds to the end of a SCSI command (SPC-6, sense data).
// It is empty when there is nothing to add.
type Sense []byte

// Sense keys of SPC-6.
const (
	keyNone           = 0x0
	keyRecovered      = 0x1
	keyNotReady       = 0x2
	keyIllegalRequest = 0x5
)

// Codes returns the sense key, the additional sense code and its qualifier. All
// are 0 when there is no sense.
func (s Sense) Codes() (key, asc, ascq uint8) {
	if len(s) < 8 {
		return 0, 0, 0
	}
	switch s[0] & 0x7f {
	case 0x70, 0x71: // fixed format
		if len(s) < 14 {
			return s[2] & 0x0f, 0, 0
		}
		return s[2] & 0x0f, s[12], s[13]
	case 0x72, 0x73: // descriptors
		return s[1] & 0x0f, s[2], s[3]
	}
	return 0, 0, 0
}

// ataRegisters are those that an ATA command left (SAT-5, ATA Status Return descriptor and fixed format).
type ataRegisters struct {
	status, error, lbaMid, lbaHigh uint8
}

func (s Sense) ata() (r ataRegisters, ok bool) {
	if len(s) < 8 {
		return r, false
	}
	switch s[0] & 0x7f {
	case 0x72, 0x73:
		for d := s[8:min(len(s), 8+int(s[7]))]; len(d) >= 2; {
			length := 2 + int(d[1])
			if d[0] == 0x09 && length == 14 && len(d) >= 14 {
				return ataRegisters{status: d[13], error: d[3], lbaMid: d[9], lbaHigh: d[11]}, true
			}
			if length > len(d) {
				break
			}
			d = d[length:]
		}
	case 0x70, 0x71:
		// Only this code says that the fields are registers.
		if _, asc, ascq := s.Codes(); asc == 0x00 && ascq == 0x1d && len(s) >= 14 {
			return ataRegisters{status: s[4], error: s[3], lbaMid: s[10], lbaHigh: s[11]}, true
		}
	}
	return r, false
}

// SenseError is a SCSI command that the disk refused.
type SenseError struct {
	// Status is the SCSI status (SAM-6), 0x02 with sense.
	Status         uint8
	Key, ASC, ASCQ uint8
}

func (e SenseError) Error() string {
	return fmt.Sprintf("SCSI status 0x%02x: sense key 0x%x, code 0x%02x/0x%02x", e.Status, e.Key, e.ASC, e.ASCQ)
}

// Is makes errors.Is(e, ErrUnsupported) true for commands and pages that the
// disk does not have: invalid operation code, invalid field.
func (e SenseError) Is(target error) bool {
	return target == ErrUnsupported && e.Key == keyIllegalRequest && (e.ASC == 0x20 || e.ASC == 0x24)
}
