package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
)

func TestExplain(t *testing.T) {
	now := time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	since, reported := ago(20*time.Minute), ago(5*time.Second)
	node := &v1alpha1.ComputeNode{
		ObjectMeta: metav1.ObjectMeta{Name: "n1"},
		Spec:       v1alpha1.ComputeNodeSpec{Quarantine: []v1alpha1.Quarantine{{Disk: "naa.1", Reason: "Failed", By: v1alpha1.QuarantinedByController, Since: ago(19 * time.Minute)}}},
		Status: v1alpha1.ComputeNodeStatus{ReportTime: &reported, Conditions: []metav1.Condition{
			{Type: v1alpha1.ConditionHealthRead, Status: metav1.ConditionFalse, Message: "naa.2 since 02:00: the disk does not answer"},
		}},
	}
	ends := ago(-5 * time.Minute)
	d := showDisk("east", node, v1alpha1.Disk{
		ID: "naa.1", Device: "sdc", Model: "M", Serial: "S", Media: v1alpha1.MediaHDD, SizeBytes: 1 << 40, Slot: "bay 3", Group: "data", State: v1alpha1.DiskFailed, Since: &since,
		Faults:  []v1alpha1.Fault{{Class: v1alpha1.FaultSMART, Severity: v1alpha1.SeverityCritical, Count: 1, FirstSeen: ago(20 * time.Minute), LastSeen: ago(10 * time.Minute), Evidence: "pending sectors: 3"}, {Class: v1alpha1.FaultLink, Severity: v1alpha1.SeverityWarning, Count: 4, FirstSeen: ago(9 * time.Minute), LastSeen: ago(5 * time.Minute), Until: &ends, Evidence: "hard resetting link"}},
		Volumes: []v1alpha1.DiskVolume{{PersistentVolume: "pv-1", Claim: "db/rows", PartitionUUID: "u"}},
	})
	d.Repairs = []fleetRepair{{Name: "r1", Created: now.Add(-18 * time.Minute), Status: v1alpha1.RemediationStatus{Phase: v1alpha1.PhaseRunning, Step: v1alpha1.StepAwaitReplacement, Message: "waiting for another disk in bay 3"}}}
	d.Next = whatNext(&d)
	var out bytes.Buffer
	if err := explain(&out, []shownDisk{d}, now); err != nil {
		t.Fatal(err)
	}
	want := `disk      naa.1
node      n1 in cluster east
state     Failed for 20m
reported  5s ago
not read  HealthRead: naa.2 since 02:00: the disk does not answer
device    sdc
slot      bay 3
drive     M, serial S, hdd, 1Ti
group     data
evidence  Critical SMART ×1, 10m ago, first 20m ago
            pending sectors: 3
evidence  Warning Link ×4, 5m ago, first 9m ago, ends in 5m unless there is more
            hard resetting link
volume    pv-1, claim db/rows, partition u
closed    by remediation-controller for 19m (Failed)
repair    r1 Running, begun 18m ago: waiting for another disk in bay 3
next      repair r1 is at AwaitReplacement: waiting for another disk in bay 3
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestWhatNext(t *testing.T) {
	finished, at := metav1.Now(), time.Date(2026, 11, 26, 3, 0, 0, 0, time.UTC)
	degraded := func(faults ...v1alpha1.Fault) shownDisk {
		return shownDisk{Disk: v1alpha1.Disk{State: v1alpha1.DiskDegraded, Faults: faults}}
	}
	warning := func(class v1alpha1.FaultClass, ends time.Duration) v1alpha1.Fault {
		f := v1alpha1.Fault{Class: class, Severity: v1alpha1.SeverityWarning, LastSeen: metav1.NewTime(at)}
		if ends > 0 {
			f.Until = &metav1.Time{Time: at.Add(ends)}
		}
		return f
	}
	closed := func(by string) *v1alpha1.Quarantine { return &v1alpha1.Quarantine{By: by} }
	for want, d := range map[string]shownDisk{
		"nothing":           {Disk: v1alpha1.Disk{State: v1alpha1.DiskHealthy}},
		"nothing is closed": {Disk: v1alpha1.Disk{State: v1alpha1.DiskDegraded}},
		"nothing is closed; the last of its faults ends at 2026-11-26T03:10:00Z unless there is more":                                         degraded(warning(v1alpha1.FaultLink, 10*time.Minute), warning(v1alpha1.FaultATA, 5*time.Minute)),
		"nothing is closed; the last of its faults ends at 2026-11-27T03:00:00Z unless":                                                       degraded(warning(v1alpha1.FaultLink, 10*time.Minute), warning(v1alpha1.FaultATA, 0)), // of a monitor that did not say
		"nothing is closed; what its SMART data say ends when they are good":                                                                  degraded(warning(v1alpha1.FaultSMART, 0)),
		"nothing is closed; the last of its faults ends at 2026-11-26T03:10:00Z unless there is more; what its SMART data say ends when they": degraded(warning(v1alpha1.FaultLink, 10*time.Minute), warning(v1alpha1.FaultSMART, 0)),
		"nothing is closed; Network ends when disks.yaml lists the disk no more":                                                              degraded(warning(v1alpha1.FaultNetwork, 0)),
		"it stays closed until it is Healthy or replaced; no repair is open (the policy has no rule for it, the budget has no room, or one has ended); Flapping ends at 2026-11-26T03:10:00Z unless it goes": {
			Disk: v1alpha1.Disk{State: v1alpha1.DiskFailed, Faults: []v1alpha1.Fault{warning(v1alpha1.FaultFlapping, 10*time.Minute)}}, Quarantine: closed(v1alpha1.QuarantinedByController)},
		"nothing is concluded":              {Disk: v1alpha1.Disk{State: v1alpha1.DiskUnknown}},
		"it is closed to new claims":        {Disk: v1alpha1.Disk{State: v1alpha1.DiskMissing}},
		"it stays closed until ann opens":   {Disk: v1alpha1.Disk{State: v1alpha1.DiskHealthy}, Quarantine: closed("ann")},
		"it is opened to new claims again":  {Disk: v1alpha1.Disk{State: v1alpha1.DiskHealthy}, Quarantine: closed(v1alpha1.QuarantinedByController)},
		"it stays closed until it is Healt": {Disk: v1alpha1.Disk{State: v1alpha1.DiskFailed}, Quarantine: closed(v1alpha1.QuarantinedByController), Repairs: []fleetRepair{{Status: v1alpha1.RemediationStatus{FinishedAt: &finished}}}},
		"repair r is at Pending":            {Repairs: []fleetRepair{{Name: "r", Status: v1alpha1.RemediationStatus{Step: "Pending"}}}},
	} {
		if got := whatNext(&d); !strings.HasPrefix(got, want) {
			t.Errorf("got %q, want %q…", got, want)
		}
	}
}
