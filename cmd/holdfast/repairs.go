package main

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/output"
)

// fleetRepair is one plan of the fleet.
type fleetRepair struct {
	Cluster string                     `json:"cluster"`
	Name    string                     `json:"name"`
	Created time.Time                  `json:"created"`
	Spec    v1alpha1.RemediationSpec   `json:"spec"`
	Status  v1alpha1.RemediationStatus `json:"status"`
}

type fleetRepairs struct {
	Repairs     []fleetRepair `json:"repairs"`
	Unreachable []unreachable `json:"unreachable,omitempty"`
}

func newRepairs(format *output.Format) *cobra.Command {
	var fleet fleetFlags
	var audit bool
	cmd := &cobra.Command{
		Use:   "repairs",
		Short: "List the repair plans of all clusters, open ones first",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stop := output.Progress(cmd.ErrOrStderr(), "asking the clusters for their repairs")
			all, err := readRepairs(cmd.Context(), &fleet)
			stop()
			if err != nil {
				return err
			}
			if audit {
				return printAudit(cmd, *format, all)
			}
			return printRepairs(cmd, *format, all)
		},
	}
	fleet.bind(cmd.Flags())
	cmd.Flags().BoolVar(&audit, "audit", false, "list every effect of every plan")
	return cmd
}

func readRepairs(ctx context.Context, fleet *fleetFlags) (fleetRepairs, error) {
	var mu sync.Mutex
	all := fleetRepairs{Repairs: []fleetRepair{}}
	lost, err := fleet.each(ctx, func(ctx context.Context, cluster string, c client.Client) error {
		var list v1alpha1.RemediationList
		if err := c.List(ctx, &list); err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		for _, r := range list.Items {
			all.Repairs = append(all.Repairs, fleetRepair{Cluster: cluster, Name: r.Name, Created: r.CreationTimestamp.Time, Spec: r.Spec, Status: r.Status})
		}
		return nil
	})
	if err != nil {
		return all, err
	}
	all.Unreachable = lost
	order := []v1alpha1.Phase{v1alpha1.PhaseEscalated, v1alpha1.PhaseRunning, v1alpha1.PhasePending, "", v1alpha1.PhaseCancelled, v1alpha1.PhaseSucceeded}
	slices.SortFunc(all.Repairs, func(a, b fleetRepair) int {
		return cmp.Or(cmp.Compare(slices.Index(order, a.Status.Phase), slices.Index(order, b.Status.Phase)), b.Created.Compare(a.Created),
			strings.Compare(a.Cluster, b.Cluster), strings.Compare(a.Name, b.Name))
	})
	return all, nil
}

func printRepairs(cmd *cobra.Command, format output.Format, all fleetRepairs) error {
	now := time.Now()
	rows := make([][]string, 0, len(all.Repairs))
	for _, r := range all.Repairs {
		rows = append(rows, []string{string(r.Status.Phase), r.Cluster, r.Spec.Node, r.Spec.Disk, string(r.Spec.Action), string(r.Status.Step),
			output.Age(now, r.Created), output.Cut(r.Status.Message, 90)})
	}
	if err := output.Print(cmd.OutOrStdout(), format, all, []string{"PHASE", "CLUSTER", "NODE", "DISK", "ACTION", "STEP", "AGE", "MESSAGE"}, rows); err != nil {
		return err
	}
	return warnUnreachable(cmd, all.Unreachable)
}

func printAudit(cmd *cobra.Command, format output.Format, all fleetRepairs) error {
	var rows [][]string
	for _, r := range all.Repairs {
		for _, e := range r.Status.Audit {
			rows = append(rows, []string{e.Time.UTC().Format(time.RFC3339), r.Cluster, r.Name, string(e.Step), e.Effect})
		}
	}
	if err := output.Print(cmd.OutOrStdout(), format, all, []string{"TIME", "CLUSTER", "PLAN", "STEP", "EFFECT"}, rows); err != nil {
		return err
	}
	return warnUnreachable(cmd, all.Unreachable)
}
