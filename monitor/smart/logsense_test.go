package smart_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast.dev/monitor/smart"
)

// logDisk is a SCSI disk, or the way to it, that is not easy about how much of a log page is asked for.
type logDisk struct {
	*disk
	most   int         // refuses to be asked for more than this
	breaks int         // sends so many bytes when it is asked for more than there is
	logs   map[int]int // how often a page was asked for
	beyond int         // how often it was asked for more than there is
}

func (d *logDisk) SCSI(cdb, data []byte) (int, smart.Sense, error) {
	n, sense, err := d.disk.SCSI(cdb, data)
	if cdb[0] != 0x4d || err != nil {
		return n, sense, err
	}
	d.logs[int(cdb[2]&0x3f)]++
	if asked := int(binary.BigEndian.Uint16(cdb[7:])); asked != len(data) {
		return 0, nil, fmt.Errorf("%d bytes into a buffer of %d", asked, len(data))
	}
	if d.most > 0 && len(data) > d.most {
		return 0, nil, smart.SenseError{Status: 2, Key: 5, ASC: 0x24}
	}
	if len(data) > n {
		d.beyond++
		if d.breaks > 0 {
			n = min(n, d.breaks)
		}
	}
	return n, sense, nil
}

// identification is the page of scsiDisk with another first designator of a port.
func identification(first string) func(*logDisk) {
	return func(d *logDisk) { copy(d.scsi["120183"][4:], first) }
}

// A reading of a SAS disk took ten commands more, since each log page was asked for twice: at 50 ms a
// command the sweep took longer than its second. What is read is the same for each of these.
func TestLogPagesAreAskedOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		change func(*logDisk)
		// once says that each page is asked for once: 17 commands for the disk.
		once     bool
		commands int
	}{
		"SAS":       {"a disk on SAS is asked once", func(*logDisk) {}, true, 17},
		"UAS":       {"one behind a USB bridge is asked for the length first", identification("\x91\x93"), false, 27},
		"Target":    {"the name of the target tells the protocol as well as its port's", identification("\x61\xa3"), true, 17},
		"Unit":      {"the protocol of the unit says nothing of the way to it", identification("\x61\x84"), false, 27},
		"FC":        {"no other protocol is SAS", identification("\x01\x93"), false, 27},
		"NotValid":  {"a protocol that is not valid says nothing", identification("\x61\x13"), false, 27},
		"Refuses":   {"what refuses to be asked for much is asked for the length first from then on", func(d *logDisk) { d.most = 512 }, false, 28},
		"BreaksOff": {"what sends less than there is when it is asked for more is asked again", func(d *logDisk) { d.breaks = 4 }, false, 27},
	} {
		t.Run(name, func(t *testing.T) {
			d := &logDisk{disk: scsiDisk(), logs: map[int]int{}}
			tc.change(d)
			got, want := read(t, d), read(t, scsiDisk())
			if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(smart.Report{})); diff != "" {
				t.Errorf("%s: want (-) and got (+): %s", tc.reason, diff)
			}
			if len(d.asked) != tc.commands {
				t.Errorf("%s: %d commands, want %d: %q", tc.reason, len(d.asked), tc.commands, d.asked)
			}
			for page, n := range d.logs {
				if tc.once && n != 1 {
					t.Errorf("%s: page 0x%02x is asked for %d times", tc.reason, page, n)
				}
			}
			if !tc.once && d.most == 0 && d.breaks == 0 && d.beyond > 0 {
				t.Errorf("%s: %d commands ask for more than there is: %q", tc.reason, d.beyond, d.asked)
			}
		})
	}
}

// Pages that the disk does not list are not asked for, and no page is when the list is empty.
func TestLogPagesThatAreListed(t *testing.T) {
	d := &logDisk{disk: scsiDisk(), logs: map[int]int{}}
	d.scsi["4d004000"] = page(0, "\x00\x0d")
	read(t, d)
	if want := map[int]int{0x00: 1, 0x0d: 1}; !cmp.Equal(d.logs, want) {
		t.Errorf("asks for %v, want %v", d.logs, want)
	}
}

// A page may be longer than what is asked for at first, and may have 2,048 places of 24 bytes
// (SBC-4, Background Scan log page): all of them count.
func TestLongLogPage(t *testing.T) {
	const places = 2048
	params := []string{param(0, "\x00\x00\xea\x60\x00\x08\x00\x00\x00\x00\x00\x00")}
	for i := range places {
		params = append(params, param(uint16(i+1), "\x00\x00\x00\x01\x43\x11\x00\x00"+strings.Repeat("\x00", 12)))
	}
	for name, change := range map[string]func(*logDisk){"SAS": func(*logDisk) {}, "UAS": identification("\x91\x93")} {
		d := &logDisk{disk: scsiDisk(), logs: map[int]int{}}
		change(d)
		d.scsi["4d005500"] = page(0x15, params...)
		if r := read(t, d); *r.SCSI.ScanErrors != places || d.logs[0x15] != 2 || len(r.Problems) != 0 {
			t.Errorf("%s: %d places with %d commands, want %d with 2; problems %q", name, *r.SCSI.ScanErrors, d.logs[0x15], places, r.Problems)
		}
	}
}

// What does not answer at all is not asked again in another way: that costs its users a reset.
func TestLogPageWithoutAnswer(t *testing.T) {
	d := &logDisk{disk: scsiDisk(), logs: map[int]int{}}
	d.errs = map[string]error{"4d": errors.New("host status 0x03")}
	_, err := smart.Read(t.Context(), d)
	if n := strings.Count(strings.Join(d.asked, "\n"), "4d00"); err == nil || n != 1 {
		t.Errorf("error %v after %d commands for a log page, want 1: %q", err, n, d.asked)
	}
}
