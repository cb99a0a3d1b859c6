package report_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/monitor/inventory"
	"holdfast.dev/monitor/report"
)

// remote is a look at a host to which a network leads the disk that would be a.
func remote(id string) inventory.Snapshot {
	s := present("b")
	s.Disks = append(s.Disks, inventory.Disk{ID: id, Weak: true, Device: "sdx", Media: v1alpha1.MediaVirtual, Size: 1 << 30, Network: "iSCSI", Told: "a"})
	s.System = []string{}
	return s
}

// A disk of a network that disks.yaml lists by the id of a drive was Missing, and its volumes were
// closed: it is there. It says why it is no disk of the node, for as long as that is so.
func TestListedDiskIsOverNetwork(t *testing.T) {
	const id = "iscsi-iqn-lun-1"
	was := v1alpha1.Disk{ID: "a", Device: "sda", Group: "data", State: v1alpha1.DiskMissing, Faults: []v1alpha1.Fault{fault(v1alpha1.FaultMissing, v1alpha1.SeverityCritical, time.Hour)}}
	noted := v1alpha1.Disk{ID: "a", Device: "sdx", Group: "data", State: v1alpha1.DiskDegraded, Faults: []v1alpha1.Fault{fault(v1alpha1.FaultNetwork, v1alpha1.SeverityWarning, 48*time.Hour)}}
	unlisted := was
	unlisted.Group, unlisted.State, unlisted.Faults = "", v1alpha1.DiskHealthy, nil
	gone, half, blind := present("b"), remote(id), present("b")
	half.Err, blind.Err = errors.New("half"), errors.New("half")
	both := remote(id)
	both.Disks = append(present("a").Disks, both.Disks...)
	const rest = " b=Healthy "
	for name, tc := range map[string]struct {
		reason  string
		prev    []v1alpha1.Disk
		look    inventory.Snapshot
		file    *nodedisks.File
		settled string
		want    string
		node    *v1alpha1.ComputeNode
	}{
		"There":       {"it is not missing", nil, remote(id), prepared("a"), "a", "a=Degraded+Network" + rest + id + "=Healthy", nil},
		"WasGone":     {"nor is it any more", []v1alpha1.Disk{was}, remote(id), prepared("a"), "a", "a=Degraded+Network" + rest + id + "=Healthy", nil},
		"Days":        {"for days", []v1alpha1.Disk{noted}, remote(id), prepared("a"), "", "a=Degraded+Network" + rest + id + "=Healthy", nil},
		"Half":        {"what is read is there", []v1alpha1.Disk{was}, half, prepared("a"), "a", "a=Degraded+Network b=Healthy " + id + "=Healthy", nil},
		"Gone":        {"it goes as any other does", []v1alpha1.Disk{noted}, gone, prepared("a"), "a", "a=Missing+Missing b=Healthy", nil},
		"Blink":       {"and not by a blink", []v1alpha1.Disk{noted}, gone, prepared("a"), "", "a=Degraded b=Healthy", nil},
		"Blind":       {"who cannot look concludes nothing", []v1alpha1.Disk{noted}, blind, prepared("a"), "a", "a=Degraded+Network b=Healthy", nil},
		"Replaced":    {"its place is another's: the drive that it was taken for has left", []v1alpha1.Disk{noted}, remote(id), prepared("b"), "", "b=Healthy " + id + "=Healthy", nil},
		"Quarantined": {"while quarantine names it, this is its record", []v1alpha1.Disk{noted}, remote(id), prepared("b"), "", "a=Degraded+Network b=Healthy " + id + "=Healthy", &v1alpha1.ComputeNode{Spec: v1alpha1.ComputeNodeSpec{Quarantine: []v1alpha1.Quarantine{{Disk: "a"}}}}},
		"NotListed":   {"so has one that nobody lists", []v1alpha1.Disk{unlisted}, remote(id), prepared("b"), "", "b=Healthy " + id + "=Healthy", nil},
		"Drive":       {"a drive of the node has the id: it is that", []v1alpha1.Disk{noted}, both, prepared("a"), "", "a=Healthy b=Healthy " + id + "=Healthy", nil},
	} {
		t.Run(name, func(t *testing.T) {
			view := &report.View{Now: t0, Looked: true, Snapshot: tc.look, Prepared: tc.file, Settled: settled(tc.settled), Node: tc.node}
			next := report.Next(&v1alpha1.ComputeNodeStatus{Disks: tc.prev}, view)
			if got := states(next); got != tc.want {
				t.Fatalf("got %q, want %q; reason: %s", got, tc.want, tc.reason)
			}
			if at := report.NextEnd(next); !at.IsZero() {
				t.Errorf("it ends by itself at %s", at)
			}
			if !strings.Contains(tc.want, "Network") || strings.Contains(name, "Blind") {
				return
			}
			f := next.Disks[0].Faults[0]
			listed := nodedisks.Path + ` lists it in group "data"`
			if tc.node != nil {
				listed = "quarantine or a replacement names it"
			}
			for _, part := range []string{"iSCSI", id, "sdx", listed, "--replace"} {
				if !strings.Contains(f.Evidence, part) {
					t.Errorf("the evidence lacks %s: %s", part, f.Evidence)
				}
			}
			if next.Disks[0].Device != "sdx" || f.Severity != v1alpha1.SeverityWarning {
				t.Errorf("%+v", next.Disks[0])
			}
		})
	}
}

// What the log says of a network has an end; what is above has none.
func TestFaultOfNetworkEnds(t *testing.T) {
	until := metav1.NewTime(t0.Add(time.Hour))
	f := fault(v1alpha1.FaultNetwork, v1alpha1.SeverityWarning, 0)
	f.Until = &until
	s := &v1alpha1.ComputeNodeStatus{Disks: []v1alpha1.Disk{{ID: "iscsi-x", Weak: true, Faults: []v1alpha1.Fault{f}}}}
	look := inventory.Snapshot{Disks: []inventory.Disk{{ID: "iscsi-x", Weak: true, Network: "iSCSI"}}}
	view := &report.View{Now: t0, Looked: true, Snapshot: look, Prepared: prepared(), Settled: settled("")}
	if s = report.Next(s, view); states(s) != "iscsi-x=Degraded+Network" || !report.NextEnd(s).Equal(until.Time) {
		t.Errorf("%s until %s", states(s), report.NextEnd(s))
	}
	view.Now = until.Time
	if s = report.Next(s, view); states(s) != "iscsi-x=Healthy" {
		t.Errorf("after its end: %s", states(s))
	}
}

// What node preparation does not take counts for no flavor.
func TestFlavorOverNetwork(t *testing.T) {
	flavor := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: []v1alpha1.FlavorDisks{{Name: "data", Role: v1alpha1.RoleStatic, Count: 1}}}}
	moved := remote("iscsi-x")
	moved.Disks = moved.Disks[1:]
	fc := present("a")
	fc.Disks[0].Network, fc.System = "Fibre Channel", []string{}
	groupless := prepared("a")
	groupless.Disks[0].Group = ""
	for name, tc := range map[string]struct {
		look inventory.Snapshot
		file *nodedisks.File
		want string
	}{
		"ByDrive":      {moved, prepared("a"), "group data has 0 of 1 disks"},
		"FibreChannel": {fc, prepared(), "group data has 0 of 1 disks"},
		"TakenBefore":  {fc, prepared("a"), ""},
		"NoGroup":      {fc, groupless, "group data has 0 of 1 disks"},
	} {
		next := report.Next(&v1alpha1.ComputeNodeStatus{}, &report.View{Now: t0, Looked: true, Snapshot: tc.look, Prepared: tc.file, Settled: settled(""), Flavor: flavor, FlavorRead: true})
		if c := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionFlavorSatisfied); c.Message != tc.want {
			t.Errorf("%s: %q, want %q", name, c.Message, tc.want)
		}
	}
}

// The group of the host's own disk was short on a host that boots from a SAN.
func TestFlavorBootsFromNetwork(t *testing.T) {
	flavor := &v1alpha1.NodeFlavor{Spec: v1alpha1.NodeFlavorSpec{Disks: []v1alpha1.FlavorDisks{{Name: "system", Role: v1alpha1.RoleSystem, Count: 1}}}}
	look := present("a")
	look.Disks[0].Network, look.System = "Fibre Channel", []string{"a"}
	next := report.Next(&v1alpha1.ComputeNodeStatus{}, &report.View{Now: t0, Looked: true, Snapshot: look, Prepared: prepared(), Settled: settled(""), Flavor: flavor, FlavorRead: true})
	if c := meta.FindStatusCondition(next.Conditions, v1alpha1.ConditionFlavorSatisfied); c.Status != metav1.ConditionTrue {
		t.Errorf("%+v", c)
	}
}

// One NVMe disk without a controller made every disk of the node Unknown. It is of one disk that nothing is known.
func TestUnplaced(t *testing.T) {
	look := present("b")
	look.Unplaced = []string{"a", "nvmeof-x-ns-1"}
	prev := []v1alpha1.Disk{{ID: "a", Device: "nvme0n1", Group: "data", State: v1alpha1.DiskHealthy}, {ID: "c", Group: "data", State: v1alpha1.DiskHealthy}, {ID: "nvmeof-x-ns-1", Weak: true, State: v1alpha1.DiskHealthy}}
	next := report.Next(&v1alpha1.ComputeNodeStatus{Disks: prev}, &report.View{Now: t0, Looked: true, Snapshot: look, Prepared: prepared("a", "b", "c"), Settled: settled("a c nvmeof-x-ns-1")})
	if got, want := states(next), "a=Unknown b=Healthy c=Missing+Missing nvmeof-x-ns-1=Unknown"; got != want || next.Disks[0].Device != "nvme0n1" {
		t.Errorf("got %q, want %q", got, want)
	}
}

// While looks failed, a disk that was Missing was Unknown, and that it came back was no return.
func TestReturnedAfterFailedLooks(t *testing.T) {
	look := present("a")
	for state, want := range map[v1alpha1.DiskState]int{v1alpha1.DiskMissing: 1, v1alpha1.DiskUnknown: 1} {
		prev := &v1alpha1.ComputeNodeStatus{Disks: []v1alpha1.Disk{{ID: "a", State: state, Faults: []v1alpha1.Fault{fault(v1alpha1.FaultMissing, v1alpha1.SeverityCritical, time.Hour)}}}}
		if got := report.Returned(prev, &look, t0); len(got) != want {
			t.Errorf("%s: %d returns, want %d", state, len(got), want)
		}
	}
}
