package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"holdfast.dev/gitops/render"
)

func newInit() *cobra.Command {
	return &cobra.Command{
		Use:   "init DIR",
		Short: "Write a new fleet repository: three example clusters and the catalogue of addons",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if _, err := render.Init(args[0], render.InitOptions{}); err != nil {
				return err
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), `%[1]s is a fleet repository now. Next:
  edit %[1]s/fleet.yaml           your clusters and rings
  holdfast render %[1]s           what each cluster would get
  git -C %[1]s init && git -C %[1]s add -A && git -C %[1]s commit -m "the fleet" && git -C %[1]s push …
`, args[0])
			return err
		},
	}
}
