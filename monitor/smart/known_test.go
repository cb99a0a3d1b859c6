package smart_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast.dev/monitor/smart"
)

// A disk that is not on SAS took 27 commands a reading, since the length of each log page was asked for
// first, each time. What is read stays the same, whatever is known.
func TestKnownDiskIsAskedForLess(t *testing.T) {
	for name, tc := range map[string]struct {
		reason   string
		disk     func(*logDisk)
		change   func(*logDisk) // before the second reading
		commands [3]int
	}{
		"SAS":      {"a disk on SAS", func(*logDisk) {}, nil, [3]int{17, 13, 13}},
		"UAS":      {"one behind a USB bridge", identification("\x91\x93"), nil, [3]int{27, 13, 13}},
		"Refuses":  {"that it refuses to be asked for much is known too", func(d *logDisk) { d.most = 512 }, nil, [3]int{28, 13, 13}},
		"Firmware": {"another firmware may have other pages", identification("\x91\x93"), func(d *logDisk) { copy(d.scsi["120000"][32:], "C3P5") }, [3]int{27, 27, 13}},
		"Another":  {"another disk of the model under the name; its number is asked for once more", identification("\x91\x93"), func(d *logDisk) { copy(d.scsi["120180"][4:], "WFK99999") }, [3]int{27, 28, 13}},
		"Longer": {"a page that has grown is asked for again, once", identification("\x91\x93"), func(d *logDisk) {
			d.scsi["4d004200"] = page(0x02, param(3, "\x00\x00\x00\x07"), param(5, "\x00\x00\x01\x00\x00\x00\x00\x00"), param(6, "\x00\x09"), param(0x8000, "\x00"))
		}, [3]int{27, 14, 13}},
		"Shorter": {"one that has shrunk is asked for what has been asked for before", identification("\x91\x93"), func(d *logDisk) {
			d.scsi["4d004200"] = page(0x02, param(6, "\x00\x09"))
		}, [3]int{27, 13, 13}},
		"NoSerial": {"nobody knows whether it is the same disk", func(d *logDisk) { d.scsi[vpdList] = vital(0x00, "\x00\x83\xb1") }, nil, [3]int{16, 16, 16}},
		"NoList":   {"a disk without a list of its pages", func(d *logDisk) { delete(d.scsi, vpdList) }, nil, [3]int{17, 17, 17}},
	} {
		t.Run(name, func(t *testing.T) {
			var known smart.Known
			d := &logDisk{disk: scsiDisk(), logs: map[int]int{}}
			tc.disk(d)
			for i, commands := range tc.commands {
				if i == 1 && tc.change != nil {
					tc.change(d)
				}
				d.asked = nil
				got, err := known.Read(t.Context(), "sda", d, nil)
				if err != nil {
					t.Fatal(err)
				}
				if len(d.asked) != commands {
					t.Errorf("%s: %d commands in reading %d, want %d: %q", tc.reason, len(d.asked), i+1, commands, d.asked)
				}
				if diff := cmp.Diff(read(t, d), got, cmpopts.IgnoreUnexported(smart.Report{})); diff != "" {
					t.Errorf("%s: reading %d: want (-) and got (+): %s", tc.reason, i+1, diff)
				}
			}
		})
	}
	// What another device has told is nothing of this one.
	var known smart.Known
	for _, device := range []string{"sda", "sdb"} {
		d := &logDisk{disk: scsiDisk(), logs: map[int]int{}}
		if _, err := known.Read(t.Context(), device, d, nil); err != nil || len(d.asked) != 17 {
			t.Errorf("%s: %d commands, %v", device, len(d.asked), err)
		}
	}
}
