package main

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"holdfast.dev/addons"
	"holdfast.dev/internal/atomicfile"
	"holdfast.dev/internal/output"
	"holdfast.dev/internal/strictyaml"
)

// pinnedImage is one image of an addon.yaml.
type pinnedImage struct {
	File string `json:"file"`
	Line int    `json:"line"`
	Old  string `json:"old"`
	New  string `json:"new"`
}

type pinReport struct {
	DryRun  bool          `json:"dryRun"`
	Changes []pinnedImage `json:"changes"`
	// Unlisted are images of other registries; they stay as they are.
	Unlisted []pinnedImage `json:"unlisted"`
}

func newPin(format *output.Format) *cobra.Command {
	var imagesFile, registry string
	var dryRun bool
	cmd := &cobra.Command{
		Use:   "pin DIR",
		Short: "Pin the images of a fleet repository's addons to what they hold, by digest",
		Long: `Pin the images of a fleet repository's addons to what they hold, by digest.

What "make images" built is listed in bin/images.json. Every image of an
addons/*/addon.yaml that is listed there gets its digest, and nothing else in the
file changes. An image of the same registry that is not listed is an error; one of
another registry stays as it is, and is named.

An addon that was published before needs a higher version after that, as after
every change: the hub says so.`,
		Example: "  holdfast pin fleet --images bin/images.json --registry registry.example.com/holdfast",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := readPins(imagesFile, registry)
			if err != nil {
				return err
			}
			report, changed, err := p.fleet(args[0])
			if err != nil {
				return faults(cmd, err)
			}
			if report.DryRun = dryRun; !dryRun {
				for _, path := range slices.Sorted(maps.Keys(changed)) {
					if err := rewrite(path, changed[path]); err != nil {
						return fmt.Errorf("write %s: %w", path, err)
					}
				}
			}
			return printPins(cmd, *format, report, imagesFile)
		},
	}
	cmd.Flags().StringVar(&imagesFile, "images", filepath.Join("bin", "images.json"), "the images and their digests, as make images wrote them")
	cmd.Flags().StringVar(&registry, "registry", "", "host, with or without a path, that the images were pushed to; it replaces the one they are listed with")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "write nothing")
	return cmd
}

// pins are the references to pin images to.
type pins struct {
	file string            // that lists them
	refs map[string]string // by name:tag, of both registries
	ours []string          // the registries, with / at the end
}

var (
	registryRE = regexp.MustCompile(`^[a-z0-9.-]+(?::[0-9]+)?(?:/[a-z0-9._-]+)*$`)
	listedRE   = regexp.MustCompile(`^([a-z0-9.-]+(?::[0-9]+)?(?:/[a-z0-9._-]+)*)/[a-z0-9._-]+:[A-Za-z0-9._-]{1,128}$`)
	digestRE   = regexp.MustCompile(`^@sha256:[0-9a-f]{64}$`)
)

// readPins reads the list of images; with a registry, they are pinned to that one.
func readPins(file, registry string) (*pins, error) {
	registry = strings.TrimSuffix(registry, "/")
	if registry != "" && !registryRE.MatchString(registry) {
		return nil, fmt.Errorf("--registry %q is not a host, with or without port and path; write it without https://", registry)
	}
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w (run make images, or give --images)", err)
	}
	if err != nil {
		return nil, err
	}
	var listed map[string]string
	if err := strictyaml.Decode(file, data, &listed); err != nil { // JSON is YAML, and this names the line
		return nil, err
	}
	root, err := strictyaml.Node(file, data)
	if err != nil {
		return nil, err
	}
	p := &pins{file: file, refs: map[string]string{}}
	for i := 0; i+1 < len(root.Content); i += 2 {
		name, ref := root.Content[i].Value, root.Content[i+1].Value
		m, digest := listedRE.FindStringSubmatch(name), strings.TrimPrefix(ref, name)
		if m == nil || digest == ref || !digestRE.MatchString(digest) {
			return nil, &strictyaml.Error{File: file, Line: root.Content[i].Line, Msg: fmt.Sprintf("%q: %q is not a name with tag and the same with its digest", name, ref), Hint: "run make images"}
		}
		from := m[1] + "/"
		to := cmp.Or(registry, m[1]) + "/"
		p.ours = append(p.ours, from, to)
		// One that was moved to the registry before is pinned anew.
		moved := to + strings.TrimPrefix(name, from)
		p.refs[name], p.refs[moved] = moved+digest, moved+digest
	}
	return p, nil
}

// fleet pins the images of a fleet repository, and returns the new content of
// the files that change. It writes nothing.
func (p *pins) fleet(dir string) (pinReport, map[string][]byte, error) {
	report := pinReport{Changes: []pinnedImage{}, Unlisted: []pinnedImage{}}
	entries, err := os.ReadDir(filepath.Join(dir, addons.Dir))
	if err != nil {
		return report, nil, fmt.Errorf("%w (give the directory of a fleet repository)", err)
	}
	changed := map[string][]byte{}
	var errs []error
	for _, e := range entries {
		path := filepath.Join(dir, filepath.FromSlash(addons.File(e.Name())))
		info, err := os.Lstat(path)
		switch {
		case !e.IsDir() && e.Type()&fs.ModeSymlink == 0, errors.Is(err, fs.ErrNotExist):
			continue // not an addon: rendering says what is wrong with it, if anything
		case err != nil:
			errs = append(errs, err)
			continue
		case e.Type()&fs.ModeSymlink != 0 || !info.Mode().IsRegular():
			errs = append(errs, &strictyaml.Error{File: path, Msg: "is, or is reached by, something else than files and folders", Hint: "put a copy in its place"})
			continue
		case info.Size() > strictyaml.MaxSize:
			errs = append(errs, &strictyaml.Error{File: path, Msg: fmt.Sprintf("%d bytes is too large, the limit is %d", info.Size(), strictyaml.MaxSize)})
			continue
		}
		data, err := os.ReadFile(path)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out, found, err := addons.Pin(path, data, p.pin)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, i := range found {
			row := pinnedImage{path, i.Line, i.Old, i.New}
			if i.Old != i.New {
				report.Changes = append(report.Changes, row)
				changed[path] = out
			} else if !p.own(i.Old) {
				report.Unlisted = append(report.Unlisted, row)
			}
		}
	}
	return report, changed, errors.Join(errs...)
}

// pin returns what an image is pinned to: itself when it is somebody else's.
func (p *pins) pin(image string) (string, error) {
	name, _, _ := strings.Cut(image, "@")
	if ref, ok := p.refs[name]; ok {
		return ref, nil
	}
	if p.own(image) {
		return "", fmt.Errorf("the image %s is not in %s (correct its name and tag, or build it)", image, p.file)
	}
	return image, nil
}

func (p *pins) own(image string) bool {
	return slices.ContainsFunc(p.ours, func(prefix string) bool { return strings.HasPrefix(image, prefix) })
}

// rewrite replaces a file's content: at every time it has the old or the new.
func rewrite(path string, data []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return atomicfile.Write(path, data, info.Mode().Perm())
}

func printPins(cmd *cobra.Command, format output.Format, r pinReport, imagesFile string) error {
	out := cmd.OutOrStdout()
	if format != output.Table {
		return output.Print(out, format, r, nil, nil)
	}
	for _, c := range r.Changes {
		fmt.Fprintf(out, "%s:%d: %s → %s\n", c.File, c.Line, c.Old, c.New)
	}
	for _, u := range r.Unlisted {
		fmt.Fprintf(out, "%s:%d: %s is not in %s; left as it is\n", u.File, u.Line, u.Old, imagesFile)
	}
	done := "pinned"
	if r.DryRun {
		done = "to pin"
	}
	_, err := fmt.Fprintf(out, "%d images %s\n", len(r.Changes), done)
	return err
}
