package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"holdfast.dev/e2e/demo"
)

func newDemo() *cobra.Command {
	var o demo.Options
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Run the main job on this machine: three clusters, git push, a disk that fails",
		Long: `Run the main job on this machine: three embedded clusters of two nodes, a git push,
a disk that fails, a disk that is replaced. It takes about two minutes and leaves nothing behind.

DEMO_HOLD=1 in the environment keeps everything up and prints kubeconfigs and URLs.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Hold = os.Getenv("DEMO_HOLD") == "1"
			return demo.Run(cmd.Context(), o, cmd.OutOrStdout())
		},
	}
	self, err := os.Executable()
	if err != nil {
		self = os.Args[0]
	}
	cmd.Flags().StringVar(&o.BinDir, "bin-dir", filepath.Dir(self), "directory with Holdfast's programs")
	cmd.Flags().BoolVar(&o.Bench, "bench", false, "measure more, and longer")
	cmd.Flags().BoolVar(&o.Simulate, "simulate", false, "use recorded disks even where loop devices could be had")
	return cmd
}
