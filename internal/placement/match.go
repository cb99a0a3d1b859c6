package placement

import "slices"

// matchable refuses what a search could take very long to refuse: claims that
// require one group and have fewer disks than claims between them (Hall's
// theorem), and claims that have only volumes and fewer of those.
func (s *solver) matchable() *Refusal {
	for _, group := range s.requiredGroups() {
		var options [][]int
		for i := range s.claims {
			c := &s.claims[i]
			if slices.Contains(c.Required, group) {
				var disks []int
				for _, o := range c.bins {
					disks = append(disks, s.bins[o.bin].disk)
				}
				slices.Sort(disks)
				options = append(options, slices.Compact(disks))
			}
		}
		if have := matching(options, len(s.onDisk)); have < len(options) {
			return &Refusal{Kind: GroupTooLarge, Group: group, Need: len(options), Have: have}
		}
	}
	var options [][]int
	for i := range s.claims {
		var bins []int
		for _, o := range s.claims[i].bins {
			if s.bins[o.bin].Kind == Group {
				bins = nil
				break
			}
			bins = append(bins, o.bin)
		}
		if bins != nil {
			options = append(options, bins)
		}
	}
	if len(options) > 1 && matching(options, len(s.bins)) < len(options) {
		return &Refusal{Kind: NotTogether}
	}
	return nil
}

// requiredGroups are the groups that more than one claim requires, sorted.
func (s *solver) requiredGroups() []string {
	n := make(map[string]int)
	var groups []string
	for i := range s.claims {
		for _, g := range s.claims[i].Required {
			if n[g]++; n[g] == 2 {
				groups = append(groups, g)
			}
		}
	}
	slices.Sort(groups)
	return groups
}

// matching is the size of a largest matching of the lists to numbers below n
// that are in them, found by augmenting paths.
func matching(lists [][]int, n int) int {
	owner := make([]int, n)
	for i := range owner {
		owner[i] = -1
	}
	var visit func(list int, seen []bool) bool
	visit = func(list int, seen []bool) bool {
		for _, v := range lists[list] {
			if seen[v] {
				continue
			}
			seen[v] = true
			if owner[v] < 0 || visit(owner[v], seen) {
				owner[v] = list
				return true
			}
		}
		return false
	}
	size := 0
	for i := range lists {
		if visit(i, make([]bool, n)) {
			size++
		}
	}
	return size
}
