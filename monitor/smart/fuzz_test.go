package smart_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

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

// page fills p with a page, no longer than its header says.
func (d *tape) page(p []byte) int {
	if len(d.data) >= 4 {
		p = p[:min(len(p), 4+int(binary.BigEndian.Uint16(d.data[2:])))]
	}
	return d.next(p)
}

func (d *tape) Admin(_ smart.AdminCommand, data []byte) error {
	d.next(data)
	return nil
}

func (d *tape) SCSI(cdb, data []byte) (int, smart.Sense, error) {
	var n int
	if cdb[0] == 0x4d || cdb[0] == 0x12 && cdb[1] == 1 {
		n = d.page(data)
	} else {
		n = d.next(data)
	}
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
		if n = len(data); n > 0 { // whole, with checksums that are right
			sums(data)
			if cdb[14] == 0xec {
				data[2*82] |= 1 // has SMART
				data[2*85] |= 1 // turned on
			}
		} else {
			sense := make([]byte, senseLen)
			return 0, smart.Sense(sense[:d.next(sense)]), nil
		}
	}
	return n, nil, nil
}

const senseLen = 32

// recorder writes down what a disk answers, in the order in which it is asked.
type recorder struct {
	smart.Device
	data []byte
}

func (d *recorder) Admin(c smart.AdminCommand, data []byte) error {
	err := d.Device.Admin(c, data)
	d.data = append(d.data, data...)
	return err
}

func (d *recorder) SCSI(cdb, data []byte) (int, smart.Sense, error) {
	n, sense, err := d.Device.SCSI(cdb, data)
	d.data = append(d.data, data[:n]...)
	if len(data) == 0 {
		d.data = append(d.data, append(sense, make([]byte, senseLen-len(sense))...)...)
	}
	return n, sense, err
}

// seed is a disk, and the tape of it that reads the same.
type seed struct {
	kind uint8
	disk smart.Device
}

func seeds(t testing.TB) []seed {
	usb := &logDisk{disk: scsiDisk(), logs: map[int]int{}}
	identification("\x91\x93")(usb)
	out := []seed{
		{0, nvmeDisk()},
		{1, ataDisk("ST8000NM0055", pass, attr{5, 3, 100, 10, 8})},
		{1, allLogs()},
		{2, scsiDisk()},
		{2, usb},
	}
	// A tape has an answer to everything: what is not in a recording comes from the made-up disks.
	for _, file := range recordings(t, "ata/*.bin", 31) {
		d := ataDump(t, file)
		for _, log := range []string{logRead + "00010001", logRead + "00010006"} {
			d.scsi[log] = ataDisk("", pass).scsi[log]
		}
		out = append(out, seed{1, d})
	}
	out = append(out, seed{0, nvmeDump(t, "testdata/pages/nvme/qemu")})
	for _, dir := range recordings(t, "scsi/*", 2) {
		d := scsiDump(t, dir)
		d.scsi["9e10"] = scsiDisk().scsi["9e10"]
		out = append(out, seed{2, d})
	}
	return out
}

func newTape(kind uint8, data []byte) *tape {
	return &tape{nvme: kind%3 == 0, ata: kind%3 == 1, data: data}
}

// The seeds of FuzzRead were pages in the order of a map: most of a reading found no page that it could take apart.
func TestSeedsAreReadToTheEnd(t *testing.T) {
	for i, s := range seeds(t) {
		r := &recorder{Device: s.disk}
		want := read(t, r)
		tape := newTape(s.kind, r.data)
		if d := cmp.Diff(want, read(t, tape), cmpopts.IgnoreUnexported(smart.Report{})); d != "" || len(tape.data) != 0 {
			t.Errorf("seed %d: %d bytes are left; the disk (-) and its tape (+): %s", i, len(tape.data), d)
		}
	}
}

// FuzzRead: whatever a disk of any protocol answers, it is an error or a report,
// and the report can be printed.
func FuzzRead(f *testing.F) {
	for _, s := range seeds(f) {
		r := &recorder{Device: s.disk}
		if _, err := smart.Read(f.Context(), r); err != nil {
			f.Fatal(err)
		}
		f.Add(s.kind, r.data)
	}
	f.Fuzz(func(t *testing.T, kind uint8, data []byte) {
		r, err := smart.Read(t.Context(), newTape(kind, data))
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
