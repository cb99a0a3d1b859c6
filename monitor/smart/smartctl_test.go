package smart_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/e2e/wait"
	"holdfast.dev/monitor/smart"
)

// fake is a smartctl that is a script.
func fake(t *testing.T, script string) *smart.Smartctl {
	t.Helper()
	p := filepath.Join(t.TempDir(), "smartctl")
	if err := os.WriteFile(p, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
		t.Fatal(err)
	}
	return &smart.Smartctl{Program: p}
}

// prints is a smartctl that prints a document and ends with its exit status.
func prints(t *testing.T, doc string, code int) *smart.Smartctl {
	t.Helper()
	p := filepath.Join(t.TempDir(), "doc")
	if err := os.WriteFile(p, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	return fake(t, fmt.Sprintf("cat %s\nexit %d\n", p, code))
}

func recorded(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile("testdata/smartctl/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// edited is a recorded document of one whose smartctl was asked for a device.
func edited(t *testing.T, name string, edit func(doc map[string]any)) string {
	t.Helper()
	var doc map[string]any
	if err := json.Unmarshal([]byte(recorded(t, name)), &doc); err != nil {
		t.Fatal(err)
	}
	edit(doc)
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

var drive3 = &smart.Adapter{Disk: "d", Type: "megaraid,3"}

// What smartctl says of drives becomes the report that reading them natively gives.
func TestSmartctlRecorded(t *testing.T) {
	ask := func(name, device string, code int) *smart.Report {
		t.Helper()
		r, err := prints(t, recorded(t, name), code).Ask(t.Context(), drive3, device)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		return r
	}
	r := ask("ata-hdd-errors", "/dev/sda", 64)
	if r.Protocol != smart.ATA || r.Model != "WDC WD5002ABYS-02B1B0" || *r.Failing || *r.Celsius != 26 || *r.PowerOnHours != 66857 || *r.ATA.Errors != 9 || len(r.Problems) != 0 {
		t.Errorf("hard disk: %+v %+v", r, r.ATA)
	}
	if a, ok := r.ATA.Attribute(5); !ok || a.Name != "reallocated sectors" || !a.Prefailure || *a.Threshold != 140 {
		t.Errorf("attribute 5: %+v", a)
	}
	r = ask("ata-ssd", "/dev/sdi", 0)
	if *r.RPM != 0 || *r.PowerOnHours != 26409 || *r.Celsius != 23 || *r.ATA.Errors != 0 || r.ATA.SelfTestFailures != nil {
		t.Errorf("SSD: %+v %+v", r, r.ATA)
	}
	if r = ask("ata-ssd-command-failed", "/dev/sda", 4); r.ATA.Errors != nil || len(r.Problems) != 1 {
		t.Errorf("a command that failed: %+v, problems %q", r.ATA, r.Problems)
	}
	r = ask("scsi-hdd", "/dev/sda", 0)
	if r.Protocol != smart.SCSI || r.Vendor != "HITACHI" || r.Model != "H109060SESUN600G" || r.Firmware != "A690" || *r.RPM != 10020 || r.CapacityBytes != 600127266816 || *r.PowerOnHours != 982 {
		t.Errorf("SAS: %+v", r)
	}
	h := r.SCSI
	if *r.Failing || *h.Read.Uncorrected != 0 || *h.Write.BytesProcessed != 292086584_000_000 || *h.GrownDefects != 0 || *h.TripCelsius != 85 || *h.StartStopCycles != 45 || h.WWN != "1234567890abcdef" || h.ASC != nil {
		t.Errorf("SAS: %+v", h)
	}
	r = ask("nvme-backup-failed", "/dev/nvme0", 8)
	if !*r.Failing || r.NVMe.CriticalWarning != smart.BackupFailed || *r.Celsius != 40 || *r.PowerOnHours != 18376 || *r.RPM != 0 {
		t.Errorf("NVMe: %+v %+v", r, r.NVMe)
	}
}

// Documents as smartmontools' sources have them, of what no recorded one tells.
func TestSmartctlLogs(t *testing.T) {
	const head = `{"json_format_version":[1,0],"smartctl":{"exit_status":%d},"device":{"name":"/dev/sda","protocol":%q},"serial_number":"S1",`
	ask := func(code int, protocol, rest string) *smart.Report {
		t.Helper()
		r, err := prints(t, fmt.Sprintf(head, code, protocol)+rest+"}", code).Ask(t.Context(), &smart.Adapter{Disk: "d", Type: "cciss,0", Serial: "S1"}, "/dev/sda")
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	// scsiprint.cpp: scsiGetSmartData, scsiPrintSelfTest, scsiPrintBackgroundResults.
	const scsi = `"scsi_self_test_0":{"result":{"value":0}},"scsi_self_test_1":{"result":{"value":7}},"endurance_used":{"current_percent":11},
		"scsi_background_scan":{"status":{"value":0},"result_1":{"reassign_status":{"value":1}},"result_2":{"reassign_status":{"value":5}}},`
	r := ask(8, "SCSI", scsi+`"smart_status":{"passed":false,"scsi":{"asc":93,"ascq":16}}`)
	if !*r.Failing || *r.SCSI.ASC != 0x5d || *r.SCSI.SelfTestFailures != 1 || *r.SCSI.ScanErrors != 1 || *r.PercentUsed != 11 || r.SCSI.Read != nil || r.SCSI.GrownDefects != nil {
		t.Errorf("SCSI: %+v %+v", r, r.SCSI)
	}
	// smartctl fails a drive that warns of its temperature (0Bh/01h); a drive read natively is not failed for that.
	if r = ask(8, "SCSI", `"smart_status":{"passed":false,"scsi":{"asc":11,"ascq":1}}`); *r.Failing {
		t.Error("a warning is a predicted failure")
	}
	r = ask(0, "ATA", `"ata_smart_attributes":{"table":[{"id":188,"value":100,"worst":99,"thresh":0,"raw":{"value":51540393996}}]},"smart_status":{"passed":true},
		"ata_smart_self_test_log":{"standard":{"table":[{"status":{"value":0}},{"status":{"value":121}}]}}`)
	if a, _ := r.ATA.Attribute(188); a.Count != 12 || *r.ATA.SelfTestFailures != 1 {
		t.Errorf("ATA: %+v", r.ATA)
	}
	// ataprint.cpp: PrintSmartExtErrorLog and PrintSmartExtSelfTestLog, which count nothing of a log that is garbage.
	const plain = `"standard":{"table":[{"type":{"value":1},"status":{"value":121}}]}`
	for extended, want := range map[string]struct {
		errors uint64
		failed int
	}{
		`"ata_smart_error_log":{"summary":{"count":9}},"ata_smart_self_test_log":{` + plain + `}`:                                                                                 {9, 1},
		`"ata_smart_error_log":{"extended":{"count":900,"sectors":1}},"ata_smart_self_test_log":{"extended":{"count":2,"table":[{"status":{"value":0}},{"status":{"value":0}}]}}`: {900, 0},
		`"ata_smart_error_log":{"extended":{"count":900},"summary":{"count":9}},"ata_smart_self_test_log":{"extended":{"count":0},` + plain + `}`:                                 {900, 1},
		`"ata_smart_error_log":{"extended":{"sectors":1},"summary":{"count":9}},"ata_smart_self_test_log":{"extended":{"sectors":1},` + plain + `}`:                               {9, 1},
	} {
		if h := ask(0, "ATA", `"ata_smart_attributes":{},"smart_status":{"passed":true},`+extended).ATA; *h.Errors != want.errors || *h.SelfTestFailures != want.failed {
			t.Errorf("%s: %d errors, %d failed tests", extended, *h.Errors, *h.SelfTestFailures)
		}
	}
	// nvmeprint.cpp: print_error_log, print_self_test_log; a counter of 128 bits is written whole.
	r = ask(0, "NVMe", `"nvme_smart_health_information_log":{"critical_warning":2,"media_errors":340282366920938463463374607431768211455,"percentage_used":3},
		"nvme_error_information_log":{"table":[null,{"error_count":5,"status_field":{"value":641},"lba":{"value":81920},"nsid":1}]},
		"nvme_self_test_log":{"table":[{"self_test_result":{"value":0}},{"self_test_result":{"value":7}}]}`)
	if want := (smart.NVMeError{Count: 5, Type: 2, Code: 0x81, LBA: 81920, Namespace: 1}); *r.Failing || r.NVMe.MediaErrors != math.MaxUint64 || len(r.NVMe.Errors) != 1 || r.NVMe.Errors[0] != want || *r.NVMe.SelfTestFailures != 1 {
		t.Errorf("NVMe: %+v %+v", r, r.NVMe)
	}
}

// A lie is an error, never a report.
func TestSmartctlLies(t *testing.T) {
	set := func(keys string, v any) func(map[string]any) {
		return func(doc map[string]any) {
			path := strings.Split(keys, "/")
			for _, k := range path[:len(path)-1] {
				doc = doc[k].(map[string]any)
			}
			doc[path[len(path)-1]] = v
		}
	}
	drop := func(key string) func(map[string]any) { return func(doc map[string]any) { delete(doc, key) } }
	cases := map[string]struct {
		reason, doc, err string
		code             int
	}{
		"Nothing":        {"it has printed nothing", "", "says nothing", 0},
		"NoJSON":         {"an old smartctl", "smartctl 6.6\nUNRECOGNIZED OPTION: json", "smartctl's JSON", 1},
		"CutShort":       {"it was ended while it printed", recorded(t, "scsi-hdd")[:900], "smartctl's JSON", 0},
		"Two":            {"two documents", recorded(t, "scsi-hdd") + recorded(t, "scsi-hdd"), "more than one document", 0},
		"Format":         {"another format", edited(t, "scsi-hdd", set("json_format_version", []int{2, 0})), "format [2 0]", 0},
		"ExitCode":       {"the document is another run's", recorded(t, "scsi-hdd"), "exit status 0, the program 64", 64},
		"OtherDevice":    {"it answers for another disk", edited(t, "scsi-hdd", set("device/name", "/dev/sdb")), `answers for "/dev/sdb"`, 0},
		"Protocol":       {"no protocol that it tells the health of", edited(t, "scsi-hdd", set("device/protocol", "ATA")), "no health", 0},
		"NoHealth":       {"an ATA drive without attributes is not a sound one", edited(t, "ata-ssd", func(d map[string]any) { drop("ata_smart_attributes")(d); set("device/name", "/dev/sda")(d) }), "no health", 0},
		"NoSCSIHealth":   {"a SCSI drive without status and counters", edited(t, "scsi-hdd", func(d map[string]any) { drop("smart_status")(d); drop("scsi_error_counter_log")(d) }), "no health", 0},
		"Percent":        {"a number that cannot be", edited(t, "nvme-backup-failed", set("nvme_smart_health_information_log/percentage_used", 256)), "smartctl's JSON", 8},
		"Negative":       {"a count below 0", edited(t, "scsi-hdd", set("scsi_grown_defect_list", -1)), "is no count", 0},
		"Float":          {"a count that is none", edited(t, "scsi-hdd", set("scsi_grown_defect_list", 1.5)), "is no count", 0},
		"Unsupported":    {"SMART is not there", edited(t, "scsi-hdd", set("smart_support/available", false)), "no SMART", 0},
		"Off":            {"SMART is turned off", edited(t, "ata-ssd", func(d map[string]any) { set("smart_support/enabled", false)(d); set("device/name", "/dev/sda")(d) }), "turned off", 0},
		"CannotOpen":     {"as smartctl 7.3 says it of a virtio disk", `{"json_format_version":[1,0],"smartctl":{"messages":[{"string":"Smartctl open device: /dev/vda [megaraid_disk_00] failed: Operation not permitted","severity":"error"}],"exit_status":2}}`, "cannot ask the drive: Smartctl open device: /dev/vda [megaraid_disk_00] failed", 2},
		"Usage":          {"as smartctl 7.3 says it of a type of 7.4", `{"json_format_version":[1,0],"smartctl":{"messages":[{"string":"/dev/vda: Unknown device type 'sssraid,0,1'"}],"exit_status":1}}`, "does not take its arguments: /dev/vda: Unknown device type", 1},
		"NoExitStatus":   {"no exit status", `{"json_format_version":[1,0]}`, "no exit status", 0},
		"OtherDrive":     {"another drive is in the slot", recorded(t, "scsi-hdd"), `serial "REDACTED", want "S1"`, 0},
		"KilledByItself": {"it was ended after its document", recorded(t, "scsi-hdd"), "did not end by itself", 137},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a, device := *drive3, "/dev/sda"
			if name == "OtherDrive" {
				a.Serial = "S1"
			}
			if strings.Contains(tc.doc, "nvme0") {
				device = "/dev/nvme0"
			}
			s := prints(t, tc.doc, tc.code)
			if tc.code > 128 {
				s = fake(t, "cat <<'END'\n"+tc.doc+"\nEND\nkill -KILL $$\n")
			}
			r, err := s.Ask(t.Context(), &a, device)
			if r != nil || err == nil || !strings.Contains(err.Error(), tc.err) {
				t.Errorf("got %+v, %v, want %q; reason: %s", r, err, tc.err, tc.reason)
			}
			if unsupported := strings.Contains(tc.err, "no SMART") || strings.Contains(tc.err, "turned off"); errors.Is(err, smart.ErrUnsupported) != unsupported {
				t.Errorf("unsupported is %t: %v", !unsupported, err)
			}
		})
	}
}

// What it is asked is one option or one file each: no shell, nothing that the device's
// name could add.
func TestSmartctlArguments(t *testing.T) {
	out := filepath.Join(t.TempDir(), "args")
	s := fake(t, `for a; do echo "$a"; done > `+out+"\necho \"$PATH\" >> "+out+"\nexit 3\n")
	t.Setenv("SECRET", "x")
	if _, err := s.Ask(t.Context(), &smart.Adapter{Type: "megaraid,3", Device: "/dev/sg 2;id"}, "/dev/sda"); err == nil {
		t.Error("no error of a smartctl that prints nothing")
	}
	got, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	want := "--json=c\n--info\n--health\n--attributes\n--log=xerror,error\n--log=xselftest,selftest\n--log=background\n--device=megaraid,3\n/dev/sg 2;id\n/usr/sbin:/usr/bin:/sbin:/bin\n"
	if string(got) != want {
		t.Errorf("arguments\n%swant\n%s", got, want)
	}
}

// Without end: it is stopped at the limit, long before the deadline.
func TestSmartctlFlood(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for name, script := range map[string]string{"Endless": "while :; do echo '{\"json_format_version\": [1, 0], \"x\": 1}'; done\n", "Deaf": "trap '' PIPE TERM\nwhile :; do echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; done 2>/dev/null\n", "Once": "head -c 2000000 /dev/zero\n"} {
		if r, err := fake(t, script).Ask(ctx, drive3, "/dev/sda"); r != nil || err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	if ctx.Err() != nil {
		t.Error("it was stopped by the deadline")
	}
}

// One that hangs is killed with what it has started, and until it is gone the disk is
// asked by no second one.
func TestSmartctlHangs(t *testing.T) {
	dir := t.TempDir()
	s := fake(t, "trap '' TERM\necho x >> "+dir+"/started\nsleep 600 &\necho $! > "+dir+"/child\nwait\nsleep 600\n")
	var reader smart.Reader
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	ask := func(ctx context.Context) (*smart.Report, error) { return s.Ask(ctx, drive3, "/dev/sda") }
	go func() {
		_, err := reader.ReadBy(ctx, "sda", ask)
		done <- err
	}()
	var child string
	wait.For(t, 30*time.Second, "its child", func() bool {
		data, err := os.ReadFile(dir + "/child")
		child = strings.TrimSpace(string(data))
		return err == nil && strings.HasSuffix(string(data), "\n")
	})
	if _, err := reader.ReadBy(t.Context(), "sda", ask); !errors.Is(err, smart.ErrNoAnswer) {
		t.Errorf("a second question while the first hangs: %v", err)
	}
	cancel()
	if err := <-done; !errors.Is(err, smart.ErrNoAnswer) {
		t.Errorf("the first question: %v", err)
	}
	wait.For(t, 30*time.Second, "the end of what smartctl has started", func() bool {
		stat, err := os.ReadFile("/proc/" + child + "/stat")
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
	if started, err := os.ReadFile(dir + "/started"); err != nil || string(started) != "x\n" {
		t.Errorf("it was started %q times, %v", started, err)
	}
}

func TestSmartctlNotThere(t *testing.T) {
	s := &smart.Smartctl{Program: filepath.Join(t.TempDir(), "smartctl")}
	if _, err := s.Ask(t.Context(), drive3, "/dev/sda"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "install smartmontools") {
		t.Errorf("got %v", err)
	}
}

// The program itself, where HOLDFAST_SMARTCTL names it: of what is no disk behind an
// adapter it says so.
func TestSmartctlItself(t *testing.T) {
	program := os.Getenv("HOLDFAST_SMARTCTL")
	if program == "" {
		t.Skip("HOLDFAST_SMARTCTL names no smartctl")
	}
	s := &smart.Smartctl{Program: program}
	for typ, want := range map[string]string{"megaraid,0": "cannot ask the drive: ", "cciss,0": "cannot ask the drive: ", "scsi": "cannot ask the drive: ", "nvme": "cannot ask the drive: ", "megaraid,x": "does not take its arguments: "} {
		if r, err := s.Ask(t.Context(), &smart.Adapter{Type: typ}, "/dev/null"); r != nil || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, %v", typ, r, err)
		} else {
			t.Log(typ, err)
		}
	}
}

func TestParseAdapters(t *testing.T) {
	a, err := smart.ParseAdapters("t", []byte("disks:\n- {disk: d1, type: 'megaraid,3', serial: S1}\n- {flavor: f, slot: s, type: 'sat+megaraid,4', device: /dev/bus/0}\n- {flavor: f, slot: s2, type: 'areca,1/2', device: /dev/sg2}\n- {disk: d2, type: 'aacraid,0,0,1'}\n- {disk: d3, type: 'nvme,0xffffffff'}\n"))
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct{ disk, flavor, slot, want string }{
		{"d1", "f", "s", "megaraid,3"}, {"x", "f", "s", "sat+megaraid,4"}, {"x", "f", "s2", "areca,1/2"}, {"x", "f", "s3", ""}, {"x", "g", "s", ""}, {"x", "", "", ""}, {"d2", "", "", "aacraid,0,0,1"},
	} {
		got := ""
		if d := a.Find(tc.disk, tc.flavor, tc.slot); d != nil {
			got = d.Type
		}
		if got != tc.want {
			t.Errorf("%+v is asked as %q", tc, got)
		}
	}
	if (*smart.Adapters)(nil).Find("d1", "f", "s") != nil {
		t.Error("a disk that nobody has named is asked")
	}
	for text, want := range map[string]string{
		"disks: []":                                                                "t:1: there are no disks",
		"disks:\n- {type: 'megaraid,3'}":                                           "t:2: disks[0]: neither disk nor flavor and slot are given",
		"disks:\n- {flavor: f, type: 'megaraid,3'}":                                "neither disk nor flavor",
		"disks:\n- {disk: d, slot: s, type: 'megaraid,3'}":                         "disk goes without flavor and slot",
		"disks:\n- disk: d\n  type: megaraid":                                      `t:3: disks[0]: type "megaraid" names no drive of the adapter (write its number, such as megaraid,0)`,
		"disks:\n- {disk: d, type: 'megaraid,x'}":                                  "names no drive of the adapter",
		"disks:\n- {disk: d, type: auto}":                                          `type is "auto"`,
		"disks:\n- {disk: d, type: '-o,on'}":                                       `type is "-o,on"`,
		"disks:\n- {disk: d, type: 'megaraid,3 -s off'}":                           "type is ",
		"disks:\n- {disk: d, type: 'megaraid,3', device: 'sda'}":                   `device is "sda" (write a device file`,
		"disks:\n- {disk: d, type: 'megaraid,3', device: '/dev/../etc/x'}":         "device is ",
		"disks:\n- {disk: d, type: 'megaraid,3'}\n- {disk: d, type: 'megaraid,4'}": "t:3: disks[1]: the same disk is there twice",
		"disks:\n- {disk: d, type: 'megaraid,3', slot_number: 3}":                  "unknown field",
		"disks:\n- {disk: d, type: 3}":                                             `type is "3"`,
	} {
		if _, err := smart.ParseAdapters("t", []byte(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// FuzzSmartctl: whatever smartctl prints, it is an error or a report, and the report can be printed.
func FuzzSmartctl(f *testing.F) {
	for _, name := range []string{"ata-hdd-errors", "ata-ssd", "ata-ssd-command-failed", "scsi-hdd", "nvme-backup-failed"} {
		data, err := os.ReadFile("testdata/smartctl/" + name + ".json")
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data, 0, "/dev/sda")
	}
	f.Fuzz(func(t *testing.T, data []byte, code int, device string) {
		r, err := smart.ParseSmartctl(data, code, device, drive3, nil)
		if (r == nil) == (err == nil) {
			t.Fatalf("report %v, error %v", r, err)
		}
		if err == nil {
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}
		}
	})
}
