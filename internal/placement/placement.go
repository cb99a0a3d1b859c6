// Package placement decides which volume or volume group each claim of a pod
// gets on one node. All claims are decided together: a choice that is best for
// one of them may leave none for the next (kubernetes#61813).
//
// It is pure: values in, values out, and the same answer for the same values in
// any order. Solve finds an assignment whenever there is one, and of all
// assignments the one that, in this order,
//
//  1. breaks no required group, and the fewest preferred ones,
//  2. uses volumes that are there before it has new ones made,
//  3. leaves the least room unused on the chosen volumes (tightest fit),
//  4. is on the disks with the fewest volumes.
//
// The search is exact and its work is bounded (Problem.Steps). At the bound the
// best assignment found so far is returned with Proven false; if there is none
// yet, the refusal's Kind is Undecided, which proves nothing.
package placement

// Kind says how many claims a bin can take.
type Kind int

const (
	// Volume is a volume that is there already. It takes one claim.
	Volume Kind = iota
	// Group is a volume group. It takes claims until its room is used up.
	Group
)

// Claim asks for one volume.
type Claim struct {
	// ID names the claim; unique within a problem.
	ID string
	// Size in bytes.
	Size int64
	// Pool is the key of what it can be made of: bins that offer it can take it.
	Pool string
	// Required and Preferred are the groups it is in. Two claims that require the
	// same group are never on one disk. Where one of the two only prefers it, one
	// disk is avoided where it can be.
	Required, Preferred []string
}

// Bin is what a claim can be put on.
type Bin struct {
	// ID names the bin; unique within a problem.
	ID   string
	Kind Kind
	// Disk is the disk that it lies on. Empty means unknown or several: no claim
	// with a required group can go there.
	Disk string
	// Room in bytes: the size of a volume, or what is left in a volume group.
	Room int64
	// Load is how many volumes are in use on the disk. Bins of one disk have the same.
	Load int64
	// Offers are the pools that it serves.
	Offers []Offer
}

// Offer says on what terms a bin serves a pool.
type Offer struct {
	Pool string
	// Max is the largest volume in bytes; 0 is as large as the room.
	Max int64
	// Num/Den is what a byte costs of the bin's room, as 2/1 for a mirror. 0/0 is 1/1.
	Num, Den int64
}

// Member is a claim outside the problem that uses a disk already.
type Member struct {
	Group, Disk string
	// Required is false when that claim only prefers the group.
	Required bool
}

// Problem is one node and the claims to put there. Bins in quarantine are left
// out by the caller.
type Problem struct {
	Claims  []Claim
	Bins    []Bin
	Members []Member
	// Steps bounds the search: how often a claim may be tried on a bin. 0 is DefaultSteps.
	Steps int
}

// DefaultSteps takes some milliseconds. Random problems of 10 claims and 50 bins
// stay far below it (see the tests).
const DefaultSteps = 20000

// Assignment says where each claim goes.
type Assignment struct {
	// Bins has for each claim, in the problem's order, the index of its bin.
	Bins []int
	Cost Cost
	// Proven is false when the search ended at its bound: a better one may exist.
	Proven bool
}

// Cost is what an assignment is chosen by; smaller fields come first.
type Cost struct {
	// Violations counts pairs of claims on one disk of which at least one prefers not to be.
	Violations int64
	// New counts claims that are put on a volume group.
	New int64
	// Waste is the unused room of the chosen volumes in bytes.
	Waste int64
	// Load adds up how many volumes each claim finds on its disk.
	Load int64
}

// Less orders costs.
func (c Cost) Less(d Cost) bool {
	switch {
	case c.Violations != d.Violations:
		return c.Violations < d.Violations
	case c.New != d.New:
		return c.New < d.New
	case c.Waste != d.Waste:
		return c.Waste < d.Waste
	}
	return c.Load < d.Load
}

func (c Cost) plus(d Cost) Cost {
	return Cost{c.Violations + d.Violations, c.New + d.New, addSat(c.Waste, d.Waste), addSat(c.Load, d.Load)}
}

// RefusalKind says why there is no assignment.
type RefusalKind string

const (
	// NoBin is said when no bin offers the claim's pool.
	NoBin RefusalKind = "NoBin"
	// NoRoom is said when bins offer the pool, and each is too small or too full.
	NoRoom RefusalKind = "NoRoom"
	// NoDisk is said when there is room, but only on bins whose disk is not known, and the claim requires a group.
	NoDisk RefusalKind = "NoDisk"
	// GroupUsed is said when there is room, but other claims of a group that it requires use all those disks.
	GroupUsed RefusalKind = "GroupUsed"
	// GroupTooLarge is said when the claims of one required group need more disks than can take them.
	GroupTooLarge RefusalKind = "GroupTooLarge"
	// NotTogether is said when each claim could be placed alone, all together cannot.
	NotTogether RefusalKind = "NotTogether"
	// Undecided is said when the search ended at its bound without an answer.
	Undecided RefusalKind = "Undecided"
)

// Refusal says why there is no assignment. Which claim is named, when several
// cannot be placed, depends on nothing but the problem.
type Refusal struct {
	Kind RefusalKind
	// Claim is the claim that has no bin; empty for the last three kinds.
	Claim string
	// Group is the group of GroupUsed and GroupTooLarge.
	Group string
	// Need and Have are the claims and the disks of GroupTooLarge.
	Need, Have int
}
