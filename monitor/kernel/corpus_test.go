package kernel

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/api/v1alpha1"
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
	faults, found    int // found: said to be Critical
	warns, warned    int // warned: not said to be Critical
	benign, alarms   int // alarms: said to be Critical
	devices, located int // of the faults that name a device
}

func (s *score) add(o score) {
	s.faults, s.found, s.warns, s.warned = s.faults+o.faults, s.found+o.found, s.warns+o.warns, s.warned+o.warned
	s.benign, s.alarms, s.devices, s.located = s.benign+o.benign, s.alarms+o.alarms, s.devices+o.devices, s.located+o.located
}

func share(part, whole int) float64 {
	if whole == 0 {
		return 1
	}
	return float64(part) / float64(whole)
}

// judge runs the patterns over a corpus and says which lines they get wrong.
func judge(t *testing.T, file string) (byClass map[string]*score, wrong []string) {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // read only
	m := NewMatcher()
	byClass = map[string]*score{}
	in := bufio.NewScanner(f)
	in.Buffer(nil, 1<<20)
	for n := 1; in.Scan(); n++ {
		var l labelled
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			t.Fatalf("%s:%d: %v", file, n, err)
		}
		ev, _ := m.Match(&Record{Message: []byte(message(l.Line))}, time.Time{})
		if ev == nil {
			ev = &Event{}
		}
		critical := ev.Severity == v1alpha1.SeverityCritical
		s := byClass[l.Class]
		if s == nil {
			s = &score{}
			byClass[l.Class] = s
		}
		complain := func(what string) {
			wrong = append(wrong, fmt.Sprintf("%-9s %-13s %-10s %q, got %s %s %q", what, l.Class, l.Device, message(l.Line), ev.Severity, ev.Class, ev.Devices))
		}
		switch l.Label {
		case "fault":
			s.faults++
			if critical {
				s.found++
			} else {
				complain("missed")
			}
		case "warn":
			s.warns++
			if critical {
				complain("overrated")
			} else {
				s.warned++
			}
		case "benign":
			s.benign++
			if critical {
				s.alarms++
				complain("alarm")
			}
		default:
			t.Fatalf("%s:%d: label %q", file, n, l.Label)
		}
		if l.Device != "" && critical && l.Label == "fault" {
			s.devices++
			if slices.ContainsFunc(ev.Devices, func(d string) bool { return sameName(d, l.Device) }) {
				s.located++
			} else {
				complain("elsewhere")
			}
		}
	}
	if err := in.Err(); err != nil {
		t.Fatal(err)
	}
	return byClass, wrong
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
	byClass, wrong := judge(t, file)
	var all score
	var table strings.Builder
	line := func(class string, s score) {
		fmt.Fprintf(&table, "%-14s %4d %6.1f%%   %4d %6.1f%%   %4d %4d   %4d %6.1f%%\n", class, s.faults, 100*share(s.found, s.faults),
			s.warns, 100*share(s.warned, s.warns), s.benign, s.alarms, s.devices, 100*share(s.located, s.devices))
	}
	for _, class := range slices.Sorted(maps.Keys(byClass)) {
		line(class, *byClass[class])
		all.add(*byClass[class])
	}
	line("all", all)
	t.Logf("%s\nclass         faults  found   warns   told   benign alarms devices located\n%s", file, table.String())
	for _, w := range wrong {
		t.Log(w)
	}
	precision := share(all.found, all.found+all.alarms)
	t.Logf("recall %.2f%%, precision against benign lines %.2f%%, warnings told from faults %.2f%%, devices %.2f%%",
		100*share(all.found, all.faults), 100*precision, 100*share(all.warned, all.warns), 100*share(all.located, all.devices))
	for _, goal := range []struct {
		what      string
		got, want float64
	}{
		{"recall of faults", share(all.found, all.faults), 0.99},
		{"precision of faults against benign lines", precision, 0.995},
		{"warnings told from faults", share(all.warned, all.warns), 0.95},
		{"devices", share(all.located, all.devices), 0.99},
	} {
		if goal.got < goal.want {
			t.Errorf("%s: %.2f%%, want %.1f%%", goal.what, 100*goal.got, 100*goal.want)
		}
	}
}
