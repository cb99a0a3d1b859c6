package vg

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Candidate is a group that a new volume could go to.
type Candidate struct {
	Group *Group   // as reported last; nil when it could not be read
	Err   error    // why it could not be read, or why it is closed
	Pool  string   // group of the NodeFlavor
	Thin  string   // its thin pool, or empty
	Disks []string // disk ids that it lies on
	// Closed says why it takes no new volume, such as a quarantined disk; empty when it does.
	Closed string
}

// Want is what a new volume needs of a group.
type Want struct {
	Pool       string
	Size       int64
	Thin       bool
	Overcommit float64
	Stripes    int64
	Group      string // when set, only the volume group of that UUID: the scheduler's choice, or where a copy's source lies
	// AvoidRequired and AvoidPreferred are disks of the other claims of the
	// volume's groups.
	AvoidRequired, AvoidPreferred map[string]string // disk id to the claim that is there
	Spread                        bool              // the group with most room, else the one with least
}

// ErrNoRoom is in the chain when no group of the node has room: another node may.
var ErrNoRoom = errors.New("no volume group has room")

// Room is the size of the largest new volume of such kind that the candidate takes now.
func (c Candidate) Room(w Want) int64 {
	switch {
	case c.Group == nil || c.Err != nil || c.Closed != "" || c.Group.Complete() != nil:
		return 0
	case w.Thin && c.Thin == "":
		return 0
	case w.Thin:
		return c.Group.FreeThin(c.Thin, w.Overcommit) / c.Group.ExtentSize * c.Group.ExtentSize
	}
	return c.Group.FreeStriped(w.Stripes)
}

// Choose picks the group for one volume. It is deterministic: by preference, then
// room, then name. The error says of each group why not. It decides for one volume
// at a time; several at once are for the scheduler's joint assignment.
func Choose(all []Candidate, w Want) (Candidate, error) {
	var fit []Candidate
	var why []string
	for _, c := range all {
		if c.Pool != w.Pool {
			continue
		}
		if reason := c.refuses(w); reason != "" {
			why = append(why, reason)
			continue
		}
		fit = append(fit, c)
	}
	if len(fit) == 0 {
		if len(why) == 0 {
			return Candidate{}, fmt.Errorf("%w: this node has no volume group in pool %q (disks.yaml of the node lists them)", ErrNoRoom, w.Pool)
		}
		slices.Sort(why)
		return Candidate{}, fmt.Errorf("%w for %d bytes in pool %q: %s", ErrNoRoom, w.Size, w.Pool, strings.Join(why, "; "))
	}
	slices.SortFunc(fit, func(a, b Candidate) int {
		if d := clashes(a, w.AvoidPreferred) - clashes(b, w.AvoidPreferred); d != 0 {
			return d
		}
		ra, rb := a.Room(w), b.Room(w)
		if w.Spread {
			ra, rb = rb, ra
		}
		switch {
		case ra < rb:
			return -1
		case ra > rb:
			return 1
		}
		return strings.Compare(a.Group.Name, b.Group.Name)
	})
	return fit[0], nil
}

// refuses says why a candidate of the right pool does not take the volume.
func (c Candidate) refuses(w Want) string {
	name := "a volume group that could not be read"
	if c.Group != nil {
		name = c.Group.Name
	}
	switch {
	case c.Err != nil:
		return fmt.Sprintf("%s: %v", name, c.Err)
	case c.Group == nil:
		return name
	case c.Closed != "":
		return name + ": " + c.Closed
	case c.Group.Complete() != nil:
		return c.Group.Complete().Error()
	case w.Group != "" && c.Group.UUID != w.Group:
		return name + ": another group was chosen, or has the source of the copy"
	case w.Thin && c.Thin == "":
		return name + ": it has no thin pool"
	}
	if w.Thin {
		if err := PoolFull(c.Group.Find(c.Thin)); err != nil {
			return fmt.Sprintf("%s: %v", name, err)
		}
	}
	for _, d := range c.Disks {
		if claim, taken := w.AvoidRequired[d]; taken {
			return fmt.Sprintf("%s: disk %s has claim %s of the same group already", name, d, claim)
		}
	}
	if room := c.Room(w); room < c.Group.RoundUp(w.Size, w.Stripes) {
		return fmt.Sprintf("%s: room for %d bytes", name, room)
	}
	return ""
}

func clashes(c Candidate, avoid map[string]string) int {
	n := 0
	for _, d := range c.Disks {
		if _, taken := avoid[d]; taken {
			n++
		}
	}
	return n
}
