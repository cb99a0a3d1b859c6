package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/hostexec"
	"holdfast.dev/monitor/kernel"
)

const npdDir = "../../addons/disk-monitor/node-problem-detector"

// The addon has what this program prints: update it with
// go run ./cmd/disk-monitor patterns -o npd > addons/disk-monitor/node-problem-detector/kernel-disks.json
func TestNPDFileIsTheTable(t *testing.T) {
	var got bytes.Buffer
	if err := runPatterns(&got, []string{"-o", "npd"}); err != nil {
		t.Fatal(err)
	}
	want, err := os.ReadFile(filepath.Join(npdDir, "kernel-disks.json"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Error("kernel-disks.json is not what \"disk-monitor patterns -o npd\" prints")
	}
}

// matches is what node-problem-detector does with the records in its buffer: it
// joins them, appends \z to the pattern, and matches (LogBuffer.Match).
func matches(re *regexp.Regexp, records ...string) bool {
	return re.MatchString(strings.Join(records, "\n"))
}

// Every line that is a fault for us is one for node-problem-detector too, and
// of the same class and severity; whatever came before it, and once only.
func TestNPDFindsWhatWeFind(t *testing.T) {
	var c npdConfig
	data, err := os.ReadFile(filepath.Join(npdDir, "kernel-disks.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	rules := map[string][]*regexp.Regexp{}
	for _, r := range c.Rules {
		rules[r.Reason] = append(rules[r.Reason], regexp.MustCompile(r.Pattern+`\z`))
	}
	f, err := os.Open("../../monitor/kernel/testdata/source.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read only
	m := kernel.NewMatcher()
	n := 0
	const before, dictionary = "usb 2-1: new high-speed USB device", "\n SUBSYSTEM=scsi\n DEVICE=+scsi:6:0:0:0"
	for in := bufio.NewScanner(f); in.Scan(); {
		var l struct{ Line string }
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		ev, _ := m.Match(&kernel.Record{Message: []byte(l.Line)}, time.Time{})
		if ev == nil || strings.Contains(strings.ReplaceAll(l.Line, "\n ", ""), "\n") {
			continue // md's records of two lines: there the second is another record
		}
		n++
		// In a buffer, the parts of a record of several lines are lines too.
		found, again := false, false
		for _, re := range rules["Disk"+string(ev.Class)+string(ev.Severity)] {
			found = found || matches(re, before, l.Line+dictionary)
			again = again || matches(re, l.Line+dictionary, before)
		}
		if !found || again {
			t.Errorf("%q as %s %s: found %t, again with the next line %t", l.Line, ev.Class, ev.Severity, found, again)
		}
	}
	if n < 700 {
		t.Errorf("only %d lines", n)
	}
}

// node-problem-detector refuses a rule whose condition is not declared, and a
// timeout that is longer than the plugin's.
func TestNPDPlugin(t *testing.T) {
	data, err := os.ReadFile(filepath.Join(npdDir, "disk-monitor.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct {
		PluginConfig struct {
			Timeout string `json:"timeout"`
			Length  int    `json:"max_output_length"`
		} `json:"pluginConfig"`
		Conditions []struct{ Type, Reason, Message string }
		Rules      []struct {
			Condition, Reason, Path, Timeout string
			Args                             []string
		}
	}
	if err := json.Unmarshal(data, &c); err != nil {
		t.Fatal(err)
	}
	limit, err := time.ParseDuration(c.PluginConfig.Timeout)
	if err != nil {
		t.Fatal(err)
	}
	declared, asked := map[string]int{}, map[string]bool{}
	for _, cond := range c.Conditions {
		declared[cond.Type]++
	}
	for _, r := range c.Rules {
		if d, err := time.ParseDuration(r.Timeout); err != nil || d > limit || d <= 3*time.Second {
			t.Errorf("%s: timeout %s, %v: want more than the check's own 3 s and at most %s", r.Reason, r.Timeout, err, limit)
		}
		declared[r.Condition]--
		if len(r.Args) != 2 || r.Args[0] != "check" || checks[r.Args[1]] == nil {
			t.Errorf("%s: arguments %q", r.Reason, r.Args)
			continue
		}
		asked[r.Args[1]] = true
	}
	for check := range checks {
		if !asked[check] {
			t.Errorf("no rule asks for check %s", check)
		}
	}
	for cond, n := range declared {
		if n != 0 {
			t.Errorf("condition %s has not one rule", cond)
		}
	}
}

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // again over the first
		if err := runInstall([]string{dir}); err != nil {
			t.Fatal(err)
		}
	}
	// The copy is this very test, which is the program under its name, see TestMain.
	out, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: filepath.Join(dir, "disk-monitor"), Args: []string{"--version"}})
	if err != nil || string(out) != "devel\n" {
		t.Errorf("%s, %v", out, err)
	}
	if err := runInstall(nil); err == nil {
		t.Error("no directory is no error")
	}
}
