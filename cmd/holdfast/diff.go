package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/pmezard/go-difflib/difflib"
	"github.com/spf13/cobra"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/hub"
	"holdfast.dev/gitops/render"
	"holdfast.dev/internal/output"
)

// memoryCache lets both sides of a diff share what is the same in them.
type memoryCache struct{ m sync.Map }

func (c *memoryCache) Get(key string) ([]byte, bool, error) {
	v, ok := c.m.Load(key)
	if !ok {
		return nil, false, nil
	}
	data, ok := v.([]byte)
	return data, ok, nil
}

func (c *memoryCache) Put(key string, data []byte) error {
	c.m.Store(key, data)
	return nil
}

// errDifferences is how diff ends when there are some.
var errDifferences = errors.New("there are differences")

func newDiff() *cobra.Command {
	var base string
	var summary bool
	cmd := &cobra.Command{
		Use:   "diff [DIR]",
		Short: "Show what the working tree would change on each cluster",
		Long: `Show what the working tree would change on each cluster, against a commit of the same repository.

Both are rendered, so that the difference is in what clusters get, not in how it is written.
The exit code is 0 without a difference, 2 with one, and 1 for an error.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			dir := "."
			if len(args) == 1 {
				dir = args[0]
			}
			stop := output.Progress(cmd.ErrOrStderr(), "rendering "+dir+" and "+base)
			was, now, err := renderBoth(cmd, dir, base)
			stop()
			if err != nil {
				return faults(cmd, err)
			}
			changed, err := printDiff(cmd, was, now, summary)
			if err != nil {
				return err
			}
			if changed > 0 {
				return &reportedError{errDifferences}
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), "no cluster would change")
			return err
		},
	}
	cmd.Flags().StringVar(&base, "base", "HEAD", "commit to compare with")
	cmd.Flags().BoolVar(&summary, "summary", false, "only name the objects")
	return cmd
}

func renderBoth(cmd *cobra.Command, dir, base string) (was, now *render.Result, err error) {
	ctx := cmd.Context()
	repo, err := gitrepo.Open(ctx, dir, os.Environ(), false)
	if err != nil {
		return nil, nil, err
	}
	commit, err := repo.Head(ctx, base)
	if err != nil {
		return nil, nil, err
	}
	cache := &memoryCache{}
	if was, err = hub.Verify(ctx, repo, "", commit, cache); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", base, err)
	}
	now, err = renderCached(ctx, dir, cache)
	return was, now, err
}

func renderCached(ctx context.Context, dir string, cache render.Cache) (*render.Result, error) {
	tree, err := render.TreeFromFS(os.DirFS(filepath.Clean(dir)))
	if err != nil {
		return nil, err
	}
	return render.Fleet(ctx, tree, "working-tree", cache)
}

func printDiff(cmd *cobra.Command, was, now *render.Result, summary bool) (changed int, err error) {
	clusters := map[string]bool{}
	for _, r := range []*render.Result{was, now} {
		for name := range r.Bundles {
			clusters[name] = true
		}
	}
	for _, cluster := range slices.Sorted(maps.Keys(clusters)) {
		old, fresh := filesOf(was, cluster), filesOf(now, cluster)
		paths := map[string]bool{}
		for _, files := range []map[string][]byte{old, fresh} {
			for path := range files {
				paths[path] = path != render.BundleFile
			}
		}
		for _, path := range slices.Sorted(maps.Keys(paths)) {
			before, there := old[path]
			after, stays := fresh[path]
			if !paths[path] || (there == stays && string(before) == string(after)) {
				continue
			}
			changed++
			if err := printChange(cmd, cluster+"/"+path, string(before), string(after), there, stays, summary); err != nil {
				return changed, err
			}
		}
	}
	return changed, nil
}

func printChange(cmd *cobra.Command, name, before, after string, there, stays, summary bool) error {
	if summary {
		verb := map[[2]bool]string{{true, true}: "change", {false, true}: "add", {true, false}: "remove"}[[2]bool{there, stays}]
		_, err := fmt.Fprintf(cmd.OutOrStdout(), "%-6s %s\n", verb, name)
		return err
	}
	text, err := difflib.GetUnifiedDiffString(difflib.UnifiedDiff{
		A: splitLines(before), B: splitLines(after), FromFile: "a/" + name, ToFile: "b/" + name, Context: 3,
	})
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(cmd.OutOrStdout(), text)
	return err
}

func splitLines(s string) []string {
	if s == "" {
		return nil
	}
	return difflib.SplitLines(strings.TrimSuffix(s, "\n"))
}

func filesOf(r *render.Result, cluster string) map[string][]byte {
	if b := r.Bundles[cluster]; b != nil {
		return b.Files
	}
	return nil
}
