package verdict

import (
	"fmt"
	"maps"

	"holdfast.dev/api/v1alpha1"
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

// Judge is the verdict on one reading's Signals: the rules that hold now, and
// the numbers that have grown since the last reading. bad says that the disk's
// own report spoke against it before this process remembers: then a number at a
// rule's level needs no further readings. A number that is missing from this
// reading changes nothing about its rule.
func (t *Thresholds) Judge(disk string, before Memory, bad bool, signals map[string]float64) (after Memory, holds, grown []Finding) {
	after.rules = maps.Clone(before.rules)
	if after.rules == nil {
		after.rules = map[int]ruleMemory{}
	}
	for i := range t.Rules {
		r := &t.Rules[i]
		m, known := after.rules[i]
		v, told := signals[r.Signal]
		if !told && !known {
			continue
		}
		switch {
		case r.Grows && told:
			if known && v > m.last && !t.accepts(disk, r.Signal, v) {
				grown = append(grown, Finding{
					Class: r.Class, Severity: v1alpha1.SeverityWarning, Count: int64(v - m.last), Text: fmt.Sprintf("%s grew from %.0f to %.0f", r.Name, m.last, v),
				})
			}
			m.last = v
		case told:
			m = r.level(m, known, bad, v, t.accepts(disk, r.Signal, v))
		}
		after.rules[i] = m
		if m.holds {
			holds = append(holds, Finding{Class: v1alpha1.FaultSMART, Severity: r.Severity, Count: 1, Text: r.text(m.last)})
		}
	}
	return after, holds, grown
}

// level takes in a reading of a rule about a level.
func (r *Rule) level(m ruleMemory, known, bad bool, v float64, accepted bool) ruleMemory {
	clearBelow := *r.AtLeast
	if r.ClearBelow != nil {
		clearBelow = *r.ClearBelow
	}
	m.last = v
	opposite := v >= *r.AtLeast
	if m.holds {
		opposite = v < clearBelow
	}
	switch {
	case accepted:
		m.holds, m.streak = false, 0
	case !known && bad && v >= clearBelow:
		m.holds, m.streak = true, 0
	case !opposite:
		m.streak = 0
	default:
		if m.streak++; m.streak >= max(1, r.Readings) {
			m.holds, m.streak = !m.holds, 0
		}
	}
	return m
}

func (r *Rule) text(v float64) string {
	if *r.AtLeast == 1 && v == 1 && r.Readings == 0 {
		return r.Name
	}
	return fmt.Sprintf("%s: %.0f", r.Name, v)
}

func (t *Thresholds) accepts(disk, signal string, v float64) bool {
	for _, a := range t.Accepted {
		if a.Disk == disk && a.Signal == signal && v <= a.UpTo {
			return true
		}
	}
	return false
}
