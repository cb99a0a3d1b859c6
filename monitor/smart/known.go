package smart

import (
	"context"
	"errors"
	"slices"
	"sync"
)

// Known keeps, by device, what a disk has told and does not change. Of a SCSI disk that is which pages it has and
// how long they are, what it is called, how it is connected. Else each reading would ask again: of a disk
// that is not on SAS, for the length of each log page before the page. It holds for a disk as long as
// INQUIRY and the serial number are the same, which are asked for each time; one without a serial number, or
// without a list of its pages, is asked for everything each time. Of an ATA disk it is which general purpose logs it
// has, as long as IDENTIFY DEVICE tells the same model, firmware and serial number. The zero Known knows of no
// disk. It is safe for concurrent use.
type Known struct {
	mu    sync.Mutex
	disks map[string]*knownDevice
}

// knownDevice is the disk that is known under the name of a device.
type knownDevice struct {
	reading sync.Mutex
	disk    knownDisk
}

// knownDisk is one disk, which speaks one of the two.
type knownDisk struct {
	scsi knownSCSI
	ata  knownATA
}

// Read is ReadWith of a disk that may be known under the name of its device.
func (k *Known) Read(ctx context.Context, device string, d Device, db *DriveDB) (*Report, error) {
	k.mu.Lock()
	known := k.disks[device]
	if known == nil {
		if k.disks == nil {
			k.disks = map[string]*knownDevice{}
		}
		known = &knownDevice{}
		k.disks[device] = known
	}
	k.mu.Unlock()
	if !known.reading.TryLock() { // a disk that had the name hangs in the middle of one
		return readKnown(ctx, d, db, &knownDisk{})
	}
	defer known.reading.Unlock()
	return readKnown(ctx, d, db, &known.disk)
}

// knownSCSI is what is known of one SCSI disk. Without a serial number it is of none.
type knownSCSI struct {
	inquiry inquiry
	serial  string
	vpd     []byte // the pages of vital product data that it lists
	fixed   map[byte]vpdAnswer
	logs    []byte // the log pages that it lists
	first   int    // how much of a log page it is asked for at first; 0 when that is not known
	lengths map[uint8]int
}

type vpdAnswer struct {
	data []byte
	err  error
}

// begin finds out whether it is the known disk, and forgets all when not. It returns the page of the serial number.
func (k *knownSCSI) begin(d Device, inq inquiry) (pages vpdPages, serial []byte, err error) {
	if k.serial != "" && k.inquiry == inq {
		pages = vpdPages{d, k.vpd}
		if serial, err = pages.read(0x80); err == nil && text(serial) == k.serial {
			return pages, serial, nil
		}
	}
	*k = knownSCSI{inquiry: inq, fixed: map[byte]vpdAnswer{}, lengths: map[uint8]int{}}
	pages = listVPD(d)
	if serial, err = pages.read(0x80); err == nil && pages.listed != nil {
		k.serial, k.vpd = text(serial), slices.Clone(pages.listed)
	}
	return pages, serial, err
}

// page is a page of vital product data that does not change.
func (k *knownSCSI) page(pages vpdPages, page byte) ([]byte, error) {
	if a, ok := k.fixed[page]; ok {
		return a.data, a.err
	}
	data, err := pages.read(page)
	if err == nil || errors.Is(err, ErrUnsupported) {
		k.fixed[page] = vpdAnswer{data, err}
	}
	return data, err
}
