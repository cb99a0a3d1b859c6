package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/api/resource"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/output"
	"holdfast.dev/monitor/verdict"
)

// fleetDisk is one disk of the fleet.
type fleetDisk struct {
	Cluster     string `json:"cluster"`
	Node        string `json:"node"`
	Quarantined bool   `json:"quarantined"`
	v1alpha1.Disk
}

type fleetDisks struct {
	Disks       []fleetDisk   `json:"disks"`
	Unreachable []unreachable `json:"unreachable,omitempty"`
}

func newDisks(format *output.Format) *cobra.Command {
	var fleet fleetFlags
	var bad bool
	cmd := &cobra.Command{
		Use:   "disks",
		Short: "List the disks of all clusters, bad ones first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stop := output.Progress(cmd.ErrOrStderr(), "asking the clusters for their disks")
			all, err := readDisks(cmd.Context(), &fleet)
			stop()
			if err != nil {
				return err
			}
			if bad {
				all.Disks = slices.DeleteFunc(all.Disks, func(d fleetDisk) bool { return d.State == v1alpha1.DiskHealthy && !d.Quarantined })
			}
			return printDisks(cmd, *format, all)
		},
	}
	cmd.AddCommand(newDisksShow(format))
	fleet.bind(cmd.Flags())
	cmd.Flags().BoolVar(&bad, "bad", false, "only disks that are not Healthy, or quarantined")
	return cmd
}

func readDisks(ctx context.Context, fleet *fleetFlags) (fleetDisks, error) {
	var mu sync.Mutex
	all := fleetDisks{Disks: []fleetDisk{}}
	lost, err := fleet.each(ctx, func(ctx context.Context, cluster string, c client.Client) error {
		var nodes v1alpha1.ComputeNodeList
		if err := c.List(ctx, &nodes); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, n := range nodes.Items {
			for _, d := range n.Status.Disks {
				q := slices.ContainsFunc(n.Spec.Quarantine, func(q v1alpha1.Quarantine) bool { return q.Disk == d.ID })
				all.Disks = append(all.Disks, fleetDisk{Cluster: cluster, Node: n.Name, Quarantined: q, Disk: d})
			}
		}
		return nil
	})
	if err != nil {
		return all, err
	}
	all.Unreachable = lost
	slices.SortFunc(all.Disks, func(a, b fleetDisk) int {
		return cmp.Or(cmp.Compare(badness(b.State), badness(a.State)), strings.Compare(a.Cluster, b.Cluster),
			strings.Compare(a.Node, b.Node), strings.Compare(a.ID, b.ID))
	})
	return all, nil
}

func badness(s v1alpha1.DiskState) int {
	return slices.Index([]v1alpha1.DiskState{v1alpha1.DiskHealthy, v1alpha1.DiskUnknown, v1alpha1.DiskDegraded, v1alpha1.DiskMissing, v1alpha1.DiskFailed}, s)
}

func printDisks(cmd *cobra.Command, format output.Format, all fleetDisks) error {
	now := time.Now()
	rows := make([][]string, 0, len(all.Disks))
	for _, d := range all.Disks {
		since, why, quarantined := "", "", ""
		if d.Since != nil {
			since = output.Age(now, d.Since.Time)
		}
		if f := verdict.Decisive(&d.Disk); f != nil {
			why = fmt.Sprintf("%s ×%d: %s", f.Class, f.Count, f.Evidence)
		}
		if d.Quarantined {
			quarantined = "yes"
		}
		var claims []string
		for _, v := range d.Volumes {
			if v.Claim != "" {
				claims = append(claims, v.Claim)
			}
		}
		size := resource.NewQuantity(d.SizeBytes, resource.BinarySI).String()
		rows = append(rows, []string{string(d.State), d.Cluster, d.Node, d.ID, d.Device, d.Slot, size, since, quarantined, strings.Join(claims, ","), output.Cut(why, 80)})
	}
	if err := output.Print(cmd.OutOrStdout(), format, all, []string{"STATE", "CLUSTER", "NODE", "DISK", "DEVICE", "SLOT", "SIZE", "SINCE", "QUARANTINED", "CLAIMS", "WHY"}, rows); err != nil {
		return err
	}
	return warnUnreachable(cmd, all.Unreachable)
}

// warnUnreachable names the clusters that did not answer; then the list is not
// whole and the exit code says so.
func warnUnreachable(cmd *cobra.Command, lost []unreachable) error {
	if len(lost) == 0 {
		return nil
	}
	for _, u := range lost {
		fmt.Fprintf(cmd.ErrOrStderr(), "holdfast: cluster %s did not answer: %s\n", u.Cluster, u.Error)
	}
	return &reportedError{fmt.Errorf("%d clusters did not answer", len(lost))}
}
