package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/internal/output"
)

func newStatus(format *output.Format) *cobra.Command {
	var hub hubFlags
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which version of each addon every cluster runs, and how the rollout goes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stop := output.Progress(cmd.ErrOrStderr(), "asking the hub")
			st, err := hub.status(cmd)
			stop()
			if err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), *format, st)
		},
	}
	hub.bind(cmd)
	return cmd
}

// printStatus prints clusters × addons.
func printStatus(w io.Writer, format output.Format, st protocol.Status) error {
	if format == output.Table {
		fmt.Fprintf(w, "commit %.12s: %d units rendered, %d from the cache, %.2f s\n", st.Commit, st.Rendered, st.Cached, st.RenderSeconds)
		if st.Rejected != "" {
			fmt.Fprintf(w, "commit %.12s is REFUSED:\n  %s\n", st.Rejected, strings.Join(st.Errors, "\n  "))
		}
		if len(st.Trouble) > 0 {
			fmt.Fprintf(w, "the hub is in TROUBLE:\n  %s\n", strings.Join(st.Trouble, "\n  "))
		}
		for _, r := range st.Rings {
			message := r.Message
			if r.WaitsFor == "plan" { // below, all of it is told
				message = output.Cut(message, 120)
			}
			fmt.Fprintf(w, "ring %s: %s %s%s\n", r.Name, r.Phase, message, until(r))
			if r.Action != "" {
				fmt.Fprintf(w, "  → %s\n", r.Action)
			}
		}
		printTrials(w, st)
		for _, c := range st.Clusters {
			if c.PublishError != "" {
				fmt.Fprintf(w, "cluster %s: nothing is published to it:\n  %s\n", c.Name, c.PublishError)
			}
		}
		fmt.Fprintln(w)
	}
	var addons []string
	for _, c := range st.Clusters {
		if c.Report == nil {
			continue
		}
		for _, a := range c.Report.Addons {
			if !slices.Contains(addons, a.Name) {
				addons = append(addons, a.Name)
			}
		}
	}
	head := []string{"CLUSTER", "RING", "DIGEST"}
	for _, a := range addons {
		head = append(head, strings.ToUpper(a))
	}
	head = append(head, "HEARD")
	now := time.Now()
	var rows [][]string
	for _, c := range st.Clusters {
		row := []string{c.Name, c.Ring, short(c.Published)}
		if c.Want != c.Published {
			row[2] += " → " + short(c.Want)
		}
		for _, a := range addons {
			row = append(row, addonCell(c.Report, a))
		}
		heard := "never"
		if !c.ReportedAt.IsZero() {
			heard = output.Age(now, c.ReportedAt)
		}
		if c.Silent {
			heard += " SILENT"
		}
		rows = append(rows, append(row, heard))
	}
	return output.Print(w, format, st, head, rows)
}

// printTrials names the clusters that would not take their bundles, or cannot say.
func printTrials(w io.Writer, st protocol.Status) {
	for _, c := range st.Clusters {
		t := c.Trial
		if t == nil || (t.State != protocol.TrialRefuses && t.State != protocol.TrialUnknown) {
			continue
		}
		again := ""
		if !t.AgainAt.IsZero() {
			again = "; asked again at " + t.AgainAt.UTC().Format(time.RFC3339)
		}
		if t.State == protocol.TrialUnknown {
			fmt.Fprintf(w, "cluster %s: not known whether it would take %s%s:\n  %s\n", c.Name, short(c.Want), again, t.Message)
			continue
		}
		fmt.Fprintf(w, "cluster %s REFUSES %s, nothing of it was applied%s:\n", c.Name, short(c.Want), again)
		if len(t.Refusals) == 0 { // the hub was restarted and remembers the first
			fmt.Fprintf(w, "  %s\n", t.Message)
		}
		for _, r := range t.Refusals {
			fmt.Fprintf(w, "  %s: %s: %s\n", r.Addon, r.Object, r.Message)
		}
	}
}

func addonCell(r *protocol.Report, addon string) string {
	if r == nil {
		return ""
	}
	for _, a := range r.Addons {
		if a.Name != addon {
			continue
		}
		cell := a.Version + " " + string(a.Health)
		if a.Health != v1alpha1.HealthHealthy && a.Message != "" {
			cell += " (" + output.Cut(a.Message, 60) + ")"
		}
		return strings.TrimSpace(cell)
	}
	return ""
}

// short is the first twelve digits of a digest.
func short(digest string) string {
	return output.Cut(strings.TrimPrefix(digest, "sha256:"), 13)
}
