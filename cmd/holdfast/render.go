package main

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"holdfast.dev/gitops/render"
	"holdfast.dev/internal/output"
)

// renderedUnit is one row of what "holdfast render" prints.
type renderedUnit struct {
	Cluster string `json:"cluster"`
	Addon   string `json:"addon"`
	Version string `json:"version"`
	Objects int    `json:"objects"`
	Digest  string `json:"digest"`
}

func newRender(format *output.Format) *cobra.Command {
	var out, unit string
	cmd := &cobra.Command{
		Use:   "render [DIR]",
		Short: "Render a fleet repository as the hub does, and say what each cluster would get",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			if unit != "" {
				return printExplanation(cmd, *format, dir, unit)
			}
			stop := output.Progress(cmd.ErrOrStderr(), "rendering "+dir)
			start := time.Now()
			res, err := renderDir(cmd, dir)
			stop()
			if err != nil {
				return faults(cmd, err)
			}
			var units []renderedUnit
			var rows [][]string
			for _, cluster := range slices.Sorted(maps.Keys(res.Bundles)) {
				for _, a := range res.Bundles[cluster].Index.Addons {
					units = append(units, renderedUnit{cluster, a.Name, a.Version, a.Objects, a.Digest})
					rows = append(rows, []string{cluster, a.Name, a.Version, fmt.Sprint(a.Objects), short(a.Digest)})
				}
			}
			if out != "" {
				if err := writeBundles(out, res.Bundles); err != nil {
					return err
				}
			}
			if err := output.Print(cmd.OutOrStdout(), *format, units, []string{"CLUSTER", "ADDON", "VERSION", "OBJECTS", "DIGEST"}, rows); err != nil {
				return err
			}
			if *format == output.Table {
				_, err = fmt.Fprintf(cmd.OutOrStdout(), "\n%d units for %d clusters in %.2f s\n", len(units), len(res.Bundles), time.Since(start).Seconds())
			}
			return err
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "also write the bundles below this directory, one folder a cluster; it must not exist")
	cmd.Flags().StringVar(&unit, "explain", "", "tell what the output of one unit, CLUSTER/ADDON, depends on: files, values, and which bytes of which object")
	return cmd
}

func renderDir(cmd *cobra.Command, dir string) (*render.Result, error) {
	tree, err := treeOf(dir)
	if err != nil {
		return nil, err
	}
	return render.Fleet(cmd.Context(), tree, "working-tree", nil)
}

func treeOf(dir string) (render.Tree, error) {
	info, err := os.Stat(dir)
	if err != nil {
		return render.Tree{}, err
	}
	if !info.IsDir() {
		return render.Tree{}, fmt.Errorf("%s is not a directory", dir)
	}
	return render.TreeFromFS(os.DirFS(dir))
}

// faults prints one line for each fault of a fleet repository.
func faults(cmd *cobra.Command, err error) error {
	for line := range strings.Lines(err.Error()) {
		fmt.Fprintln(cmd.ErrOrStderr(), strings.TrimRight(line, "\n"))
	}
	return &reportedError{err}
}

func writeBundles(dir string, bundles map[string]*render.Bundle) error {
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is there already; give a directory that does not exist", dir)
	}
	for cluster, b := range bundles {
		for path, data := range b.Files {
			full := filepath.Join(dir, cluster, filepath.FromSlash(path))
			if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(full, data, 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}
