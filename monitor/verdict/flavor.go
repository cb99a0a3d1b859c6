package verdict

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/flavor"
)

// Reasons of Compare. But for Satisfied, each says what a group lacks disks for.
const (
	Satisfied     = "Satisfied"
	TooFewDisks   = "TooFewDisks"   // they are not there
	ReadOnlyDisks = "ReadOnlyDisks" // they are there, and take no writes
	ShrunkenDisks = "ShrunkenDisks" // they are there, and were large enough before
)

// Sight is a disk, and what a whole look at the host has seen of it beside.
type Sight struct {
	v1alpha1.Disk
	ReadOnly bool
	// System: the host itself lives on it.
	System bool
}

// Compare says how the disks of a node are against its flavor. A disk counts
// while it has a device and takes writes. One that node preparation assigned to a
// group counts for that group alone; any other for one group that it fits, chosen
// so that the most groups are full. extras says whether disks that no group asks
// for are to be named: only who knows the system's own disks can tell. Images, and
// what is read-only and wanted by nobody, such as a configuration drive, are none.
func Compare(groups []v1alpha1.FlavorDisks, disks []Sight, extras bool) (reason, message string) {
	disks = slices.Clone(disks)
	slices.SortStableFunc(disks, func(a, b Sight) int { return cmp.Compare(a.turn(), b.turn()) })
	counted := flavor.Assign(groups, len(disks), func(g, d int) bool { return disks[d].counts(&groups[g]) })
	said := lacks(groups, counted)
	reason = Satisfied
	meant := counted // with those that count for nothing as they are
	if len(said) > 0 {
		reason = TooFewDisks
		meant = flavor.Assign(groups, len(disks), func(g, d int) bool { return disks[d].meant(&groups[g]) })
	}
	var readOnly, shrunken, extra []string
	for i := range disks {
		d := &disks[i]
		name := fmt.Sprintf("%s (%s)", d.ID, d.Device)
		switch wanted := counted[i] != flavor.None || meant[i] != flavor.None; {
		case d.Device == "":
		case d.ReadOnly && (wanted || d.Group != ""):
			readOnly = append(readOnly, name)
		case d.shrunken():
			shrunken = append(shrunken, name)
		case !wanted && extras && !d.ReadOnly && d.Media != v1alpha1.MediaVirtual && !d.System:
			extra = append(extra, name)
		}
	}
	if reason != Satisfied && len(lacks(groups, meant)) == 0 {
		if reason = ShrunkenDisks; len(readOnly) > 0 {
			reason = ReadOnlyDisks
		}
	}
	for _, list := range []struct {
		what  string
		names []string
	}{{"read-only", readOnly}, {"smaller than before", shrunken}, {"not asked for by the flavor", extra}} {
		switch n := len(list.names); n {
		case 0:
		case 1:
			said = append(said, "1 disk is "+list.what+": "+list.names[0])
		default:
			said = append(said, fmt.Sprintf("%d disks are %s: %s", n, list.what, strings.Join(list.names, ", ")))
		}
	}
	return reason, strings.Join(said, "; ")
}

// lacks is one phrase for each group that is not full.
func lacks(groups []v1alpha1.FlavorDisks, places []int) (short []string) {
	have := make([]int32, len(groups))
	for _, g := range places {
		if g != flavor.None {
			have[g]++
		}
	}
	for g, want := range groups {
		if have[g] < want.Count {
			short = append(short, fmt.Sprintf("group %s has %d of %d disks", want.Name, have[g], want.Count))
		}
	}
	return short
}

// turn is when a disk is given a place: before one that is only there comes one
// that node preparation chose, so that the extra one is named, and the system's.
func (s *Sight) turn() int {
	switch {
	case s.Group != "":
		return 0
	case s.System:
		return 1
	}
	return 2
}

func (s *Sight) counts(g *v1alpha1.FlavorDisks) bool {
	return s.mayBeOf(g) && !s.ReadOnly && flavor.Fits(g, s.Media, s.SizeBytes)
}

// meant says whether the disk would count if it took writes, or had its former
// size. An image that nobody lists is read-only by design.
func (s *Sight) meant(g *v1alpha1.FlavorDisks) bool {
	if s.ReadOnly && s.Group == "" && s.Media == v1alpha1.MediaVirtual {
		return false
	}
	return s.mayBeOf(g) && (flavor.Fits(g, s.Media, s.SizeBytes) || s.shrunken() && (g.Media == "" || g.Media == s.Media))
}

// mayBeOf says whether the disk is there and free for the group, as node
// preparation has it.
func (s *Sight) mayBeOf(g *v1alpha1.FlavorDisks) bool {
	if s.Group != "" {
		return s.Device != "" && s.Group == g.Name
	}
	return s.Device != "" && (!s.System || g.Role == v1alpha1.RoleSystem)
}

func (s *Sight) shrunken() bool {
	return slices.ContainsFunc(s.Faults, func(f v1alpha1.Fault) bool { return f.Class == v1alpha1.FaultShrunken })
}
