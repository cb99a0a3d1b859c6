package verdict

import (
	"fmt"
	"strings"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/flavor"
)

// Shortfall says what the node lacks of its flavor, one phrase per group, or
// nothing. A disk counts while it has a device. One that node preparation
// assigned to a group counts for that group alone; any other for one group
// that it fits, chosen so that the most groups are full.
func Shortfall(groups []v1alpha1.FlavorDisks, disks []v1alpha1.Disk) string {
	have := make([]int32, len(groups))
	for _, g := range flavor.Assign(groups, len(disks), func(g, d int) bool { return fits(&groups[g], &disks[d]) }) {
		if g != flavor.None {
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
	return d.Device != "" && (d.Group == "" || d.Group == g.Name) && flavor.Fits(g, d.Media, d.SizeBytes)
}
