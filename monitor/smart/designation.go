package smart

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// A designator is one entry of the Device Identification VPD page (SPC-6, page 83h).
type designator struct {
	protocol, codes, association, kind uint8
	hasProtocol                        bool // without it, protocol says nothing
	value                              []byte
}

const (
	ofUnit     = 0    // association
	eui64, naa = 2, 3 // kind
	nameString = 8
	sas        = 6 // protocol
)

// designators takes the page apart. Of a page that is cut short, what came before counts.
func designators(page []byte) (all []designator) {
	for len(page) >= 4 && len(page) >= 4+int(page[3]) {
		value := page[4 : 4+int(page[3])]
		all = append(all, designator{page[0] >> 4, page[0] & 0x0f, page[1] >> 4 & 3, page[1] & 0x0f, page[1]&0x80 != 0, value})
		page = page[4+len(value):]
	}
	return all
}

// onSAS says whether the disk is on Serial Attached SCSI by its own word: the protocol that
// goes with the name of its port or of the target, where smartctl looks for it too
// (scsicmds.cpp, scsi_decode_lu_dev_id).
func onSAS(page []byte) bool {
	return slices.ContainsFunc(designators(page), func(d designator) bool {
		return d.association != ofUnit && d.hasProtocol && d.protocol == sas
	})
}

// designation is the name of the logical unit by its Device Identification VPD page: the
// NAA or EUI-64 designator as lower-case hexadecimal digits,
// else the SCSI name string. It is empty when there is none. Those of ports and of
// the target are of the way to the disk, and are passed over.
func designation(page []byte) string {
	best, name := 0, ""
	order := []uint8{nameString, eui64, naa} // the later, the better
	for _, d := range designators(page) {
		rank, length := slices.Index(order, d.kind)+1, len(d.value)
		if d.association != ofUnit || rank <= best {
			continue
		}
		switch {
		case d.kind == nameString && d.codes == 3: // UTF-8
			if s := text(d.value); s != "" {
				best, name = rank, strings.ToLower(s)
			}
		case d.kind == eui64 && d.codes == 1 && slices.Contains([]int{8, 12, 16}, length), d.kind == naa && d.codes == 1 && slices.Contains([]int{8, 16}, length):
			best, name = rank, hex.EncodeToString(d.value)
		}
	}
	return name
}

// grownDefects is how many places the disk has reassigned since it left the factory
// (SBC-4, READ DEFECT DATA(12)). Only the header is asked for: the list itself may
// be long. ok is false when the disk keeps no such list, or not in a form that counts.
func grownDefects(d Device) (count uint64, ok bool, err error) {
	const (
		opReadDefects = 0xb7
		grownOnly     = 1 << 3
		bytesFromMark = 4 // BYTES FROM INDEX, in its short form
	)
	head := make([]byte, 8)
	cdb := []byte{opReadDefects, grownOnly | bytesFromMark, 9: byte(len(head)), 11: 0}
	n, _, err := d.SCSI(cdb, head)
	if err != nil {
		return 0, false, err
	}
	if n < len(head) {
		return 0, false, fmt.Errorf("%d bytes, want %d", n, len(head))
	}
	if head[1]&grownOnly == 0 {
		return 0, false, nil // the list that came is not the one that was asked for
	}
	// The disk may choose another form than the one asked for (SBC-4, Address descriptor formats).
	size := map[byte]uint64{0: 4, 1: 8, 2: 8, 3: 8, 4: 8, 5: 8}[head[1]&7]
	length := uint64(binary.BigEndian.Uint32(head[4:]))
	if size == 0 || length%size != 0 {
		return 0, false, nil // a vendor's own form
	}
	return length / size, true, nil
}
