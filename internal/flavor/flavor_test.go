package flavor_test

import (
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/flavor"
)

// That the most places are filled is held by a property of monitor/verdict,
// which counts with Assign.
func TestAssign(t *testing.T) {
	type disk struct {
		media v1alpha1.Media
		size  int64
	}
	big := resource.NewQuantity(10, resource.BinarySI)
	cases := map[string]struct {
		reason string
		groups []v1alpha1.FlavorDisks
		disks  []disk
		want   []int
	}{
		"Order":  {"the first disks get the places, in the order of the groups", []v1alpha1.FlavorDisks{{Count: 1}, {Count: 1}}, []disk{{"ssd", 1}, {"ssd", 1}, {"ssd", 1}}, []int{0, 1, flavor.None}},
		"Joint":  {"the first group gives way where only it can", []v1alpha1.FlavorDisks{{Count: 1}, {Count: 1, MinSize: big}}, []disk{{"ssd", 10}, {"hdd", 1}}, []int{1, 0}},
		"Media":  {"another kind gets no place", []v1alpha1.FlavorDisks{{Count: 1, Media: "ssd"}}, []disk{{"hdd", 1}}, []int{flavor.None}},
		"None":   {"no disks", []v1alpha1.FlavorDisks{{Count: 1}}, nil, []int{}},
		"Nobody": {"no groups", nil, []disk{{"ssd", 1}}, []int{flavor.None}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := flavor.Assign(tc.groups, len(tc.disks), func(g, d int) bool {
				return flavor.Fits(&tc.groups[g], tc.disks[d].media, tc.disks[d].size)
			})
			if !slices.Equal(got, tc.want) {
				t.Errorf("got %v, want %v; reason: %s", got, tc.want, tc.reason)
			}
		})
	}
}
