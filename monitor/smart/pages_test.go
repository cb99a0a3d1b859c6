package smart_test

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast.dev/monitor/smart"
)

// recordings are the files of drives' own answers here that match a pattern.
func recordings(t testing.TB, pattern string, least int) []string {
	t.Helper()
	files, err := filepath.Glob("testdata/pages/" + pattern)
	if err != nil || len(files) < least {
		t.Fatalf("%d files %s, %v", len(files), pattern, err)
	}
	return files
}

// more adds those below the directory that HOLDFAST_SMART_PAGES names, laid out in the same way.
func more(t testing.TB, files []string, pattern string) []string {
	t.Helper()
	dir := os.Getenv("HOLDFAST_SMART_PAGES")
	if dir == "" {
		return files
	}
	found, err := filepath.Glob(filepath.Join(dir, pattern))
	if err != nil || len(found) == 0 {
		t.Fatalf("%s: %q, %v", dir, found, err)
	}
	return append(files, found...)
}

// ataDump answers with the pages of a real drive that skdump --save has written (blob.h of
// libatasmart): IDENTIFY DEVICE, SMART data and thresholds, and what RETURN STATUS told. The
// logs are not in there.
func ataDump(t testing.TB, file string) *disk {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	chunks := map[string][]byte{}
	for len(data) >= 8 {
		n := 8 + int(binary.BigEndian.Uint32(data[4:]))
		chunks[string(data[:4])], data = data[8:n], data[n:]
	}
	d := ataDisk("", fail)
	d.scsi[identify+"000001"], d.scsi[smartRead], d.scsi[thresholds] = chunks["IDFY"], chunks["SMDT"], chunks["SMTH"]
	switch good := chunks["SMST"]; {
	case good == nil: // the registers were not to be had
		d.sense[status] = smart.Sense{}
	case binary.BigEndian.Uint32(good) == 1:
		d.sense[status] = ataDisk("", pass).sense[status]
	}
	delete(d.scsi, logRead+"00010001")
	delete(d.scsi, logRead+"00010006")
	return d
}

// units is what smartctl's table has of the drives here that do not count hours, written anew.
const units = `
{ "Maxtor", "Maxtor (6Y120P0|96147H8)", "", "", "-v 9,minutes" },
{ "Toshiba", "TOSHIBA MK1651GSY", "", "", "-v 9,minutes" },
{ "Samsung", "SAMSUNG MP0804H", "", "", "-v 9,halfminutes" },`

// otherCount are the attributes of whose raw value another part counts here than smartctl prints
// first. Drives are by their model and firmware.
var otherCount = []struct {
	id     uint8
	drives string
	why    string
}{
	{7, "^ST", "Seagate: the errors in the high 16 bits; smartctl has all 48 for these old drives"},
	{10, "^Maxtor 96147H8 ", "two counts; smartctl prints all 48 bits"},
	{170, "^(GIGABYTE|KINGSTON|Patriot|SPCC)", "Phison: bad blocks of the factory and later ones; smartctl prints the former first, here they are one number"},
	{173, "^Biwintech", "three counts; smartctl prints all 48 bits"},
	{188, "^Hitachi HDS721010CLA632 ", "three counts; smartctl prints all 48 bits"},
	{197, "^FUJITSU MHY2(120|250)BH 0085000B$", "no count: to libatasmart it is unknown with this firmware; smartctl prints all 48 bits"},
	{198, "^FUJITSU MHY2(120|250)BH 0085000B$", "as 197"},
}

func sameCount(id uint8, drive string) bool {
	for _, o := range otherCount {
		if o.id == id && regexp.MustCompile(o.drives).MatchString(drive) {
			return false
		}
	}
	return true
}

// The pages of real drives of fourteen vendors read as smartctl reads them.
func TestATAPagesAreSmartctls(t *testing.T) {
	db, err := smart.ParseDriveDB(units)
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range more(t, recordings(t, "ata/*.bin", 31), "ata/*.bin") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(strings.TrimSuffix(file, ".bin") + ".smartctl.json")
			if err != nil {
				t.Fatal(err)
			}
			var doc struct {
				Smartctl struct {
					ExitStatus int                       `json:"exit_status"`
					Messages   []struct{ String string } `json:"messages"`
				}
				ATA struct {
					Table []struct {
						ID  uint8
						Raw struct{ String string }
					}
				} `json:"ata_smart_attributes"`
			}
			if err := json.Unmarshal(data, &doc); err != nil {
				t.Fatal(err)
			}
			want, err := smart.ParseSmartctl(data, doc.Smartctl.ExitStatus, "-", drive3, db)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range doc.Smartctl.Messages {
				if strings.Contains(m.String, "based on an Attribute check") { // then it is not the drive's word
					want.Failing, want.Problems = nil, []string{"SMART status: the disk does not offer this: the registers did not come back"}
				}
			}
			if h := want.PowerOnHours; h != nil && *h > 30*365*24 { // minutes, which smartctl's table does not know of
				want.PowerOnHours = nil
			}
			want.Problems = append(want.Problems, "error log: SCSI status 0x02: sense key 0x5, code 0x24/0x00", "self-test log: SCSI status 0x02: sense key 0x5, code 0x24/0x00")
			got, err := smart.ReadWith(t.Context(), ataDump(t, file), db)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, got, cmpopts.IgnoreUnexported(smart.Report{})); d != "" {
				t.Errorf("smartctl (-) and this package (+): %s", d)
			}
			for _, a := range doc.ATA.Table {
				first, err := strconv.ParseUint(regexp.MustCompile(`^[0-9]+`).FindString(a.Raw.String), 10, 64)
				if err != nil {
					t.Fatal(err)
				}
				if g, _ := got.ATA.Attribute(a.ID); (g.Count == first) != sameCount(a.ID, got.Model+" "+got.Firmware) {
					t.Errorf("attribute %d (%s) counts %d of %#012x, smartctl says %q; otherCount has it: %t", a.ID, g.Name, g.Count, g.Raw, a.Raw.String, g.Count == first)
				}
			}
		})
	}
}

// They read as libatasmart reads them too, which has taken them from the drives.
func TestATAPagesAreSkdumps(t *testing.T) {
	db, err := smart.ParseDriveDB(units)
	if err != nil {
		t.Fatal(err)
	}
	var (
		named = regexp.MustCompile(`(?m)^(Model|Serial|Firmware|Quirks): *\[?([^]\n]*)`)
		field = regexp.MustCompile(`(?m)^(status|power-on|power-cycle|temperature): ([A-Z0-9]+)$`)
		line  = regexp.MustCompile(`(?m)^ *(\d+) \S+ +(\d+|n/a) +(\d+|n/a) +(\d+|n/a) .* 0x([0-9a-f]{12}) (prefail|old-age) +\S+ +(yes|no|n/a)`)
	)
	for _, file := range more(t, recordings(t, "ata/*.bin", 31), "ata/*.bin") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			data, err := os.ReadFile(strings.TrimSuffix(file, ".bin") + ".skdump")
			if err != nil {
				t.Fatal(err)
			}
			r, err := smart.ReadWith(t.Context(), ataDump(t, file), db)
			if err != nil {
				t.Fatal(err)
			}
			got, want := map[string]string{"Model": r.Model, "Serial": r.Serial, "Firmware": r.Firmware}, map[string]string{}
			for _, m := range named.FindAllStringSubmatch(string(data), -1) {
				want[m[1]] = m[2]
			}
			minutes := strings.Contains(want["Quirks"], "9_POWERONMINUTES")
			delete(want, "Quirks")
			for _, m := range field.FindAllStringSubmatch(string(data), -1) {
				want[m[1]] = m[2]
			}
			if r.Failing != nil {
				got["status"] = map[bool]string{false: "GOOD", true: "BAD"}[*r.Failing]
			}
			if r.PowerCycles != nil {
				got["power-cycle"] = strconv.FormatUint(*r.PowerCycles, 10)
			}
			if r.Celsius != nil {
				got["temperature"] = strconv.Itoa(1000**r.Celsius + 273150) // mK
			}
			if r.PowerOnHours != nil {
				got["power-on"] = strconv.FormatUint(*r.PowerOnHours*3600_000, 10) // ms
			}
			exact, err := strconv.ParseUint(want["power-on"], 10, 64)
			switch {
			case strings.HasSuffix(r.Firmware, "0085000B") && minutes: // smartctl's table does not know that
				delete(got, "power-on")
				delete(want, "power-on")
			case want["power-on"] == "": // more than 30 years to libatasmart, which does not know of minutes
				delete(got, "power-on")
			case err == nil: // in whole hours
				want["power-on"] = strconv.FormatUint(exact/3600_000*3600_000, 10)
			}
			if _, ok := r.ATA.Attribute(231); ok { // life left; libatasmart has it as the temperature
				delete(want, "temperature")
				delete(got, "temperature")
			}
			for i, m := range line.FindAllStringSubmatch(string(data), -1) {
				want["attribute "+strconv.Itoa(i)] = strings.Join(m[1:], " ")
			}
			for i, a := range r.ATA.Attributes {
				got["attribute "+strconv.Itoa(i)] = skdumpLine(a)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Errorf("skdump (-) and this package (+): %s", d)
			}
		})
	}
}

// skdumpLine is an attribute as skdump has it: its number, value, worst value and threshold, the
// raw value as it comes, the type, and whether the value is above the threshold.
func skdumpLine(a smart.Attribute) string {
	normal := func(v uint8) string {
		if v == 0 || v > 253 { // no value (SFF-8035i)
			return "n/a"
		}
		return strconv.Itoa(int(v))
	}
	var raw [8]byte
	binary.LittleEndian.PutUint64(raw[:], a.Raw)
	good := map[bool]string{false: "yes", true: "no"}[a.Failed()]
	if *a.Threshold == 0 || a.Value == 0 || a.Value > 253 { // never fails
		good = "n/a"
	}
	return strings.Join([]string{strconv.Itoa(int(a.ID)), normal(a.Value), normal(a.Worst), strconv.Itoa(int(*a.Threshold)),
		hex.EncodeToString(raw[:6]), map[bool]string{false: "old-age", true: "prefail"}[a.Prefailure], good}, " ")
}

// Drives that count minutes were taken to have been on for decades.
func TestPowerOnTimeOfAnotherUnit(t *testing.T) {
	hours := func(r *smart.Report) uint64 {
		if r.PowerOnHours == nil {
			return 0
		}
		return *r.PowerOnHours
	}
	for format, want := range map[string]uint64{"minutes": 9290, "min2hour": 9290, "halfminutes": 4645, "halfmin2hour,Power_On": 4645, "seconds": 154, "sec2hour": 154, "raw48": 0} {
		db, err := smart.ParseDriveDB(`{ "Samsung", "SAMSUNG MP0804H", "UE100-14", "", "-v 9,` + format + `" }`)
		if err != nil {
			t.Fatal(err)
		}
		r, err := smart.ReadWith(t.Context(), ataDump(t, "testdata/pages/ata/SAMSUNG_MP0804H--UE100-14.bin"), db)
		if err != nil || hours(r) != want {
			t.Errorf("%s: %d hours, want %d; %v", format, hours(r), want, err)
		}
	}
	// Without the table, what cannot be hours is not told.
	for name, want := range map[string]uint64{"SAMSUNG_MP0804H--UE100-14": 0, "TOSHIBA_MK1651GSY--LD001D": 0, "SAMSUNG_HD501LJ--CR100-12": 7326, "TOSHIBA_THNSNH128GBST": 37383} {
		if got := hours(read(t, ataDump(t, "testdata/pages/ata/"+name+".bin"))); got != want {
			t.Errorf("%s: %d hours, want %d", name, got, want)
		}
	}
}
