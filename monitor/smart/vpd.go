package smart

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// vpdPages reads the pages of vital product data of one disk.
type vpdPages struct {
	d Device
	// listed are those that the disk has by its own word; nil when it has not said.
	listed []byte
}

// listVPD asks which pages the disk has (SPC-5 7.7.16, page 00h). The list is in ascending
// order and begins with itself: one that does not is none, such as the zeros of an old disk,
// or the INQUIRY data of one that does not know that there are pages. A disk without a
// list may have pages all the same.
func listVPD(d Device) vpdPages {
	listed, err := vpd(d, 0x00)
	if err != nil || len(listed) == 0 || listed[0] != 0x00 {
		return vpdPages{d: d}
	}
	return vpdPages{d, listed}
}

// read returns what follows a page's header.
func (p vpdPages) read(page uint8) ([]byte, error) {
	if p.listed != nil && !slices.Contains(p.listed, page) {
		return nil, fmt.Errorf("%w: it does not list page 0x%02x", ErrUnsupported, page)
	}
	return vpd(p.d, page)
}

// vpd asks for a page once, for what INQUIRY could return before SPC-3, as smartctl does: no
// page that is read here has more.
func vpd(d Device, page uint8) ([]byte, error) {
	data := make([]byte, 252)
	n, _, err := d.SCSI([]byte{0x12, 1, page, 0, byte(len(data)), 0}, data)
	if err != nil {
		return nil, err
	}
	if n < 4 || data[1] != page {
		return nil, fmt.Errorf("another page than 0x%02x, of %d bytes", page, n)
	}
	return data[4:min(n, 4+int(binary.BigEndian.Uint16(data[2:])))], nil
}
