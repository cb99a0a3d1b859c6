package main

import (
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/rollout"
	"holdfast.dev/internal/output"
)

// rolloutView is what "holdfast rollout" prints as JSON and YAML.
type rolloutView struct {
	Commit    string                      `json:"commit"`
	Rejected  string                      `json:"rejected,omitempty"`
	Errors    []string                    `json:"errors,omitempty"`
	Rings     []rollout.RingStatus        `json:"rings"`
	Rollback  *rollout.Rollback           `json:"rollback,omitempty"`
	Approvals map[string]rollout.Approval `json:"approvals,omitempty"`
}

func newRollout(format *output.Format) *cobra.Command {
	var hub hubFlags
	cmd := &cobra.Command{
		Use:   "rollout",
		Short: "Show what each ring waits for, until when, and what a person can do",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stop := output.Progress(cmd.ErrOrStderr(), "asking the hub")
			st, err := hub.status(cmd)
			stop()
			if err != nil {
				return err
			}
			return printRollout(cmd.OutOrStdout(), *format, st)
		},
	}
	hub.bind(cmd)
	return cmd
}

func printRollout(w io.Writer, format output.Format, st protocol.Status) error {
	view := rolloutView{st.Commit, st.Rejected, st.Errors, st.Rings, st.Rollback, st.Approvals}
	if format == output.Table {
		fmt.Fprintf(w, "commit %.12s\n", st.Commit)
		if st.Rejected != "" {
			fmt.Fprintf(w, "commit %.12s is REFUSED; holdfast status says why\n", st.Rejected)
		}
		if len(st.Trouble) > 0 {
			fmt.Fprintln(w, "the hub is in TROUBLE; holdfast status says why")
		}
		if rb := st.Rollback; rb != nil {
			fmt.Fprintf(w, "TAKEN BACK at %s: cluster %s of ring %s: %s\n", rb.At.UTC().Format(time.RFC3339), rb.Cluster, rb.Ring, rb.Reason)
		}
		fmt.Fprintln(w)
	}
	var rows [][]string
	for _, r := range st.Rings {
		healthy := fmt.Sprintf("%d/%d", r.Healthy, r.Clusters)
		if r.Silent > 0 {
			healthy += fmt.Sprintf(" (%d silent)", r.Silent)
		}
		end := ""
		if !r.Until.IsZero() {
			end = r.Until.UTC().Format(time.RFC3339)
		}
		rows = append(rows, []string{r.Name, string(r.Phase), healthy, r.WaitsFor, end, r.Message, r.Action})
	}
	if err := output.Print(w, format, view, []string{"RING", "PHASE", "HEALTHY", "WAITS FOR", "UNTIL", "WHY", "WHAT TO DO"}, rows); err != nil || format != output.Table {
		return err
	}
	for _, r := range st.Rings {
		if a, ok := st.Approvals[r.Name]; ok {
			fmt.Fprintf(w, "\nring %s: approved by %s at %s: %s\n", r.Name, a.By, a.At.UTC().Format(time.RFC3339), a.Message)
		}
	}
	return nil
}

// until is when what a ring waits for ends, for a line of text.
func until(r rollout.RingStatus) string {
	if r.Until.IsZero() || r.Phase == rollout.Soaking { // which says it already
		return ""
	}
	return ", until " + r.Until.UTC().Format(time.RFC3339)
}
