package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"holdfast.dev/provisioners/lvm/inventory"
)

func newVolumes() *cobra.Command {
	cmd := &cobra.Command{Use: "volumes", Short: "Logical volumes of nodes", Args: cobra.NoArgs}
	cmd.AddCommand(&cobra.Command{
		Use:   "recover FILE...",
		Short: "Print the PersistentVolumes of logical volumes, from what their tags tell",
		Long: `Print the PersistentVolumes of logical volumes, from what their tags tell.

For a cluster that was lost while the disks were not. Each FILE is what
"lvm-csi-driver volumes" printed on one node. Nothing is changed: look at the
manifests, then give them to kubectl create -f -. They retain their data, and each
is reserved for the claim of the name that it had; create the claims afterwards.`,
		Args: cobra.MinimumNArgs(1),
		RunE: recoverVolumes,
	})
	return cmd
}

func recoverVolumes(cmd *cobra.Command, files []string) error {
	seen := map[string]string{}
	for _, name := range files {
		data, err := os.ReadFile(name)
		if err != nil {
			return fmt.Errorf("read inventory: %w", err)
		}
		var inv inventory.Inventory
		dec := json.NewDecoder(strings.NewReader(string(data)))
		dec.DisallowUnknownFields()
		if err := dec.Decode(&inv); err != nil {
			return fmt.Errorf("read inventory %s: %w (give what lvm-csi-driver volumes printed)", name, err)
		}
		volumes, skipped, err := inventory.Recover(&inv)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, s := range skipped {
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s is left out: %s\n", name, s.Handle, s.Why)
		}
		for _, pv := range volumes {
			if other, twice := seen[pv.Name]; twice {
				return fmt.Errorf("%s and %s both have volume %s: look at both disks, and leave one file out", other, name, pv.Name)
			}
			seen[pv.Name] = name
			out, err := yaml.Marshal(pv)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.OutOrStdout(), "---\n%s", out)
		}
	}
	return nil
}
