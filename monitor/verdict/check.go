package verdict

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/strictyaml"
)

// mistake is what is wrong with a part of the thresholds, and with which field of it.
type mistake struct{ field, msg, hint string }

// check says everything that is wrong with thresholds that are to lie over base, each with its line.
func (t *Thresholds) check(name string, data []byte, base *Thresholds) error {
	root, err := strictyaml.Node(name, data)
	if err != nil {
		return err
	}
	var errs []error
	report := func(list string, i int, what string, m *mistake) {
		if m == nil {
			return
		}
		at := fmt.Sprintf("%s[%d]", list, i)
		if what != "" {
			at += " (" + what + ")"
		}
		errs = append(errs, &strictyaml.Error{File: name, Line: strictyaml.Line(root, list, i, m.field), Msg: at + ": " + m.msg, Hint: m.hint})
	}
	if len(t.Rules) == 0 && len(t.Windows) == 0 && len(t.Accepted) == 0 {
		errs = append(errs, &strictyaml.Error{File: name, Line: root.Line, Msg: "there are neither rules nor windows nor accepted numbers", Hint: "write at least one of them, or leave the thresholds out: then the built-in ones count"})
	}
	for i := range t.Rules {
		m := t.Rules[i].check()
		if t.Rules[i].Remove {
			m = t.removesRule(i, base)
		}
		if first := slices.IndexFunc(t.Rules, t.Rules[i].again); m == nil && first < i {
			m = &mistake{"signal", fmt.Sprintf("it is rules[%d] again: the same signal, class and name", first), "remove one of them, or give them names that people can tell apart"}
		}
		report("rules", i, t.Rules[i].Signal, m)
	}
	for i := range t.Windows {
		w := &t.Windows[i]
		m := w.check()
		if w.Remove {
			m = w.removes(base)
		}
		if first := slices.IndexFunc(t.Windows, w.named); m == nil && first < i {
			m = &mistake{"name", fmt.Sprintf("it has the name of windows[%d]", first), "give each a name of its own, or remove one of them"}
		}
		report("windows", i, w.Name, m)
	}
	for i := range t.Accepted {
		report("accepted", i, t.Accepted[i].Disk, t.Accepted[i].check())
	}
	return errors.Join(errs...)
}

func (r *Rule) check() *mistake {
	switch {
	case !knownSignal(r.Signal):
		return &mistake{"signal", "there is no such signal", knownSignals}
	case r.Name == "":
		return &mistake{"name", "name and why must be given", "name is what people read, such as pending sectors"}
	case r.Why == "":
		return &mistake{"why", "name and why must be given", "why is the evidence for the number"}
	case r.Grows == (r.AtLeast != nil):
		return &mistake{"grows", "give either atLeast or grows: true", "a level is judged by atLeast, a counter by grows"}
	case r.Grows && !knownClass(r.Class):
		return &mistake{"class", fmt.Sprintf("class is missing or unknown: %q", r.Class), "it is the class of the warning that a growth is: " + classNames()}
	case r.Grows && (r.Severity != "" || r.ClearBelow != nil || r.Readings != 0):
		return &mistake{"grows", "a growth is a warning: severity, clearBelow and readings do not apply", "remove them"}
	case r.Grows:
		return nil
	case r.Severity != v1alpha1.SeverityCritical && r.Severity != v1alpha1.SeverityWarning:
		return &mistake{"severity", fmt.Sprintf("severity is %q, want Critical or Warning", r.Severity), "Critical fails the disk, Warning degrades it"}
	case r.Class != "":
		return &mistake{"class", "class applies to growth only", "remove it"}
	case r.Readings < 0 || r.Readings > mostReadings:
		return &mistake{"readings", fmt.Sprintf("readings is %d, want 1 to %d", r.Readings, mostReadings), "it is how many readings in a row must say so"}
	}
	if m := possible("atLeast", r.Signal, *r.AtLeast); m != nil {
		return m
	}
	if r.ClearBelow == nil {
		return nil
	}
	if *r.ClearBelow > *r.AtLeast {
		return &mistake{"clearBelow", fmt.Sprintf("clearBelow %g is more than atLeast %g", *r.ClearBelow, *r.AtLeast), "a rule must not cease to hold where it holds"}
	}
	return possible("clearBelow", r.Signal, *r.ClearBelow)
}

// again says whether another rule would tell the same of the same number: nobody
// could say which of the two it was.
func (r *Rule) again(o Rule) bool {
	return r.Signal == o.Signal && r.Class == o.Class && r.Name == o.Name
}

// mostReadings is a day of readings at the default interval of 5 minutes.
const mostReadings = 288

// removesRule says what is wrong with a rule that removes.
func (t *Thresholds) removesRule(i int, base *Thresholds) *mistake {
	r := t.Rules[i]
	about := func(o Rule) bool { return o.Signal == r.Signal }
	switch others := append(slices.Clone(t.Rules[:i]), t.Rules[i+1:]...); {
	case r != Rule{Signal: r.Signal, Remove: true}:
		return &mistake{"remove", "remove: true goes with signal alone", "remove the other keys, or remove: true"}
	case !slices.ContainsFunc(base.Rules, about):
		return &mistake{"signal", "there is no built-in rule about the signal", "there is nothing to remove"}
	case slices.ContainsFunc(others, about):
		return &mistake{"remove", "another rule is about the signal", "it takes the place of the built-in ones by itself: remove this one"}
	}
	return nil
}

// windowName is what a window's name looks like.
var windowName = regexp.MustCompile(`^[a-z0-9]+(?:-[a-z0-9]+)*$`)

// removes says what is wrong with a window that removes.
func (w *Window) removes(base *Thresholds) *mistake {
	switch {
	case *w != Window{Name: w.Name, Remove: true, lines: w.lines}:
		return &mistake{"remove", "remove: true goes with name alone", "remove the other keys, or remove: true"}
	case !slices.ContainsFunc(base.Windows, w.named):
		names := make([]string, len(base.Windows))
		for i := range base.Windows {
			names[i] = base.Windows[i].Name
		}
		return &mistake{"name", "there is no built-in window of the name", "there are " + strings.Join(names, ", ")}
	}
	return nil
}

func (w *Window) check() *mistake {
	var err error
	switch {
	case !windowName.MatchString(w.Name):
		return &mistake{"name", fmt.Sprintf("name is missing or not in lower case with dashes: %q", w.Name), "that of a built-in window (monitor/verdict/thresholds.yaml) takes its place, another one is added"}
	case !knownClass(w.Class):
		return &mistake{"class", fmt.Sprintf("class is missing or unknown: %q", w.Class), "known are " + classNames()}
	case w.Why == "":
		return &mistake{"why", "class and why must be given", "why is the evidence for the numbers"}
	case w.AtLeast < 1 || w.AtLeast > mostSightings:
		return &mistake{"atLeast", fmt.Sprintf("atLeast is %d, want 1 to %d", w.AtLeast, mostSightings), "it is a number of warnings"}
	case w.Within <= 0 || time.Duration(w.Within) > WarningTTL:
		return &mistake{"within", fmt.Sprintf("within is %s, want more than 0s and at most %s", time.Duration(w.Within), WarningTTL), "write a duration such as 10m"}
	case w.Severity != v1alpha1.SeverityCritical && w.Severity != v1alpha1.SeverityWarning:
		return &mistake{"severity", fmt.Sprintf("severity is %q, want Critical or Warning", w.Severity), "Critical fails the disk, Warning degrades it"}
	case !w.Distinct && w.AtLeast > w.most():
		return &mistake{"atLeast", fmt.Sprintf("atLeast is %d, but no more than %d count within %s", w.AtLeast, w.most(), time.Duration(w.Within)),
			fmt.Sprintf("the window would never hold: warnings within %s count once; write less, a longer within, or distinct: true to count places", burst)}
	}
	if w.lines, err = regexp.Compile(w.Lines); err != nil {
		return &mistake{"lines", "lines: " + err.Error(), "write an expression of RE2 (https://github.com/google/re2/wiki/Syntax), in single quotes"}
	}
	return nil
}

// most is how many warnings can count within the window: one in each burst that
// has begun.
func (w *Window) most() int {
	return int((time.Duration(w.Within) + burst - 1) / burst)
}

func (a *Acceptance) check() *mistake {
	switch {
	case a.Disk == "":
		return &mistake{"disk", "disk and why must be given", "disk is the id that \"holdfast disks\" shows"}
	case a.Why == "":
		return &mistake{"why", "disk and why must be given", "why says who has looked at it, and what was found"}
	case !knownSignal(a.Signal):
		return &mistake{"signal", fmt.Sprintf("there is no signal %q", a.Signal), knownSignals}
	}
	return possible("upTo", a.Signal, a.UpTo)
}

// possible says what is wrong with a number for a signal: one that it never is below,
// or never comes to, would make a rule that always or never holds.
func possible(field, signal string, v float64) *mistake {
	most := greatest(signal)
	switch {
	case math.IsNaN(v) || math.IsInf(v, 0) || v <= 0:
		return &mistake{field, fmt.Sprintf("%s is %g, want a number above 0", field, v), "no disk tells less than 0: the rule would always hold"}
	case v > most:
		return &mistake{field, fmt.Sprintf("%s is %g, but %s is never more than %g", field, v, signal, most), "the rule would never hold; " + unit(signal)}
	}
	return nil
}

// truths are the signals that are 1 or 0.
var truths = regexp.MustCompile(`^(?:ata|scsi)\.failing$|^nvme\.warning\.|^nvme\.spareBelowThreshold$`)

// greatest is the greatest number that a signal can be.
func greatest(signal string) float64 {
	switch {
	case truths.MatchString(signal):
		return 1
	case signal == "percentUsed": // one byte, NVMe Base 2.0 and SBC-4
		return 255
	case signal == "hdd.celsius": // one byte, of ATA and of SCSI
		return 255
	case signal == "ata.prefailure": // of 30 attributes, SFF-8035i
		return 30
	case signal == "ata.selfTestFailures": // an extended log is read up to 8 pages of 19
		return 8 * 19
	case strings.HasSuffix(signal, ".selfTestFailures"): // the last 20
		return 20
	case signal == "ata.uncorrectable": // four bytes, ACS-3
		return math.MaxUint32
	case strings.HasPrefix(signal, "scsi."), strings.HasPrefix(signal, "nvme."):
		return math.MaxUint64
	}
	return 1<<48 - 1 // an attribute's raw value
}

func unit(signal string) string {
	switch {
	case truths.MatchString(signal):
		return "it is 1 or 0"
	case signal == "percentUsed":
		return "it is in percent"
	case signal == "hdd.celsius":
		return "it is in degrees Celsius"
	}
	return "it is a count"
}

// classes are the fault classes that a warning can have.
var classes = []v1alpha1.FaultClass{
	v1alpha1.FaultBlockIO, v1alpha1.FaultBufferIO, v1alpha1.FaultMedium, v1alpha1.FaultSCSI, v1alpha1.FaultATA, v1alpha1.FaultLink, v1alpha1.FaultNVMe,
	v1alpha1.FaultDeviceOffline, v1alpha1.FaultFilesystem, v1alpha1.FaultIntegrity, v1alpha1.FaultArray, v1alpha1.FaultPath, v1alpha1.FaultMapper,
	v1alpha1.FaultHungIO, v1alpha1.FaultNoAnswer, v1alpha1.FaultController, v1alpha1.FaultPCIe, v1alpha1.FaultNetwork,
	v1alpha1.FaultFlapping,
}

func knownClass(c v1alpha1.FaultClass) bool { return slices.Contains(classes, c) }

func classNames() string {
	names := make([]string, len(classes))
	for i, c := range classes {
		names[i] = string(c)
	}
	return strings.Join(names, ", ")
}

var knownSignals = "there are " + strings.Join(signalNames, ", ") + " and, for every attribute N, ata.N, hdd.N and ssd.N"
