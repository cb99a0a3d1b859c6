package kernel

import (
	"bytes"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"holdfast.dev/api/v1alpha1"
)

// Pattern is one kind of line. The first pattern that matches a line decides;
// one without a severity decides that the line is no fault.
type Pattern struct {
	Class    v1alpha1.FaultClass
	Severity v1alpha1.Severity
	// Expr is the regular expression (RE2). Its groups named dev are the
	// kernel's names of the device, one named at is the place on it. It must require some string of seven bytes,
	// for which lines are searched first: an expression costs ten times as much.
	Expr string
	// Source is the kernel function or the page that shows the line.
	Source string
	// About says what the line means.
	About string
}

// MaxEvidence is the most bytes of a record that are kept as evidence.
const MaxEvidence = 512

// Event is a line that speaks against a device.
type Event struct {
	Sequence int64
	Class    v1alpha1.FaultClass
	Severity v1alpha1.Severity
	// Devices are the kernel's names of the device, the best first.
	Devices []string
	// First and Last are when the first and the last of Count lines were logged.
	First, Last time.Time
	Count       int64
	Evidence    string
	// Seen are the lines in short: as many as one in a second, and one of each place.
	Seen []Sighting
	// Old says that it was dealt with before a restart.
	Old bool
	// Outdated says that the name was given anew later in the backlog: the event may be of
	// another disk than the name's owner of today.
	Outdated bool

	pattern *Pattern
}

// Sighting is when lines were logged, and the place on the device that they name.
type Sighting struct {
	At    time.Time
	Place string // empty when they name none
}

// Attach is a line that says that a device came under these names.
type Attach struct {
	Devices []string
	At      time.Time
}

type compiled struct {
	*Pattern
	re     *regexp.Regexp
	groups []int // of the groups named dev
	place  int   // of the group named at; 0 when there is none
}

// Matcher holds the patterns, compiled. It is safe for concurrent use.
type Matcher struct {
	literals *literals
	patterns []compiled // first of the faults, then of the attaches
	attaches int        // index of the first attach
}

// NewMatcher compiles the patterns of this package.
func NewMatcher() *Matcher {
	m := &Matcher{}
	faults, attaches := Patterns(), attachPatterns()
	m.attaches = len(faults)
	var words []requirement
	likely := habits()
	for _, p := range append(faults, attaches...) {
		c := compiled{Pattern: &p, re: regexp.MustCompile(p.Expr)}
		for g, name := range c.re.SubexpNames() {
			switch name {
			case "dev":
				c.groups = append(c.groups, g)
			case "at":
				c.place = g
			}
		}
		set, err := required(p.Expr, likely)
		if err != nil || set.first == nil {
			panic("kernel: a pattern that requires no string: " + p.Expr) // a mistake in this package's own table
		}
		m.patterns = append(m.patterns, c)
		words = append(words, set)
	}
	m.literals = newLiterals(words)
	return m
}

// finding is what find finds: a pattern, and what its groups name.
type finding struct {
	*Pattern
	devices []string
	place   string
	attach  bool
}

// find is the first pattern that matches msg; its Pattern is nil when none does.
func (m *Matcher) find(msg []byte) (f finding) {
	got := m.literals.in(msg)
	for i, ok := m.literals.next(&got, msg); ok; i, ok = m.literals.next(&got, msg) {
		c := &m.patterns[i]
		if i < m.attaches && c.Severity == "" { // what it names is of no use
			if c.re.Match(msg) {
				return finding{Pattern: c.Pattern}
			}
			continue
		}
		at := c.re.FindSubmatchIndex(msg)
		if at == nil {
			continue
		}
		f.Pattern, f.attach = c.Pattern, i >= m.attaches
		for _, g := range c.groups {
			if at[2*g] >= 0 {
				f.devices = append(f.devices, string(msg[at[2*g]:at[2*g+1]]))
			}
		}
		if c.place > 0 && at[2*c.place] >= 0 {
			f.place = string(msg[at[2*c.place]:at[2*c.place+1]])
		}
		return f
	}
	return f
}

// Match looks at one record. Both results are nil for a line that says nothing
// of disks. A line that a program wrote is never evidence: anybody who may
// write /dev/kmsg could fail a disk.
func (m *Matcher) Match(rec *Record, at time.Time) (*Event, *Attach) {
	if rec.Facility != 0 || len(rec.Message) == 0 {
		return nil, nil
	}
	f := m.find(rec.Message)
	devices := f.devices
	switch {
	case f.Pattern == nil:
		return nil, nil
	case f.attach:
		return nil, &Attach{Devices: devices, At: at}
	case f.Severity == "":
		return nil, nil
	}
	if d, ok := bytes.CutPrefix(rec.Device, []byte{'+'}); ok {
		if _, name, ok := bytes.Cut(d, []byte{':'}); ok { // +subsystem:name
			devices = append(devices, string(name))
		}
	} else if d, ok := bytes.CutPrefix(rec.Device, []byte{'b'}); ok { // bMAJOR:MINOR
		devices = append(devices, string(d))
	}
	return &Event{
		Sequence: rec.Sequence, Class: f.Class, Severity: f.Severity, Devices: devices,
		First: at, Last: at, Count: 1, Evidence: evidence(rec.Message), Seen: []Sighting{{At: at, Place: f.place}}, Old: rec.Old, pattern: f.Pattern,
	}, nil
}

// evidence is msg as one line of valid UTF-8, at most MaxEvidence bytes.
func evidence(msg []byte) string {
	if len(msg) <= MaxEvidence && plain(msg) { // as nearly every line is
		return string(bytes.TrimSpace(msg))
	}
	s := strings.Join(strings.FieldsFunc(strings.ToValidUTF8(string(msg), "?"), func(r rune) bool {
		return r < ' ' || r == 0x7f
	}), " ")
	s = strings.TrimSpace(s)
	if len(s) <= MaxEvidence {
		return s
	}
	n := MaxEvidence
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

// plain says that msg is printable ASCII.
func plain(msg []byte) bool {
	for _, c := range msg {
		if c < ' ' || c >= 0x7f {
			return false
		}
	}
	return true
}
