package report

import (
	"fmt"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/monitor/inventory"
	"holdfast.dev/monitor/verdict"
)

// Returned are the disks that were gone by the status so far and that a look at the host, made at the
// given time, shows again, by id, each with what Weigh is to be told of it. How often decides whether it
// is a fault. The fault Missing says that a disk was gone, and stands while looks fail; its state is Unknown then.
func Returned(prev *v1alpha1.ComputeNodeStatus, look *inventory.Snapshot, at time.Time) map[string]verdict.Line {
	all := map[string]verdict.Line{}
	for i := range prev.Disks {
		d := &prev.Disks[i]
		seen, there := look.Find(d.ID)
		if !there || d.Device != "" || faultOf(d, v1alpha1.FaultMissing) < 0 && faultOf(d, v1alpha1.FaultFlapping) < 0 {
			continue
		}
		text := fmt.Sprintf("it has come back as %s", seen.Device)
		if d.State == v1alpha1.DiskMissing && d.Since != nil {
			text += fmt.Sprintf(", Missing since %s", d.Since.UTC().Format(time.RFC3339))
		}
		all[d.ID] = verdict.Line{Class: v1alpha1.FaultFlapping, Severity: v1alpha1.SeverityWarning, Text: text, Count: 1, Seen: []verdict.Sighting{{At: at}}}
	}
	return all
}
