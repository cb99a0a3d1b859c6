package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"holdfast.dev/salt"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

func newSalt() *cobra.Command {
	cmd := &cobra.Command{Use: "salt", Short: "Render Salt states without Salt"}
	cmd.AddCommand(newSaltRender())
	return cmd
}

func newSaltRender() *cobra.Command {
	var root, minion, grains, states, pillar string
	var sls []string
	cmd := &cobra.Command{
		Use:   "render --root DIR --minion ID",
		Short: "Print the low state, the pillar and the files that a formula tree gives a minion, as JSON",
		Long: `Print the low state, the pillar and the files that a formula tree gives a minion.

The result is that of "salt-call --local state.show_lowstate" and "pillar.items", and what the file states would
write, folders aside that no state makes. Nothing is run: a template that calls a command, or reaches the network or the
machine, is an error with file and line. States that are not file states are listed below "left".

DIR holds salt/states and salt/pillar, or states and pillar; else DIR itself is the tree of states.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			tree := salt.Tree{Files: folderFiles{root}, Minion: minion, SLS: sls, FoldersExist: true}
			var err error
			if tree.States, tree.Pillar, err = saltRoots(root, states, pillar); err != nil {
				return err
			}
			if tree.Grains, err = readGrains(grains); err != nil {
				return err
			}
			res, err := salt.Highstate(tree)
			if err != nil {
				return faults(cmd, err)
			}
			out, err := saltJSON(res)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), out)
			return err
		},
	}
	cmd.Flags().StringVar(&root, "root", "", "the formula tree")
	cmd.Flags().StringVar(&minion, "minion", "", "the minion's id")
	cmd.Flags().StringVar(&grains, "grains", "", "a YAML or JSON file with the minion's grains")
	cmd.Flags().StringVar(&states, "states", "", "the folder of the states, below root")
	cmd.Flags().StringVar(&pillar, "pillar", "", "the folder of the pillar, below root")
	cmd.Flags().StringSliceVar(&sls, "sls", nil, "render these states instead of those that the top file selects")
	cobra.CheckErr(cmd.MarkFlagRequired("root"))
	cobra.CheckErr(cmd.MarkFlagRequired("minion"))
	return cmd
}

// saltRoots finds the folders of states and pillar below root.
func saltRoots(root, states, pillar string) (string, string, error) {
	info, err := os.Stat(root)
	if err != nil {
		return "", "", err
	}
	if !info.IsDir() {
		return "", "", fmt.Errorf("%s is not a directory", root)
	}
	is := func(dir string) bool {
		info, err := os.Stat(filepath.Join(root, dir))
		return err == nil && info.IsDir()
	}
	for _, dir := range []string{"salt/states", "states", "."} {
		if states == "" && is(dir) {
			states = dir
		}
	}
	for _, dir := range []string{"salt/pillar", "pillar"} {
		if pillar == "" && is(dir) {
			pillar = dir
		}
	}
	for _, dir := range []string{states, pillar} {
		if dir != "" && !is(dir) {
			return "", "", fmt.Errorf("there is no folder %s below %s", dir, root)
		}
	}
	return states, pillar, nil
}

func readGrains(file string) (*jinja.Map, error) {
	if file == "" {
		return jinja.NewMap(), nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	v, err := pyyaml.Load(&pyyaml.File{Name: file, Output: jinja.Plain(text)}, false)
	if err != nil {
		return nil, err
	}
	m, ok := v.(*jinja.Map)
	if !ok {
		return nil, fmt.Errorf("%s holds no mapping of grains", file)
	}
	return m, nil
}

// saltJSON is the result as JSON, in the order in which things were written.
func saltJSON(res *salt.Result) (string, error) {
	out := jinja.NewMap()
	set := func(m *jinja.Map, k string, v any) { m.Set(k, v, jinja.Origin{}) }
	low := jinja.NewList()
	for _, m := range res.Low {
		low.Items = append(low.Items, m)
	}
	files, left := jinja.NewMap(), jinja.NewList()
	for _, f := range res.Files {
		one := jinja.NewMap()
		switch {
		case f.Dir:
			set(one, "dir", true)
		case f.Target != "":
			set(one, "target", f.Target)
		default:
			set(one, "text", string(f.Text))
		}
		if f.Mode != "" {
			set(one, "mode", f.Mode)
		}
		set(files, f.Path, one)
	}
	for _, id := range res.Left {
		left.Items = append(left.Items, id)
	}
	set(out, "pillar", res.Pillar)
	set(out, "low", low)
	set(out, "files", files)
	set(out, "left", left)
	text, err := jinja.JSON(out)
	if err != nil {
		return "", fmt.Errorf("write the result as JSON: %w", err)
	}
	if !json.Valid([]byte(text)) {
		return "", errors.New("the result holds a number that JSON does not have")
	}
	return text, nil
}

// folderFiles are the files below a folder.
type folderFiles struct{ root string }

// File implements salt.Files. Links that lead out of the folder are not followed.
func (f folderFiles) File(p string) ([]byte, bool) {
	p = path.Clean(p)
	if !fs.ValidPath(p) {
		return nil, false
	}
	r, err := os.OpenRoot(f.root)
	if err != nil {
		return nil, false
	}
	defer func() { _ = r.Close() }() // it was read only
	data, err := fs.ReadFile(r.FS(), p)
	return data, err == nil
}

// Under implements salt.Lister.
func (f folderFiles) Under(dir string) []string {
	var out []string
	start := path.Clean("./" + dir)
	err := fs.WalkDir(os.DirFS(f.root), start, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && strings.HasPrefix(d.Name(), ".git") {
			return fs.SkipDir
		}
		if !d.IsDir() {
			out = append(out, p)
		}
		return nil
	})
	if err != nil {
		return nil
	}
	return out
}
