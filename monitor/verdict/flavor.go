package verdict

import (
	"fmt"
	"strings"

	"holdfast.dev/api/v1alpha1"
)

// Shortfall says what the node lacks of its flavor, one phrase per group, or
// nothing. A disk counts while it has a device. One that node preparation
// assigned to a group counts for that group alone; any other for one group
// that it fits, chosen so that the most groups are full.
func Shortfall(groups []v1alpha1.FlavorDisks, disks []v1alpha1.Disk) string {
	var slots []int // group of each disk that is wanted
	for g := range groups {
		for range groups[g].Count {
			slots = append(slots, g)
		}
	}
	taken := make([]int, len(disks)) // slot of each disk, from 1
	var place func(slot int, tried []bool) bool
	place = func(slot int, tried []bool) bool { // Kuhn's augmenting paths
		for d := range disks {
			if tried[d] || !fits(&groups[slots[slot]], &disks[d]) {
				continue
			}
			tried[d] = true
			if taken[d] == 0 || place(taken[d]-1, tried) {
				taken[d] = slot + 1
				return true
			}
		}
		return false
	}
	have := make([]int32, len(groups))
	for s, g := range slots {
		if place(s, make([]bool, len(disks))) {
			have[g]++
		}
	}
	var short []string
	for g, want := range groups {
		if have[g] < want.Count {
			short = append(short, fmt.Sprintf("group %s has %d of %d disks", want.Name, have[g], want.Count))
		}
	}
	return strings.Join(short, "; ")
}

func fits(g *v1alpha1.FlavorDisks, d *v1alpha1.Disk) bool {
	return d.Device != "" && (d.Group == "" || d.Group == g.Name) &&
		(g.Media == "" || g.Media == d.Media) &&
		(g.MinSize == nil || d.SizeBytes >= g.MinSize.Value())
}
