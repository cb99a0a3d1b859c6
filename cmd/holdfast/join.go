package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"holdfast.dev/gitops/agent/bootstrap"
	"holdfast.dev/gitops/hub"
	"holdfast.dev/salt"
)

// agentImage is the image of the agent that joins a cluster.
const agentImage = "registry.holdfast.dev/holdfast-agent:v0.1.0"

func newJoin() *cobra.Command {
	var dataDir, hubURL, hubCA, image string
	var admin bool
	cmd := &cobra.Command{
		Use:   "join CLUSTER",
		Short: "Print the manifests that bring the agent into a cluster",
		Long: `Print the manifests that bring the agent into a cluster, with a new token for it.

Run it where the hub's data directory is, and hand the output to the cluster:

  holdfast join az1-c1 --data-dir /var/lib/holdfast-hub --hub https://hub:9812 | kubectl apply --server-side -f -

The token before, if there was one, is no longer good. With --admin instead of a
cluster, the token that "holdfast status" needs is printed.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if dataDir == "" {
				return errors.New("--data-dir is empty; give the hub's data directory")
			}
			tokens := hub.Tokens{Dir: filepath.Join(dataDir, "tokens")}
			if admin {
				token, err := tokens.Issue(hub.AdminName)
				if err != nil {
					return err
				}
				_, err = fmt.Fprintln(cmd.OutOrStdout(), token)
				return err
			}
			if len(args) != 1 || args[0] == hub.AdminName {
				return errors.New("give one cluster's name, as in fleet.yaml")
			}
			if hubURL == "" {
				return errors.New("--hub is empty; give the URL under which the cluster reaches the hub")
			}
			o := bootstrap.Options{Cluster: args[0], Hub: hubURL, Image: image}
			var err error
			if hubCA != "" {
				if o.HubCA, err = os.ReadFile(hubCA); err != nil {
					return fmt.Errorf("read hub CA: %w", err)
				}
			}
			if o.StatusCRD, err = salt.Data.ReadFile("states/crds/files/holdfast.dev_addonstatuses.yaml"); err != nil {
				return err
			}
			if o.Token, err = tokens.Issue(args[0]); err != nil {
				return err
			}
			data, err := bootstrap.Manifests(o)
			if err != nil {
				return err
			}
			_, err = cmd.OutOrStdout().Write(data)
			return err
		},
	}
	fs := cmd.Flags()
	fs.StringVar(&dataDir, "data-dir", "", "the hub's data directory")
	fs.StringVar(&hubURL, "hub", "", "URL under which the cluster reaches the hub")
	fs.StringVar(&hubCA, "hub-ca-file", "", "PEM file with the authority of the hub's certificate")
	fs.StringVar(&image, "image", agentImage, "image of the agent")
	fs.BoolVar(&admin, "admin", false, "issue the token for people instead")
	return cmd
}
