package nodestatus

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/api/v1alpha1"
)

// ConditionType is the condition of a Node. True: nothing speaks against any of its
// disks; False: a disk is Degraded, Failed or Missing; Unknown: nobody can say.
const ConditionType corev1.NodeConditionType = "HoldfastDisksHealthy"

const (
	// silentAfter is how old a report may be: the monitor gives a sign of life every
	// five minutes (monitor/report, Pace.Heartbeat), and may miss two.
	silentAfter = 15 * time.Minute
	// eventPeriod is the least time between two Events about one disk and state.
	eventPeriod = 10 * time.Minute
)

// Condition is what the Node's condition must say, without its times. ok is false
// when there is nothing to say: no monitor has ever reported. until is when a report
// that is fresh now will be too old; zero when it is none.
func Condition(cn *v1alpha1.ComputeNode, now time.Time) (c corev1.NodeCondition, until time.Time, ok bool) {
	c = corev1.NodeCondition{Type: ConditionType, Status: corev1.ConditionUnknown}
	if cn == nil {
		c.Reason, c.Message = "NotReporting", "there is no ComputeNode of this name"
		return c, until, true
	}
	s := &cn.Status
	if s.ReportTime == nil {
		return c, until, false
	}
	stale := s.ReportTime.Add(silentAfter)
	if !now.Before(stale) {
		c.Reason, c.Message = "NotReporting", "disk-monitor has not reported since "+s.ReportTime.UTC().Format(time.RFC3339)
		return c, until, true
	}
	until = stale
	switch s.State {
	case v1alpha1.DiskHealthy:
		c.Status, c.Reason, c.Message = corev1.ConditionTrue, "DisksHealthy", fmt.Sprintf("%d disks, nothing speaks against them", s.DiskCount)
	case v1alpha1.DiskDegraded, v1alpha1.DiskFailed, v1alpha1.DiskMissing:
		c.Status, c.Reason, c.Message = corev1.ConditionFalse, "Disk"+string(s.State), s.Summary
	default:
		c.Reason, c.Message = "DisksUnread", unread(s)
	}
	return c, until, true
}

// unread says why the disks' state is unknown.
func unread(s *v1alpha1.ComputeNodeStatus) string {
	for _, kind := range []string{v1alpha1.ConditionInventoryRead, v1alpha1.ConditionHealthRead} {
		if c := meta.FindStatusCondition(s.Conditions, kind); c != nil && c.Status != metav1.ConditionTrue && c.Message != "" {
			return c.Message
		}
	}
	return "the state of a disk cannot be told"
}

// Notice is an Event to be made, at most once.
type Notice struct {
	// Name is a function of what the Event says of what and of the ten minutes in
	// which it came to pass, so that a second attempt finds the first one there.
	Name    string
	Reason  string
	Message string
	Disk    *v1alpha1.Disk
}

// Notices are the disks that have become worse within the last ten minutes. What is
// older was told then; the API server has forgotten some of these Events by now.
func Notices(cn *v1alpha1.ComputeNode, uid string, now time.Time) (out []Notice) {
	for i := range cn.Status.Disks {
		d := &cn.Status.Disks[i]
		switch d.State {
		case v1alpha1.DiskDegraded, v1alpha1.DiskFailed, v1alpha1.DiskMissing:
		default:
			continue
		}
		if d.Since == nil || now.Sub(d.Since.Time) >= eventPeriod {
			continue
		}
		key := strings.Join([]string{uid, d.ID, string(d.State), d.Since.UTC().Truncate(eventPeriod).Format(time.RFC3339)}, "\n")
		sum := sha256.Sum256([]byte(key))
		out = append(out, Notice{Name: "disk-" + strings.ToLower(string(d.State)) + "-" + hex.EncodeToString(sum[:8]), Reason: "Disk" + string(d.State), Message: describe(cn.Name, d), Disk: d})
	}
	return out
}

// describe says which disk it is, why, and whose data is on it.
func describe(node string, d *v1alpha1.Disk) string {
	var b strings.Builder
	fmt.Fprintf(&b, "disk %s", d.ID)
	if where := strings.Trim(d.Device+", "+d.Slot, ", "); where != "" {
		fmt.Fprintf(&b, " (%s)", where)
	}
	fmt.Fprintf(&b, " of node %s is %s", node, d.State)
	if f := gravest(d); f != nil {
		fmt.Fprintf(&b, ": %s", f.Class)
		if f.Evidence != "" {
			fmt.Fprintf(&b, ": %q", f.Evidence)
		}
	}
	var claims []string
	for _, v := range d.Volumes {
		if v.Claim != "" {
			claims = append(claims, v.Claim)
		}
	}
	if len(claims) > 0 {
		fmt.Fprintf(&b, "; claims with data on it: %s", strings.Join(claims, ", "))
	}
	const limit = 1024 // of an Event's message
	return strings.ToValidUTF8(b.String()[:min(b.Len(), limit)], "")
}

func gravest(d *v1alpha1.Disk) (worst *v1alpha1.Fault) {
	for i := range d.Faults {
		f := &d.Faults[i]
		if worst == nil || f.Severity == v1alpha1.SeverityCritical && worst.Severity != f.Severity || f.Severity == worst.Severity && f.LastSeen.After(worst.LastSeen.Time) {
			worst = f
		}
	}
	return worst
}
