package render

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/addons"
	"holdfast.dev/gitops/fleet"
	"holdfast.dev/kustomize"
	"holdfast.dev/salt"
)

// InitOptions say what a new fleet repository begins with.
type InitOptions struct {
	// Clusters of the fleet; when empty, one canary and two others in two zones.
	// Only name, zone, version and labels are used.
	Clusters []fleet.Cluster
	// Rings of the fleet; when empty, one for the label tier=canary, then one for each zone.
	Rings []fleet.Ring
}

// exampleClusters are what a fleet begins with.
func exampleClusters() []fleet.Cluster {
	return []fleet.Cluster{
		{Name: "canary", AZ: "az1", Kubernetes: "1.36", Labels: map[string]string{"tier": "canary"}},
		{Name: "az1-c1", AZ: "az1", Kubernetes: "1.36", Labels: map[string]string{"tier": "prod"}},
		{Name: "az2-c1", AZ: "az2", Kubernetes: "1.36", Labels: map[string]string{"tier": "prod"}},
	}
}

// exampleRings are a ring of canaries, if there are any, and then zone by zone.
func exampleRings(clusters []fleet.Cluster) []fleet.Ring {
	canary := func(c fleet.Cluster) bool { return c.Labels["tier"] == "canary" }
	var rings []fleet.Ring
	if slices.ContainsFunc(clusters, canary) {
		rings = append(rings, fleet.Ring{Name: "canary", Select: map[string]string{"tier": "canary"}, Soak: 10 * time.Minute})
	}
	for _, c := range clusters {
		known := slices.ContainsFunc(rings, func(r fleet.Ring) bool { return r.Name == c.AZ })
		if canary(c) || known {
			continue
		}
		sel := map[string]string{"az": c.AZ}
		if tier := c.Labels["tier"]; tier != "" {
			sel["tier"] = tier
		}
		rings = append(rings, fleet.Ring{Name: c.AZ, Select: sel, MaxUnavailable: 1})
	}
	return rings
}

// Init writes a new fleet repository into dir, which must be empty or not there
// (a folder .git may be in it). It returns the paths that it wrote.
func Init(dir string, o InitOptions) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", dir, err)
	}
	for _, e := range entries {
		if e.Name() != ".git" {
			return nil, fmt.Errorf("%s is not empty: it has %s (give a new or empty directory)", dir, e.Name())
		}
	}
	tree, err := InitialTree(o)
	if err != nil {
		return nil, err
	}
	for _, p := range tree.paths {
		name := filepath.Join(dir, filepath.FromSlash(p))
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			return nil, fmt.Errorf("make fleet repository: %w", err)
		}
		if err := os.WriteFile(name, tree.files[p], 0o644); err != nil {
			return nil, fmt.Errorf("make fleet repository: %w", err)
		}
	}
	return slices.Clone(tree.paths), nil
}

// InitialTree is the content of a new fleet repository.
func InitialTree(o InitOptions) (Tree, error) {
	if len(o.Clusters) == 0 {
		o.Clusters = exampleClusters()
	}
	if len(o.Rings) == 0 {
		o.Rings = exampleRings(o.Clusters)
	}
	files := map[string][]byte{
		fleet.File:       fleetYAML(o),
		"README.md":      []byte(readme),
		".gitattributes": []byte("* text=auto eol=lf\n"),
	}
	for _, from := range []struct {
		prefix string
		data   fs.FS
	}{{addons.Dir, addons.Catalogue}, {"salt", salt.Data}, {kustomize.Dir, kustomize.Data}} {
		err := fs.WalkDir(from.data, ".", func(p string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			data, err := fs.ReadFile(from.data, p)
			files[from.prefix+"/"+p] = data
			return err
		})
		if err != nil {
			return Tree{}, fmt.Errorf("copy the catalogue: %w", err)
		}
	}
	if _, err := fleet.Compile(fleet.File, files[fleet.File]); err != nil {
		return Tree{}, err
	}
	return NewTree(files)
}

// fleetYAML writes fleet.yaml as a person would.
func fleetYAML(o InitOptions) []byte {
	var b bytes.Buffer
	b.WriteString("apiVersion: holdfast.dev/v1alpha1\nkind: Fleet\nclusters:\n")
	for _, c := range o.Clusters {
		fmt.Fprintf(&b, "- {name: %s, az: %s, kubernetes: %q", scalar(c.Name), scalar(c.AZ), c.Kubernetes)
		if len(c.Labels) > 0 {
			fmt.Fprintf(&b, ", labels: %s", flow(c.Labels))
		}
		b.WriteString("}\n")
	}
	b.WriteString("# A change reaches one ring after the other; every cluster is in exactly one.\nrings:\n")
	for _, r := range o.Rings {
		fmt.Fprintf(&b, "- {name: %s, select: %s", scalar(r.Name), flow(r.Select))
		if r.Soak > 0 {
			fmt.Fprintf(&b, ", soak: %s", shortDuration(r.Soak))
		}
		if r.MaxUnavailable > 0 {
			fmt.Fprintf(&b, ", maxUnavailable: %d", r.MaxUnavailable)
		}
		if r.Timeout > 0 {
			fmt.Fprintf(&b, ", timeout: %s", shortDuration(r.Timeout))
		}
		b.WriteString("}\n")
	}
	return b.Bytes()
}

// plainRE is a string that no YAML reader takes for anything else, but for words.
var plainRE = regexp.MustCompile(`^[a-z][a-z0-9-]{2,}$`)

// words are those.
var words = []string{"yes", "off", "true", "false", "null"}

// scalar writes a string, quoted where it must be.
func scalar(s string) string {
	if !plainRE.MatchString(s) || slices.Contains(words, s) {
		return strconv.Quote(s)
	}
	return s
}

func flow(m map[string]string) string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		key := k
		if k != "az" {
			key = scalar(k)
		}
		parts = append(parts, key+": "+scalar(m[k]))
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// shortDuration writes 10m and not 10m0s.
func shortDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

const readme = `# A fleet of clusters

Everything that Holdfast runs on the fleet is rendered from here. A push to this repository is checked, rendered and rolled out
ring by ring.

| where | what |
|---|---|
| fleet.yaml | the clusters, and the rings in which a change reaches them |
| salt/pillar/ | values: for every cluster (common.sls), and for some (top.sls says which) |
| salt/states/top.sls | which addons each cluster gets |
| salt/states/ADDON/ | an addon's manifests, as Salt states and Jinja templates |
| addons/ADDON/addon.yaml | an addon's version, requirements, and the values that can be set, with their defaults |
| kustomize/components/ADDON/ | what every cluster changes of an addon |
| kustomize/overlays/NAME/ | what one availability zone or one cluster changes (kind: Component) |

To change a value, edit the pillar. To change an addon itself, edit its folders and raise its version. ` + "`holdfast render`" + ` shows what a
change gives, ` + "`holdfast diff`" + ` what it changes. ` + "`git revert`" + ` and a push bring back what was before.
`
