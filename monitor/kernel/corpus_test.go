package kernel

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostexec"
)

var corpusFile = flag.String("corpus", "", "file of labelled lines, one JSON object each with line, label (fault, warn, benign), class and device")

// labelled is a line of a corpus. The line has the prefix that the log it was
// taken from gave it.
type labelled struct {
	Line   string `json:"line"`
	Label  string `json:"label"`
	Class  string `json:"class"`
	Device string `json:"device"`
}

// prefix is what syslog, the journal and dmesg put before a record's message:
// priority, time, host and the word kernel, the kernel's own time, and the
// thread or processor that printed it (CONFIG_PRINTK_CALLER).
var prefix = regexp.MustCompile(`^(?:<\d+>|` +
	`\[ *\d+\.\d+\] ?|\[ *[TC]\d+\] ?|\[\w{3} \w{3} +\d+ [\d:]+ \d{4}\] ?|` +
	`\w{3} +\d+ [\d:.]+ (?:[\w.-]+ )?kernel: ?|\d{4}-\d\d-\d\d[T ][\d:.,]+(?:Z|[+-][\d:]+)? (?:[\w.-]+ )?(?:kernel: ?)?|` +
	`kern +:\w+ *: ?|\[\w{3}\d+ \d\d:\d\d\] ?|\[ *\+\d+\.\d+\] ?|[\w.-]+ kernel: |kernel: ?|\d+,\d+,\d+,-[^;]*;)`)

func message(line string) string {
	for {
		at := prefix.FindStringIndex(line)
		if at == nil {
			return line
		}
		line = line[at[1]:]
	}
}

// score counts one class of a corpus.
type score struct {
	faults, found int // found: said to be Critical
	// Of the faults that name a device, of those of them that were found, and of
	// those the ones that were put down to the device.
	named, devices, located int
	warns, warned           int // warned: not said to be Critical
	noticed                 int // said to be Warning
	warnDevices, warnPlaced int // of the noticed ones that name a device
	benign, alarms          int // alarms: said to be Critical
}

func (s *score) add(o score) {
	s.faults, s.found, s.named, s.devices, s.located = s.faults+o.faults, s.found+o.found, s.named+o.named, s.devices+o.devices, s.located+o.located
	s.warns, s.warned, s.noticed = s.warns+o.warns, s.warned+o.warned, s.noticed+o.noticed
	s.warnDevices, s.warnPlaced = s.warnDevices+o.warnDevices, s.warnPlaced+o.warnPlaced
	s.benign, s.alarms = s.benign+o.benign, s.alarms+o.alarms
}

// percent is a share for people; none of nothing is neither good nor bad.
func percent(part, whole, digits int) string {
	if whole == 0 {
		return "-"
	}
	return fmt.Sprintf("%.*f%%", digits, 100*float64(part)/float64(whole))
}

// longest is the longest line of a corpus, in bytes.
const longest = 1 << 20

// scores are of each class of a corpus.
type scores map[string]*score

func (s scores) of(class string) *score {
	if s[class] == nil {
		s[class] = &score{}
	}
	return s[class]
}

// judge runs the patterns over a corpus, by its labels and by those that are argued (argued_test.go),
// and says which lines they get wrong; name is for errors. A corpus without a fault says nothing of the patterns.
func judge(name string, corpus io.Reader) (byClass, argued scores, wrong []string, err error) {
	m := NewMatcher()
	byClass, argued = scores{}, scores{}
	in := bufio.NewScanner(corpus)
	in.Buffer(nil, longest)
	n, faults := 0, 0
	for in.Scan() {
		n++
		if len(bytes.TrimSpace(in.Bytes())) == 0 {
			continue
		}
		var l labelled
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			return nil, nil, nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		if !slices.Contains([]string{"fault", "warn", "benign"}, l.Label) {
			return nil, nil, nil, fmt.Errorf("%s:%d: label %q, want fault, warn or benign", name, n, l.Label)
		}
		if l.Label == "fault" {
			faults++
		}
		msg := message(l.Line)
		ev, _ := m.Match(&Record{Message: []byte(msg)}, time.Time{})
		if ev == nil {
			ev = &Event{}
		}
		what := byClass.of(l.Class).count(&l, ev)
		why := argue(&l, msg)
		still := argued.of(l.Class).count(&l, ev)
		if why != "" && still == "" {
			still = "right, for the label is argued: " + why
		}
		if what != "" || why != "" || still != "" {
			wrong = append(wrong, fmt.Sprintf("%-9s %-13s %-10s %q, got %s %s %q %s", what, l.Class, l.Device, msg, ev.Severity, ev.Class, ev.Devices, still))
		}
	}
	switch err := in.Err(); {
	case errors.Is(err, bufio.ErrTooLong):
		return nil, nil, nil, fmt.Errorf("%s:%d: the line is longer than %d bytes", name, n+1, longest)
	case err != nil:
		return nil, nil, nil, fmt.Errorf("%s: %w", name, err)
	case faults == 0:
		return nil, nil, nil, fmt.Errorf("%s: none of its %d lines has the label fault: there is nothing to find", name, n)
	}
	return byClass, argued, wrong, nil
}

// count takes in what was made of a line, and says what is wrong with that.
func (s *score) count(l *labelled, ev *Event) (wrong string) {
	critical := ev.Severity == v1alpha1.SeverityCritical
	placed := l.Device != "" && slices.ContainsFunc(ev.Devices, func(d string) bool { return sameName(d, l.Device) })
	switch l.Label {
	case "fault":
		s.faults++
		if l.Device != "" {
			s.named++
		}
		if !critical {
			return "missed"
		}
		s.found++
		if l.Device == "" {
			return ""
		}
		s.devices++
		if !placed {
			return "elsewhere"
		}
		s.located++
	case "warn":
		s.warns++
		if critical {
			return "overrated"
		}
		s.warned++
		if ev.Severity == "" {
			return ""
		}
		s.noticed++
		if l.Device != "" {
			s.warnDevices++
			if !placed {
				return "misplaced"
			}
			s.warnPlaced++
		}
	case "benign":
		s.benign++
		if critical {
			s.alarms++
			return "alarm"
		}
	}
	return ""
}

// sameName compares names of a device; ata5 and ata5.00 are one place.
func sameName(a, b string) bool {
	return a == b || Within(a, b) || Within(b, a)
}

// TestCorpus judges the patterns by lines that have labels: real ones of 600
// public sources (testdata/corpus.jsonl), and such as the kernel's source says
// that it prints (testdata/source.jsonl), or those of the file that -corpus names.
func TestCorpus(t *testing.T) {
	files := []string{"testdata/corpus.jsonl", "testdata/source.jsonl"}
	if *corpusFile != "" {
		files = []string{*corpusFile}
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) { judgeFile(t, file) })
	}
}

func judgeFile(t *testing.T, file string) {
	t.Helper()
	f, err := open(file, goCommand())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read only
	labels, argued, wrong, err := judge(file, f)
	if err != nil {
		t.Fatal(err)
	}
	report(t, file+", as labelled", labels)
	for _, w := range wrong {
		t.Log(w)
	}
	all := report(t, file+", labels argued", argued)
	for _, goal := range []struct {
		what        string
		part, whole int
		want        float64
	}{
		{"recall of faults", all.found, all.faults, 0.99},
		{"precision of faults against benign lines", all.found, all.found + all.alarms, 0.995},
		{"warnings told from faults", all.warned, all.warns, 0.95},
		{"devices, of all faults that name one", all.located, all.named, 0.99},
	} {
		if *corpusFile == "" {
			goal.want = 1 // of the committed ones each line is known, and one that is lost is a mistake
		}
		if float64(goal.part) < goal.want*float64(goal.whole) {
			t.Errorf("%s: %s, want %.1f%%", goal.what, percent(goal.part, goal.whole, 2), 100*goal.want)
		}
	}
}

// report prints the scores of each class and returns those of all.
func report(t *testing.T, title string, byClass scores) score {
	t.Helper()
	var all score
	var table strings.Builder
	line := func(class string, s score) {
		fmt.Fprintf(&table, "%-14s %4d %7s   %4d %7s %7s   %4d %7s %7s %7s   %4d %4d\n", class,
			s.faults, percent(s.found, s.faults, 1), s.named, percent(s.located, s.devices, 1), percent(s.located, s.named, 1),
			s.warns, percent(s.warned, s.warns, 1), percent(s.noticed, s.warns, 1), percent(s.warnPlaced, s.warnDevices, 1), s.benign, s.alarms)
	}
	for _, class := range slices.Sorted(maps.Keys(byClass)) {
		line(class, *byClass[class])
		all.add(*byClass[class])
	}
	line("all", all)
	var out strings.Builder
	logf := func(format string, args ...any) { fmt.Fprintf(&out, format+"\n", args...) }
	logf("%s; dev: the device is right, of the found and of all that name one\nclass        faults   found  named dev/fnd dev/all  warns    told noticed     dev benign alarms\n%s", title, table.String())
	logf("recall %s, precision against benign lines %s, warnings told from faults %s, noticed as Warning %s", percent(all.found, all.faults, 2),
		percent(all.found, all.found+all.alarms, 2), percent(all.warned, all.warns, 2), percent(all.noticed, all.warns, 2))
	logf("device right: of the faults found %s, of all faults %s, of the warnings noticed %s", percent(all.located, all.devices, 2),
		percent(all.located, all.named, 2), percent(all.warnPlaced, all.warnDevices, 2))
	t.Log(out.String())
	if *corpusFile != "" && !testing.Verbose() {
		tell(goCommand(), out.String())
	}
	return all
}

// goCommand is the directory in /proc of the go command that runs this test; empty when none does. It knows two things
// that it keeps from a test: where the person stands, and the place that the person reads.
func goCommand() string {
	dir := fmt.Sprintf("/proc/%d", os.Getppid())
	if exe, err := os.Readlink(filepath.Join(dir, "exe")); err != nil || filepath.Base(exe) != "go" {
		return ""
	}
	return dir
}

// tell writes to the go command's own output, since without -v it throws away what a test that passes has written
// (cmd/go/internal/test/test.go, runTestActor). A regular file is left alone: it has a place where
// the go command goes on writing.
func tell(goCommand, text string) {
	out := filepath.Join(goCommand, "fd/1")
	if info, err := os.Stat(out); goCommand == "" || err != nil || info.Mode()&(os.ModeNamedPipe|os.ModeCharDevice) == 0 {
		return
	}
	f, err := os.OpenFile(out, os.O_WRONLY, 0)
	if err != nil {
		return // it is seen with -v
	}
	defer func() { _ = f.Close() }()
	_, _ = f.WriteString(text)
}

// open opens a corpus. Tests run in their package's directory, which is not where
// the person stands who gives a relative path: that is where the go command runs.
func open(file, goCommand string) (*os.File, error) {
	if goCommand != "" && !filepath.IsAbs(file) {
		if dir, err := os.Readlink(filepath.Join(goCommand, "cwd")); err == nil { // by itself: file may begin with ..
			if f, err := os.Open(filepath.Join(dir, file)); err == nil {
				return f, nil
			}
		}
	}
	f, err := os.Open(file)
	if err == nil || filepath.IsAbs(file) {
		return f, err
	}
	whole, absErr := filepath.Abs(file)
	if absErr != nil {
		return nil, err
	}
	return nil, fmt.Errorf("%w: tried %s, for a relative path begins at the test's own directory (give an absolute one)", err, whole)
}

func TestJudge(t *testing.T) {
	const fault = `{"line": "critical medium error, dev sda, sector 1", "label": "fault", "class": "Medium", "device": "sda"}`
	const missed = `{"line": "all is well", "label": "fault", "class": "Medium", "device": "sda"}`
	const reset = `{"line": "ata1: hard resetting link", "label": "warn", "class": "Medium", "device": "ata1"}`
	const unseen = `{"line": "all is well", "label": "warn", "class": "Medium", "device": "ata1"}`
	const benign = `{"line": "all is well", "label": "benign", "class": "Medium"}`
	cases := map[string]struct {
		reason string
		corpus string
		want   score
		err    string
	}{
		"Empty":     {"nothing was judged, and nothing is right", "", score{}, "c: none of its 0 lines has the label fault: there is nothing to find"},
		"AllBenign": {"the same", benign + "\n" + benign, score{}, "c: none of its 2 lines has the label fault: there is nothing to find"},
		"Blank":     {"an editor's last line is none", fault + "\n\n \n" + benign + "\n\n", score{faults: 1, found: 1, named: 1, devices: 1, located: 1, benign: 1}, ""},
		"Missed":    {"a fault that was missed has a device all the same", fault + "\n" + missed, score{faults: 2, found: 1, named: 2, devices: 1, located: 1}, ""},
		"Noticed": {"a warning that nothing noticed is told from a fault, and not noticed", fault + "\n" + reset + "\n" + unseen,
			score{faults: 1, found: 1, named: 1, devices: 1, located: 1, warns: 2, warned: 2, noticed: 1, warnDevices: 1, warnPlaced: 1}, ""},
		"TooLong": {"which line it is", fault + "\n" + strings.Repeat("x", longest+1), score{}, "c:2: the line is longer than 1048576 bytes"},
		"Label":   {"which line it is", fault + "\n\n{}", score{}, `c:3: label "", want fault, warn or benign`},
		"NoJSON":  {"which line it is", fault + "\nx", score{}, "c:2: invalid character 'x' looking for beginning of value"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			byClass, _, _, err := judge("c", strings.NewReader(tc.corpus))
			switch {
			case err != nil:
				if err.Error() != tc.err {
					t.Errorf("error %q, want %q: %s", err, tc.err, tc.reason)
				}
			case tc.err != "":
				t.Errorf("no error, want %q: %s", tc.err, tc.reason)
			case *byClass["Medium"] != tc.want:
				t.Errorf("%+v, want %+v: %s", *byClass["Medium"], tc.want, tc.reason)
			}
		})
	}
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open("none.jsonl", ""); err == nil || !strings.Contains(err.Error(), "tried "+filepath.Join(dir, "none.jsonl")+",") {
		t.Errorf("a file that is not there: %v", err)
	}
}

var asGo = flag.String("as-go", "", "the test binary that this process, a go command to it, is to run")

// A corpus was looked for where no person stands, and what was found in it was told to nobody but with -v.
func TestCorpusOfAPerson(t *testing.T) {
	if *asGo != "" { // the go command: a directory of the test's own, and what it writes is thrown away
		c := hostexec.Command{Path: *asGo, Args: []string{"-test.run=^TestCorpus$", "-corpus=some.jsonl"}, Dir: t.TempDir()}
		if out, err := hostexec.Run(t.Context(), time.Minute, c); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return
	}
	dir := t.TempDir()
	const fault = `{"line": "critical medium error, dev sda, sector 1", "label": "fault", "class": "medium", "device": "sda"}`
	if err := os.WriteFile(filepath.Join(dir, "some.jsonl"), []byte(fault), 0o600); err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	goCommand := filepath.Join(dir, "go")
	if err := os.WriteFile(goCommand, program, 0o700); err != nil { //nolint:gosec // a program must be executable
		t.Fatal(err)
	}
	c := hostexec.Command{Path: goCommand, Args: []string{"-test.run=^TestCorpusOfAPerson$", "-as-go=" + self}, Dir: dir}
	out, err := hostexec.Run(t.Context(), time.Minute, c)
	if err != nil || !strings.Contains(string(out), "medium            1  100.0%      1  100.0%") || !strings.Contains(string(out), "recall 100.00%") {
		t.Errorf("%v, printed: %s", err, out)
	}
}
