package smart_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"holdfast.dev/monitor/smart"
)

const vpdList = "120100"

// A disk was asked for pages of vital product data that it does not have. What it has
// it lists in page 00h, which is asked for first.
func TestVPDPagesThatAreListed(t *testing.T) {
	all := []string{"120100", "120180", "1201b1", "120183"}
	for name, tc := range map[string]struct {
		reason string
		change func(*disk)
		asked  []string
	}{
		"All":       {"what is listed is asked for", func(*disk) {}, all},
		"NoSerial":  {"80h is not listed", func(d *disk) { d.scsi[vpdList] = vital(0x00, "\x00\x83\xb1") }, []string{"120100", "1201b1", "120183"}},
		"NoName":    {"83h is not listed", func(d *disk) { d.scsi[vpdList] = vital(0x00, "\x00\x80\xb1") }, []string{"120100", "120180", "1201b1"}},
		"NoSpeed":   {"b1h is not listed", func(d *disk) { d.scsi[vpdList] = vital(0x00, "\x00\x80\x83\xb0") }, []string{"120100", "120180", "120183"}},
		"None":      {"the list has nothing but itself", func(d *disk) { d.scsi[vpdList] = vital(0x00, "\x00") }, []string{"120100"}},
		"Refused":   {"old disks have pages and no list", func(d *disk) { delete(d.scsi, vpdList) }, all},
		"Unknown":   {"whatever the list is refused with", func(d *disk) { d.errs = map[string]error{vpdList: unknownOpcode} }, all},
		"NoAnswer":  {"what went wrong with the list is no word on the pages", func(d *disk) { d.errs = map[string]error{vpdList: errors.New("host status 0x03")} }, all},
		"Empty":     {"a list that does not have itself is none", func(d *disk) { d.scsi[vpdList] = vital(0x00, "") }, all},
		"Foreign":   {"a list that does not begin with itself is none", func(d *disk) { d.scsi[vpdList] = vital(0x00, "\x03\x00") }, all},
		"OtherPage": {"another page is no list", func(d *disk) { d.scsi[vpdList] = vital(0x83, "\x00") }, all},
		"Inquiry":   {"a disk that knows no pages answers with its INQUIRY data", func(d *disk) { d.scsi[vpdList] = d.scsi["120000"] }, all},
	} {
		t.Run(name, func(t *testing.T) {
			d, want := scsiDisk(), read(t, scsiDisk())
			tc.change(d)
			got := read(t, d)
			var asked []string
			for _, cmd := range d.asked {
				if strings.HasPrefix(cmd, "1201") {
					asked = append(asked, cmd[:6])
				}
			}
			if diff := cmp.Diff(tc.asked, asked); diff != "" {
				t.Errorf("%s: want (-) and asked for (+): %s", tc.reason, diff)
			}
			has := func(page string) bool { return strings.Contains(strings.Join(tc.asked, " "), page) }
			if !has("120180") {
				want.Serial, want.Problems = "", []string{"serial number: the disk does not offer this: it does not list page 0x80"}
			}
			if !has("1201b1") {
				want.RPM = nil
			}
			if !has("120183") {
				want.SCSI.WWN = ""
			}
			if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(smart.Report{})); diff != "" {
				t.Errorf("%s: want (-) and got (+): %s", tc.reason, diff)
			}
		})
	}
}

// vital is a page of vital product data.
func vital(code byte, body string) []byte {
	return []byte(string([]byte{0, code, 0, byte(len(body))}) + body)
}
