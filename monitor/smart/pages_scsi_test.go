package smart_test

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/monitor/smart"
)

// scsiDump answers with a disk's own pages: its INQUIRY data, and its VPD and log pages one after
// another, in hexadecimal digits as sg_vpd -HHHH and sg_logs -HHHH print them. Without its INQUIRY
// data it is single pages, and the others are those of scsiDisk.
func scsiDump(t testing.TB, dir string) *disk {
	t.Helper()
	d := scsiDisk()
	read := func(name string) []byte {
		data, err := os.ReadFile(filepath.Join(dir, name+".hex"))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		} else if err != nil {
			t.Fatal(err)
		}
		out, err := hex.DecodeString(strings.Join(strings.Fields(regexp.MustCompile(`(?m)#.*$`).ReplaceAllString(string(data), "")), ""))
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return out
	}
	if data := read("inquiry"); data != nil {
		d = &disk{scsi: map[string][]byte{"120000": data}}
	}
	pages := func(data []byte, key func(page []byte) string) {
		for len(data) >= 4 {
			n := 4 + int(binary.BigEndian.Uint16(data[2:]))
			if n > len(data) {
				t.Fatalf("%s: a page of %d bytes has %d", dir, n, len(data))
			}
			d.scsi[key(data)], data = data[:n], data[n:]
		}
	}
	pages(read("vpd"), func(p []byte) string { return fmt.Sprintf("1201%02x", p[1]) })
	pages(read("logs"), func(p []byte) string { return fmt.Sprintf("4d00%02x%02x", 0x40|p[0]&0x3f, p[1]) })
	return d
}

// said are the fields in what sg_inq, sg_vpd and sg_logs have printed.
var said = []struct {
	name string
	re   *regexp.Regexp
}{
	{"vendor", regexp.MustCompile(`Vendor identification: (.*)`)},
	{"model", regexp.MustCompile(`Product identification: (.*)`)},
	{"firmware", regexp.MustCompile(`Product revision level: (.*)`)},
	{"serial", regexp.MustCompile(`Unit serial number: (.*)`)},
	{"wwn", regexp.MustCompile(`Addressed logical unit:(?:\n    .*)*?\n    designator type: NAA.*\n      0x(.*)`)},
	{"rpm 0", regexp.MustCompile(`(Non-rotating) medium`)},
	{"celsius", regexp.MustCompile(`Current temperature = (\d+) C`)},
	{"trip", regexp.MustCompile(`Reference temperature = (\d+) C`)},
	{"exception", regexp.MustCompile(`IE asc = (0x[0-9a-f]+, ascq = 0x[0-9a-f]+)`)},
	{"write corrected", regexp.MustCompile(`Write error counter page.*\n(?:  .*\n)*?  Total errors corrected = (\d+)`)},
	{"write bytes", regexp.MustCompile(`Write error counter page.*\n(?:  .*\n)*?  Total bytes processed = (\d+)`)},
	{"write uncorrected", regexp.MustCompile(`Write error counter page.*\n(?:  .*\n)*?  Total uncorrected errors = (\d+)`)},
	{"read corrected", regexp.MustCompile(`Read error counter page.*\n(?:  .*\n)*?  Total errors corrected = (\d+)`)},
	{"read bytes", regexp.MustCompile(`Read error counter page.*\n(?:  .*\n)*?  Total bytes processed = (\d+)`)},
	{"read uncorrected", regexp.MustCompile(`Read error counter page.*\n(?:  .*\n)*?  Total uncorrected errors = (\d+)`)},
}

func scsiFields(r *smart.Report) map[string]string {
	out := map[string]string{"vendor": r.Vendor, "model": r.Model, "firmware": r.Firmware, "serial": r.Serial, "wwn": r.SCSI.WWN}
	if r.RPM != nil && *r.RPM == 0 {
		out["rpm 0"] = "Non-rotating"
	}
	if r.Celsius != nil {
		out["celsius"] = strconv.Itoa(*r.Celsius)
	}
	if r.SCSI.TripCelsius != nil {
		out["trip"] = strconv.Itoa(*r.SCSI.TripCelsius)
	}
	if r.SCSI.ASC != nil {
		out["exception"] = fmt.Sprintf("%#x, ascq = %#x", *r.SCSI.ASC, *r.SCSI.ASCQ)
	}
	for name, c := range map[string]*smart.ErrorCounters{"write ": r.SCSI.Write, "read ": r.SCSI.Read} {
		if c == nil {
			continue
		}
		for field, n := range map[string]*uint64{"corrected": c.Corrected, "bytes": c.BytesProcessed, "uncorrected": c.Uncorrected} {
			if n != nil {
				out[name+field] = strconv.FormatUint(*n, 10)
			}
		}
	}
	return out
}

// A SCSI disk's own pages read as sg3_utils reads them: each field that it prints.
func TestSCSIPagesAreSG3Utils(t *testing.T) {
	for _, dir := range more(t, recordings(t, "scsi/*", 2), "scsi/*") {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			var printed string
			for _, name := range []string{"inquiry", "vpd", "logs"} {
				data, err := os.ReadFile(filepath.Join(dir, name+".txt"))
				if err != nil && !errors.Is(err, fs.ErrNotExist) {
					t.Fatal(err)
				}
				printed += string(data)
			}
			all, want, got := scsiFields(read(t, scsiDump(t, dir))), map[string]string{}, map[string]string{}
			for _, f := range said {
				if m := f.re.FindStringSubmatch(printed); m != nil {
					want[f.name], got[f.name] = strings.TrimSpace(m[1]), all[f.name]
				}
			}
			if d := cmp.Diff(want, got); d != "" || len(want) == 0 {
				t.Errorf("sg3_utils (-) and this package (+): %s", d)
			}
		})
	}
}

// A real disk says that it is on SAS where it is looked for: each log page is asked for once.
func TestSASIsSeenInRealPage(t *testing.T) {
	d := scsiDump(t, "testdata/pages/scsi/seagate-sas")
	read(t, d)
	for _, cdb := range d.asked {
		if strings.HasPrefix(cdb, "4d") && !strings.HasPrefix(cdb[14:], "1000") {
			t.Errorf("LOG SENSE %s asks for another length than 4096 bytes", cdb)
		}
	}
}
