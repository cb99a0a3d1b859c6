package smart_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast.dev/monitor/smart"
)

// READ LOG EXT of so many pages of a log, from one on.
func logExt(log, page, count int) string {
	return fmt.Sprintf("85090e000000%02x00%02x00%02x0000002f00", count, log, page)
}

const directory, extendedErrors, statistics, extendedTests = 0x00, 0x03, 0x04, 0x07

// general gives a disk general purpose logs, each page after the other, and a directory that lists them.
func general(d *disk, logs map[int][]byte) *disk {
	id, dir := d.scsi[identify+"000001"], make([]byte, 512)
	binary.LittleEndian.PutUint16(id[2*84:], 1<<14|1<<5)
	sum(id)
	binary.LittleEndian.PutUint16(dir, 1)
	for log, pages := range logs {
		n := len(pages) / 512
		binary.LittleEndian.PutUint16(dir[2*log:], uint16(n))
		for i := range n {
			d.scsi[logExt(log, i, 1)] = pages[512*i:][:512]
		}
		d.scsi[logExt(log, 0, n)] = pages
	}
	d.scsi[logExt(directory, 0, 1)] = dir
	return d
}

// errorLog is the first page of an extended log of errors, whose newest entry is index.
func errorLog(count, index uint16) []byte {
	p := make([]byte, 512)
	p[0] = 1
	binary.LittleEndian.PutUint16(p[2:], index)
	binary.LittleEndian.PutUint16(p[500:], count)
	return sum(p)
}

// testLog is an extended log of self-tests, the newest first, whose newest entry is index.
func testLog(pages, index int, tests ...result) []byte {
	p := make([]byte, 512*pages)
	p[0] = 1
	binary.LittleEndian.PutUint16(p[2:], uint16(index))
	for i, r := range tests {
		at := (index - 1 - i + 19*pages) % (19 * pages)
		e := p[512*(at/19)+4+26*(at%19):]
		e[0], e[1], e[2] = ataKinds[r.kind], ataResults[r.how]<<4, byte(i) // the hour, so that none is empty
	}
	return sums(p)
}

func sums(p []byte) []byte {
	for i := 0; i < len(p); i += 512 {
		sum(p[i : i+512])
	}
	return p
}

const valid, normalized = 0xc0, 0xe0

// statisticsLog has pages of device statistics: of each page the first statistic and its flags.
func statisticsLog(pages map[byte][2]uint64) []byte {
	p := make([]byte, 512*8)
	p[0], p[9], p[8] = 1, 0, 1
	for n := range byte(8) {
		v, ok := pages[n]
		if !ok {
			continue
		}
		p[9+p[8]] = n
		p[8]++
		page := p[512*int(n):]
		page[0], page[2] = 1, n
		binary.LittleEndian.PutUint64(page[8:], v[0]|v[1]<<56)
	}
	return p
}

// aborts makes a disk abort a command, as one does that does not take it.
func aborts(d *disk, command string) {
	d.sense[command] = smart.Sense{0x72, 1, 0, 0x1d, 0, 0, 0, 14, 0x09, 0x0c, 0, 4, 21: 0x51}
}

// refuses makes it refuse what begins so.
func refuses(d *disk, command string) {
	d.errs = map[string]error{command: smart.SenseError{Status: 2, Key: 5, ASC: 0x24}}
}

func ptr[T any](v T) *T { return &v }

// allLogs is a disk with every log that is read.
func allLogs() *disk {
	return general(ataDisk("EXAMPLE", pass, attr{5, 3, 100, 10, 8}), map[int][]byte{
		extendedErrors: errorLog(900, 1), extendedTests: testLog(2, 21, result{"short", "failed"}, result{"extended", "passed"}),
		statistics: statisticsLog(map[byte][2]uint64{4: {9, valid}, 5: {30, valid}, 7: {101, valid}}),
	})
}

// words sets words of IDENTIFY DEVICE.
func words(d *disk, words map[int]uint16) {
	id := d.scsi[identify+"000001"]
	for i, w := range words {
		binary.LittleEndian.PutUint16(id[2*i:], w)
	}
	sum(id)
}

// The extended logs were not read: those of a disk that has no others, and what they remember beyond the plain ones.
func TestExtendedLogs(t *testing.T) {
	short, whole := result{"short", "failed"}, result{"extended", "passed"}
	tests := []result{short, short, short, whole}
	nothing := func(*disk) {}
	type logs map[int][]byte
	for name, tc := range map[string]struct {
		reason           string
		logs             logs // in place of those of both
		change           func(d *disk)
		errors           uint64
		failed, standing int
		commands         int // of READ LOG EXT in the second reading
	}{
		"Both":           {"they take the place of the plain ones", nil, nothing, 900, 3, 3, 2},
		"NoPlain":        {"a disk that has no others", nil, func(d *disk) { refuses(d, logRead) }, 900, 3, 3, 2},
		"Nothing":        {"logs that are empty", logs{extendedErrors: errorLog(0, 0), extendedTests: testLog(1, 0)}, nothing, 0, 1, 0, 1},
		"OnePage":        {"in one page the ring has 19 places", logs{extendedTests: testLog(1, 2, tests...)}, nothing, 900, 3, 3, 2},
		"Full":           {"no place is left", logs{extendedTests: testLog(1, 19, append(slices.Clone(tests), slices.Repeat([]result{short}, 15)...)...)}, nothing, 900, 18, 3, 2},
		"Second":         {"the newest is on the second page, the oldest on the first", logs{extendedTests: testLog(2, 21, tests...)}, nothing, 900, 3, 3, 2},
		"NotOffered":     {"a disk without general purpose logging is not asked", nil, func(d *disk) { words(d, map[int]uint16{84: 1 << 14}) }, 7, 1, 0, 0},
		"NotValid":       {"nor is one whose words say nothing", nil, func(d *disk) { words(d, map[int]uint16{84: 1<<15 | 1<<5, 87: 1 << 5}) }, 7, 1, 0, 0},
		"Word87":         {"unless word 87 says it", nil, func(d *disk) { words(d, map[int]uint16{84: 0, 87: 1<<14 | 1<<5}) }, 900, 3, 3, 2},
		"NoSerial":       {"what a disk without a number refuses would be asked for each time", nil, func(d *disk) { clear(d.scsi[identify+"000001"][20:40]); words(d, nil) }, 7, 1, 0, 0},
		"NoDirectory":    {"it refuses the directory", nil, func(d *disk) { aborts(d, logExt(directory, 0, 1)) }, 7, 1, 0, 0},
		"Version0":       {"some drives tell no version of their directory", nil, func(d *disk) { d.scsi[logExt(directory, 0, 1)][0] = 0 }, 900, 3, 3, 2},
		"OtherVersion":   {"a directory of something else", nil, func(d *disk) { d.scsi[logExt(directory, 0, 1)][1] = 0x80 }, 7, 1, 0, 0},
		"ZeroDirectory":  {"a directory of zeros lists nothing", nil, func(d *disk) { clear(d.scsi[logExt(directory, 0, 1)]) }, 7, 1, 0, 0},
		"NotListed":      {"one that is not listed", nil, func(d *disk) { d.scsi[logExt(directory, 0, 1)][2*extendedErrors] = 0 }, 7, 3, 3, 1},
		"Aborted":        {"one that is listed, and refused", nil, func(d *disk) { aborts(d, logExt(extendedErrors, 0, 1)) }, 7, 3, 3, 1},
		"TestsAborted":   {"the same of tests", nil, func(d *disk) { aborts(d, logExt(extendedTests, 0, 2)) }, 900, 1, 0, 1},
		"Long":           {"too many pages to read each time", logs{extendedTests: testLog(9, 4, tests...)}, nothing, 900, 1, 0, 1},
		"Checksum":       {"garbage counts nothing", nil, func(d *disk) { d.scsi[logExt(extendedErrors, 0, 1)][100]++ }, 7, 3, 3, 1},
		"ChecksumSecond": {"on any page", nil, func(d *disk) { d.scsi[logExt(extendedTests, 0, 2)][600]++ }, 900, 1, 0, 1},
		"Zeros":          {"a page of zeros has the right checksum", logs{extendedErrors: make([]byte, 512)}, nothing, 7, 3, 3, 1},
		"ZerosOfTests":   {"the same of tests", logs{extendedTests: make([]byte, 512)}, nothing, 900, 1, 0, 1},
		"Index":          {"errors, and none is the newest", logs{extendedErrors: errorLog(900, 0)}, nothing, 7, 3, 3, 1},
		"IndexBeyond":    {"the newest is not in the log", logs{extendedErrors: errorLog(900, 5)}, nothing, 7, 3, 3, 1},
		"TestBeyond":     {"the same of tests", logs{extendedTests: testLog(1, 20, short)}, nothing, 900, 1, 0, 1},
		"CutShort":       {"not all came", nil, func(d *disk) { d.scsi[logExt(extendedTests, 0, 2)] = d.scsi[logExt(extendedTests, 0, 2)][:512] }, 900, 1, 0, 1},
	} {
		t.Run(name, func(t *testing.T) {
			all := logs{extendedErrors: append(errorLog(900, 5), make([]byte, 512)...), extendedTests: testLog(2, 3, tests...)}
			maps.Copy(all, tc.logs)
			d := general(ataDisk("EXAMPLE", pass, attr{187, 2, 100, 0, 0}), all)
			tc.change(d)
			var known smart.Known
			for reading := range 3 {
				d.asked = nil
				r, err := known.Read(t.Context(), "sda", d, nil)
				if err != nil {
					t.Fatal(err)
				}
				if h := r.ATA; *h.Errors != tc.errors || *h.SelfTestFailures != tc.failed || *h.StandingTestFailures != tc.standing || len(r.Problems) != 0 {
					t.Errorf("%s: reading %d: %d errors, %d failed tests of which %d stand, want %d, %d, %d; problems %q",
						tc.reason, reading, *h.Errors, *h.SelfTestFailures, *h.StandingTestFailures, tc.errors, tc.failed, tc.standing, r.Problems)
				}
				if n := extended(d); reading > 0 && n != tc.commands {
					t.Errorf("%s: reading %d: %d extended logs are asked for, want %d: %q", tc.reason, reading, n, tc.commands, d.asked)
				}
			}
		})
	}
}

// extended is how many commands have been READ LOG EXT.
func extended(d *disk) int { return strings.Count(strings.Join(d.asked, " "), "85090e") }

// Wherever a log's ring begins, the newest test decides.
func TestExtendedSelfTestsInARing(t *testing.T) {
	for _, pages := range []int{1, 2} {
		for index := 1; index <= 19*pages; index++ {
			failed := slices.Repeat([]result{{"extended", "failed"}}, 19*pages-1)
			for standing, log := range map[int][]result{0: append([]result{{"extended", "passed"}}, failed...), len(failed): append(slices.Clone(failed), result{"extended", "passed"})} {
				d := general(ataDisk("EXAMPLE", pass), map[int][]byte{extendedTests: testLog(pages, index, log...)})
				if h := read(t, d).ATA; *h.SelfTestFailures != len(failed) || *h.StandingTestFailures != standing {
					t.Errorf("%d pages, entry %d is the newest: %d failures, %d of them stand, want %d and %d", pages, index, *h.SelfTestFailures, *h.StandingTestFailures, len(failed), standing)
				}
			}
		}
	}
}

// Some drives freeze when their directory is read: they would be lost to those who use them.
func TestDirectoryThatFreezes(t *testing.T) {
	db, err := smart.ParseDriveDB(`{ "Fragile", "FRAGILE .*", "", "", "-v 9,minutes -F nologdir" }`)
	if err != nil {
		t.Fatal(err)
	}
	for model, asked := range map[string]bool{"SATADOM-ML 3ME": false, "INTEL SSDSA2CW160G3": false, "INTEL SSDSA2BZ200G3": false, "FRAGILE 1": false, "SATADOM-ML 3ME3": true, "INTEL SSDSC2BB480G4": true} {
		d := general(ataDisk(model, pass), map[int][]byte{extendedErrors: errorLog(900, 1)})
		if _, err := smart.ReadWith(t.Context(), d, db); err != nil {
			t.Fatal(err)
		}
		if (extended(d) > 0) != asked {
			t.Errorf("%s is asked for general purpose logs: %t", model, !asked)
		}
	}
}

// The commands of a disk that has all logs: once those that tell what there is.
func TestExtendedLogsAreAskedForAsTheStandardSays(t *testing.T) {
	logs := map[int][]byte{extendedErrors: errorLog(900, 1), extendedTests: testLog(2, 1, result{"extended", "passed"}), statistics: statisticsLog(map[byte][2]uint64{4: {1, valid}, 5: {30, valid}, 7: {3, valid}})}
	d := general(ataDisk("EXAMPLE", pass, attr{194, 2, 30, 0, 30}), logs)
	var known smart.Known
	sent := func() []string {
		t.Helper()
		d.asked = nil
		if _, err := known.Read(t.Context(), "sda", d, nil); err != nil {
			t.Fatal(err)
		}
		return d.asked
	}
	always := []string{
		"120000002400",
		"85080e0000000100000000000000ec00",
		"85062000da00000000004f00c200b000",
		"85080e00d000010000004f00c200b000",
		"85080e00d100010000004f00c200b000",
	}
	plain := []string{
		"85080e00d500010001004f00c200b000",
		"85080e00d500010006004f00c200b000",
	}
	learn := []string{
		"85090e00000001000000000000002f00", // the directory
		"85090e00000001000400000000002f00", // the list of statistics
	}
	logged := []string{
		"85090e00000001000300000000002f00",
		"85090e00000002000700000000002f00",
		"85090e00000001000400040000002f00", // no attribute counts uncorrectable errors
		"85090e00000001000400070000002f00",
	}
	if diff := cmp.Diff(slices.Concat(always, plain, learn, logged), sent()); diff != "" {
		t.Errorf("first reading: want (-) and sent (+): %s", diff)
	}
	if diff := cmp.Diff(slices.Concat(always, logged), sent()); diff != "" {
		t.Errorf("second reading: want (-) and sent (+): %s", diff)
	}
	put(d.scsi[identify+"000001"], 46, "NS60") // another firmware
	words(d, nil)
	if diff := cmp.Diff(slices.Concat(always, plain, learn, logged), sent()); diff != "" {
		t.Errorf("another firmware: want (-) and sent (+): %s", diff)
	}
}

// A log that was right once is asked for again when it fails later: a link that was reset is no refusal.
func TestExtendedLogThatFailsOnce(t *testing.T) {
	d := general(ataDisk("EXAMPLE", pass), map[int][]byte{extendedErrors: errorLog(900, 1), statistics: statisticsLog(map[byte][2]uint64{7: {3, valid}})})
	var known smart.Known
	for i, fails := range []bool{false, true, false} {
		d.errs = nil
		if fails {
			d.errs = map[string]error{"85090e": errors.New("host status 0x0e")}
		}
		r, err := known.Read(t.Context(), "sda", d, nil)
		if err != nil || (*r.ATA.Errors == 7) != fails || (r.PercentUsed == nil) != fails || len(r.Problems) != 0 {
			t.Errorf("reading %d: %+v %+v, %v", i, r, r.ATA, err)
		}
	}
}

// A bridge that knows the pass-through of 12 bytes alone has no way for them.
func TestExtendedLogsBehindBridge(t *testing.T) {
	b := &bridge{disk: general(ataDisk("EXAMPLE", pass), map[int][]byte{extendedErrors: errorLog(900, 1)}), twelve: true}
	if r := read(t, b); *r.ATA.Errors != 7 || len(r.Problems) != 0 || len(b.sent) != 8 {
		t.Errorf("%d errors, problems %q, sent %q", *r.ATA.Errors, r.Problems, b.sent)
	}
}

// hanging hangs in the commands that begin so, as in the kernel: no context ends it.
type hanging struct {
	*disk
	in    string
	hangs chan struct{}
}

func (h *hanging) SCSI(cdb, data []byte) (int, smart.Sense, error) {
	if strings.HasPrefix(fmt.Sprintf("%x", cdb), h.in) {
		<-h.hangs
		return 0, nil, errors.New("host status 0x03")
	}
	return h.disk.SCSI(cdb, data)
}

// dated has a deadline that ends nothing by itself.
type dated struct {
	context.Context
	at time.Time
}

func (d dated) Deadline() (time.Time, bool) { return d.at, true }

// A disk that hangs when it is asked for general purpose logs tells what it has told without them, before the
// deadline, and is not asked again.
func TestExtendedLogsThatHang(t *testing.T) {
	drive := func() *disk {
		return general(ataDisk("EXAMPLE", pass, attr{5, 3, 100, 10, 8}), map[int][]byte{extendedErrors: errorLog(900, 1), statistics: statisticsLog(nil)})
	}
	want := read(t, ataDisk("EXAMPLE", pass, attr{5, 3, 100, 10, 8}))
	for _, command := range []string{logExt(directory, 0, 1), logExt(extendedErrors, 0, 1), logExt(statistics, 0, 1)} {
		h := &hanging{disk: drive(), in: command, hangs: make(chan struct{})}
		var known smart.Known
		got, err := known.Read(dated{t.Context(), time.Now().Add(40 * time.Millisecond)}, "sda", h, nil)
		if err != nil {
			t.Fatalf("%s hangs: %v", command, err)
		}
		if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(smart.Report{}), cmpopts.IgnoreFields(smart.Report{}, "Problems")); diff != "" || len(got.Problems) != 1 {
			t.Errorf("%s hangs: without the logs (-) and so (+): %s\nproblems %q", command, diff, got.Problems)
		}
		close(h.hangs)
		d := drive()
		got, err = known.Read(t.Context(), "sda", d, nil)
		if err != nil || *got.ATA.Errors != 7 || len(got.Problems) != 0 || extended(d) != 0 {
			t.Errorf("after %s: %+v, %v, asked %q", command, got, err, d.asked)
		}
	}
}

// What no attribute says, and what is no attribute of a standard, was not known: an ATA disk's wear above all.
func TestDeviceStatistics(t *testing.T) {
	counts, warm := attr{187, 2, 100, 0, 5}, attr{194, 2, 30, 0, 31}
	type pages map[byte][2]uint64
	for name, tc := range map[string]struct {
		reason        string
		attrs         []attr
		pages         pages
		change        func(d *disk)
		uncorrectable *uint64
		celsius       *int
		used          *uint8
	}{
		"All":         {"what the attributes do not tell", nil, pages{4: {9, valid}, 5: {30, valid}, 7: {101, valid}}, nil, ptr(uint64(9)), ptr(30), ptr(uint8(101))},
		"Attributes":  {"what they tell is asked for once", []attr{counts, warm}, pages{4: {9, valid}, 5: {30, valid}, 7: {101, valid}}, nil, nil, ptr(31), ptr(uint8(101))},
		"Cold":        {"below 0 °C", nil, pages{5: {0xf6, valid}}, nil, nil, ptr(-10), nil},
		"Percentage":  {"many say that it is normalized, as a Samsung 860 EVO does", nil, pages{7: {19, normalized}}, nil, nil, nil, ptr(uint8(19))},
		"Normalized":  {"a number of a vendor's scale is no count", nil, pages{4: {9, normalized}}, nil, nil, nil, nil},
		"Unsupported": {"a statistic that is not there", nil, pages{4: {9, 0}, 5: {9, 0x40}, 7: {9, 0}}, nil, nil, nil, nil},
		"NotValid":    {"or has no value yet", nil, pages{4: {9, 0x80}, 5: {9, 0x80}, 7: {9, 0x80}}, nil, nil, nil, nil},
		"Wide":        {"what is above the four bytes is reserved", nil, pages{4: {1<<40 | 9, valid}}, nil, ptr(uint64(9)), nil, nil},
		"Revision":    {"a page of revision 0 is none", nil, pages{4: {9, valid}, 7: {1, valid}}, func(d *disk) { d.scsi[logExt(statistics, 4, 1)][0] = 0 }, nil, nil, ptr(uint8(1))},
		"OtherPage":   {"nor is another page", nil, pages{4: {9, valid}, 7: {1, valid}}, func(d *disk) { d.scsi[logExt(statistics, 4, 1)][2] = 3 }, nil, nil, ptr(uint8(1))},
		"Aborted":     {"a page that is refused", nil, pages{4: {9, valid}, 7: {1, valid}}, func(d *disk) { aborts(d, logExt(statistics, 4, 1)) }, nil, nil, ptr(uint8(1))},
		"NoList":      {"a list that is refused", nil, pages{4: {9, valid}}, func(d *disk) { aborts(d, logExt(statistics, 0, 1)) }, nil, nil, nil},
		"BrokenList":  {"a list that is none", nil, pages{4: {9, valid}}, func(d *disk) { d.scsi[logExt(statistics, 0, 1)][2] = 4 }, nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			d := general(ataDisk("EXAMPLE", pass, tc.attrs...), map[int][]byte{statistics: statisticsLog(tc.pages)})
			if tc.change != nil {
				tc.change(d)
			}
			r := read(t, d)
			if diff := cmp.Diff([]any{tc.uncorrectable, tc.celsius, tc.used}, []any{r.ATA.Uncorrectable, r.Celsius, r.PercentUsed}); diff != "" || len(r.Problems) != 0 {
				t.Errorf("%s: want (-) and got (+): %s\nproblems %q", tc.reason, diff, r.Problems)
			}
		})
	}
}
