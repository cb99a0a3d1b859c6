package main

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/output"
	"holdfast.dev/monitor/verdict"
)

// shownDisk is one disk on one node, and all that is known of it.
type shownDisk struct {
	Cluster string `json:"cluster"`
	Node    string `json:"node"`
	v1alpha1.Disk
	// Reported is when the node's monitor last wrote; Blind what it cannot read.
	Reported   *metav1.Time         `json:"reported,omitempty"`
	Blind      []string             `json:"blind,omitempty"`
	Quarantine *v1alpha1.Quarantine `json:"quarantine,omitempty"`
	Repairs    []fleetRepair        `json:"repairs,omitempty"`
	// Next is what will happen next, in words.
	Next string `json:"next"`
}

type shownDisks struct {
	Disks       []shownDisk   `json:"disks"`
	Unreachable []unreachable `json:"unreachable,omitempty"`
}

func newDisksShow(format *output.Format) *cobra.Command {
	var fleet fleetFlags
	cmd := &cobra.Command{
		Use:   "show DISK",
		Short: "Explain the verdict on a disk: evidence, volumes, repairs, what will happen next",
		Long:  "Explain the verdict on a disk. DISK is its id or its serial number, whole, as \"holdfast disks\" prints the id.",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			stop := output.Progress(cmd.ErrOrStderr(), "asking the clusters for the disk")
			all, err := readDisk(cmd.Context(), &fleet, args[0])
			stop()
			if err != nil {
				return err
			}
			if len(all.Disks) == 0 {
				if err := warnUnreachable(cmd, all.Unreachable); err != nil {
					return err
				}
				return fmt.Errorf("no cluster has a disk %q: \"holdfast disks\" lists them", args[0])
			}
			if *format == output.Table {
				err = explain(cmd.OutOrStdout(), all.Disks, time.Now())
			} else {
				err = output.Print(cmd.OutOrStdout(), *format, all, nil, nil)
			}
			if err != nil {
				return err
			}
			return warnUnreachable(cmd, all.Unreachable)
		},
	}
	fleet.bind(cmd.Flags())
	return cmd
}

func readDisk(ctx context.Context, fleet *fleetFlags, name string) (shownDisks, error) {
	var mu sync.Mutex
	all := shownDisks{Disks: []shownDisk{}}
	lost, err := fleet.each(ctx, func(ctx context.Context, cluster string, c client.Client) error {
		var nodes v1alpha1.ComputeNodeList
		if err := c.List(ctx, &nodes); err != nil {
			return err
		}
		var found []shownDisk
		for i := range nodes.Items {
			for _, d := range nodes.Items[i].Status.Disks {
				if d.ID == name || d.Serial == name {
					found = append(found, showDisk(cluster, &nodes.Items[i], d))
				}
			}
		}
		if len(found) == 0 {
			return nil
		}
		var plans v1alpha1.RemediationList
		if err := c.List(ctx, &plans); err != nil {
			return err
		}
		for i := range found {
			for _, r := range plans.Items {
				if r.Spec.Disk == found[i].ID && r.Spec.Node == found[i].Node {
					found[i].Repairs = append(found[i].Repairs, fleetRepair{Cluster: cluster, Name: r.Name, Created: r.CreationTimestamp.Time, Spec: r.Spec, Status: r.Status})
				}
			}
			slices.SortFunc(found[i].Repairs, func(a, b fleetRepair) int { return b.Created.Compare(a.Created) })
			found[i].Next = whatNext(&found[i])
		}
		mu.Lock()
		defer mu.Unlock()
		all.Disks = append(all.Disks, found...)
		return nil
	})
	all.Unreachable = lost
	slices.SortFunc(all.Disks, func(a, b shownDisk) int { return strings.Compare(a.Cluster+" "+a.Node, b.Cluster+" "+b.Node) })
	return all, err
}

func showDisk(cluster string, n *v1alpha1.ComputeNode, d v1alpha1.Disk) shownDisk {
	s := shownDisk{Cluster: cluster, Node: n.Name, Disk: d, Reported: n.Status.ReportTime}
	for _, kind := range []string{v1alpha1.ConditionInventoryRead, v1alpha1.ConditionKernelLogRead, v1alpha1.ConditionHealthRead} {
		if c := meta.FindStatusCondition(n.Status.Conditions, kind); c != nil && c.Status != metav1.ConditionTrue {
			s.Blind = append(s.Blind, c.Type+": "+c.Message)
		}
	}
	if i := slices.IndexFunc(n.Spec.Quarantine, func(q v1alpha1.Quarantine) bool { return q.Disk == d.ID }); i >= 0 {
		s.Quarantine = &n.Spec.Quarantine[i]
	}
	return s
}

// whatNext says what Holdfast will do about a disk, or waits for.
func whatNext(d *shownDisk) string {
	if i := slices.IndexFunc(d.Repairs, func(r fleetRepair) bool { return r.Status.FinishedAt == nil }); i >= 0 {
		r := &d.Repairs[i]
		return strings.TrimSuffix(fmt.Sprintf("repair %s is at %s: %s", r.Name, r.Status.Step, r.Status.Message), ": ")
	}
	switch {
	case d.Quarantine != nil && d.Quarantine.By != v1alpha1.QuarantinedByController:
		return fmt.Sprintf("it stays closed until %s opens it", d.Quarantine.By)
	case d.Quarantine != nil && d.State == v1alpha1.DiskHealthy:
		return "it is opened to new claims again"
	case d.Quarantine != nil:
		const open = "it stays closed until it is Healthy or replaced; no repair is open (the policy has no rule for it, the budget has no room, or one has ended)"
		return strings.Join(append([]string{open}, flapping(d.Faults)...), "; ")
	case d.State == v1alpha1.DiskFailed, d.State == v1alpha1.DiskMissing:
		return "it is closed to new claims, and a repair begins, as the RemediationPolicy says"
	case d.State == v1alpha1.DiskDegraded:
		return strings.Join(append([]string{"nothing is closed"}, ends(d.Faults)...), "; ")
	case d.State == v1alpha1.DiskUnknown:
		return "nothing is concluded until it can be looked at"
	}
	return "nothing"
}

// flapping says when a disk that came and went is taken to be there again.
func flapping(faults []v1alpha1.Fault) []string {
	for _, f := range faults {
		if f.Class == v1alpha1.FaultFlapping && f.Until != nil {
			return []string{"Flapping ends at " + f.Until.UTC().Format(time.RFC3339) + " unless it goes and comes back again"}
		}
	}
	return nil
}

// ends says when the faults that degrade a disk are over.
func ends(faults []v1alpha1.Fault) (words []string) {
	var last time.Time
	var level []string
	for _, f := range faults {
		switch f.Class {
		case v1alpha1.FaultSMART:
			level = append(level, "what its SMART data say ends when they are good")
			continue
		case v1alpha1.FaultReadOnly:
			level = append(level, "ReadOnly ends when it takes writes")
			continue
		case v1alpha1.FaultShrunken:
			level = append(level, "Shrunken ends when it is cleared (annotation "+v1alpha1.AnnotationClearFaults+")")
			continue
		case v1alpha1.FaultNetwork:
			if f.Until == nil { // of a disk that is listed by the id of a drive
				level = append(level, "Network ends when disks.yaml lists the disk no more")
				continue
			}
		}
		until := f.LastSeen.Add(verdict.WarningTTL) // of a monitor that did not say
		if f.Until != nil {
			until = f.Until.Time
		}
		if until.After(last) {
			last = until
		}
	}
	if !last.IsZero() {
		words = append(words, fmt.Sprintf("the last of its faults ends at %s unless there is more", last.UTC().Format(time.RFC3339)))
	}
	return append(words, level...)
}

// explain writes for a person.
func explain(w io.Writer, disks []shownDisk, now time.Time) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	line := func(format string, args ...any) { fmt.Fprintf(tw, format+"\n", args...) }
	for i, d := range disks {
		if i > 0 {
			line("")
		}
		line("disk\t%s", d.ID)
		if d.Weak {
			line("\tthis id names a place and not a drive")
		}
		line("node\t%s in cluster %s", d.Node, d.Cluster)
		since := ""
		if d.Since != nil {
			since = " for " + output.Age(now, d.Since.Time)
		}
		line("state\t%s%s", d.State, since)
		if d.Reported != nil {
			line("reported\t%s ago", output.Age(now, d.Reported.Time))
		}
		for _, b := range d.Blind {
			line("not read\t%s", b)
		}
		line("device\t%s", orNone(d.Device))
		line("slot\t%s", orNone(d.Slot))
		line("drive\t%s, serial %s, %s, %s", orNone(d.Model), orNone(d.Serial), orNone(string(d.Media)), resource.NewQuantity(d.SizeBytes, resource.BinarySI))
		line("group\t%s", orNone(d.Group))
		for _, f := range d.Faults {
			ends := ""
			if f.Until != nil && f.Until.After(now) {
				ends = fmt.Sprintf(", ends in %s unless there is more", output.Age(f.Until.Time, now)) // the time from now to then
			}
			line("evidence\t%s %s ×%d, %s ago, first %s ago%s", f.Severity, f.Class, f.Count, output.Age(now, f.LastSeen.Time), output.Age(now, f.FirstSeen.Time), ends)
			line("\t  %s", f.Evidence)
		}
		if len(d.Faults) == 0 {
			line("evidence\tnone against it")
		}
		for _, v := range d.Volumes {
			line("volume\t%s, claim %s, partition %s", orNone(v.PersistentVolume), orNone(v.Claim), orNone(v.PartitionUUID))
		}
		if q := d.Quarantine; q != nil {
			line("closed\tby %s for %s (%s)", q.By, output.Age(now, q.Since.Time), q.Reason)
		} else {
			line("closed\tno")
		}
		for _, r := range d.Repairs {
			line("repair\t%s %s, begun %s ago: %s", r.Name, r.Status.Phase, output.Age(now, r.Created), r.Status.Message)
		}
		line("next\t%s", d.Next)
	}
	return tw.Flush()
}

func orNone(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
