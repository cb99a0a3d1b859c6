package smart

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"holdfast.dev/internal/bounded"
)

// General purpose logs (ACS-3, General Purpose Logging feature set and log definitions).
const (
	logDirectory      = 0x00
	logExtendedErrors = 0x03 // Extended Comprehensive SMART Error log
	logStatistics     = 0x04 // Device Statistics log
	logExtendedTests  = 0x07 // Extended SMART Self-Test log
)

// Pages of the Device Statistics log.
const (
	statisticsList        = 0x00
	statisticsErrors      = 0x04
	statisticsTemperature = 0x05
	statisticsSSD         = 0x07
)

const (
	testsPerPage = 19
	// mostTestPages is how long a log of self-tests may be: all are read at once, and most drives have one page.
	mostTestPages = 8
)

// freezes are drives that lock up when their log directory is read: the kernel leaves it alone
// ("goes on a walkabout", drivers/ata/libata-core.c, ATA_QUIRK_NO_LOG_DIR), or smartctl does (Intel 320 and
// 710: smartctl(8), -F nologdir). The kernel itself reads that of most ATA disks since 5.15.5 (ata_log_supported).
var freezes = regexp.MustCompile(`^(SATADOM-ML 3ME|INTEL SSDSA[12][A-Z]{2}[0-9]{3}G3[A-Z]?)$`)

// hasGeneralLogs says whether a disk may be asked for general purpose logs: it offers them (ACS-3, IDENTIFY
// DEVICE words 84 and 87), is known by a serial number, so that what it refuses is asked for once, and does not
// freeze. The pass-through of 12 bytes has no room for their commands.
func (r *Report) hasGeneralLogs(d ataDevice, word func(int) uint16) bool {
	features := word(84)
	if features>>14 != 1 {
		features = word(87)
	}
	return features>>14 == 1 && features&(1<<5) != 0 && !d.twelve && r.Serial != "" && !freezes.MatchString(r.Model) && !r.db.noLogDirectory(r.Model, r.Firmware)
}

// knownATA is which general purpose logs one ATA disk has: what it refused in its first reading, or told
// wrongly, is not among them.
type knownATA struct {
	disk       string
	learning   bool
	pages      map[uint8]int // how many each log has
	statistics []byte        // the pages of Device Statistics
}

// begin says whether it is the first reading of the disk, and forgets all else then.
func (k *knownATA) begin(r *Report) (first bool) {
	disk := fmt.Sprintf("%q %q %q", r.Model, r.Firmware, r.Serial)
	if k.disk == disk {
		return false
	}
	*k = knownATA{disk: disk}
	return true
}

// learn asks which logs there are. A directory that cannot be read has none.
func (k *knownATA) learn(ctx context.Context, d ataDevice) {
	k.learning, k.pages = true, map[uint8]int{}
	directory, err := d.read(readLog(logDirectory, 0), 1)
	if err != nil {
		return
	}
	k.pages = directoryOf(directory)
	if k.pages[logStatistics] == 0 || ctx.Err() != nil {
		return
	}
	if list, err := d.read(readLog(logStatistics, statisticsList), 1); err == nil {
		k.statistics = statisticsPages(list)
	}
}

// ataTold is what is in the logs of an ATA disk. What is nil they do not tell.
type ataTold struct {
	errors  *uint64
	tests   *[]selfTest
	used    *uint8 // percent
	celsius *int
	// uncorrectable are errors that the host was told of.
	uncorrectable *uint64
}

// read asks for the logs that are known, and for statistics where no attribute of the report says the same.
func (k *knownATA) read(ctx context.Context, d ataDevice, r *Report) (told ataTold) {
	log := func(log uint8, count int, decode func([]byte) error) {
		if count == 0 || ctx.Err() != nil {
			return
		}
		data, err := d.read(readLog(log, 0), count)
		if err == nil {
			err = decode(data)
		}
		if err != nil && k.learning {
			delete(k.pages, log)
		}
	}
	statistics := func(page uint8, wanted bool, decode func([]byte)) {
		if !wanted || !slices.Contains(k.statistics, page) || ctx.Err() != nil {
			return
		}
		data, err := d.read(readLog(logStatistics, page), 1)
		if err == nil {
			decode(data)
		} else if k.learning {
			k.statistics = slices.DeleteFunc(k.statistics, func(p byte) bool { return p == page })
		}
	}
	log(logExtendedErrors, min(1, k.pages[logExtendedErrors]), func(data []byte) (err error) {
		told.errors, err = extendedErrors(data, k.pages[logExtendedErrors])
		return err
	})
	log(logExtendedTests, k.pages[logExtendedTests], func(data []byte) (err error) {
		told.tests, err = extendedTests(data)
		return err
	})
	_, counted := r.ATA.Attribute(attrUncorrectable)
	statistics(statisticsErrors, !counted, func(page []byte) {
		if n, normalized, ok := statistic(page, statisticsErrors, 8); ok && !normalized {
			told.uncorrectable = ptr(n & 0xffffffff)
		}
	})
	statistics(statisticsTemperature, r.Celsius == nil, func(page []byte) {
		if n, _, ok := statistic(page, statisticsTemperature, 8); ok {
			told.celsius = ptr(int(int8(n)))
		}
	})
	statistics(statisticsSSD, r.PercentUsed == nil, func(page []byte) {
		if n, _, ok := statistic(page, statisticsSSD, 8); ok { // many say that it is normalized: it is a percentage
			told.used = ptr(uint8(n))
		}
	})
	return told
}

// firstTime is the reading of logs that nobody knows yet whether the disk takes well: it may have half of the
// time that is left. A disk that hangs then costs another goroutine until the kernel gives up the command, is told of
// what was read before, and is not asked for these logs again.
func (r *Report) firstTime(ctx context.Context, d ataDevice, known *knownATA) ataTold {
	if at, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, time.Until(at)/2)
		defer cancel()
	}
	type outcome struct {
		told  ataTold
		known knownATA
	}
	before := Report{ATA: &ATAHealth{Attributes: r.ATA.Attributes}, Celsius: r.Celsius, PercentUsed: r.PercentUsed}
	k := *known
	out, err := bounded.Call(ctx, func() (outcome, error) {
		k.learn(ctx, d)
		told := k.read(ctx, d, &before)
		k.learning = false
		return outcome{told, k}, nil
	})
	if err != nil {
		r.problem("general purpose logs", ErrNoAnswer)
		return ataTold{}
	}
	*known = out.known
	return out.told
}

// directoryOf is how many pages each log here has (ACS-3, Log Directory: a word for each log, and the version
// in place of the first). The version is 1 by the standard, and 0 of some drives, for which the kernel has relaxed its
// check (Linux 12d724f2852d, drivers/ata/libata-core.c, ata_read_log_directory).
func directoryOf(data []byte) map[uint8]int {
	pages := map[uint8]int{}
	word := func(i int) int { return int(binary.LittleEndian.Uint16(data[2*i:])) }
	if word(0) > 1 {
		return pages
	}
	for _, log := range []uint8{logExtendedErrors, logStatistics, logExtendedTests} {
		if n := word(int(log)); n > 0 && (log != logExtendedTests || n <= mostTestPages) {
			pages[log] = n
		}
	}
	return pages
}

// sound says what is wrong with a log of the SMART feature set: its version, or a page's checksum.
func sound(data []byte) error {
	if data[0] != 1 {
		return fmt.Errorf("version %d, want 1", data[0])
	}
	for page := range slices.Chunk(data, sector) {
		if checksum(page) != 0 {
			return errors.New("the checksum is wrong")
		}
	}
	return nil
}

// extendedErrors is how many errors the disk has had, by the first of so many pages (ACS-3, Extended
// Comprehensive SMART Error log). The index of the newest counts from 1, which the standard leaves open
// (smartmontools' ataprint.cpp, PrintSmartExtErrorLog); a wrong one makes the count a doubtful one there too.
func extendedErrors(data []byte, pages int) (*uint64, error) {
	if err := sound(data); err != nil {
		return nil, err
	}
	index, count := int(binary.LittleEndian.Uint16(data[2:])), uint64(binary.LittleEndian.Uint16(data[500:]))
	if count > 0 && (index == 0 || index > 4*pages) {
		return nil, fmt.Errorf("entry %d is the newest of %d", index, 4*pages)
	}
	return &count, nil
}

// extendedTests are the self-tests that a disk remembers, the newest first (ACS-3, Extended SMART Self-Test
// log): a ring of all entries of all pages, the index of the newest counts from 1, as that of errors does, and is 0
// without any.
func extendedTests(data []byte) (*[]selfTest, error) {
	if err := sound(data); err != nil {
		return nil, err
	}
	entries := testsPerPage * len(data) / sector
	index := int(binary.LittleEndian.Uint16(data[2:]))
	if index > entries {
		return nil, fmt.Errorf("entry %d is the newest of %d", index, entries)
	}
	tests := []selfTest{}
	if index == 0 {
		return &tests, nil
	}
	for i := range entries {
		at := (index - 1 - i + entries) % entries
		e := data[sector*(at/testsPerPage)+4+26*(at%testsPerPage):][:26]
		if slices.ContainsFunc(e, func(b byte) bool { return b != 0 }) {
			tests = append(tests, ataTest(e[0], e[1]))
		}
	}
	return &tests, nil
}

// statisticsPages are the pages that the first one lists (ACS-3, List of Supported Device Statistics pages).
func statisticsPages(list []byte) []byte {
	if binary.LittleEndian.Uint16(list) == 0 || list[2] != statisticsList {
		return nil
	}
	return slices.Clone(list[9:min(9+int(list[8]), sector)])
}

// statistic is the number at an offset, which is the disk's when it says that it is there and valid (ACS-3,
// Device Statistics: the flags are the highest byte). Normalized numbers are of a vendor's own scale. A page of
// revision 0 is not there.
func statistic(page []byte, number uint8, offset int) (n uint64, normalized, ok bool) {
	if binary.LittleEndian.Uint16(page) == 0 || page[2] != number {
		return 0, false, false
	}
	n = binary.LittleEndian.Uint64(page[offset:])
	flags := n >> 56
	return n & (1<<56 - 1), flags&(1<<5) != 0, flags>>6 == 3
}
