package smart_test

import (
	"testing"

	"holdfast.dev/monitor/smart"
)

// fuzzed reads a disk with one general purpose log, whose page is what the fuzzer makes of it; the checksums
// are made right where they are asked for.
func fuzzed(t *testing.T, log, page int, data []byte, right bool) *smart.Report {
	t.Helper()
	p := make([]byte, 512*max(1, min(8, (len(data)+511)/512)))
	copy(p, data)
	if right {
		sums(p)
	}
	logs := map[int][]byte{extendedErrors: errorLog(1, 1), extendedTests: testLog(1, 0), statistics: statisticsLog(map[byte][2]uint64{4: {1, valid}, 5: {1, valid}, 7: {1, valid}})}
	switch log {
	case directory:
	case statistics:
		copy(logs[statistics][512*page:][:512], p)
	default:
		logs[log] = p
	}
	d := general(ataDisk("EXAMPLE", pass), logs)
	if log == directory {
		d.scsi[logExt(directory, 0, 1)] = p[:512]
	}
	r := read(t, d)
	if len(r.Problems) != 0 { // the plain logs are there
		t.Errorf("problems %q", r.Problems)
	}
	return r
}

// FuzzLogDirectory: whatever a directory says, the logs are there or the plain ones are.
func FuzzLogDirectory(f *testing.F) {
	f.Add([]byte{1, 0, 0, 0, 0, 0, 1, 0, 8, 0, 0, 0, 0, 0, 1})
	f.Fuzz(func(t *testing.T, data []byte) {
		if r := fuzzed(t, directory, 0, data, false); *r.ATA.Errors != 1 && *r.ATA.Errors != 7 {
			t.Errorf("%d errors", *r.ATA.Errors)
		}
	})
}

// FuzzExtendedErrors: a count of 16 bits, or that of the plain log.
func FuzzExtendedErrors(f *testing.F) {
	f.Add(errorLog(900, 1), true)
	f.Add(errorLog(900, 0), false)
	f.Fuzz(func(t *testing.T, data []byte, right bool) {
		r := fuzzed(t, extendedErrors, 0, data, right)
		if n := *r.ATA.Errors; n > 0xffff || n != 7 && data[0] != 1 {
			t.Errorf("%d errors of %x", n, data)
		}
	})
}

// FuzzExtendedTests: no more failures than places, none that stands beyond them.
func FuzzExtendedTests(f *testing.F) {
	f.Add(testLog(1, 3, result{"short", "failed"}, result{"extended", "passed"}), true)
	f.Add(testLog(2, 20, result{"short", "failed"}, result{"extended", "failed"}), true)
	f.Add(testLog(1, 0), false)
	f.Fuzz(func(t *testing.T, data []byte, right bool) {
		h := fuzzed(t, extendedTests, 0, data, right).ATA
		if all, standing := *h.SelfTestFailures, *h.StandingTestFailures; all > 19*8 || standing > all {
			t.Errorf("%d failures, %d of them stand, of %x", all, standing, data)
		}
	})
}

// FuzzDeviceStatistics: a number is one that the page's flags vouch for.
func FuzzDeviceStatistics(f *testing.F) {
	log := statisticsLog(map[byte][2]uint64{4: {1, valid}, 5: {0xf6, valid}, 7: {101, normalized}})
	for _, page := range []uint8{0, 4, 5, 7} {
		f.Add(page, log[512*int(page):][:512])
	}
	f.Fuzz(func(t *testing.T, page uint8, data []byte) {
		r := fuzzed(t, statistics, int(page%8), data, false)
		told := map[uint8]bool{4: r.ATA.Uncorrectable != nil, 5: r.Celsius != nil, 7: r.PercentUsed != nil}[page%8]
		if told && (len(data) < 16 || data[15]&0xc0 != 0xc0 || data[2] != page%8) {
			t.Errorf("page %d tells a number: %x", page%8, data)
		}
	})
}
