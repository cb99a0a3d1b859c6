package verdict_test

import (
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/verdict"
)

func TestCompare(t *testing.T) {
	q := func(s string) *resource.Quantity { v := resource.MustParse(s); return &v }
	disk := func(id, group string, media v1alpha1.Media, gib int64, change ...func(*verdict.Sight)) verdict.Sight {
		s := verdict.Sight{Disk: v1alpha1.Disk{ID: id, Device: "sd" + id, Group: group, Media: media, SizeBytes: gib << 30}}
		for _, c := range change {
			c(&s)
		}
		return s
	}
	readOnly := func(s *verdict.Sight) { s.ReadOnly = true }
	system := func(s *verdict.Sight) { s.System = true }
	gone := func(s *verdict.Sight) { s.Device = "" }
	shrunken := func(s *verdict.Sight) { s.Faults = []v1alpha1.Fault{{Class: v1alpha1.FaultShrunken}} }
	data := v1alpha1.FlavorDisks{Name: "data", Role: v1alpha1.RoleStatic, Count: 2, Media: v1alpha1.MediaSSD, MinSize: q("10Gi")}
	any1 := v1alpha1.FlavorDisks{Name: "any", Role: v1alpha1.RoleRaw, Count: 1}
	root := v1alpha1.FlavorDisks{Name: "root", Role: v1alpha1.RoleSystem, Count: 1}
	groups := func(g ...v1alpha1.FlavorDisks) []v1alpha1.FlavorDisks { return g }
	disks := func(d ...verdict.Sight) []verdict.Sight { return d }
	cases := map[string]struct {
		why    string
		groups []v1alpha1.FlavorDisks
		disks  []verdict.Sight
		reason string
		want   string
	}{
		"Full":     {"as many as wanted", groups(data), disks(disk("a", "data", "ssd", 10), disk("b", "", "ssd", 11)), "Satisfied", ""},
		"Small":    {"too small a disk does not count", groups(data), disks(disk("a", "data", "ssd", 10), disk("b", "data", "ssd", 9, system)), "TooFewDisks", "group data has 1 of 2 disks"},
		"Media":    {"nor does another kind", groups(data), disks(disk("a", "data", "ssd", 10), disk("b", "data", "virtual", 10)), "TooFewDisks", "group data has 1 of 2 disks"},
		"Gone":     {"nor one without a device", groups(any1), disks(disk("a", "any", "ssd", 1, gone)), "TooFewDisks", "group any has 0 of 1 disks"},
		"Assigned": {"nor one that belongs to another group", groups(any1, data), disks(disk("a", "data", "ssd", 10), disk("b", "data", "ssd", 10)), "TooFewDisks", "group any has 0 of 1 disks"},
		"Greedy":   {"the first group must not take the disk that only the second can use less of", groups(any1, data), disks(disk("a", "", "ssd", 10), disk("b", "", "ssd", 10), disk("c", "", "hdd", 1)), "Satisfied", ""},

		"ReadOnly":       {"a disk that takes no writes counts for nothing", groups(data), disks(disk("a", "data", "ssd", 10), disk("b", "data", "ssd", 10, readOnly)), "ReadOnlyDisks", "group data has 1 of 2 disks; 1 disk is read-only: b (sdb)"},
		"ReadOnlyNew":    {"listed or not", groups(any1), disks(disk("a", "", "ssd", 10, readOnly)), "ReadOnlyDisks", "group any has 0 of 1 disks; 1 disk is read-only: a (sda)"},
		"ReadOnlyImage":  {"an image that nobody lists is so by design, and no disk of the flavor's", groups(any1), disks(disk("a", "", "virtual", 10, readOnly)), "TooFewDisks", "group any has 0 of 1 disks"},
		"ReadOnlyMore":   {"one that is read-only does not explain two that lack", groups(data), disks(disk("b", "data", "ssd", 10, readOnly)), "TooFewDisks", "group data has 0 of 2 disks; 1 disk is read-only: b (sdb)"},
		"ReadOnlyListed": {"a listed disk is named though others are enough", groups(any1), disks(disk("a", "any", "ssd", 10, readOnly), disk("b", "", "ssd", 10)), "Satisfied", "1 disk is read-only: a (sda)"},
		"ReadOnlyExtra":  {"what nobody wants written, such as a configuration drive, is none", groups(any1), disks(disk("a", "any", "ssd", 10), disk("b", "", "ssd", 10, readOnly)), "Satisfied", ""},

		"Shrunken":     {"it was large enough", groups(data), disks(disk("a", "data", "ssd", 10), disk("b", "data", "ssd", 9, shrunken)), "ShrunkenDisks", "group data has 1 of 2 disks; 1 disk is smaller than before: b (sdb)"},
		"ShrunkenFits": {"large enough all the same", groups(any1), disks(disk("a", "any", "ssd", 9, shrunken)), "Satisfied", "1 disk is smaller than before: a (sda)"},
		"Both":         {"each is named", groups(data), disks(disk("a", "data", "ssd", 9, shrunken), disk("b", "data", "ssd", 10, readOnly)), "ReadOnlyDisks", "group data has 0 of 2 disks; 1 disk is read-only: b (sdb); 1 disk is smaller than before: a (sda)"},

		"Extra":        {"a fact, and no shortfall", groups(any1), disks(disk("a", "", "ssd", 10), disk("b", "", "hdd", 10), disk("c", "any", "ssd", 10)), "Satisfied", "2 disks are not asked for by the flavor: a (sda), b (sdb)"},
		"ExtraVirtual": {"an image is no drive, and one without a device is not there", groups(any1), disks(disk("a", "any", "ssd", 10), disk("b", "", "virtual", 10), disk("c", "", "ssd", 10, gone)), "Satisfied", ""},
		"ExtraSystem":  {"the host lives on it", groups(any1), disks(disk("a", "", "ssd", 10, system), disk("b", "", "ssd", 10)), "Satisfied", ""},
		"ExtraShort":   {"the extra one is of no use to the group that lacks one", groups(data), disks(disk("a", "data", "ssd", 10), disk("b", "", "hdd", 10)), "TooFewDisks", "group data has 1 of 2 disks; 1 disk is not asked for by the flavor: b (sdb)"},

		"SystemIsNoData": {"node preparation would not take the system's disk either", groups(any1), disks(disk("a", "", "ssd", 10, system)), "TooFewDisks", "group any has 0 of 1 disks"},
		"SystemGroup":    {"the system's disk takes its own place", groups(root, any1), disks(disk("a", "", "ssd", 10), disk("b", "", "ssd", 10, system), disk("c", "", "ssd", 10)), "Satisfied", "1 disk is not asked for by the flavor: c (sdc)"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if reason, got := verdict.Compare(tc.groups, tc.disks, true); reason != tc.reason || got != tc.want {
				t.Errorf("got %s %q, want %s %q; reason: %s", reason, got, tc.reason, tc.want, tc.why)
			}
		})
	}
	if _, got := verdict.Compare(groups(any1), cases["Extra"].disks, false); got != "" {
		t.Errorf("%q, though nobody knows which disk is the system's", got)
	}
}
