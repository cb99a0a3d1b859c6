package smart

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

const (
	logHeader = 4
	// logFirst is what a SAS disk is asked for at first: few pages are longer. The kernel has
	// asked it for as much, and got less, when it found it (REPORT LUNS, drivers/scsi/scsi_scan.c).
	logFirst = 4096
	logMost  = math.MaxUint16 // ALLOCATION LENGTH has 16 bits
)

// logPages reads the log pages of one disk. How long each is, and how much may be asked for at first, is known from then on.
type logPages struct {
	d     Device
	known *knownSCSI
}

// newLogPages decides by the disk's Device Identification page how its log pages are read.
//
// smartmontools asks for a page's header, and then for the length that is in it: this "protects
// certain fragile HBAs" (scsicmds.cpp, scsiLogSense). The kernel does so with VPD pages, because of
// "a few devices that are known to wedge if the requested buffer exceeds a certain size" (Linux
// c92a6b5d6335, drivers/scsi/scsi.c). Neither tells which. To try and see is no way to find
// out: what wedges costs the disk's users a timeout and a reset. So what may be a USB bridge or an
// old adapter is asked twice, and a disk that is on SAS by its own word once, which makes a
// first reading 17 commands at most and not 27. From the second reading on each page is asked for in the length that it
// had, which has been asked for before: 13 commands for either. On SAS it is common to ask for more than there is: smartctl
// asks each disk of SPC-4 for a log page in 16 KiB (scsiprint.cpp, scsiGetSupportedLogPages), and
// the kernel asks as logFirst says.
func newLogPages(d Device, identification []byte, known *knownSCSI) *logPages {
	switch {
	case known.first != 0:
	case onSAS(identification):
		known.first = logFirst
	default:
		known.first = logHeader
	}
	return &logPages{d, known}
}

// supported are the log pages that the disk lists.
func (l *logPages) supported() ([]byte, error) {
	if l.known.logs == nil {
		pages, err := l.read(pageSupported)
		if err != nil {
			return nil, err
		}
		l.known.logs = pages
	}
	return l.known.logs, nil
}

// read returns what follows a page's header. A disk that refuses to be asked for so much
// is asked for the header first from then on.
func (l *logPages) read(page uint8) ([]byte, error) {
	first := max(l.known.first, l.known.lengths[page])
	data, err := logSense(l.d, page, first)
	if first > logHeader && errors.As(err, new(SenseError)) {
		if data, err = logSense(l.d, page, logHeader); err == nil {
			l.known.first = logHeader
		}
	}
	if err == nil {
		l.known.lengths[page] = logHeader + len(data)
	}
	return data, err
}

// logSense asks for the first bytes of a page, and again when it did not come whole.
func logSense(d Device, page uint8, first int) ([]byte, error) {
	data := make([]byte, first)
	n, length, err := logSenseInto(d, page, data)
	if err == nil && n < logHeader+length {
		data = make([]byte, min(logHeader+length, logMost))
		n, length, err = logSenseInto(d, page, data)
	}
	if err != nil {
		return nil, err
	}
	return data[logHeader:min(n, logHeader+length)], nil
}

// logSenseInto returns how much came, and the length of the page by its header.
func logSenseInto(d Device, page uint8, data []byte) (n, length int, err error) {
	const cumulative = 1 << 6
	cdb := []byte{0x4d, 0, cumulative | page, 9: 0}
	binary.BigEndian.PutUint16(cdb[7:], uint16(len(data)))
	n, _, err = d.SCSI(cdb, data)
	if err != nil {
		return 0, 0, err
	}
	if n < logHeader || data[0]&0x3f != page {
		return 0, 0, fmt.Errorf("another page than 0x%02x, of %d bytes", page, n)
	}
	return n, int(binary.BigEndian.Uint16(data[2:])), nil
}
