package nodestatus_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/remediation/nodestatus"
)

var now = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func at(d time.Duration) *metav1.Time { t := metav1.NewTime(now.Add(d)); return &t }

func TestCondition(t *testing.T) {
	status := func(state v1alpha1.DiskState, age time.Duration) *v1alpha1.ComputeNode {
		return &v1alpha1.ComputeNode{Status: v1alpha1.ComputeNodeStatus{State: state, Summary: "d Failed: Medium", DiskCount: 3, ReportTime: at(-age)}}
	}
	blind := status(v1alpha1.DiskUnknown, 0)
	blind.Status.Conditions = []metav1.Condition{{Type: v1alpha1.ConditionInventoryRead, Status: metav1.ConditionFalse, Message: "list disks: no sysfs"}}
	cases := map[string]struct {
		reason string
		cn     *v1alpha1.ComputeNode
		want   string
	}{
		"Healthy":  {"nothing speaks against any disk", status(v1alpha1.DiskHealthy, 0), "True DisksHealthy 3 disks, nothing speaks against them, until 15m0s"},
		"Degraded": {"warnings are no health", status(v1alpha1.DiskDegraded, 0), "False DiskDegraded d Failed: Medium, until 15m0s"},
		"Failed":   {"the summary says which disk", status(v1alpha1.DiskFailed, time.Minute), "False DiskFailed d Failed: Medium, until 14m0s"},
		"Missing":  {"a disk is not there", status(v1alpha1.DiskMissing, 0), "False DiskMissing d Failed: Medium, until 15m0s"},
		"Unknown":  {"absence of an answer is no health, and why is told", blind, "Unknown DisksUnread list disks: no sysfs, until 15m0s"},
		"Stale":    {"a monitor that has died says nothing any more, bad or good", status(v1alpha1.DiskHealthy, 15*time.Minute), "Unknown NotReporting disk-monitor has not reported since 2026-05-01T11:45:00Z"},
		"Gone":     {"a ComputeNode that was deleted proves nothing", nil, "Unknown NotReporting there is no ComputeNode of this name"},
		"Never":    {"a node that is not watched has no condition", &v1alpha1.ComputeNode{}, "none"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := "none"
			if c, until, ok := nodestatus.Condition(tc.cn, now); ok {
				got = fmt.Sprintf("%s %s %s", c.Status, c.Reason, c.Message)
				if !until.IsZero() {
					got += fmt.Sprintf(", until %s", until.Sub(now))
				}
				if c.Type != nodestatus.ConditionType || c.Type == corev1.NodeReady {
					t.Errorf("type %s", c.Type)
				}
			}
			if got != tc.want {
				t.Errorf("got  %s\nwant %s\nreason: %s", got, tc.want, tc.reason)
			}
		})
	}
}

func TestNotices(t *testing.T) {
	disk := func(state v1alpha1.DiskState, age time.Duration) v1alpha1.Disk {
		return v1alpha1.Disk{
			ID: "d", Device: "sda", Slot: "7", State: state, Since: at(-age), Volumes: []v1alpha1.DiskVolume{{PersistentVolume: "pv", Claim: "db/data-0"}, {}},
			Faults: []v1alpha1.Fault{{Class: v1alpha1.FaultLink, Severity: v1alpha1.SeverityWarning, LastSeen: *at(0)}, {Class: v1alpha1.FaultMedium, Severity: v1alpha1.SeverityCritical, LastSeen: *at(-time.Hour), Evidence: "sector 8"}},
		}
	}
	notices := func(when time.Time, d v1alpha1.Disk) []nodestatus.Notice {
		cn := &v1alpha1.ComputeNode{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Status: v1alpha1.ComputeNodeStatus{Disks: []v1alpha1.Disk{d}}}
		return nodestatus.Notices(cn, "uid", when)
	}
	got := notices(now, disk(v1alpha1.DiskFailed, 0))
	if len(got) != 1 || got[0].Reason != "DiskFailed" || got[0].Message != `disk d (sda, 7) of node n is Failed: Medium: "sector 8"; claims with data on it: db/data-0` {
		t.Fatalf("got %+v", got)
	}
	name := got[0].Name
	if again := notices(now.Add(time.Minute), disk(v1alpha1.DiskFailed, 0)); again[0].Name != name {
		t.Error("the same fact has another name a minute later")
	}
	if flap := notices(now.Add(5*time.Minute), disk(v1alpha1.DiskFailed, -5*time.Minute)); flap[0].Name != name {
		t.Error("a disk that has failed twice within ten minutes is told of twice")
	}
	if other := notices(now, disk(v1alpha1.DiskDegraded, 0)); other[0].Name == name {
		t.Error("another state is not told of")
	}
	if later := notices(now.Add(10*time.Minute), disk(v1alpha1.DiskFailed, -10*time.Minute)); later[0].Name == name {
		t.Error("the next failure is not told of")
	}
	if old := notices(now, disk(v1alpha1.DiskFailed, 10*time.Minute)); len(old) != 0 {
		t.Errorf("an Event that the API server may have forgotten is made again: %+v", old)
	}
	for _, state := range []v1alpha1.DiskState{v1alpha1.DiskHealthy, v1alpha1.DiskUnknown} {
		if got := notices(now, disk(state, 0)); len(got) != 0 {
			t.Errorf("%s: %+v", state, got)
		}
	}
	long := disk(v1alpha1.DiskFailed, 0)
	long.Faults[1].Evidence = strings.Repeat("ü", 2000)
	if m := notices(now, long)[0].Message; len(m) > 1024 {
		t.Errorf("a message of %d bytes", len(m))
	}
}
