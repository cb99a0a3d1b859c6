package smart_test

import (
	"encoding/json"
	"fmt"
	"testing"

	"holdfast.dev/monitor/smart"
)

// tape is a disk whose every answer is the next piece of a tape.
type tape struct {
	nvme, ata bool
	data      []byte
}

func (d *tape) NVMe() bool { return d.nvme }

// next fills p from the tape; what is left is zero.
func (d *tape) next(p []byte) int {
	n := copy(p, d.data)
	d.data = d.data[n:]
	return n
}

func (d *tape) Admin(_ smart.AdminCommand, data []byte) error {
	d.next(data)
	return nil
}

func (d *tape) SCSI(cdb, data []byte) (int, smart.Sense, error) {
	n := d.next(data)
	switch cdb[0] {
	case 0x12:
		if n >= 36 && cdb[1] == 0 { // so that reading goes on
			data[0] = 0
			if d.ata {
				copy(data[8:], "ATA     ")
			}
		}
		if n >= 4 && cdb[1] == 1 {
			data[1] = cdb[2]
		}
	case 0x4d:
		if n >= 4 {
			data[0] = cdb[2] & 0x3f
		}
	case 0x85:
		if len(data) == 512 { // whole, with a checksum that is right
			n = 512
			data[511] = 0
			for _, c := range data[:511] {
				data[511] -= c
			}
			if cdb[14] == 0xec {
				data[2*82] |= 1 // has SMART
				data[2*85] |= 1 // turned on
			}
		} else {
			sense := make([]byte, 32)
			return 0, smart.Sense(sense[:d.next(sense)]), nil
		}
	}
	return n, nil, nil
}

// FuzzRead: whatever a disk of any protocol answers, it is an error or a report,
// and the report can be printed.
func FuzzRead(f *testing.F) {
	add := func(kind uint8, tables ...map[string][]byte) {
		var all []byte
		for _, t := range tables {
			for _, p := range t {
				all = append(all, p...)
			}
		}
		f.Add(kind, all)
	}
	add(0, nvmeDisk().admin)
	add(1, ataDisk("ST8000NM0055", pass, attr{5, 3, 100, 10, 8}).scsi)
	add(2, scsiDisk().scsi)
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		r, err := smart.Read(t.Context(), &tape{nvme: kind%3 == 0, ata: kind%3 == 1, data: data})
		if (r == nil) == (err == nil) {
			t.Fatalf("report %v, error %v", r, err)
		}
		if err != nil {
			return
		}
		if _, err := json.Marshal(r); err != nil {
			t.Error(err)
		}
		_ = fmt.Sprint(r.Problems)
	})
}
