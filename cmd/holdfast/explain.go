package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"holdfast.dev/gitops/render"
	"holdfast.dev/internal/output"
)

// printExplanation prints what a unit's output depends on. As a table it leaves out the
// fields that only depend on what their whole object does.
func printExplanation(cmd *cobra.Command, format output.Format, dir, unit string) error {
	cluster, addon, ok := strings.Cut(unit, "/")
	if !ok {
		return fmt.Errorf("--explain %q is not CLUSTER/ADDON", unit)
	}
	tree, err := treeOf(dir)
	if err != nil {
		return faults(cmd, err)
	}
	x, err := render.Explain(cmd.Context(), tree, cluster, addon)
	if err != nil {
		return faults(cmd, err)
	}
	w := cmd.OutOrStdout()
	if format != output.Table {
		return output.Print(w, format, x, nil, nil)
	}
	fmt.Fprintf(w, "%s/%s %s: a change of anything that is not named here renders nothing anew\n\n", x.Cluster, x.Addon, x.Version)
	var rows [][]string
	for _, f := range x.Files {
		rows = append(rows, []string{f.Path, f.Use, few(f.At)})
	}
	if err := output.Print(w, format, nil, []string{"FILE", "USE", "READ AT"}, rows); err != nil {
		return err
	}
	fmt.Fprintln(w)
	rows = nil
	for _, v := range x.Values {
		set := v.SetAt
		if v.Absent {
			set = "(not set)"
		}
		rows = append(rows, []string{v.Path, set, few(v.At)})
	}
	if err := output.Print(w, format, nil, []string{"VALUE", "SET AT", "READ AT"}, rows); err != nil {
		return err
	}
	for _, o := range x.Objects {
		fmt.Fprintf(w, "\n%s\n  in %s, from %s\n", o.ID, o.Path, o.Source)
		if len(o.Reads) > 0 {
			fmt.Fprintf(w, "  all of it: %s\n", strings.Join(o.Reads, ", "))
		}
		for _, f := range o.Fields {
			if len(f.Reads) > 0 || !strings.HasPrefix(f.By, "salt/") {
				fmt.Fprintf(w, "  bytes %d-%d  %s  by %s", f.From, f.To-1, f.Path, f.By)
				if len(f.Reads) > 0 {
					fmt.Fprintf(w, ": %s", strings.Join(f.Reads, ", "))
				}
				fmt.Fprintln(w)
			}
		}
	}
	return nil
}

// few joins at most three.
func few(list []string) string {
	if len(list) > 3 {
		return strings.Join(list[:3], ", ") + fmt.Sprintf(" and %d more", len(list)-3)
	}
	return strings.Join(list, ", ")
}
