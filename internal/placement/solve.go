package placement

import (
	"cmp"
	"math"
	"math/bits"
	"slices"
)

// Solve returns an assignment or the reason why there is none; exactly one of
// the two is nil. It changes nothing of p. Bins of size below zero take nothing.
func Solve(p Problem) (*Assignment, *Refusal) {
	s := newSolver(p)
	if r := s.candidates(); r != nil {
		return nil, r
	}
	if r := s.matchable(); r != nil {
		return nil, r
	}
	s.order()
	s.search(0, Cost{})
	if s.best == nil {
		if s.steps <= 0 {
			return nil, &Refusal{Kind: Undecided}
		}
		return nil, &Refusal{Kind: NotTogether}
	}
	out := &Assignment{Bins: make([]int, len(p.Claims)), Cost: s.bestCost, Proven: s.steps > 0}
	for depth, b := range s.best {
		out.Bins[s.claims[depth].index] = s.bins[b].index
	}
	return out, nil
}

// item is a claim with what is known of it before the search.
type item struct {
	*Claim
	index int      // in the problem
	bins  []option // where it can go at all, by bin
	twin  bool     // the claim before it in the search is the same but for its name
	// floor is the least that this claim and all after it can cost.
	floor Cost
	// shared is the least room of volume groups that it and all after it must
	// have, since they have no other bin.
	shared int64
}

// option is one bin for one claim.
type option struct {
	bin  int
	need int64 // of the bin's room
	cost Cost  // beside what depends on the other claims
}

type place struct {
	*Bin
	index int // in the problem
	disk  int // number of its disk; its own one when the disk is not known
	twin  int // the bin before it, when that is the same but for its name; else -1
	left  int64
	used  bool
}

type solver struct {
	claims []item
	bins   []place
	// required and preferred count the claims of a group on a disk.
	members map[spot]*count
	onDisk  []int64 // claims put on each disk by the search
	room    int64   // left in all volume groups
	steps   int

	chosen   []int
	best     []int
	bestCost Cost
}

// spot is a group on a disk.
type spot struct {
	group string
	disk  int
}

type count struct{ required, preferred int64 }

func newSolver(p Problem) *solver {
	s := &solver{steps: p.Steps, chosen: make([]int, 0, len(p.Claims))}
	if s.steps <= 0 {
		s.steps = DefaultSteps
	}
	s.bins = make([]place, len(p.Bins))
	for i := range p.Bins {
		s.bins[i] = place{Bin: &p.Bins[i], index: i, twin: -1, left: p.Bins[i].Room}
	}
	slices.SortFunc(s.bins, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.Disk, b.Disk), cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Room, b.Room), cmp.Compare(a.ID, b.ID))
	})
	disks := make(map[string]int)
	for i := range s.bins {
		b := &s.bins[i]
		n, ok := disks[b.Disk]
		if !ok || b.Disk == "" {
			n = len(s.onDisk)
			disks[b.Disk] = n
			s.onDisk = append(s.onDisk, 0)
		}
		b.disk = n
		if b.Kind == Group {
			s.room = addSat(s.room, max(0, b.Room))
		}
		if i > 0 && b.Kind == Volume && alike(s.bins[i-1].Bin, b.Bin) {
			b.twin = i - 1
		}
	}
	s.claims = make([]item, len(p.Claims))
	grouped := false
	for i := range p.Claims {
		c := &p.Claims[i]
		s.claims[i] = item{Claim: c, index: i}
		grouped = grouped || len(c.Required)+len(c.Preferred) > 0
	}
	if !grouped {
		return s
	}
	s.members = make(map[spot]*count)
	for _, m := range p.Members {
		if n, ok := disks[m.Disk]; ok && m.Disk != "" {
			s.add(spot{m.Group, n}, m.Required, 1)
		}
	}
	return s
}

func alike(a, b *Bin) bool {
	return a.Kind == b.Kind && a.Disk == b.Disk && a.Disk != "" && a.Room == b.Room && a.Load == b.Load && slices.Equal(a.Offers, b.Offers)
}

func (s *solver) add(at spot, required bool, n int64) {
	c := s.members[at]
	if c == nil {
		c = &count{}
		s.members[at] = c
	}
	if required {
		c.required += n
	} else {
		c.preferred += n
	}
}

// candidates finds the bins of each claim, and refuses when one has none.
func (s *solver) candidates() *Refusal {
	var refused *Refusal
	for i := range s.claims {
		c := &s.claims[i]
		r := Refusal{Kind: NoBin, Claim: c.ID}
		for b := range s.bins {
			bin := &s.bins[b]
			offered, need := fits(c.Claim, bin.Bin)
			switch used := s.usedGroup(c.Claim, bin.disk); {
			case !offered:
			case need < 0:
				r.worse(NoRoom, "")
			case len(c.Required) > 0 && bin.Disk == "":
				r.worse(NoDisk, "")
			case used != "":
				r.worse(GroupUsed, used)
			default:
				c.bins = append(c.bins, option{bin: b, need: need, cost: s.ownCost(c.Claim, bin)})
			}
		}
		if len(c.bins) == 0 && (refused == nil || r.Claim < refused.Claim) {
			refused = &r
		}
	}
	return refused
}

// worse keeps the reason that is nearest to success.
func (r *Refusal) worse(k RefusalKind, group string) {
	rank := map[RefusalKind]int{NoBin: 0, NoRoom: 1, NoDisk: 2, GroupUsed: 3}
	if rank[k] > rank[r.Kind] {
		r.Kind, r.Group = k, group
	}
}

// fits says whether the bin offers the claim's pool, and what the claim takes
// of its room; below zero when that is too much.
func fits(c *Claim, b *Bin) (offered bool, need int64) {
	for _, o := range b.Offers {
		if o.Pool != c.Pool {
			continue
		}
		size := max(0, c.Size)
		need := size
		if o.Num > 0 && o.Den > 0 {
			need = mulDivUp(size, o.Num, o.Den)
		}
		if (o.Max > 0 && size > o.Max) || need > b.Room || b.Room < 0 {
			return true, -1
		}
		return true, need
	}
	return false, 0
}

// usedGroup is a group that the claim requires and that has a claim which
// requires it on the disk already.
func (s *solver) usedGroup(c *Claim, disk int) string {
	for _, g := range c.Required {
		if m := s.members[spot{g, disk}]; m != nil && m.required > 0 {
			return g
		}
	}
	return ""
}

// violations counts the claims on the disk that this one shares it with
// although one of the two prefers not to.
func (s *solver) violations(c *Claim, disk int) int64 {
	var n int64
	for _, g := range c.Preferred {
		if m := s.members[spot{g, disk}]; m != nil {
			n += m.required + m.preferred
		}
	}
	for _, g := range c.Required {
		if m := s.members[spot{g, disk}]; m != nil {
			n += m.preferred
		}
	}
	return n
}

// ownCost is what the claim costs on the bin before any other claim of the
// problem is placed, and so the least.
func (s *solver) ownCost(c *Claim, b *place) Cost {
	cost := Cost{Violations: s.violations(c, b.disk), Load: max(0, b.Load)}
	if b.Kind == Group {
		cost.New = 1
	} else {
		cost.Waste = b.Room - max(0, c.Size)
	}
	return cost
}

// order sorts the claims so that those with the fewest bins come first and
// claims that are alike are neighbours, and computes what bounds the search.
func (s *solver) order() {
	slices.SortFunc(s.claims, func(a, b item) int {
		return cmp.Or(cmp.Compare(len(a.bins), len(b.bins)), cmp.Compare(b.Size, a.Size), cmp.Compare(a.Pool, b.Pool),
			slices.Compare(a.Required, b.Required), slices.Compare(a.Preferred, b.Preferred), cmp.Compare(a.ID, b.ID))
	})
	var rest Cost
	var shared int64
	for i := len(s.claims) - 1; i >= 0; i-- {
		c := &s.claims[i]
		least, need, only := c.bins[0].cost, int64(math.MaxInt64), true
		for _, o := range c.bins {
			least.Violations = min(least.Violations, o.cost.Violations)
			least.New = min(least.New, o.cost.New)
			least.Waste = min(least.Waste, o.cost.Waste)
			least.Load = min(least.Load, o.cost.Load)
			only = only && s.bins[o.bin].Kind == Group
			need = min(need, o.need)
		}
		rest = rest.plus(least)
		c.floor = rest
		if only {
			shared = addSat(shared, need)
		}
		c.shared = shared
		if i > 0 {
			p := s.claims[i-1]
			c.twin = p.Size == c.Size && p.Pool == c.Pool && slices.Equal(p.Required, c.Required) && slices.Equal(p.Preferred, c.Preferred)
		}
		// The cheapest first, so that the first assignment is a good one; the
		// order of bins decides among equals.
		slices.SortStableFunc(c.bins, func(a, b option) int {
			switch {
			case a.cost.Less(b.cost):
				return -1
			case b.cost.Less(a.cost):
				return 1
			}
			return cmp.Compare(a.bin, b.bin)
		})
	}
}

// search places the claims from depth on. Two kinds of symmetry are left out:
// of bins that are alike the first is used first, and of claims that are alike
// the later one goes to the later bin.
func (s *solver) search(depth int, cost Cost) {
	if depth == len(s.claims) {
		s.best, s.bestCost = slices.Clone(s.chosen), cost
		return
	}
	c := &s.claims[depth]
	if c.shared > s.room {
		return
	}
	for _, o := range c.bins {
		b := &s.bins[o.bin]
		switch {
		case b.Kind == Volume && b.used, b.Kind == Group && o.need > b.left:
			continue
		case b.twin >= 0 && !s.bins[b.twin].used:
			continue
		case c.twin && o.bin < s.chosen[depth-1]:
			continue
		case s.usedGroup(c.Claim, b.disk) != "":
			continue
		}
		if s.steps--; s.steps <= 0 {
			return
		}
		next := o.cost
		next.Violations = s.violations(c.Claim, b.disk)
		next.Load += s.onDisk[b.disk]
		next = next.plus(cost)
		if s.best != nil && !s.lower(depth+1, next).Less(s.bestCost) {
			continue
		}
		s.put(c, o, b, 1)
		if s.hopeful(depth + 1) {
			s.search(depth+1, next)
		}
		s.put(c, o, b, -1)
		if s.steps <= 0 {
			return
		}
	}
}

// lower is the least total cost when the claims before depth cost so much.
func (s *solver) lower(depth int, cost Cost) Cost {
	if depth < len(s.claims) {
		cost = cost.plus(s.claims[depth].floor)
	}
	return cost
}

func (s *solver) put(c *item, o option, b *place, n int64) {
	b.used = n > 0
	if b.Kind == Group {
		b.left -= n * o.need
		s.room -= n * o.need
	}
	s.onDisk[b.disk] += n
	for _, g := range c.Required {
		s.add(spot{g, b.disk}, true, n)
	}
	for _, g := range c.Preferred {
		s.add(spot{g, b.disk}, false, n)
	}
	if n > 0 {
		s.chosen = append(s.chosen, o.bin)
	} else {
		s.chosen = s.chosen[:len(s.chosen)-1]
	}
}

// hopeful is false when a claim that is still to be placed has no bin left.
func (s *solver) hopeful(depth int) bool {
	for i := depth; i < len(s.claims); i++ {
		c := &s.claims[i]
		if !slices.ContainsFunc(c.bins, func(o option) bool {
			b := &s.bins[o.bin]
			free := !b.used
			if b.Kind == Group {
				free = o.need <= b.left
			}
			return free && s.usedGroup(c.Claim, b.disk) == ""
		}) {
			return false
		}
	}
	return true
}

func addSat(a, b int64) int64 {
	if a > math.MaxInt64-b {
		return math.MaxInt64
	}
	return a + b
}

// mulDivUp is a*num/den rounded up, and MaxInt64 when that is too large.
func mulDivUp(a, num, den int64) int64 {
	hi, lo := bits.Mul64(uint64(a), uint64(num))
	lo, carry := bits.Add64(lo, uint64(den-1), 0)
	hi += carry
	if hi >= uint64(den) {
		return math.MaxInt64
	}
	q, _ := bits.Div64(hi, lo, uint64(den))
	if q > math.MaxInt64 {
		return math.MaxInt64
	}
	return int64(q)
}
