package nodeprep

import (
	"fmt"
	"strings"
)

// Effect is one kind of change to a disk.
type Effect string

// Effects, in the order in which a disk has them.
const (
	EffectWipe      Effect = "wipe"
	EffectPartition Effect = "partition"
	EffectFormat    Effect = "format"
	EffectCertify   Effect = "certify"
	EffectPV        Effect = "pvcreate"
)

// Move is what to do next with a disk.
type Move struct {
	Effect Effect
	Part   int // index of the partition to format
	// Seen is set when the effect, whose intent was recorded, is there: only its
	// outcome is to be recorded.
	Seen bool
	// Force is set when an own, half made file system is in the way that can never have been used.
	Force bool
	// Refused says why nothing may be done; empty when something may.
	Refused string
	// None is set when every effect on the disk is made.
	None bool
}

func refuse(format string, args ...any) Move { return Move{Refused: fmt.Sprintf(format, args...)} }

// next compares a disk's record with what is on it. It is asked right before
// each effect and right after it: nothing is done that it does not ask for, and
// nothing is recorded as made that it has not seen.
func (r *Record) next(w *Wipe, c *Content, mayWipe bool) Move {
	if c.Err != "" {
		return refuse("%s", c.Err)
	}
	if c.System {
		return refuse("the host itself lives on it")
	}
	if !r.begun() {
		if m, due := r.nextWipe(w, c, mayWipe); due {
			return m
		}
	}
	if why := r.stranger(c); why != "" {
		return refuse("%s", why)
	}
	switch {
	case r.Table != nil:
		return r.nextTable(c)
	case r.PV != nil:
		return r.nextPV(c)
	}
	return Move{None: true}
}

func (r *Record) nextWipe(w *Wipe, c *Content, mayWipe bool) (Move, bool) {
	why := c.Blank(r.Emptied)
	open := w != nil && w.Phase == Begun
	switch {
	case why == "" && !open:
		return Move{}, false
	case len(c.Used) > 0:
		return refuse("%s (unmount and release it first; a token does not help)", why), true
	case open && c.Blank(true) == "" && (!c.Weak || c.kept || why == ""):
		return Move{Effect: EffectWipe, Seen: true}, true
	case mayWipe:
		return Move{Effect: EffectWipe}, true
	case open && c.Weak:
		return refuse("a wipe was begun and has not ended, and its id names a place: this may be another drive, which %s", why), true
	case open:
		return refuse("a wipe was begun and has not ended: %s", why), true
	}
	return refuse("%s", why), true
}

func (r *Record) nextTable(c *Content) Move {
	t := r.Table
	state := c.GPT.compare(t)
	switch {
	case t.Phase == Planned: // proven blank by nextWipe
		return Move{Effect: EffectPartition}
	case state == foreign:
		return refuse("it has not the partition table that was made: %s", c.otherThan(t))
	case t.Phase == Begun && state != whole:
		for _, s := range c.Signatures {
			if s.Type != "gpt" && s.Type != "PMBR" {
				return refuse("%s on %s appeared while it was partitioned", s.Type, s.Device)
			}
		}
		if len(c.Used) > 0 {
			return refuse("in use: %s", strings.Join(c.Used, ", "))
		}
		return Move{Effect: EffectPartition}
	case state != whole:
		return refuse("its partition table has changed since it was made: %s", c.otherThan(t))
	}
	for i := range t.Partitions {
		p := c.partition(t.Partitions[i].Start, t.Partitions[i].Size)
		if p == nil && t.Phase == Begun {
			return Move{Effect: EffectPartition} // the kernel does not know it yet
		}
		if p == nil {
			return refuse("the kernel does not know its partition %d (run: partx --update /dev/…)", i+1)
		}
	}
	if t.Phase == Begun {
		return Move{Effect: EffectPartition, Seen: true}
	}
	for i := range t.Partitions {
		if m := t.Partitions[i].next(c, i, r.Certify); !m.None {
			return m
		}
	}
	return Move{None: true}
}

func (c *Content) otherThan(t *Table) string {
	switch {
	case c.GPT.Other != "":
		return c.GPT.Other
	case c.GPT.First.GUID == "":
		return "it has none"
	case c.GPT.First.GUID != t.GUID:
		return fmt.Sprintf("its GUID is %s, not %s", c.GPT.First.GUID, t.GUID)
	}
	return "its partitions are others"
}

// next looks at one partition of a whole table of our own.
func (want *TablePartition) next(c *Content, i int, certify bool) Move {
	p := c.partition(want.Start, want.Size)
	switch {
	case want.Filesystem != "":
	case !certify || want.Phase == Made:
		return Move{None: true} // a raw one belongs to whoever uses it
	case len(p.Used) > 0:
		return refuse("partition %d is in use: %s", i+1, strings.Join(p.Used, ", "))
	default:
		return Move{Effect: EffectCertify, Part: i}
	}
	ours := p.Type == string(want.Filesystem) && p.UUID == want.FSUUID
	switch {
	case want.Phase == Made && !ours:
		return refuse("partition %d has %s in place of %s %s", i+1, describe(p), want.Filesystem, want.FSUUID)
	case want.Phase == Made:
		return Move{None: true}
	case len(p.Used) > 0:
		return refuse("partition %d is in use: %s", i+1, strings.Join(p.Used, ", "))
	case want.Phase == Planned && (p.Type != "" || p.Edges != ""):
		return refuse("partition %d is not blank: %s", i+1, describe(p))
	case want.Phase == Planned:
		return Move{Effect: EffectFormat, Part: i}
	// Begun: what is there is ours, when it is a file system, by its UUID.
	case p.Type == "":
		return Move{Effect: EffectFormat, Part: i, Force: p.Edges != ""}
	case !ours:
		return refuse("partition %d has %s, which was not made here", i+1, describe(p))
	case p.Whole:
		return Move{Effect: EffectFormat, Part: i, Seen: true}
	case p.Unused:
		return Move{Effect: EffectFormat, Part: i, Force: true}
	}
	return refuse("partition %d has a damaged %s that may have been used", i+1, want.Filesystem)
}

func describe(p *Partition) string {
	switch {
	case p.Type != "":
		return fmt.Sprintf("%s %s", p.Type, p.UUID)
	case p.Edges != "":
		return "data of no known kind " + p.Edges
	}
	return "nothing"
}

func (r *Record) nextPV(c *Content) Move {
	pv := ""
	for _, s := range c.Signatures {
		if s.Type == "LVM2_member" {
			pv = s.UUID
		}
	}
	only := len(c.Partitions) == 0
	for _, s := range c.Signatures {
		only = only && s.Type == "LVM2_member"
	}
	switch {
	case r.PV.Phase == Planned:
		return Move{Effect: EffectPV}
	case pv == r.PV.UUID && only && r.PV.Phase == Begun:
		return Move{Effect: EffectPV, Seen: true}
	case pv == r.PV.UUID && only:
		return Move{None: true}
	case r.PV.Phase == Made:
		return refuse("it is not the physical volume %s that was made: it has %s", r.PV.UUID, c.describe())
	case len(c.Used) > 0:
		return refuse("in use: %s", strings.Join(c.Used, ", "))
	case len(c.Signatures) > 0 || len(c.Partitions) > 0:
		return refuse("it has %s, which was not made here", c.describe())
	}
	// What pvcreate left half made has no label yet.
	if c.Edges != "" && !c.HalfPV {
		return refuse("it has data of no known kind %s, which no pvcreate leaves", c.Edges)
	}
	return Move{Effect: EffectPV}
}
