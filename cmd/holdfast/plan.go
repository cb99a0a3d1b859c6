package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/gitops/protocol"
	"holdfast.dev/internal/output"
)

// errRefused is how plan ends when a cluster would not take the change, or could not say.
var errRefused = errors.New("not every cluster would take the change")

func newPlan(format *output.Format) *cobra.Command {
	var hub hubFlags
	cmd := &cobra.Command{
		Use:   "plan [DIR]",
		Short: "Ask every cluster what the working tree would change, by a dry run on its API server",
		Long: `Ask every cluster what the working tree would change, by a dry run on its API server.

The working tree is rendered here; each agent tries its cluster's bundle with server-side dry runs and changes nothing.
That finds what rendering cannot: immutable fields, API versions that are gone, refusals of webhooks and policies.
The exit code is 0 when every cluster would take it, else 1.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			res, err := renderDir(cmd, dir)
			if err != nil {
				return faults(cmd, err)
			}
			req := protocol.PlanRequest{Bundles: map[string]protocol.PlanFiles{}, Retained: res.Retained}
			for name, b := range res.Bundles {
				req.Bundles[name] = b.Files
			}
			body, err := json.Marshal(req)
			if err != nil {
				return err
			}
			stop := output.Progress(cmd.ErrOrStderr(), "asking the clusters")
			var plan protocol.Plan
			err = hub.call(cmd, "POST", "/v1/plan", bytes.NewReader(body), protocol.PlanWait+30*time.Second, &plan)
			stop()
			if err != nil {
				return err
			}
			return printPlan(cmd.OutOrStdout(), *format, plan)
		},
	}
	hub.bind(cmd)
	return cmd
}

func printPlan(w io.Writer, format output.Format, plan protocol.Plan) error {
	refused := 0
	var rows [][]string
	for _, c := range plan.Clusters {
		if c.Error != "" {
			refused++
			rows = append(rows, []string{c.Cluster, "UNKNOWN", "", "", c.Error})
		}
		for _, ch := range c.Changes {
			what := ch.Message
			if len(ch.Fields) > 0 {
				what = strings.TrimSpace(strings.Join(ch.Fields, ", ") + " " + what)
			}
			action := string(ch.Action)
			if ch.Action == protocol.PlanRefused {
				refused++
				action = "REFUSED"
			}
			rows = append(rows, []string{c.Cluster, action, ch.Addon, ch.Object, what})
		}
		if c.Omitted > 0 {
			rows = append(rows, []string{c.Cluster, "…", "", "", fmt.Sprintf("%d more changes, which the agent does not name", c.Omitted)})
		}
	}
	if err := output.Print(w, format, plan, []string{"CLUSTER", "ACTION", "ADDON", "OBJECT", "WHAT"}, rows); err != nil {
		return err
	}
	if refused > 0 {
		return fmt.Errorf("%w: %d refusals or clusters that cannot be asked", errRefused, refused)
	}
	return nil
}
