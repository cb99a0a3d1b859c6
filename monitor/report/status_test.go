package report_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/monitor/inventory"
	"holdfast.dev/monitor/report"
)

var t0 = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func prepared(ids ...string) *nodedisks.File {
	f := &nodedisks.File{}
	for _, id := range ids {
		f.Disks = append(f.Disks, nodedisks.Disk{ID: id, Group: "data", Partitions: []nodedisks.Partition{{UUID: "uuid-" + id}}})
	}
	return f
}

func present(ids ...string) inventory.Snapshot {
	var s inventory.Snapshot
	for _, id := range ids {
		s.Disks = append(s.Disks, inventory.Disk{ID: id, Device: "dev-" + id, Media: v1alpha1.MediaSSD, Size: 1 << 30, Slot: "slot"})
	}
	return s
}

func fault(class v1alpha1.FaultClass, sev v1alpha1.Severity, age time.Duration) v1alpha1.Fault {
	at := metav1.NewTime(t0.Add(-age))
	return v1alpha1.Fault{Class: class, Severity: sev, FirstSeen: at, LastSeen: at, Count: 1, Evidence: "line"}
}

func states(s *v1alpha1.ComputeNodeStatus) string {
	var out []string
	for _, d := range s.Disks {
		line := d.ID + "=" + string(d.State)
		for _, f := range d.Faults {
			line += "+" + string(f.Class)
		}
		out = append(out, line)
	}
	return strings.Join(out, " ")
}

func settled(ids string) func(string) bool {
	return func(id string) bool { return strings.Contains(ids, id) }
}

func TestNext(t *testing.T) {
	disk := func(id string, state v1alpha1.DiskState, faults ...v1alpha1.Fault) v1alpha1.Disk {
		return v1alpha1.Disk{ID: id, Device: "dev-" + id, Group: "data", State: state, Faults: faults}
	}
	missing := fault(v1alpha1.FaultMissing, v1alpha1.SeverityCritical, time.Hour)
	medium := fault(v1alpha1.FaultMedium, v1alpha1.SeverityCritical, time.Hour)
	link := fault(v1alpha1.FaultLink, v1alpha1.SeverityWarning, time.Hour)
	quarantine := &v1alpha1.ComputeNode{Spec: v1alpha1.ComputeNodeSpec{Quarantine: []v1alpha1.Quarantine{{Disk: "a"}}}}
	replace := &v1alpha1.ComputeNode{Spec: v1alpha1.ComputeNodeSpec{Replacements: []v1alpha1.ReplacementRequest{{Disk: "a"}}}}
	annotated := func(v string) *v1alpha1.ComputeNode {
		return &v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationClearFaults: v}}}
	}
	cases := map[string]struct {
		reason string
		prev   []v1alpha1.Disk
		view   report.View
		want   string
	}{
		"First":         {"what is there, and what must be", nil, report.View{Snapshot: present("a"), Prepared: prepared("a", "b")}, "a=Healthy b=Unknown"},
		"Missing":       {"absent and settled", []v1alpha1.Disk{disk("b", "Healthy")}, report.View{Snapshot: present("a"), Prepared: prepared("a", "b"), Settled: settled("b")}, "a=Healthy b=Missing+Missing"},
		"Back":          {"a disk that is back is not missing", []v1alpha1.Disk{disk("a", "Missing", missing)}, report.View{Snapshot: present("a"), Prepared: prepared("a")}, "a=Healthy"},
		"BackFailed":    {"what its own log said stays", []v1alpha1.Disk{disk("a", "Missing", medium, missing)}, report.View{Snapshot: present("a"), Prepared: prepared("a")}, "a=Failed+Medium"},
		"Unreadable":    {"unreadable is Unknown, never Missing", []v1alpha1.Disk{disk("a", "Healthy")}, report.View{Snapshot: inventory.Snapshot{Err: errors.New("x")}, Prepared: prepared("a"), Settled: settled("a")}, "a=Unknown"},
		"UnreadableBad": {"and evidence stays evidence", []v1alpha1.Disk{disk("a", "Failed", medium)}, report.View{Snapshot: inventory.Snapshot{Err: errors.New("x")}, Prepared: prepared("a"), Settled: settled("a")}, "a=Failed+Medium"},
		"BadDisksFile":  {"a disks.yaml that cannot be read removes nobody", []v1alpha1.Disk{disk("a", "Healthy")}, report.View{PreparedErr: errors.New("x"), Settled: settled("a")}, "a=Unknown"},
		"NoDisksFile":   {"after a restart without disks.yaml, the stored group says that the disk is required", []v1alpha1.Disk{disk("a", "Healthy")}, report.View{Settled: settled("a")}, "a=Missing+Missing"},
		"Left":          {"a disk that nobody asks for leaves", []v1alpha1.Disk{disk("a", "Failed", medium)}, report.View{Prepared: prepared(), Settled: settled("a")}, ""},
		"LeavesSettled": {"but not by a blink, which would forget its faults", []v1alpha1.Disk{disk("a", "Failed", medium)}, report.View{Prepared: prepared()}, "a=Failed+Medium"},
		"Quarantined":   {"while quarantine names it, this is its record", []v1alpha1.Disk{disk("a", "Failed", medium)}, report.View{Prepared: prepared(), Settled: settled("a"), Node: quarantine}, "a=Missing+Medium+Missing"},
		"Replacement":   {"so while it is to be replaced", []v1alpha1.Disk{disk("a", "Missing", missing)}, report.View{Prepared: prepared(), Settled: settled("a"), Node: replace}, "a=Missing+Missing"},
		"Replaced":      {"the new disk has no part in the old one's faults", []v1alpha1.Disk{disk("a", "Failed", medium)}, report.View{Snapshot: present("b"), Prepared: prepared("b"), Settled: settled("a")}, "b=Healthy"},
		"Degraded":      {"a warning", []v1alpha1.Disk{disk("a", "Healthy", link)}, report.View{Snapshot: present("a")}, "a=Degraded+Link"},
		"Old":           {"a warning does not count for ever", []v1alpha1.Disk{disk("a", "Degraded", fault(v1alpha1.FaultLink, v1alpha1.SeverityWarning, 25*time.Hour))}, report.View{Snapshot: present("a")}, "a=Healthy"},
		"OldCritical":   {"a critical fault does", []v1alpha1.Disk{disk("a", "Failed", fault(v1alpha1.FaultMedium, v1alpha1.SeverityCritical, 9999*time.Hour))}, report.View{Snapshot: present("a")}, "a=Failed+Medium"},
		"Cleared":       {"an operator may clear it", []v1alpha1.Disk{disk("a", "Failed", medium), disk("b", "Failed", medium)}, report.View{Snapshot: present("a", "b"), Node: annotated("a@2026-01-02T03:00:00Z")}, "a=Healthy b=Failed+Medium"},
		"ClearedBefore": {"but not what came after", []v1alpha1.Disk{disk("a", "Failed", medium)}, report.View{Snapshot: present("a"), Node: annotated("a@2026-01-02T02:04:05Z")}, "a=Failed+Medium"},
		"ClearNonsense": {"without a time, nothing is cleared", []v1alpha1.Disk{disk("a", "Failed", medium)}, report.View{Snapshot: present("a"), Node: annotated("a")}, "a=Failed+Medium"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.view.Now, tc.view.Looked = t0, true
			if tc.view.Settled == nil {
				tc.view.Settled = settled("")
			}
			prev := &v1alpha1.ComputeNodeStatus{Disks: tc.prev}
			before := prev.DeepCopy()
			next := report.Next(prev, &tc.view)
			if got := states(next); got != tc.want {
				t.Errorf("got %q, want %q; reason: %s", got, tc.want, tc.reason)
			}
			if d := cmp.Diff(before, prev); d != "" {
				t.Errorf("prev was changed: %s", d)
			}
			tc.view.Now = t0.Add(time.Second)
			if d := cmp.Diff(next, report.Next(next, &tc.view)); d != "" {
				t.Errorf("the same view makes another status, which would be written for nothing: %s", d)
			}
		})
	}
}

func TestNextBeforeTheFirstLook(t *testing.T) {
	next := report.Next(&v1alpha1.ComputeNodeStatus{Disks: []v1alpha1.Disk{{ID: "a", State: v1alpha1.DiskHealthy}}}, &report.View{Now: t0, Settled: settled("a"), Prepared: prepared("a")})
	if got := states(next); got != "a=Unknown" || next.State != v1alpha1.DiskUnknown {
		t.Errorf("got %q, node %s", got, next.State)
	}
}

func TestSummary(t *testing.T) {
	prev := &v1alpha1.ComputeNodeStatus{Disks: []v1alpha1.Disk{
		{ID: "a", Faults: []v1alpha1.Fault{fault(v1alpha1.FaultLink, v1alpha1.SeverityWarning, 0)}},
		{ID: "b", Faults: []v1alpha1.Fault{fault(v1alpha1.FaultMedium, v1alpha1.SeverityCritical, 0)}},
		{ID: "d", Faults: []v1alpha1.Fault{fault(v1alpha1.FaultLink, v1alpha1.SeverityWarning, 0)}},
	}}
	next := report.Next(prev, &report.View{Now: t0, Looked: true, Snapshot: present("a", "b", "c", "d"), Settled: settled("")})
	if next.State != v1alpha1.DiskFailed || next.DiskCount != 4 || next.BadDiskCount != 3 {
		t.Errorf("state %s, %d disks, %d bad", next.State, next.DiskCount, next.BadDiskCount)
	}
	if want := "b (dev-b) Failed: Medium; a (dev-a) Degraded: Link; and 1 more"; next.Summary != want {
		t.Errorf("summary %q, want %q", next.Summary, want)
	}
}

func TestConditions(t *testing.T) {
	flavor := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: []v1alpha1.FlavorDisks{{Name: "data", Count: 2}}}}
	cases := map[string]struct {
		reason string
		view   report.View
		want   map[string]string
	}{
		"Good":      {"all is read", report.View{Looked: true, LogRead: true, Snapshot: present("a", "b"), Flavor: flavor}, map[string]string{"InventoryRead": "True Read", "KernelLogRead": "True Read", "FlavorSatisfied": "True Satisfied"}},
		"TooFew":    {"one disk is lacking", report.View{Looked: true, LogRead: true, Snapshot: present("a"), Flavor: flavor}, map[string]string{"InventoryRead": "True Read", "KernelLogRead": "True Read", "FlavorSatisfied": "False TooFewDisks"}},
		"Blind":     {"nothing is said of what cannot be seen", report.View{Looked: true, LogErr: errors.New("no"), Snapshot: inventory.Snapshot{Err: errors.New("x")}, Flavor: flavor}, map[string]string{"InventoryRead": "False Unreadable", "KernelLogRead": "False Unreadable", "FlavorSatisfied": "Unknown InventoryUnread"}},
		"Start":     {"not looked yet", report.View{}, map[string]string{"InventoryRead": "Unknown Starting", "KernelLogRead": "Unknown Starting"}},
		"NoFlavor":  {"a flavor that does not exist", report.View{Looked: true, LogRead: true, FlavorErr: errors.New("none")}, map[string]string{"InventoryRead": "True Read", "KernelLogRead": "True Read", "FlavorSatisfied": "Unknown FlavorUnknown"}},
		"DisksFile": {"disks.yaml is part of the inventory", report.View{Looked: true, LogRead: true, PreparedErr: errors.New("none")}, map[string]string{"InventoryRead": "False Unreadable", "KernelLogRead": "True Read"}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.view.Now, tc.view.Settled, tc.view.FlavorRead = t0, settled(""), true
			next := report.Next(&v1alpha1.ComputeNodeStatus{}, &tc.view)
			got := map[string]string{}
			for _, c := range next.Conditions {
				got[c.Type] = string(c.Status) + " " + c.Reason
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("%s; reason: %s", d, tc.reason)
			}
			later := tc.view
			later.Now = t0.Add(time.Hour)
			again := report.Next(next, &later)
			if c := meta.FindStatusCondition(again.Conditions, "InventoryRead"); !c.LastTransitionTime.Time.Equal(t0) {
				t.Errorf("transition at %s", c.LastTransitionTime)
			}
		})
	}
}

// What a restart has not read yet must not look as if it had gone: the
// quarantine of a volume hangs on its disk.
func TestNextKeepsWhatIsNotReadYet(t *testing.T) {
	prev := &v1alpha1.ComputeNodeStatus{
		Disks: []v1alpha1.Disk{{ID: "a", State: v1alpha1.DiskHealthy, Volumes: []v1alpha1.DiskVolume{{PartitionUUID: "u", PersistentVolume: "pv"}}}},
		Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionKernelLogRead, Status: metav1.ConditionTrue, Reason: "Read"},
			{Type: v1alpha1.ConditionFlavorSatisfied, Status: metav1.ConditionFalse, Reason: "TooFewDisks"},
		},
	}
	next := report.Next(prev, &report.View{Now: t0, Looked: true, Snapshot: present("a"), Settled: settled("")})
	if d := cmp.Diff(prev.Disks[0].Volumes, next.Disks[0].Volumes); d != "" {
		t.Errorf("volumes: %s", d)
	}
	for _, c := range prev.Conditions {
		if d := cmp.Diff(&c, meta.FindStatusCondition(next.Conditions, c.Type)); d != "" {
			t.Error(d)
		}
	}
}

func TestVolumes(t *testing.T) {
	view := report.View{Now: t0, Looked: true, Snapshot: present("a", "b"), Prepared: prepared("a", "b"), Settled: settled(""), VolumesRead: true, Volumes: []report.Volume{
		{Name: "pv-1", PartitionUUID: "uuid-a", Disk: "a", Claim: "ns/c"},
		{Name: "pv-2", PartitionUUID: "other", Disk: "b"},
		{Name: "pv-3", PartitionUUID: "elsewhere", Disk: "gone"},
	}}
	next := report.Next(&v1alpha1.ComputeNodeStatus{}, &view)
	got := map[string][]v1alpha1.DiskVolume{}
	for _, d := range next.Disks {
		got[d.ID] = d.Volumes
	}
	want := map[string][]v1alpha1.DiskVolume{
		"a": {{PartitionUUID: "uuid-a", PersistentVolume: "pv-1", Claim: "ns/c"}},
		"b": {{PartitionUUID: "other", PersistentVolume: "pv-2"}, {PartitionUUID: "uuid-b"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

func TestAddFault(t *testing.T) {
	d := &v1alpha1.Disk{}
	at := func(s int) metav1.Time { return metav1.NewTime(t0.Add(time.Duration(s) * time.Second)) }
	add := func(sev v1alpha1.Severity, first, last int, n int64, ev string) {
		report.AddFault(d, v1alpha1.Fault{Class: "SCSI", Severity: sev, FirstSeen: at(first), LastSeen: at(last), Count: n, Evidence: ev})
	}
	add(v1alpha1.SeverityWarning, 10, 20, 2, "w1")
	add(v1alpha1.SeverityCritical, 15, 30, 3, "c1")
	add(v1alpha1.SeverityWarning, 5, 8, 1, "w2")
	report.AddFault(d, v1alpha1.Fault{Class: "BlockIO", Severity: v1alpha1.SeverityWarning})
	want := []v1alpha1.Fault{{Class: "BlockIO", Severity: "Warning"}, {Class: "SCSI", Severity: "Critical", FirstSeen: at(5), LastSeen: at(30), Count: 6, Evidence: "c1"}}
	if diff := cmp.Diff(want, d.Faults); diff != "" {
		t.Error(diff)
	}
}

// A node's clock was years ahead when a fault was seen, and was set right: the fault stood until then, and
// what an operator cleared came back as never cleared.
func TestClockSetBack(t *testing.T) {
	ahead := func(class v1alpha1.FaultClass, severity v1alpha1.Severity, until time.Duration) v1alpha1.Fault {
		f := fault(class, severity, -4*365*24*time.Hour)
		if until > 0 {
			f.Until = &metav1.Time{Time: f.LastSeen.Add(until)}
		}
		return f
	}
	prev := &v1alpha1.ComputeNodeStatus{Disks: []v1alpha1.Disk{
		{ID: "a", State: v1alpha1.DiskDegraded, Faults: []v1alpha1.Fault{ahead(v1alpha1.FaultLink, v1alpha1.SeverityWarning, 10*time.Minute)}},
		{ID: "b", State: v1alpha1.DiskFailed, Faults: []v1alpha1.Fault{ahead(v1alpha1.FaultMedium, v1alpha1.SeverityCritical, 0)}},
	}}
	view := report.View{Now: t0, Looked: true, Settled: settled(""), Snapshot: present("a", "b")}
	next := report.Next(prev, &view)
	if got, want := states(next), "a=Degraded+Link b=Failed+Medium"; got != want {
		t.Fatalf("got %q, want %q", got, want)
	}
	if end := report.NextEnd(next); !end.Equal(t0.Add(10 * time.Minute)) {
		t.Errorf("the warning ends at %s", end)
	}
	view.Now = t0.Add(10 * time.Minute)
	view.Node = &v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{v1alpha1.AnnotationClearFaults: "b@" + view.Now.Format(time.RFC3339)}}}
	if got, want := states(report.Next(next, &view)), "a=Healthy b=Healthy"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}
