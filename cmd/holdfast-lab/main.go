// Command holdfast-lab keeps a lab for people: virtual machines with real
// kubelets, whose disks, power and network fail when they are told to. See
// docs/lab.md.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// version is Holdfast's, set by the linker.
var version = "devel"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	root := &cobra.Command{
		Use: "holdfast-lab", Short: "Virtual machines with real kubelets and disks that fail on demand", Version: version,
		SilenceUsage: true, SilenceErrors: true,
	}
	root.AddCommand(newUp(), newDown(), newInfo(), newDo(), newShell(), newConsole())
	if err := root.ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "holdfast-lab:", err)
		os.Exit(1)
	}
}
