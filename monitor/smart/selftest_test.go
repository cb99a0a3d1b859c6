package smart_test

import (
	"fmt"
	"strings"
	"testing"

	"holdfast.dev/monitor/smart"
)

// result is one of a log of self-tests, in words.
type result struct{ kind, how string }

// Each of these is a kind or a result in the three standards' own numbers.
var (
	ataKinds    = map[string]byte{"short": 0x01, "extended": 0x02, "captive": 0x81, "captiveExtended": 0x82, "selective": 0x04}
	scsiKinds   = map[string]byte{"short": 1, "extended": 2, "captive": 5, "captiveExtended": 6, "selective": 4} // 4: aborts one
	nvmeKinds   = map[string]byte{"short": 1, "extended": 2, "captive": 1, "captiveExtended": 2, "selective": 0xe}
	ataResults  = map[string]byte{"passed": 0x0, "aborted": 0x1, "failed": 0x7, "runs": 0xf}
	scsiResults = map[string]byte{"passed": 0x0, "aborted": 0x1, "failed": 0x7, "runs": 0xf}
	nvmeResults = map[string]byte{"passed": 0x0, "aborted": 0x1, "failed": 0x7, "runs": 0xf}
)

// logged are disks of the three protocols, and what smartctl prints of such, with these results, the newest first.
func logged(t *testing.T, log []result) map[string]*smart.Report {
	t.Helper()
	ata, scsi, nvme := ataDisk("EXAMPLE", pass), scsiDisk(), nvmeDisk()
	tests := ata.scsi[logRead+"00010006"]
	clear(tests)
	tests[508] = 5 // the ring's fifth entry is the newest
	clear(nvme.admin["log 6"])
	var params, ataJSON, nvmeJSON, scsiJSON []string
	for i, r := range log {
		at := 2 + 24*((4-i+21)%21)
		tests[at], tests[at+1] = ataKinds[r.kind], ataResults[r.how]<<4
		nvme.admin["log 6"][4+28*i] = nvmeKinds[r.kind]<<4 | nvmeResults[r.how]
		params = append(params, param(uint16(i+1), string([]byte{scsiKinds[r.kind]<<5 | scsiResults[r.how]})+strings.Repeat("\x00", 15)))
		ataJSON = append(ataJSON, fmt.Sprintf(`{"type":{"value":%d},"status":{"value":%d}}`, ataKinds[r.kind], ataResults[r.how]<<4))
		nvmeJSON = append(nvmeJSON, fmt.Sprintf(`{"self_test_code":{"value":%d},"self_test_result":{"value":%d}}`, nvmeKinds[r.kind], nvmeResults[r.how]))
		scsiJSON = append(scsiJSON, fmt.Sprintf(`"scsi_self_test_%d":{"code":{"value":%d},"result":{"value":%d}}`, i, scsiKinds[r.kind], scsiResults[r.how]))
	}
	sum(tests)
	scsi.scsi["4d005000"] = page(0x10, params...)
	smartctl := func(protocol, rest string) *smart.Report {
		t.Helper()
		text := fmt.Sprintf(`{"json_format_version":[1,0],"smartctl":{"exit_status":0},"device":{"name":"/dev/sda","protocol":%q},"smart_status":{"passed":true},%s}`, protocol, rest)
		r, err := smart.ParseSmartctl([]byte(text), 0, "/dev/sda", &smart.Adapter{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	return map[string]*smart.Report{
		"ata": read(t, ata), "scsi": read(t, scsi), "nvme": read(t, nvme),
		"ata of smartctl":  smartctl("ATA", `"ata_smart_attributes":{},"ata_smart_self_test_log":{"standard":{"table":[`+strings.Join(ataJSON, ",")+`]}}`),
		"nvme of smartctl": smartctl("NVMe", `"nvme_smart_health_information_log":{},"nvme_self_test_log":{"table":[`+strings.Join(nvmeJSON, ",")+`]}`),
		"scsi of smartctl": smartctl("SCSI", strings.Join(scsiJSON, ",")),
	}
}

// Failed self-tests were counted and judged by nothing, since the whole log holds failures that are long over.
func TestSelfTestsThatStand(t *testing.T) {
	short, extended := result{"short", "failed"}, result{"extended", "failed"}
	good, whole := result{"short", "passed"}, result{"extended", "passed"}
	for name, tc := range map[string]struct {
		reason        string
		log           []result
		all, standing int
	}{
		"Good":      {"tests that passed", []result{good, whole}, 0, 0},
		"Newest":    {"the newest has failed", []result{extended, whole, good}, 1, 1},
		"MadeGood":  {"the same test has passed since", []result{good, short}, 1, 0},
		"Outdated":  {"an extended test includes a short one", []result{whole, short, extended}, 2, 0},
		"Lesser":    {"a short test does not read what an extended one could not", []result{good, extended}, 1, 1},
		"Again":     {"every failure since the last good one counts", []result{extended, extended, whole, extended}, 3, 2},
		"Aborted":   {"a test that was aborted says nothing", []result{{"extended", "aborted"}, extended}, 1, 1},
		"Running":   {"nor does one that runs", []result{{"extended", "runs"}, extended}, 1, 1},
		"Captive":   {"a captive test is the same test", []result{{"captiveExtended", "passed"}, extended, {"captive", "failed"}}, 2, 0},
		"Selective": {"a test of some places, or of a vendor's own, is no test of all", []result{{"selective", "passed"}, extended}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			for kind, r := range logged(t, tc.log) {
				var all, standing *int
				switch {
				case r.ATA != nil:
					all, standing = r.ATA.SelfTestFailures, r.ATA.StandingTestFailures
				case r.SCSI != nil:
					all, standing = r.SCSI.SelfTestFailures, r.SCSI.StandingTestFailures
				default:
					all, standing = r.NVMe.SelfTestFailures, r.NVMe.StandingTestFailures
				}
				if all == nil || standing == nil || *all != tc.all || *standing != tc.standing {
					t.Errorf("%s: %s: %v failures, %v of them stand, want %d and %d", tc.reason, kind, text(all), text(standing), tc.all, tc.standing)
				}
			}
		})
	}
}

// ATA's log is a ring of 21: where it begins decides what is the newest.
func TestSelfTestsInARing(t *testing.T) {
	d := ataDisk("EXAMPLE", pass)
	log := d.scsi[logRead+"00010006"]
	for i := range 21 {
		log[2+24*i], log[2+24*i+1] = 0x02, 0x70
	}
	log[508] = 5         // entry 4 is the newest, entry 5 the oldest
	log[2+24*5+1] = 0x00 // which has passed
	sum(log)
	if h := read(t, d).ATA; *h.SelfTestFailures != 20 || *h.StandingTestFailures != 20 {
		t.Errorf("%d failures, %d of them stand, want 20 of 20", *h.SelfTestFailures, *h.StandingTestFailures)
	}
	log[2+24*5+1], log[2+24*4+1] = 0x70, 0x00
	sum(log)
	if h := read(t, d).ATA; *h.SelfTestFailures != 20 || *h.StandingTestFailures != 0 {
		t.Errorf("%d failures, %d of them stand, want 0 of 20", *h.SelfTestFailures, *h.StandingTestFailures)
	}
}

func text(n *int) string {
	if n == nil {
		return "unknown"
	}
	return fmt.Sprint(*n)
}
