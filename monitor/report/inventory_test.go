package report_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/monitor/inventory"
	"holdfast.dev/monitor/report"
)

// look is a whole look at an SSD.
func look(change ...func(*inventory.Disk)) *report.View {
	s := present("a")
	for _, c := range change {
		c(&s.Disks[0])
	}
	return &report.View{Now: t0, Looked: true, Snapshot: s, Prepared: prepared("a"), Settled: settled("")}
}

func readOnly(d *inventory.Disk)                     { d.RO = true }
func virtual(d *inventory.Disk)                      { d.Media = v1alpha1.MediaVirtual }
func bytes(n int64) func(*inventory.Disk)            { return func(d *inventory.Disk) { d.Size = n } }
func (s *story) unlisted() *story                    { s.view.Prepared = prepared(); return s }
func (s *story) half() *story                        { s.view.Snapshot.Err = errors.New("x"); return s }
func (s *story) after(d time.Duration) *story        { s.view.Now = t0.Add(d); return s }
func (s *story) cleared(before time.Duration) *story { s.view.Node = clears(before); return s }

// story is one look after another.
type story struct{ view *report.View }

func see(change ...func(*inventory.Disk)) *story { return &story{look(change...)} }

func clears(before time.Duration) *v1alpha1.ComputeNode {
	return &v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationClearFaults: "a@" + t0.Add(before).Format(time.RFC3339)}}}
}

// What a disk is now against what it must be, and what it was.
func TestLooks(t *testing.T) {
	absent := func() *story { s := see(); s.view.Snapshot = present(); return s }
	const healthy, shrunk, ro = "a=Healthy", "a=Degraded+Shrunken", "a=Degraded+ReadOnly"
	cases := map[string]struct {
		reason string
		looks  []*story
		want   []string
	}{
		"ReadOnly":         {"it stands as long as the kernel says so", []*story{see(), see(readOnly), see(readOnly).after(48 * time.Hour), see().after(48 * time.Hour)}, []string{healthy, ro, ro, healthy}},
		"ReadOnlyCleared":  {"no annotation makes it writable", []*story{see(readOnly), see(readOnly).cleared(time.Hour)}, []string{ro, ro}},
		"ReadOnlyUnlisted": {"nobody writes to what is not listed", []*story{see(readOnly), see(readOnly).unlisted()}, []string{ro, healthy}},
		"ReadOnlyHalf":     {"half a look says nothing, and takes nothing back", []*story{see(readOnly).half(), see(readOnly), see().half()}, []string{healthy, ro, ro}},
		"ReadOnlyLong":     {"however long nobody can look", []*story{see(readOnly), see(readOnly).half().after(48 * time.Hour)}, []string{ro, ro}},

		"Shrunken":         {"it lasts, for nothing else knows the size before", []*story{see(), see(bytes(1 << 29)), see(bytes(1 << 29)).after(48 * time.Hour)}, []string{healthy, shrunk, shrunk}},
		"ShrunkenBack":     {"also when the size is back: what was at its end may be gone", []*story{see(), see(bytes(1 << 29)), see()}, []string{healthy, shrunk, shrunk}},
		"ShrunkenCleared":  {"until somebody clears it", []*story{see(), see(bytes(1 << 29)), see(bytes(1 << 29)).after(time.Hour).cleared(time.Minute)}, []string{healthy, shrunk, healthy}},
		"ShrunkenAway":     {"while it was gone", []*story{see(), absent(), see(bytes(1 << 29))}, []string{healthy, healthy, shrunk}},
		"ShrunkenUnlisted": {"a drive that nobody lists", []*story{see().unlisted(), see(bytes(1 << 29)).unlisted()}, []string{healthy, shrunk}},
		"Grown":            {"is no fault", []*story{see(), see(bytes(1 << 31))}, []string{healthy, healthy}},
		"NotReady":         {"no size is none that is smaller, and does not hide the one before", []*story{see(), see(bytes(0)), see(bytes(1 << 29))}, []string{healthy, healthy, shrunk}},
		"ShrunkenHalf":     {"half a look says nothing, and does not hide it", []*story{see(), see(bytes(1 << 29)).half(), see(bytes(1 << 29))}, []string{healthy, healthy, shrunk}},
		"Image":            {"an image that nobody lists is its owner's", []*story{see(virtual).unlisted(), see(virtual, bytes(1<<29)).unlisted()}, []string{healthy, healthy}},
		"ListedImage":      {"one that is listed is a disk", []*story{see(virtual), see(virtual, bytes(1<<29))}, []string{healthy, shrunk}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			status := &v1alpha1.ComputeNodeStatus{}
			for i, s := range tc.looks {
				status = report.Next(status, s.view)
				if got := states(status); got != tc.want[i] {
					t.Fatalf("look %d: got %q, want %q; reason: %s", i, got, tc.want[i], tc.reason)
				}
				if d := cmp.Diff(status, report.Next(status, s.view), cmpopts.EquateEmpty()); d != "" {
					t.Errorf("look %d: the same view makes another status: %s", i, d)
				}
				if end := report.NextEnd(status); !end.IsZero() {
					t.Errorf("look %d: a fault ends by itself at %s", i, end)
				}
			}
		})
	}
}

// The kernel's name of a disk is today's.
func TestReadOnlyEvidence(t *testing.T) {
	before := report.Next(&v1alpha1.ComputeNodeStatus{}, look(readOnly))
	after := report.Next(before, look(readOnly, func(d *inventory.Disk) { d.Device = "sdq" }))
	if got, want := after.Disks[0].Faults[0].Evidence, `sdq takes no writes (/sys/block/sdq/ro is 1); /etc/holdfast/disks.yaml lists it in group "data"`; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestShrunkenEvidence(t *testing.T) {
	before := report.Next(&v1alpha1.ComputeNodeStatus{}, look())
	after := report.Next(before, look(bytes(1<<29)))
	if got, want := after.Disks[0].Faults[0].Evidence, "dev-a has 536870912 bytes and had 1073741824: it was limited (HPA, DCO, firmware), or another one answers by its name"; got != want || after.Disks[0].SizeBytes != 1<<29 {
		t.Errorf("%q, %d bytes; want %q", got, after.Disks[0].SizeBytes, want)
	}
}

// The evidence against a disk that is missing says which one is in its slot, at
// once or later.
func TestSwapped(t *testing.T) {
	slots := func(disks ...inventory.Disk) inventory.Snapshot { return inventory.Snapshot{Disks: disks} }
	in := func(id, slot string) inventory.Disk {
		return inventory.Disk{ID: id, Device: "sdb", Serial: "S-" + id, Size: 1, Media: v1alpha1.MediaHDD, Slot: slot}
	}
	const bare = `no block device has this id; /etc/holdfast/disks.yaml lists it in group "data"`
	cases := map[string]struct {
		reason string
		disks  inventory.Snapshot
		want   string
	}{
		"Empty":     {"nothing is there", slots(), bare},
		"Swapped":   {"another one is there", slots(in("z", "bay 3")), bare + "; in slot bay 3 is now z (sdb, serial S-z), which it does not list"},
		"Elsewhere": {"another one is elsewhere", slots(in("z", "bay 4")), bare},
		"Listed":    {"one that is listed has its own place, two enclosures the same names", slots(in("b", "bay 3")), bare},
		"Two":       {"nobody can tell which", slots(in("y", "bay 3"), in("z", "bay 3")), bare + "; in slot bay 3 is now y (sdb, serial S-y) and z (sdb, serial S-z), which it does not list"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			file := prepared("a", "b")
			file.Disks[0].Slot = "bay 3"
			view := &report.View{Now: t0, Looked: true, Prepared: file, Settled: settled("a")}
			evidence := func(s *v1alpha1.ComputeNodeStatus) string { return s.Disks[0].Faults[0].Evidence }
			first := report.Next(&v1alpha1.ComputeNodeStatus{}, view)
			if got := evidence(first); got != bare {
				t.Errorf("before: %q", got)
			}
			view.Snapshot = tc.disks
			for what, prev := range map[string]*v1alpha1.ComputeNodeStatus{"at once": {}, "later": first} {
				if got := evidence(report.Next(prev, view)); got != tc.want {
					t.Errorf("%s: got %q, want %q; reason: %s", what, got, tc.want, tc.reason)
				}
			}
		})
	}
}

// What is there against the flavor is in the condition; who cannot look says nothing.
func TestFlavorCondition(t *testing.T) {
	flavor := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: []v1alpha1.FlavorDisks{{Name: "data", Role: v1alpha1.RoleStatic, Count: 1}}}}
	two := present("a", "b")
	two.System = []string{}
	root := two
	root.System = []string{"b"}
	unknown := two
	unknown.System = nil
	remote := two
	remote.Disks = []inventory.Disk{two.Disks[0], {ID: "rbd-p-i", Weak: true, Device: "rbd0", Media: v1alpha1.MediaHDD, Size: 1 << 30}}
	empty := present("a", "b")
	empty.System, empty.Disks[1].Size = []string{}, 0
	ro := present("a")
	ro.Disks[0].RO = true
	cases := map[string]struct {
		reason string
		disks  inventory.Snapshot
		file   *nodedisks.File
		want   string
	}{
		"Extra":     {"one that nobody asks for", two, prepared("a"), "True Satisfied 1 disk is not asked for by the flavor: b (dev-b)"},
		"Root":      {"the system's is none", root, prepared("a"), "True Satisfied "},
		"NoMounts":  {"which one is the system's is not known", unknown, prepared("a"), "True Satisfied "},
		"Listed":    {"disks.yaml says that it is the system's", two, &nodedisks.File{Disks: []nodedisks.Disk{{ID: "a", Group: "data"}, {ID: "b", Group: "root", Role: v1alpha1.RoleSystem}}}, "True Satisfied "},
		"Remote":    {"nor is a network's", remote, prepared("a"), "True Satisfied "},
		"NoSize":    {"nor is a card reader without a card", empty, prepared("a"), "True Satisfied "},
		"OnlyThat":  {"and it fills no group", inventory.Snapshot{Disks: empty.Disks[1:]}, prepared(), "False TooFewDisks group data has 0 of 1 disks"},
		"ReadOnly":  {"a disk that takes no writes", ro, prepared("a"), "False ReadOnlyDisks group data has 0 of 1 disks; 1 disk is read-only: a (dev-a)"},
		"Unlisted":  {"before node preparation too", ro, prepared(), "False ReadOnlyDisks group data has 0 of 1 disks; 1 disk is read-only: a (dev-a)"},
		"HalfALook": {"what is read says nothing of the rest", inventory.Snapshot{Disks: ro.Disks, Err: errors.New("x")}, prepared("a"), "Unknown InventoryUnread the disks could not be listed"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			next := report.Next(&v1alpha1.ComputeNodeStatus{}, &report.View{Now: t0, Looked: true, Snapshot: tc.disks, Prepared: tc.file, Settled: settled(""), Flavor: flavor, FlavorRead: true})
			c := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionFlavorSatisfied)
			if got := strings.Join([]string{string(c.Status), c.Reason, c.Message}, " "); got != tc.want {
				t.Errorf("got %q, want %q; reason: %s", got, tc.want, tc.reason)
			}
		})
	}
}
