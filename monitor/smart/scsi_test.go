package smart_test

import (
	"errors"
	"math"
	"strings"
	"testing"

	"holdfast.dev/monitor/smart"
)

func page(code byte, params ...string) []byte {
	body := strings.Join(params, "")
	return []byte(string([]byte{code, 0, byte(len(body) >> 8), byte(len(body))}) + body)
}

func param(code uint16, data string) string {
	return string([]byte{byte(code >> 8), byte(code), 0x03, byte(len(data))}) + data
}

func scsiDisk() *disk {
	return &disk{scsi: map[string][]byte{
		"120000":   []byte("\x00\x00\x06\x12\x5b\x00\x00\x02EXAMPLE SAS DISK 1200GB C3P4" + strings.Repeat("\x00", 60)),
		vpdList:    vital(0x00, "\x00\x80\x83\xb1"),
		"120180":   []byte("\x00\x80\x00\x08WFK01234"),
		"1201b1":   []byte("\x00\xb1\x00\x3c\x2a\x30" + strings.Repeat("\x00", 58)),
		"120183":   []byte("\x00\x83\x00\x30" + "\x61\x93\x00\x08\x50\x00\xc5\x00\xa1\xb2\xc3\xd5" + "\x02\x01\x00\x08EXAMPLE " + "\x03\x08\x00\x08naa.x\x00\x00\x00" + "\x01\x03\x00\x08\x50\x00\xc5\x00\xa1\xb2\xc3\xd4"),
		"b70c":     []byte("\x00\x0c\x00\x00\x00\x00\x00\x18"),
		"9e10":     []byte("\x00\x00\x00\x00\x8b\xba\x0c\xaf\x00\x00\x02\x00" + strings.Repeat("\x00", 20)),
		"4d004000": page(0x00, "\x00\x02\x03\x05\x0d\x0e\x10\x11\x15\x2f"),
		"4d004200": page(0x02, param(3, "\x00\x00\x00\x07"), param(5, "\x00\x00\x01\x00\x00\x00\x00\x00"), param(6, "\x00\x00")),
		"4d004300": page(0x03, param(3, "\x01\x00"), param(6, "\x00\x00\x00\x05")),
		"4d004500": page(0x05, param(6, "\xff\xff\xff\xff\xff\xff\xff\xff\xff")),
		"4d004d00": page(0x0d, param(0, "\x00\x22"), param(1, "\x00\x3c")),
		"4d004e00": page(0x0e, param(4, "\x00\x00\x00\x19")),
		"4d005000": page(0x10, param(1, "\x40"+strings.Repeat("\x00", 15)), param(2, "\x27"+strings.Repeat("\x00", 15))),
		"4d005100": page(0x11, param(1, "\x00\x00\x00\x0b")),
		"4d005500": page(0x15, param(0, "\x00\x00\xea\x60\x00\x08\x00\x00\x00\x00\x00\x00"), param(1, "\x00\x00\x00\x01\x13\x11\x00\x00"+strings.Repeat("\x00", 12)), param(2, "\x00\x00\x00\x01\x53\x11\x00\x00"+strings.Repeat("\x00", 12))),
		"4d006f00": page(0x2f, param(0, "\x5d\x10\x22\x00")),
	}}
}

func TestSCSI(t *testing.T) {
	r := read(t, scsiDisk())
	if r.Vendor != "EXAMPLE" || r.Model != "SAS DISK 1200GB" || r.Serial != "WFK01234" || r.Firmware != "C3P4" || r.CapacityBytes != 2344225968*512 || *r.RPM != 10800 {
		t.Errorf("identity: %+v", r)
	}
	if !*r.Failing || *r.Celsius != 34 || *r.PowerCycles != 25 || *r.PowerOnHours != 1000 || *r.PercentUsed != 11 {
		t.Errorf("health: %+v", r)
	}
	h := r.SCSI
	if *h.Read.Uncorrected != 5 || *h.Read.Corrected != 256 || *h.Write.Corrected != 7 || *h.Write.BytesProcessed != 1<<40 || h.Verify.Corrected != nil || *h.Verify.Uncorrected != math.MaxUint64 {
		t.Errorf("counters: %+v %+v %+v", h.Read, h.Write, h.Verify)
	}
	if *h.ASC != 0x5d || *h.ASCQ != 0x10 || *h.TripCelsius != 60 || *h.SelfTestFailures != 1 || *h.ScanErrors != 1 || h.WWN != "5000c500a1b2c3d4" || *h.GrownDefects != 3 || len(r.Problems) != 0 {
		t.Errorf("log pages: %+v, problems %q", h, r.Problems)
	}
}

// "Unsuccessfully reassigned by app" (8) was a good place, and "successfully reassigned" (2) and
// "has valid data" (6) were bad ones.
func TestSCSIScan(t *testing.T) {
	good := map[uint8]bool{0: true, 2: true, 5: true, 6: true}
	for status := range uint8(16) {
		d := scsiDisk()
		d.scsi["4d005500"] = page(0x15, param(1, "\x00\x00\x00\x01"+string([]byte{status<<4 | 3})+"\x11\x00\x00"+strings.Repeat("\x00", 12)))
		if r := read(t, d); (*r.SCSI.ScanErrors == 0) != good[status] {
			t.Errorf("reassign status %d: %d bad places", status, *r.SCSI.ScanErrors)
		}
	}
}

func TestSCSIWithoutPages(t *testing.T) {
	d := scsiDisk()
	d.scsi["4d004000"] = page(0, "\x00\x0d")
	r := read(t, d)
	if r.Failing != nil || r.SCSI.Read != nil || r.SCSI.ASC != nil || r.SCSI.ScanErrors != nil || r.SCSI.SelfTestFailures != nil || *r.Celsius != 34 {
		t.Errorf("only a temperature: %+v %+v", r, r.SCSI)
	}
	// Cut short within a parameter: what came before counts, and the rest is said to be missing.
	d = scsiDisk()
	p := d.scsi["4d004300"]
	p[3] -= 2
	d.scsi["4d004300"] = p[:len(p)-2]
	if r := read(t, d); len(r.Problems) != 1 || *r.SCSI.Read.Corrected != 256 || r.SCSI.Read.Uncorrected != nil {
		t.Errorf("page cut short: %+v, problems %q", r.SCSI.Read, r.Problems)
	}
	delete(d.scsi, "4d004000")
	if r, err := smart.Read(t.Context(), d); !errors.Is(err, smart.ErrUnsupported) {
		t.Errorf("no log pages at all: %+v, %v", r, err)
	}
}
