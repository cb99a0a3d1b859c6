package verdict

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"time"

	"go.yaml.in/yaml/v3"

	"holdfast.dev/api/v1alpha1"
)

// burst is how close two lines must be to count once: the error handling of one
// command prints many lines, libata up to 32 failed commands and a reset.
const burst = 10 * time.Second

// echo is how long after a disk's own line a line of a device that is stacked on
// it says the same once more.
const echo = 30 * time.Second

// mostSightings bounds a window's memory.
const mostSightings = 1024

// Duration is a time in a YAML file, such as 10m.
type Duration time.Duration

// UnmarshalYAML implements yaml.Unmarshaler.
func (d *Duration) UnmarshalYAML(n *yaml.Node) error {
	v, err := time.ParseDuration(n.Value)
	if err != nil {
		return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: %q is not a duration, such as 10m with its unit", n.Line, n.Value)}}
	}
	*d = Duration(v)
	return nil
}

// Window is a number of warnings within a time from which on they are a fault.
// The fault lasts until there has been none for that long. Warnings that no
// window is about are a fault at once, for WarningTTL, but for those of class Flapping, which are none.
type Window struct {
	// Name is in lower case with dashes, and no other window's.
	Name string `yaml:"name"`
	// Class and Lines say which warnings it is about: those of the class whose
	// text matches the expression (RE2), all of the class when it is empty.
	Class v1alpha1.FaultClass `yaml:"class"`
	Lines string              `yaml:"lines,omitempty"`
	// AtLeast is how many, Within in which time. Warnings within ten seconds of
	// the one that counted last count once; with Distinct only places are
	// counted, each once, and warnings that name none are not.
	AtLeast  int               `yaml:"atLeast"`
	Within   Duration          `yaml:"within"`
	Distinct bool              `yaml:"distinct,omitempty"`
	Severity v1alpha1.Severity `yaml:"severity"`
	// Why is the evidence for the numbers.
	Why string `yaml:"why"`
	// Remove, in a file, takes the built-in window of the name out; nothing but Name
	// goes with it. No window of Thresholds has it.
	Remove bool `yaml:"remove,omitempty"`

	lines *regexp.Regexp
}

// Sighting is when something was said against a disk, and of which place on it.
type Sighting struct {
	At    time.Time
	Place string // empty when the line names none
}

// Line is one kind of line of the kernel's log about one disk, a counter of
// the disk's that has grown, or that the disk is back; several that came together.
type Line struct {
	Class    v1alpha1.FaultClass
	Severity v1alpha1.Severity
	Text     string
	Count    int64
	// Seen are the times, in order; one at least.
	Seen []Sighting
	// Above says that it is about a device that is stacked on the disk.
	Above bool
}

// Outcome is what a Line makes of the fault of its class.
type Outcome struct {
	// Severity is empty when the line is no fault, or none yet.
	Severity v1alpha1.Severity
	// Echo says that a stacked device repeated what the disk itself had said.
	Echo bool
	// First and Count take in the earlier lines that were none yet.
	First time.Time
	Count int64
	// Until is when the fault ends unless there are more lines; zero when it
	// does not end by itself.
	Until time.Time
}

// Recent is what a disk's lines leave for the next verdict on one. The zero Recent
// knows of none.
type Recent struct {
	windows map[int]recent // by index of the window
	waiting map[v1alpha1.FaultClass]waiting
	own     time.Time // last line of the disk's own that was a fault
}

// waiting are the lines of a class that are no fault yet.
type waiting struct {
	first, last time.Time
	lines       int64
}

// recent is what one window remembers.
type recent struct {
	counted []Sighting // within the window, the oldest first
	last    time.Time
	holds   bool
}

// Weigh is the verdict on a line. It is pure: after is before with the line.
func (t *Thresholds) Weigh(before Recent, l *Line) (after Recent, o Outcome) {
	first, last := l.Seen[0].At, l.Seen[len(l.Seen)-1].At
	after = Recent{windows: maps.Clone(before.windows), waiting: maps.Clone(before.waiting), own: before.own}
	// A file system that has given up says more than the disk has.
	if l.Above && l.Class != v1alpha1.FaultFilesystem {
		if d := last.Sub(before.own); !before.own.IsZero() && d.Abs() <= echo {
			return after, Outcome{Echo: true}
		}
	}
	o = Outcome{First: first, Count: l.Count}
	f := v1alpha1.Fault{Class: l.Class, Severity: l.Severity}
	switch {
	case Fails(&f):
		o.Severity = l.Severity
	case l.Class == v1alpha1.FaultFlapping && !t.windowed(l): // that a disk is back is none by itself
	case l.Severity == v1alpha1.SeverityCritical || !t.windowed(l):
		o.Severity, o.Until = l.Severity, last.Add(WarningTTL)
	default:
		t.count(&after, l, &o)
	}
	if o.Severity != "" && !l.Above {
		after.own = last
	}
	return after, o
}

func (t *Thresholds) windowed(l *Line) bool {
	return slices.ContainsFunc(t.Windows, func(w Window) bool { return w.about(l) })
}

func (w *Window) about(l *Line) bool { return w.Class == l.Class && w.lines.MatchString(l.Text) }

// count puts a warning into the windows that are about it.
func (t *Thresholds) count(r *Recent, l *Line, o *Outcome) {
	if r.windows == nil {
		r.windows, r.waiting = map[int]recent{}, map[v1alpha1.FaultClass]waiting{}
	}
	longest := time.Duration(0)
	for i := range t.Windows {
		w := &t.Windows[i]
		if !w.about(l) {
			continue
		}
		longest = max(longest, time.Duration(w.Within))
		m := w.add(r.windows[i], l)
		r.windows[i] = m
		if !m.holds {
			continue
		}
		if o.Severity != v1alpha1.SeverityCritical {
			o.Severity = w.Severity
		}
		if until := m.last.Add(time.Duration(w.Within)); until.After(o.Until) {
			o.Until = until
		}
	}
	p, ok := r.waiting[l.Class]
	if !ok || o.First.Sub(p.last) >= longest {
		p = waiting{first: o.First}
	}
	p.last, p.lines = l.Seen[len(l.Seen)-1].At, p.lines+l.Count
	if o.Severity == "" {
		r.waiting[l.Class] = p
		return
	}
	o.First, o.Count = p.first, p.lines
	delete(r.waiting, l.Class)
	if f := (v1alpha1.Fault{Class: l.Class, Severity: o.Severity}); Lasts(&f) {
		o.Until = time.Time{}
	}
}

// add is what the window remembers after a line.
func (w *Window) add(m recent, l *Line) recent {
	m.counted = slices.Clone(m.counted)
	for _, s := range l.Seen {
		since := s.At.Add(-time.Duration(w.Within))
		if !m.last.After(since) { // nothing for the whole window: it is over
			m = recent{}
		}
		m.counted = slices.DeleteFunc(m.counted, func(c Sighting) bool { return !c.At.After(since) })
		if s.At.After(m.last) {
			m.last = s.At
		}
		if n := len(m.counted); w.Distinct {
			m.counted = slices.DeleteFunc(m.counted, func(c Sighting) bool { return c.Place == s.Place })
			if s.Place != "" {
				m.counted = append(m.counted, s)
			}
		} else if n == 0 || s.At.Sub(m.counted[n-1].At) >= burst {
			m.counted = append(m.counted, s)
		}
		m.counted = m.counted[max(0, len(m.counted)-mostSightings):]
		m.holds = m.holds || len(m.counted) >= w.AtLeast
	}
	return m
}

// Forget drops what was counted up to a time: a person has looked at it.
func (r Recent) Forget(until time.Time) Recent {
	out := Recent{windows: maps.Clone(r.windows), waiting: maps.Clone(r.waiting), own: r.own}
	maps.DeleteFunc(out.windows, func(_ int, m recent) bool { return !m.last.After(until) })
	maps.DeleteFunc(out.waiting, func(_ v1alpha1.FaultClass, p waiting) bool { return !p.last.After(until) })
	return out
}
