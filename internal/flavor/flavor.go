// Package flavor assigns disks to the groups of a NodeFlavor. It is pure: what
// the monitor counts and what node preparation lays out follow the same rule.
package flavor

import (
	"holdfast.dev/api/v1alpha1"
)

// None is the group of a disk that no group has a place for.
const None = -1

// Fits says whether a disk of this media and size, in bytes, is one that the
// group asks for.
func Fits(g *v1alpha1.FlavorDisks, media v1alpha1.Media, size int64) bool {
	return (g.Media == "" || g.Media == media) && (g.MinSize == nil || size >= g.MinSize.Value())
}

// Assign gives each of n disks a place in a group, or None, so that as many
// places as can be are filled; no group gets more than its count. Where there
// is a choice, groups are filled in their order with disks in theirs, and a
// disk once placed keeps a place. fits says which disk may have a place in
// which group, both by index.
func Assign(groups []v1alpha1.FlavorDisks, n int, fits func(group, disk int) bool) []int {
	var places []int // group of each
	for g := range groups {
		for range groups[g].Count {
			places = append(places, g)
		}
	}
	taken := make([]int, n) // place of each disk, from 1
	var fill func(place int, tried []bool) bool
	fill = func(place int, tried []bool) bool { // Kuhn's augmenting paths
		for _, free := range []bool{true, false} { // nobody gives way while a disk is free
			for d := range n {
				if tried[d] || (taken[d] == 0) != free || !fits(places[place], d) {
					continue
				}
				tried[d] = true
				if free || fill(taken[d]-1, tried) {
					taken[d] = place + 1
					return true
				}
			}
		}
		return false
	}
	for p := range places {
		fill(p, make([]bool, n))
	}
	out := make([]int, n)
	for d, p := range taken {
		out[d] = None
		if p > 0 {
			out[d] = places[p-1]
		}
	}
	return out
}
