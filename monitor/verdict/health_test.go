package verdict_test

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/smart"
	"holdfast.dev/monitor/verdict"
)

func ptr[T any](v T) *T { return &v }

// reading is a report from the signals that it is to give.
func reading(signals map[string]float64) *smart.Report {
	r := &smart.Report{Protocol: smart.ATA}
	for name, v := range signals {
		kind, id, _ := strings.Cut(name, ".")
		n, err := strconv.ParseUint(id, 10, 8)
		switch {
		case err == nil:
			if r.ATA == nil {
				r.ATA = &smart.ATAHealth{}
			}
			r.ATA.Attributes = append(r.ATA.Attributes, smart.Attribute{ID: uint8(n), Count: uint64(v)})
			switch kind {
			case "hdd":
				r.RPM = ptr(uint16(7200))
			case "ssd":
				r.RPM = ptr(uint16(0))
			}
		case name == "hdd.celsius":
			r.RPM, r.Celsius = ptr(uint16(7200)), ptr(int(v))
		case name == "scsi.selfTestFailures":
			r.Protocol, r.SCSI = smart.SCSI, &smart.SCSIHealth{StandingTestFailures: ptr(int(v))}
		case name == "ata.selfTestFailures":
			if r.ATA == nil {
				r.ATA = &smart.ATAHealth{}
			}
			r.ATA.StandingTestFailures = ptr(int(v))
		case name == "ata.uncorrectable":
			if r.ATA == nil {
				r.ATA = &smart.ATAHealth{}
			}
			r.ATA.Uncorrectable = ptr(uint64(v))
		case name == "ata.failing":
			r.Failing = ptr(v == 1)
			if r.ATA == nil {
				r.ATA = &smart.ATAHealth{}
			}
		case kind == "nvme":
			r.Protocol = smart.NVMe
			if r.NVMe == nil {
				r.NVMe = &smart.NVMeHealth{}
			}
			switch id {
			case "selfTestFailures":
				r.NVMe.StandingTestFailures = ptr(int(v))
			case "mediaErrors":
				r.NVMe.MediaErrors = uint64(v)
			case "warning.temperature":
				r.NVMe.CriticalWarning |= smart.TemperatureOutside
			case "warning.readOnly":
				r.NVMe.CriticalWarning |= smart.ReadOnly
			}
		default:
			panic(name)
		}
	}
	return r
}

// texts judges readings one after the other, and says what was found of each.
func texts(th *verdict.Thresholds, stored string, readings ...map[string]float64) []string {
	var out []string
	var m verdict.Memory
	for i, r := range readings {
		if i > 0 {
			stored = ""
		}
		var holds, grown []verdict.Finding
		m, holds, grown = th.Judge("d", m, stored, reading(r))
		var all []string
		for _, f := range append(holds, grown...) {
			all = append(all, fmt.Sprintf("%s/%s %s", f.Class, f.Severity, f.Text))
		}
		out = append(out, strings.Join(all, "; "))
	}
	return out
}

func TestJudge(t *testing.T) {
	type signals = map[string]float64
	cases := map[string]struct {
		reason   string
		stored   string
		readings []signals
		want     []string
	}{
		"Good":        {"numbers of a good disk", "", []signals{{"ata.failing": 0, "hdd.5": 16, "hdd.187": 0, "hdd.197": 0}}, []string{""}},
		"AtOnce":      {"one uncorrectable error is enough", "", []signals{{"hdd.187": 1}}, []string{"SMART/Critical reported uncorrectable errors"}},
		"Reallocated": {"the level of sectors that are replaced", "", []signals{{"hdd.5": 17}}, []string{"SMART/Critical reallocated sectors: 17"}},
		"AgedSSD":     {"an SSD retires blocks as it ages", "", []signals{{"ssd.5": 170, "ssd.187": 3}, {"ssd.5": 170, "ssd.187": 4}}, []string{"", "Medium/Warning reported uncorrectable errors grew from 3 to 4"}},
		"Pending":     {"a write may heal it: two readings, and two without", "", []signals{{"hdd.197": 2}, {"hdd.197": 2}, {"hdd.197": 0}, {"hdd.197": 0}}, []string{"", "SMART/Critical pending sectors: 2", "SMART/Critical pending sectors: 0", ""}},
		"Blink":       {"one reading in between starts anew", "", []signals{{"hdd.197": 2}, {"hdd.197": 0}, {"hdd.197": 2}}, []string{"", "", ""}},
		"Restart":     {"what held before the restart needs no second reading", "pending sectors: 3; read only", []signals{{"hdd.197": 2}}, []string{"SMART/Critical pending sectors: 2"}},
		"RestartGood": {"nor does what has recovered", "pending sectors: 3", []signals{{"hdd.197": 0}}, []string{""}},
		"RestartElse": {"another number needs them", "temperature (°C): 61", []signals{{"hdd.197": 2}}, []string{"SMART/Warning temperature (°C)"}},
		"RestartPart": {"what is not read in the first answer holds until it is told", "predicts its failure", []signals{{"hdd.5": 0}, {"ata.failing": 1}, {"ata.failing": 0}}, []string{"SMART/Critical predicts its failure", "SMART/Critical predicts its failure", ""}},
		"NotTold":     {"a number that was not read is no recovery", "", []signals{{"hdd.187": 1}, {}, {"hdd.187": 0}}, []string{"SMART/Critical reported uncorrectable errors", "SMART/Critical reported uncorrectable errors", ""}},
		"Grows":       {"a growth is a warning of its own class, once", "", []signals{{"ata.199": 3}, {"ata.199": 5}, {"ata.199": 5}}, []string{"", "Link/Warning interface checksum errors grew from 3 to 5", ""}},
		"Statistics":  {"a disk without attribute 187 tells the same in its device statistics", "", []signals{{"ata.uncorrectable": 3}, {"ata.uncorrectable": 3}, {"ata.uncorrectable": 5}}, []string{"", "", "Medium/Warning reported uncorrectable errors grew from 3 to 5"}},
		"GrowsUnseen": {"a growth over a reading that lacks the number is seen", "", []signals{{"ata.199": 3}, {}, {"ata.199": 5}}, []string{"", "", "Link/Warning interface checksum errors grew from 3 to 5"}},
		"Shrinks":     {"a counter that was reset is no growth", "", []signals{{"nvme.mediaErrors": 9}, {"nvme.mediaErrors": 0}, {"nvme.mediaErrors": 1}}, []string{"", "", "Medium/Warning media errors grew from 0 to 1"}},
		"Timeouts188": {"no level of 188 fails a disk", "", []signals{{"hdd.188": 13e9}}, []string{""}},
		"Hot":         {"it must cool down before it counts as cool", "", []signals{{"hdd.celsius": 60}, {"hdd.celsius": 57}, {"hdd.celsius": 54}}, []string{"SMART/Warning temperature (°C): 60", "SMART/Warning temperature (°C): 57", ""}},
		"SelfTest":    {"a failed self-test, until a later one passes", "", []signals{{"ata.selfTestFailures": 2}, {}, {"ata.selfTestFailures": 0}}, []string{"SMART/Warning self-tests failed: 2", "SMART/Warning self-tests failed: 2", ""}},
		"SelfTestSAS": {"the same of SCSI", "", []signals{{"scsi.selfTestFailures": 1}, {"scsi.selfTestFailures": 0}}, []string{"SMART/Warning self-tests failed", ""}},
		"SelfTestSSD": {"the same of NVMe", "", []signals{{"nvme.selfTestFailures": 1}, {"nvme.selfTestFailures": 0}}, []string{"SMART/Warning self-tests failed", ""}},
		"NVMe":        {"warnings that pass and such that do not", "", []signals{{"nvme.warning.temperature": 1, "nvme.warning.readOnly": 1}}, []string{"SMART/Critical read only; SMART/Warning temperature outside its thresholds"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, texts(verdict.DefaultThresholds(), tc.stored, tc.readings...)); d != "" {
				t.Errorf("%s\nreason: %s", d, tc.reason)
			}
		})
	}
}

func TestAccepted(t *testing.T) {
	th := verdict.DefaultThresholds()
	th.Accepted = []verdict.Acceptance{{Disk: "d", Signal: "hdd.187", UpTo: 2, Why: "an old cable"}}
	if got := texts(th, "reported uncorrectable errors: 2", map[string]float64{"hdd.187": 2}, map[string]float64{"hdd.187": 3}); got[0] != "" || got[1] == "" {
		t.Errorf("found %q", got)
	}
	if _, holds, _ := th.Judge("other", verdict.Memory{}, "", reading(map[string]float64{"hdd.187": 2})); len(holds) != 1 {
		t.Errorf("another disk: %+v", holds)
	}
}

// A rule with hysteresis is, at every reading, what the whole history says.
func TestJudgeIsTheReference(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rule := verdict.Rule{Signal: "ata.5", Name: "x", Why: "y", Severity: v1alpha1.SeverityCritical,
			AtLeast: ptr(3.0), ClearBelow: ptr(float64(rapid.IntRange(0, 3).Draw(t, "clearBelow"))), Readings: rapid.IntRange(0, 3).Draw(t, "readings")}
		th := &verdict.Thresholds{Rules: []verdict.Rule{rule}}
		history := rapid.SliceOfN(rapid.IntRange(-1, 4), 1, 12).Draw(t, "history") // -1: not told
		var m verdict.Memory
		var told []float64
		for i, v := range history {
			signals := map[string]float64{}
			if v >= 0 {
				signals["ata.5"] = float64(v)
				told = append(told, float64(v))
			}
			var holds []verdict.Finding
			m, holds, _ = th.Judge("d", m, "", reading(signals))
			if got, want := len(holds) == 1, slowly(&rule, told); got != want {
				t.Fatalf("%v after %v: holds %t, want %t", rule, history[:i+1], got, want)
			}
		}
	})
}

// slowly walks the whole history: the rule changes over at the end of each run
// of so many readings in a row that say the opposite of what it says.
func slowly(r *verdict.Rule, told []float64) bool {
	holds := false
	for from := 0; from < len(told); {
		end := from
		for end < len(told) && end-from < max(1, r.Readings) && (holds && told[end] < *r.ClearBelow || !holds && told[end] >= *r.AtLeast) {
			end++
		}
		if end-from == max(1, r.Readings) {
			holds = !holds
			from = end
		} else {
			from++
		}
	}
	return holds
}

func TestSignals(t *testing.T) {
	ata := &smart.Report{Failing: ptr(false), Celsius: ptr(40), RPM: ptr(uint16(7200)), ATA: &smart.ATAHealth{Attributes: []smart.Attribute{
		{ID: 5, Value: 10, Threshold: ptr(uint8(36)), Prefailure: true, Count: 24},
		{ID: 190, Value: 10, Threshold: ptr(uint8(45)), Count: 55}, // age, not a prediction
	}}}
	want := map[string]float64{"ata.failing": 0, "ata.prefailure": 1, "ata.5": 24, "hdd.5": 24, "ata.190": 55, "hdd.190": 55, "hdd.celsius": 40}
	if d := cmp.Diff(want, verdict.Signals(ata)); d != "" {
		t.Error(d)
	}
	ata.RPM = nil // as old drives have it
	if _, told := verdict.Signals(ata)["hdd.5"]; !told {
		t.Error("a drive that does not tell its speed is judged by no level")
	}
	ata.ATA.Attributes[0].Threshold = nil // it could not be read
	if _, told := verdict.Signals(ata)["ata.prefailure"]; told {
		t.Error("without a threshold nothing is known of its being crossed")
	}
	ata.ATA.Attributes = nil // their checksum was wrong
	if d := cmp.Diff(map[string]float64{"ata.failing": 0, "hdd.celsius": 40}, verdict.Signals(ata)); d != "" {
		t.Errorf("without attributes: %s", d)
	}
	ata.ATA.Uncorrectable = ptr(uint64(3))
	if d := cmp.Diff(map[string]float64{"ata.failing": 0, "ata.uncorrectable": 3, "hdd.celsius": 40}, verdict.Signals(ata)); d != "" {
		t.Errorf("with device statistics: %s", d)
	}
	ssd := &smart.Report{RPM: ptr(uint16(0)), Celsius: ptr(70), NVMe: &smart.NVMeHealth{CriticalWarning: smart.ReadOnly, AvailableSpare: 5, SpareThreshold: 10, MediaErrors: 2}, PercentUsed: ptr(uint8(101))}
	want = map[string]float64{"nvme.warning.spare": 0, "nvme.warning.temperature": 0, "nvme.warning.reliability": 0, "nvme.warning.readOnly": 1,
		"nvme.warning.backup": 0, "nvme.warning.persistentMemory": 0, "nvme.spareBelowThreshold": 1, "nvme.mediaErrors": 2, "percentUsed": 101}
	if d := cmp.Diff(want, verdict.Signals(ssd)); d != "" {
		t.Error(d)
	}
	sas := &smart.Report{Failing: ptr(true), SCSI: &smart.SCSIHealth{Read: &smart.ErrorCounters{Uncorrected: ptr(uint64(1))}, Verify: &smart.ErrorCounters{Uncorrected: ptr(uint64(2))}, Write: &smart.ErrorCounters{}}}
	if d := cmp.Diff(map[string]float64{"scsi.failing": 1, "scsi.uncorrected.read": 1, "scsi.uncorrected.verify": 2}, verdict.Signals(sas)); d != "" {
		t.Error(d)
	}
	if got := verdict.Signals(&smart.Report{}); len(got) != 0 {
		t.Errorf("a disk that tells nothing has %v", got)
	}
}

func TestParseThresholdsRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"rules: []": "neither rules nor windows nor accepted numbers",
		"rules: [{signal: ata.300, name: n, why: w, atLeast: 1, severity: Critical}]":                                                        "there is no such signal",
		"rules: [{signal: ata.5, name: n, why: w, severity: Critical}]":                                                                      "give either atLeast or grows",
		"rules: [{signal: ata.5, name: n, why: w, atLeast: 1, grows: true, class: Link}]":                                                    "give either atLeast or grows",
		"rules: [{signal: ata.5, name: n, why: w, atLeast: 1, severity: Bad}]":                                                               "want Critical or Warning",
		"rules: [{signal: ata.5, name: n, why: w, atLeast: 1, clearBelow: 2, severity: Warning}]":                                            "clearBelow 2 is more than atLeast 1",
		"rules: [{signal: ata.5, name: n, atLeast: 1, severity: Warning}]":                                                                   "name and why",
		"rules: [{signal: ata.5, name: n, why: w, grows: true}]":                                                                             "class is missing",
		"rules: [{signal: ata.5, name: n, why: w, atleast: 1}]":                                                                              "t.yaml:1",
		"windows: [{name: n, class: Link, why: w, atLeast: 0, within: 1m, severity: Warning}]":                                               "atLeast is 0",
		"windows: [{name: n, class: Link, why: w, atLeast: 1, within: 25h, severity: Warning}]":                                              "within is 25h0m0s",
		"windows: [{name: n, class: Link, why: w, atLeast: 1, within: ten, severity: Warning}]":                                              `"ten" is not a duration`,
		"windows: [{name: n, class: Link, why: w, atLeast: 1, within: 1m, severity: Bad}]":                                                   "want Critical or Warning",
		"windows: [{name: n, class: Link, why: w, atLeast: 1, within: 1m, severity: Warning, lines: '('}]":                                   "missing closing )",
		"windows: [{name: n, class: Link, atLeast: 1, within: 1m, severity: Warning}]":                                                       "class and why must be given",
		"windows: [{name: n, class: Lnk, why: w, atLeast: 1, within: 1m, severity: Warning}]":                                                `unknown: "Lnk"`,
		"windows: [{name: n, class: Link, why: w, atLeast: 1, within: 600, severity: Warning}]":                                              `"600" is not a duration`,
		"windows:\n- name: n\n  class: Link\n  why: w\n  atLeast: 1000\n  within: 1m\n  severity: Warning":                                   "t.yaml:5: windows[0] (n): atLeast is 1000, but no more than 6 count within 1m0s (the window would never hold: warnings within 10s count once",
		"windows: [{name: n, class: Link, why: w, atLeast: 7, within: 1m, severity: Warning}]":                                               "no more than 6",
		"windows: [{name: n, class: Link, why: w, atLeast: 2, within: 10s, severity: Warning}]":                                              "no more than 1",
		"rules:\n- {signal: ata.5, name: n, why: w, grows: true, class: Link}\n- {signal: ata.5, name: n, why: v, grows: true, class: Link}": "t.yaml:3: rules[1] (ata.5): it is rules[0] again: the same signal, class and name",
		"rules: [{signal: ata.5, name: n, why: w, grows: true, class: Lnk}]":                                                                 `unknown: "Lnk"`,
		"rules: [{signal: ata.5, name: n, why: w, atLeast: 0, severity: Warning}]":                                                           "t.yaml:1: rules[0] (ata.5): atLeast is 0, want a number above 0",
		"rules: [{signal: ata.5, name: n, why: w, atLeast: .nan, severity: Warning}]":                                                        "atLeast is NaN",
		"rules: [{signal: ata.5, name: n, why: w, atLeast: 1, readings: 289, severity: Warning}]":                                            "readings is 289, want 1 to 288",
		"rules: [{signal: ata.failing, name: n, why: w, atLeast: 2, severity: Warning}]":                                                     "ata.failing is never more than 1 (the rule would never hold; it is 1 or 0)",
		"rules: [{signal: ata.uncorrectable, name: n, why: w, atLeast: 4294967296, severity: Warning}]":                                      "ata.uncorrectable is never more than 4.294967295e+09",
		"rules: [{signal: percentUsed, name: n, why: w, atLeast: 1000, severity: Warning}]":                                                  "percentUsed is never more than 255",
		"rules: [{signal: hdd.celsius, name: n, why: w, atLeast: 333, severity: Warning}]":                                                   "it is in degrees Celsius",
		"rules: [{signal: ata.5, name: n, why: w, atLeast: 9e15, severity: Warning}]":                                                        "ata.5 is never more than 2.81474976710655e+14",
		"rules: [{signal: ata.5, name: n, why: w, atLeast: 5, clearBelow: -1, severity: Warning}]":                                           "clearBelow is -1",
		"windows: [{class: Link, why: w, atLeast: 1, within: 1m, severity: Warning}]":                                                        `t.yaml:1: windows[0]: name is missing or not in lower case with dashes: ""`,
		"windows: [{name: Link_, class: Link, why: w, atLeast: 1, within: 1m, severity: Warning}]":                                           `dashes: "Link_"`,
		"windows:\n- {name: n, class: Link, why: w, atLeast: 1, within: 1m, severity: Warning}\n- {name: m, class: Link, why: w, atLeast: 1, within: 1m, severity: Warning}\n- {name: n, class: ATA, why: w, atLeast: 1, within: 1m, severity: Warning}": "t.yaml:4: windows[2] (n): it has the name of windows[0] (give each a name of its own",
		"windows: [{name: medium, remove: true}, {name: medium, class: Medium, why: w, atLeast: 1, within: 1m, severity: Warning}]":                                                                                                                      "windows[1] (medium): it has the name of windows[0]",
		"windows: [{name: mediums, remove: true}]":                                                                                                       "windows[0] (mediums): there is no built-in window of the name (there are link-errors, ",
		"windows: [{name: medium, class: Medium, remove: true}]":                                                                                         "remove: true goes with name alone",
		"rules: [{signal: hdd.10, remove: true}, {signal: hdd.10, remove: true}]":                                                                        "rules[0] (hdd.10): another rule is about the signal (it takes the place of the built-in ones by itself: remove this one)",
		"rules: [{signal: hdd.10, remove: true}, {signal: hdd.10, name: n, why: w, atLeast: 1, severity: Warning}]":                                      "another rule is about the signal",
		"rules: [{signal: ata.10, remove: true}]":                                                                                                        "rules[0] (ata.10): there is no built-in rule about the signal",
		"rules: [{signal: hdd.10, name: spin retries, remove: true}]":                                                                                    "remove: true goes with signal alone",
		"rules: [{signal: nvme.selfTestFailures, name: n, why: w, atLeast: 21, severity: Warning}]":                                                      "nvme.selfTestFailures is never more than 20",
		"accepted: [{disk: d, why: w, signal: ata.5, upTo: -1}]":                                                                                         "upTo is -1",
		"rules:\n- {signal: ata.5, name: n, why: w, grows: true, class: Link}\n- signal: ata.9\n  name: n\n  why: w\n  atLeast: -4\n  severity: Warning": "t.yaml:6: rules[1] (ata.9): atLeast is -4",
		"rules: [{signal: ata.5, name: n, why: w, grows: true, class: Link}]\naccepted: [{disk: d, signal: ata.5}]":                                      "t.yaml:2: accepted[0] (d): disk and why must be given",
		"rules: [{signal: ata.5, name: n, why: w, grows: true, class: Link}]\naccepted: [{disk: d, why: w, signal: ata.05}]":                             `no signal "ata.05"`,
	} {
		if _, err := verdict.ParseThresholds("t.yaml", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// The most warnings that count within a window are let through, and do make it hold;
// rules that differ in signal, class or name are no duplicates.
func TestParseThresholdsAccepts(t *testing.T) {
	for _, w := range []struct {
		atLeast int
		within  time.Duration
	}{{1, time.Nanosecond}, {1, 10 * time.Second}, {2, 10*time.Second + 1}, {6, time.Minute}, {61, 10*time.Minute + time.Millisecond}} {
		th, err := verdict.ParseThresholds("t.yaml", fmt.Appendf(nil, "windows: [{name: n, class: Link, why: w, atLeast: %d, within: %s, severity: Warning}]", w.atLeast, w.within))
		if err != nil {
			t.Errorf("%d within %s: %v", w.atLeast, w.within, err)
			continue
		}
		l := verdict.Line{Class: v1alpha1.FaultLink, Severity: v1alpha1.SeverityWarning, Text: "x"}
		for i := range w.atLeast {
			l.Seen = append(l.Seen, verdict.Sighting{At: began.Add(time.Duration(i) * 10 * time.Second)})
		}
		if _, o := th.Weigh(verdict.Recent{}, &l); o.Severity == "" {
			t.Errorf("%d within %s does not hold after that many", w.atLeast, w.within)
		}
	}
	for _, text := range []string{
		"windows: [{name: n, class: Link, why: w, atLeast: 1000, within: 1m, severity: Warning, distinct: true}]",
		`rules: [{signal: ata.5, name: n, why: w, grows: true, class: Link}, {signal: ata.5, name: n, why: w, grows: true, class: ATA},
 {signal: ata.5, name: m, why: w, grows: true, class: Link}, {signal: ata.6, name: n, why: w, grows: true, class: Link}, {signal: ata.5, name: n, why: w, atLeast: 1, severity: Warning}]`,
	} {
		if _, err := verdict.ParseThresholds("t.yaml", []byte(text)); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}
