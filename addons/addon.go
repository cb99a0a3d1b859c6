package addons

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	"go.yaml.in/yaml/v3"

	"holdfast.dev/internal/strictyaml"
)

// Dir is the folder of a fleet repository that holds the addons.
const Dir = "addons"

// File is the path of an addon's addon.yaml.
func File(name string) string { return Dir + "/" + name + "/addon.yaml" }

// DefaultHealthTimeout is how long an addon may take to become healthy, unless
// it says otherwise.
const DefaultHealthTimeout = 2 * time.Minute

// Addon is one addon.yaml.
type Addon struct {
	Name     string
	Version  *semver.Version
	Summary  string
	Order    int
	Requires Requires
	// Images by the name that templates know them by.
	Images map[string]string
	// Values that the pillar can set, by name; ValueNames has the names in the file's order.
	Values       map[string]Value
	ValueNames   []string
	Health       Health
	UpgradeNotes string

	file  string
	lines map[string]int // of the top-level keys
}

// Requires is what must be there before the addon.
type Requires struct {
	// Kubernetes is nil when any version will do.
	Kubernetes *semver.Constraints
	// Addons are names of other addons of the same bundle.
	Addons []string
}

// Health says when an addon is healthy.
type Health struct {
	// Timeout is how long its objects may take to become ready.
	Timeout time.Duration
}

// document is addon.yaml as it is written.
type document struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Name       string `yaml:"name"`
	Version    string `yaml:"version"`
	Summary    string `yaml:"summary"`
	Order      int    `yaml:"order"`
	Requires   struct {
		Kubernetes string   `yaml:"kubernetes"`
		Addons     []string `yaml:"addons"`
	} `yaml:"requires"`
	Images map[string]string    `yaml:"images"`
	Values map[string]yaml.Node `yaml:"values"`
	Health struct {
		Timeout string `yaml:"timeout"`
	} `yaml:"health"`
	UpgradeNotes string `yaml:"upgradeNotes"`
}

// nameRE is what an addon's name looks like: it becomes a folder, a label's value
// and an object's name.
var nameRE = regexp.MustCompile(`^[a-z0-9](?:[a-z0-9-]{0,51}[a-z0-9])?$`)

// imageRE is an image reference with a tag or a digest.
var imageRE = regexp.MustCompile(`^[a-z0-9.-]+(?::[0-9]+)?/[a-z0-9._/-]+(?::[A-Za-z0-9._-]{1,128}|@sha256:[0-9a-f]{64}|:[A-Za-z0-9._-]{1,128}@sha256:[0-9a-f]{64})$`)

// Load reads an addon.yaml, strictly. Errors are [strictyaml.Error] values.
func Load(file string, data []byte) (*Addon, error) {
	root, err := strictyaml.Node(file, data)
	if err != nil {
		return nil, err
	}
	var d document
	if err := strictyaml.Decode(file, data, &d); err != nil {
		return nil, err
	}
	a := &Addon{
		Name: d.Name, Summary: d.Summary, Order: d.Order, Images: d.Images, UpgradeNotes: d.UpgradeNotes,
		Values: map[string]Value{}, Health: Health{Timeout: DefaultHealthTimeout},
		file: file, lines: map[string]int{},
	}
	a.Requires.Addons = d.Requires.Addons
	for i := 0; i+1 < len(root.Content); i += 2 {
		a.lines[root.Content[i].Value] = root.Content[i].Line
	}
	if err := a.check(&d); err != nil {
		return nil, err
	}
	if err := a.loadValues(root); err != nil {
		return nil, err
	}
	return a, nil
}

// Source is the name that the addon was loaded with, and the line of a top-level key.
func (a *Addon) Source(key string) (file string, line int) { return a.file, a.lines[key] }

// Fault is an error at the line of one of addon.yaml's top-level keys.
func (a *Addon) Fault(key, msg, hint string) error {
	return &strictyaml.Error{File: a.file, Line: a.lines[key], Msg: msg, Hint: hint}
}

func (a *Addon) check(d *document) error {
	if d.APIVersion != "holdfast.dev/v1alpha1" || d.Kind != "Addon" {
		return a.Fault("kind", fmt.Sprintf("apiVersion %q and kind %q are not an addon's", d.APIVersion, d.Kind), "write apiVersion: holdfast.dev/v1alpha1 and kind: Addon")
	}
	if !nameRE.MatchString(a.Name) {
		return a.Fault("name", fmt.Sprintf("the name %q is not valid", a.Name), "use lower-case letters, digits and -")
	}
	v, err := semver.StrictNewVersion(d.Version)
	if err != nil || v.Metadata() != "" {
		return a.Fault("version", fmt.Sprintf("the version %q is not valid", d.Version), "write major.minor.patch, such as 0.1.0")
	}
	a.Version = v
	if strings.TrimSpace(a.Summary) == "" || strings.ContainsAny(a.Summary, "\r\n") {
		return a.Fault("summary", "the summary is not one line of text", "say in one line what the addon is for")
	}
	if a.Order < 0 || a.Order > 1000 {
		return a.Fault("order", fmt.Sprintf("the order %d is out of range", a.Order), "use 0 to 1000")
	}
	if c := d.Requires.Kubernetes; c != "" {
		if a.Requires.Kubernetes, err = semver.NewConstraint(c); err != nil {
			return a.Fault("requires", fmt.Sprintf("the Kubernetes version %q is not a constraint", c), `write one such as ">=1.29.0"`)
		}
	}
	for i, name := range a.Requires.Addons {
		if !nameRE.MatchString(name) || name == a.Name || slices.Contains(a.Requires.Addons[:i], name) {
			return a.Fault("requires", fmt.Sprintf("the required addon %q is not another addon's name, given once", name), "correct it")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(a.Images)) {
		if !imageRE.MatchString(a.Images[name]) {
			return a.Fault("images", fmt.Sprintf("the image %q is not a reference with registry and tag or digest", a.Images[name]), "write registry/name:tag or registry/name@sha256:...")
		}
	}
	if t := d.Health.Timeout; t != "" {
		if a.Health.Timeout, err = time.ParseDuration(t); err != nil || a.Health.Timeout <= 0 || a.Health.Timeout > 24*time.Hour {
			return a.Fault("health", fmt.Sprintf("the timeout %q is not a duration up to 24h", t), "write one such as 2m")
		}
	}
	if strings.TrimSpace(a.UpgradeNotes) == "" {
		return a.Fault("upgradeNotes", "the addon has no upgradeNotes", "say what an operator must know before taking this version")
	}
	return nil
}

// CheckCluster checks that a cluster meets what the addon requires: its
// Kubernetes version, and the other addons of its bundle.
func (a *Addon) CheckCluster(cluster, kubernetes string, bundle map[string]*Addon) error {
	var errs []error
	if a.Requires.Kubernetes != nil {
		v, err := semver.NewVersion(kubernetes)
		if err != nil {
			return fmt.Errorf("read Kubernetes version %q of cluster %s: %w", kubernetes, cluster, err)
		}
		if !a.Requires.Kubernetes.Check(v) {
			errs = append(errs, a.Fault("requires", fmt.Sprintf("%s needs Kubernetes %s, cluster %s has %s", a.Name, a.Requires.Kubernetes, cluster, kubernetes), "select the addon for other clusters only, or upgrade the cluster"))
		}
	}
	for _, name := range a.Requires.Addons {
		if bundle[name] == nil {
			errs = append(errs, a.Fault("requires", fmt.Sprintf("%s needs the addon %s, which cluster %s does not get", a.Name, name, cluster), "select "+name+" in salt/states/top.sls too"))
		}
	}
	return errors.Join(errs...)
}

// Sort returns the addons so that each comes after those it requires, and else
// by order and name.
func Sort(bundle map[string]*Addon) ([]*Addon, error) {
	left := make([]*Addon, 0, len(bundle))
	for _, a := range bundle {
		left = append(left, a)
	}
	slices.SortFunc(left, func(a, b *Addon) int {
		if a.Order != b.Order {
			return a.Order - b.Order
		}
		return strings.Compare(a.Name, b.Name)
	})
	done := map[string]bool{}
	var sorted []*Addon
	for len(left) > 0 {
		next := slices.IndexFunc(left, func(a *Addon) bool {
			return !slices.ContainsFunc(a.Requires.Addons, func(name string) bool { return bundle[name] != nil && !done[name] })
		})
		if next < 0 {
			a := left[0]
			return nil, a.Fault("requires", fmt.Sprintf("the addons %s require each other in a circle", names(left)), "remove one requirement")
		}
		a := left[next]
		for _, name := range a.Requires.Addons {
			if r := bundle[name]; r != nil && r.Order >= a.Order {
				return nil, a.Fault("order", fmt.Sprintf("%s has order %d, which is not above %d of %s, which it requires", a.Name, a.Order, r.Order, name), "raise it")
			}
		}
		done[a.Name] = true
		sorted = append(sorted, a)
		left = slices.Delete(left, next, next+1)
	}
	return sorted, nil
}

func names(list []*Addon) string {
	out := make([]string, len(list))
	for i, a := range list {
		out[i] = a.Name
	}
	return strings.Join(out, ", ")
}
