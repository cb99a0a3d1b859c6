// Command holdfast is the command line of Holdfast.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"holdfast.dev/internal/output"
)

// version is set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := newRoot().ExecuteContext(ctx); err != nil {
		stop()
		os.Exit(report(err))
	}
}

// report tells a person what went wrong, unless that was done, and returns the
// exit code: 1, or 2 for differences.
func report(err error) int {
	var silent *reportedError
	switch {
	case errors.Is(err, errDifferences):
		return 2
	case !errors.As(err, &silent):
		fmt.Fprintf(os.Stderr, "holdfast: %v\n", err)
	}
	return 1
}

// reportedError has been printed already; only the exit code is left to say.
type reportedError struct{ error }

func (e *reportedError) Unwrap() error { return e.error }

func newRoot() *cobra.Command {
	format := output.Table
	root := &cobra.Command{
		Use:   "holdfast",
		Short: "Storage for fleets of Kubernetes clusters",
		Long: `Storage for fleets of Kubernetes clusters, kept as one git repository.

Start with "holdfast init DIR", or see everything at work with "holdfast demo".`,
		Version:       version,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newInit(), newSalt(), newDiff(), newJoin(), newRotate(), newApprove(), newRetry(), newVolumes(), newDemo())
	for _, cmd := range []*cobra.Command{newRender(&format), newPin(&format), newStatus(&format), newRollout(&format), newPlan(&format), newDisks(&format), newRepairs(&format)} {
		cmd.PersistentFlags().VarP(&format, "output", "o", "table, json or yaml")
		cobra.CheckErr(cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp)))
		root.AddCommand(cmd)
	}
	return root
}
