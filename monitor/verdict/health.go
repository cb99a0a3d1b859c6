package verdict

import (
	"fmt"
	"maps"
	"strings"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/smart"
)

// Memory is what earlier readings of a disk leave for the next verdict. The
// zero Memory knows of none.
type Memory struct {
	rules map[int]ruleMemory // by index of the rule
}

type ruleMemory struct {
	holds  bool
	streak int     // readings in a row that say the opposite of holds
	last   float64 // number of the last reading
	untold bool    // holds from before, and the number has not been told since
}

// Finding is one rule that holds, or has seen a number grow.
type Finding struct {
	Class    v1alpha1.FaultClass
	Severity v1alpha1.Severity
	// Text is for a person, such as "pending sectors: 3".
	Text string
	// Count is by how much a number has grown; 1 for a rule that holds.
	Count int64
}

// Judge is the verdict on a reading: the rules that hold now, and the numbers
// that have grown since the last one. stored is the evidence of the disk's SMART
// fault from before this process remembers, empty when there is none: what is in
// it needs no further reading to hold, and holds until the disk tells the number.
// A number that is missing from this reading changes nothing about its rule.
func (t *Thresholds) Judge(disk string, before Memory, stored string, r *smart.Report) (after Memory, holds, grown []Finding) {
	signals := Signals(r)
	after.rules = maps.Clone(before.rules)
	if after.rules == nil {
		after.rules = map[int]ruleMemory{}
	}
	for i := range t.Rules {
		rule := &t.Rules[i]
		if !has(r, rule.Signal) {
			continue
		}
		m, known := after.rules[i]
		v, told := signals[rule.Signal]
		held := !known && !rule.Grows && rule.in(stored)
		switch {
		case !told && held:
			m.holds, m.untold = true, true
		case !told && !known:
			continue
		case rule.Grows && told:
			if known && v > m.last && !t.accepts(disk, rule.Signal, v) {
				grown = append(grown, Finding{
					Class: rule.Class, Severity: v1alpha1.SeverityWarning, Count: int64(v - m.last), Text: fmt.Sprintf("%s grew from %.0f to %.0f", rule.Name, m.last, v),
				})
			}
			m.last = v
		case told:
			m = rule.level(m, held || m.untold, v, t.accepts(disk, rule.Signal, v))
		}
		after.rules[i] = m
		if m.holds {
			holds = append(holds, Finding{Class: v1alpha1.FaultSMART, Severity: rule.Severity, Count: 1, Text: rule.text(m)})
		}
	}
	return after, holds, grown
}

// Evidence is what findings say, as one line.
func Evidence(findings []Finding) string {
	texts := make([]string, len(findings))
	for i := range findings {
		texts[i] = findings[i].Text
	}
	return strings.Join(texts, separator)
}

const separator = "; "

// in says whether the rule is one of those whose Evidence is given.
func (r *Rule) in(evidence string) bool {
	for text := range strings.SplitSeq(evidence, separator) {
		if rest, ok := strings.CutPrefix(text, r.Name); ok && (rest == "" || rest[0] == ':') {
			return true
		}
	}
	return false
}

// level takes in a reading of a rule about a level. held says that the rule held
// before this process remembers.
func (r *Rule) level(m ruleMemory, held bool, v float64, accepted bool) ruleMemory {
	clearBelow := *r.AtLeast
	if r.ClearBelow != nil {
		clearBelow = *r.ClearBelow
	}
	if held {
		m = ruleMemory{holds: v >= clearBelow}
	}
	m.last = v
	opposite := v >= *r.AtLeast
	if m.holds {
		opposite = v < clearBelow
	}
	switch {
	case accepted:
		m.holds, m.streak = false, 0
	case !opposite:
		m.streak = 0
	default:
		if m.streak++; m.streak >= max(1, r.Readings) {
			m.holds, m.streak = !m.holds, 0
		}
	}
	return m
}

func (r *Rule) text(m ruleMemory) string {
	if m.untold || *r.AtLeast == 1 && m.last == 1 && r.Readings == 0 {
		return r.Name
	}
	return fmt.Sprintf("%s: %.0f", r.Name, m.last)
}

func (t *Thresholds) accepts(disk, signal string, v float64) bool {
	for _, a := range t.Accepted {
		if a.Disk == disk && a.Signal == signal && v <= a.UpTo {
			return true
		}
	}
	return false
}
