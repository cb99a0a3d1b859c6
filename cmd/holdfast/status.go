package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/internal/output"
)

func newStatus(format *output.Format) *cobra.Command {
	var hubURL, tokenFile string
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show which version of each addon every cluster runs, and how the rollout goes",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stop := output.Progress(cmd.ErrOrStderr(), "asking the hub")
			st, err := readStatus(cmd, hubURL, tokenFile)
			stop()
			if err != nil {
				return err
			}
			return printStatus(cmd.OutOrStdout(), *format, st)
		},
	}
	cmd.Flags().StringVar(&hubURL, "hub", envOr("HOLDFAST_HUB", "http://127.0.0.1:9812"), "base URL of the hub (environment: HOLDFAST_HUB)")
	cmd.Flags().StringVar(&tokenFile, "token-file", os.Getenv("HOLDFAST_TOKEN_FILE"), "file with the admin token (environment: HOLDFAST_TOKEN_FILE)")
	return cmd
}

func envOr(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

func readStatus(cmd *cobra.Command, hubURL, tokenFile string) (protocol.Status, error) {
	var st protocol.Status
	if tokenFile == "" {
		return st, errors.New("no token; make one with \"holdfast join --admin\" and give its file with --token-file")
	}
	token, err := os.ReadFile(tokenFile)
	if err != nil {
		return st, fmt.Errorf("read token: %w", err)
	}
	req, err := http.NewRequestWithContext(cmd.Context(), http.MethodGet, strings.TrimSuffix(hubURL, "/")+"/v1/status", nil)
	if err != nil {
		return st, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := (&http.Client{Timeout: 15 * time.Second}).Do(req)
	if err != nil {
		return st, fmt.Errorf("ask the hub: %w", err)
	}
	defer func() { _ = resp.Body.Close() }() // read only
	data, err := io.ReadAll(io.LimitReader(resp.Body, 64<<20))
	if err != nil {
		return st, fmt.Errorf("ask the hub: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return st, fmt.Errorf("ask the hub: %s: %.200s", resp.Status, strings.TrimSpace(string(data)))
	}
	if err := json.Unmarshal(data, &st); err != nil {
		return st, fmt.Errorf("ask the hub: %w", err)
	}
	return st, nil
}

// printStatus prints clusters × addons.
func printStatus(w io.Writer, format output.Format, st protocol.Status) error {
	if format == output.Table {
		fmt.Fprintf(w, "commit %.12s: %d units rendered, %d from the cache, %.2f s\n", st.Commit, st.Rendered, st.Cached, st.RenderSeconds)
		if st.Rejected != "" {
			fmt.Fprintf(w, "commit %.12s is REFUSED:\n  %s\n", st.Rejected, strings.Join(st.Errors, "\n  "))
		}
		for _, r := range st.Rings {
			fmt.Fprintf(w, "ring %s: %s %s\n", r.Name, r.Phase, r.Message)
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
		rows = append(rows, append(row, heard))
	}
	return output.Print(w, format, st, head, rows)
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
