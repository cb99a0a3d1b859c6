package smart

import (
	"errors"
	"fmt"
)

// ataCommand is an ATA command that reads whole sectors, or none.
type ataCommand struct {
	command, feature, lbaLow, lbaMid, lbaHigh uint8
	// extend is one of 48 bits, which the pass-through of 12 bytes has no room for.
	extend bool
}

// Commands of ACS-4 and, for what it has dropped, of ATA/ATAPI-7.
var (
	ataIdentify       = ataCommand{command: 0xec}
	smartData         = smartCommand(0xd0, 0)
	smartThresholds   = smartCommand(0xd1, 0)
	smartStatus       = smartCommand(0xda, 0)
	smartErrorSummary = smartCommand(0xd5, 0x01)
	smartSelfTestLog  = smartCommand(0xd5, 0x06)
)

// smartCommand is one of the SMART feature set, with the registers that each of them has.
func smartCommand(feature, log uint8) ataCommand {
	return ataCommand{command: 0xb0, feature: feature, lbaLow: log, lbaMid: 0x4f, lbaHigh: 0xc2}
}

// readLog is READ LOG EXT of a general purpose log, from a page on (ACS-3).
func readLog(log, page uint8) ataCommand {
	return ataCommand{command: 0x2f, lbaLow: log, lbaMid: page, extend: true}
}

const sector = 512

// ataDevice is an ATA disk behind what translates SCSI for it.
type ataDevice struct {
	Device
	twelve bool // what translates knows the pass-through of 12 bytes alone
}

// identifyATA sends the first ATA command, which decides on the form of all of a reading:
// some USB bridges know no ATA PASS-THROUGH (16). The opcode of ATA PASS-THROUGH (12) is
// BLANK for an optical drive, so that it goes to nothing else than a disk, and only
// when the other form is no command there; another error says nothing of the form.
func identifyATA(dev Device, inq inquiry) (d ataDevice, id []byte, err error) {
	d = ataDevice{Device: dev}
	id, err = d.read(ataIdentify, 1)
	if inq.kind != blockDevice || !unknownCommand(err) {
		return d, id, err
	}
	d.twelve = true
	id, err = d.read(ataIdentify, 1)
	if unknownCommand(err) {
		return d, nil, fmt.Errorf("%w: what translates for the disk knows ATA PASS-THROUGH neither of 16 bytes nor of 12", ErrUnsupported)
	}
	return d, id, err
}

// unknownCommand says whether a command was refused as INVALID COMMAND OPERATION CODE.
func unknownCommand(err error) bool {
	var sense SenseError
	return errors.As(err, &sense) && sense.Key == keyIllegalRequest && sense.ASC == 0x20 && sense.ASCQ == 0x00
}

// passThrough is the command in ATA PASS-THROUGH (16) or (12), SAT-5. A
// command without data asks for the registers it leaves.
func (d ataDevice) passThrough(c ataCommand, data []byte) []byte {
	const (
		nonData, pioIn, extend      = 3 << 1, 4 << 1, 1
		fromDevice, blocks, inCount = 1 << 3, 1 << 2, 2
		checkCondition              = 1 << 5
	)
	var protocol, flags, count byte = nonData, checkCondition, 0
	if len(data) > 0 {
		protocol, flags, count = pioIn, fromDevice|blocks|inCount, byte(len(data)/sector)
	}
	if c.extend {
		protocol |= extend
	}
	if d.twelve {
		return []byte{0xa1, protocol, flags, c.feature, count, c.lbaLow, c.lbaMid, c.lbaHigh, 9: c.command, 11: 0}
	}
	return []byte{0x85, protocol, flags, 4: c.feature, 6: count, 8: c.lbaLow, 10: c.lbaMid, 12: c.lbaHigh, 14: c.command, 15: 0}
}

// read returns so many sectors.
func (d ataDevice) read(c ataCommand, count int) ([]byte, error) {
	data := make([]byte, count*sector)
	n, sense, err := d.SCSI(d.passThrough(c, data), data)
	if err != nil {
		return nil, err
	}
	if r, ok := sense.ata(); ok && r.status&0x01 != 0 { // ERR
		return nil, ataError(r)
	}
	if n != len(data) {
		return nil, fmt.Errorf("%d bytes, want %d", n, len(data))
	}
	return data, nil
}

// readSummed returns a sector whose checksum is right.
func (d ataDevice) readSummed(c ataCommand) ([]byte, error) {
	data, err := d.read(c, 1)
	if err == nil && checksum(data) != 0 {
		return nil, errors.New("the checksum is wrong")
	}
	return data, err
}
