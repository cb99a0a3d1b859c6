package placement_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/internal/placement"
)

// oracle tries every assignment, by the words of the contract and with none of
// the solver's means. It returns the least cost, and false when there is no assignment.
func oracle(p placement.Problem) (best placement.Cost, found bool) {
	chosen := make([]int, len(p.Claims))
	var try func(i int)
	try = func(i int) {
		if i < len(p.Claims) {
			for b := range p.Bins {
				chosen[i] = b
				try(i + 1)
			}
			return
		}
		if c, ok := judge(p, chosen); ok && (!found || c.Less(best)) {
			best, found = c, true
		}
	}
	try(0)
	return best, found
}

// judge says whether an assignment is allowed and what it costs.
func judge(p placement.Problem, chosen []int) (c placement.Cost, ok bool) {
	used := make([]int64, len(p.Bins))
	taken := make([]bool, len(p.Bins))
	type holder struct {
		group    string
		disk     string
		required bool
	}
	holders := make([]holder, 0, 8)
	for _, m := range p.Members {
		holders = append(holders, holder{m.Group, m.Disk, m.Required})
	}
	var disks []string // of the claims so far
	for i, b := range chosen {
		claim, bin := p.Claims[i], p.Bins[b]
		at := slices.IndexFunc(bin.Offers, func(o placement.Offer) bool { return o.Pool == claim.Pool })
		if at < 0 {
			return c, false
		}
		offer := bin.Offers[at]
		if offer.Max > 0 && claim.Size > offer.Max {
			return c, false
		}
		need := claim.Size
		if offer.Num > 0 && offer.Den > 0 {
			need *= offer.Num
			for need%offer.Den != 0 { // rounded up
				need++
			}
			need /= offer.Den
		}
		if taken[b] && bin.Kind == placement.Volume {
			return c, false
		}
		taken[b] = true
		if used[b] += need; used[b] > bin.Room {
			return c, false
		}
		disk := bin.Disk
		if disk == "" {
			disk = bin.ID // no disk has such a name
		}
		for _, h := range holders {
			if h.disk != disk {
				continue
			}
			switch {
			case slices.Contains(claim.Required, h.group) && h.required:
				return c, false
			case slices.Contains(claim.Required, h.group), slices.Contains(claim.Preferred, h.group):
				c.Violations++
			}
		}
		if len(claim.Required) > 0 && bin.Disk == "" {
			return c, false
		}
		for _, g := range claim.Required {
			holders = append(holders, holder{g, disk, true})
		}
		for _, g := range claim.Preferred {
			holders = append(holders, holder{g, disk, false})
		}
		if bin.Kind == placement.Group {
			c.New++
		} else {
			c.Waste += bin.Room - claim.Size
		}
		c.Load += bin.Load
		for _, d := range disks {
			if d == disk {
				c.Load++
			}
		}
		disks = append(disks, disk)
	}
	return c, true
}

// draw makes a problem in which about half of the time there is an assignment.
func draw(r *rand.Rand, maxClaims, maxBins, maxDisks int) placement.Problem {
	var p placement.Problem
	pools := []string{"a", "b"}[:1+r.IntN(2)]
	groups := []string{"g", "h"}[:1+r.IntN(2)]
	disks := 1 + r.IntN(maxDisks)
	load := make([]int64, disks)
	for i := range load {
		load[i] = int64(r.IntN(3))
	}
	for i := range 1 + r.IntN(maxClaims) {
		c := placement.Claim{ID: fmt.Sprint("c", i), Size: int64(1 + r.IntN(6)), Pool: pools[r.IntN(len(pools))]}
		for _, g := range groups {
			switch r.IntN(5) {
			case 0, 1:
				c.Required = append(c.Required, g)
			case 2:
				c.Preferred = append(c.Preferred, g)
			}
		}
		p.Claims = append(p.Claims, c)
	}
	for i := range 1 + r.IntN(maxBins) {
		b := placement.Bin{ID: fmt.Sprint("b", i), Room: int64(2 + r.IntN(8)), Kind: placement.Kind(r.IntN(2))}
		if r.IntN(12) > 0 {
			d := r.IntN(disks)
			b.Disk, b.Load = fmt.Sprint("d", d), load[d]
		}
		if b.Kind == placement.Group {
			b.Room *= 2
		}
		for _, pool := range pools {
			if r.IntN(4) == 0 {
				continue
			}
			o := placement.Offer{Pool: pool}
			if b.Kind == placement.Group && r.IntN(2) == 0 {
				o.Max, o.Num, o.Den = int64(2+r.IntN(8)), int64(1+r.IntN(3)), int64(1+r.IntN(2))
			}
			b.Offers = append(b.Offers, o)
		}
		p.Bins = append(p.Bins, b)
	}
	for range r.IntN(3) {
		p.Members = append(p.Members, placement.Member{Group: groups[r.IntN(len(groups))], Disk: fmt.Sprint("d", r.IntN(disks)), Required: r.IntN(3) > 0})
	}
	return p
}

const cases = 120_000

func TestSolveFindsWhatBruteForceFinds(t *testing.T) {
	feasible, kinds := 0, map[placement.RefusalKind]int{}
	for seed := range uint64(cases) {
		r := rand.New(rand.NewPCG(seed, 1))
		p := draw(r, 4, 6, 4)
		want, exists := oracle(p)
		got, refusal := placement.Solve(p)
		switch {
		case (got == nil) == (refusal == nil):
			t.Fatalf("seed %d: Solve returned both or neither: %v, %v", seed, got, refusal)
		case refusal != nil:
			kinds[refusal.Kind]++
			if exists || refusal.Kind == placement.Undecided {
				t.Fatalf("seed %d: Solve refuses (%+v), brute force finds cost %+v in\n%+v", seed, refusal, want, p)
			}
			continue
		case !exists:
			t.Fatalf("seed %d: Solve returned %+v, brute force finds nothing in\n%+v", seed, got, p)
		}
		feasible++
		cost, ok := judge(p, got.Bins)
		if !ok {
			t.Fatalf("seed %d: the assignment %v breaks a rule of\n%+v", seed, got.Bins, p)
		}
		if cost != got.Cost || cost != want || !got.Proven {
			t.Fatalf("seed %d: cost %+v (said %+v, proven %v), the least is %+v in\n%+v", seed, cost, got.Cost, got.Proven, want, p)
		}
		if seed%8 != 0 {
			continue
		}
		if diff := cmp.Diff(names(p, got), names(shuffled(r, p))); diff != "" {
			t.Fatalf("seed %d: another order, another answer:\n%s", seed, diff)
		}
	}
	t.Logf("%d problems, %d with an assignment, refusals %v", cases, feasible, kinds)
	for _, k := range []placement.RefusalKind{placement.NoBin, placement.NoRoom, placement.NoDisk, placement.GroupUsed, placement.GroupTooLarge, placement.NotTogether} {
		if kinds[k] < 50 {
			t.Errorf("only %d problems were refused with %s: the draw is of little use", kinds[k], k)
		}
	}
	if feasible < cases/4 {
		t.Errorf("only %d of %d problems had an assignment: the draw is of little use", feasible, cases)
	}
}

// shuffled is the same problem in another order, solved.
func shuffled(r *rand.Rand, p placement.Problem) (placement.Problem, *placement.Assignment) {
	q := placement.Problem{Claims: slices.Clone(p.Claims), Bins: slices.Clone(p.Bins), Members: slices.Clone(p.Members)}
	r.Shuffle(len(q.Claims), func(i, j int) { q.Claims[i], q.Claims[j] = q.Claims[j], q.Claims[i] })
	r.Shuffle(len(q.Bins), func(i, j int) { q.Bins[i], q.Bins[j] = q.Bins[j], q.Bins[i] })
	a, _ := placement.Solve(q)
	return q, a
}

// names is an assignment by name.
func names(p placement.Problem, a *placement.Assignment) map[string]string {
	if a == nil {
		return nil
	}
	m := map[string]string{}
	for i, b := range a.Bins {
		m[p.Claims[i].ID] = p.Bins[b].ID
	}
	return m
}

// TestBoundIsFar counts how often problems of the largest size that is meant
// end at the bound without an answer, and checks what comes out otherwise.
func TestBoundIsFar(t *testing.T) {
	const n = 3000
	answered, proven, undecided := 0, 0, 0
	for seed := range uint64(n) {
		p := draw(rand.New(rand.NewPCG(seed, 2)), 10, 50, 10)
		a, refusal := placement.Solve(p)
		if a == nil {
			if refusal.Kind == placement.Undecided {
				undecided++
			}
			continue
		}
		answered++
		if a.Proven {
			proven++
		}
		if cost, ok := judge(p, a.Bins); !ok || cost != a.Cost {
			t.Fatalf("seed %d: assignment %v: allowed %v, cost %+v, said %+v", seed, a.Bins, ok, cost, a.Cost)
		}
	}
	t.Logf("%d problems of up to 10 claims and 50 bins: %d assigned, %d of them proven best; %d undecided", n, answered, proven, undecided)
	if undecided > 0 {
		t.Errorf("%d of %d problems were not decided within %d steps", undecided, n, placement.DefaultSteps)
	}
}
