package render

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"

	"holdfast.dev/gitops/fleet"
	"holdfast.dev/internal/strictyaml"
)

// BundleFile is the path of a bundle's index.
const BundleFile = "bundle.yaml"

// Bundle is everything rendered for one cluster at one commit.
type Bundle struct {
	Index Index
	// Files are the index and one canonical YAML file for each object, at
	// <addon>/<kind>_<namespace>_<name>.yaml. Bundles may share what they hold: it is not to be changed.
	Files map[string][]byte
}

// Index is bundle.yaml.
type Index struct {
	APIVersion string `yaml:"apiVersion"`
	Kind       string `yaml:"kind"`
	Cluster    string `yaml:"cluster"`
	// Commit is the source commit. It is no part of the digest: a revert brings the digest before back.
	Commit string `yaml:"commit"`
	// Digest is over the addons and deletions below.
	Digest string `yaml:"digest"`
	// Objects is the number of objects of all addons.
	Objects int `yaml:"objects"`
	// Addons in the order in which they are applied.
	Addons []IndexAddon `yaml:"addons"`
	// Deletions of objects of the data-bearing kinds that people approved by name and UID.
	Deletions []fleet.Deletion `yaml:"deletions,omitempty"`
}

// IndexAddon is one addon of a bundle.
type IndexAddon struct {
	Name    string `yaml:"name"`
	Version string `yaml:"version"`
	// Digest is the SHA-256 of the addon's files, paths included.
	Digest  string `yaml:"digest"`
	Objects int    `yaml:"objects"`
	Order   int    `yaml:"order"`
	// Requires names the addons that must be healthy first.
	Requires []string `yaml:"requires,omitempty,flow"`
	// HealthTimeout is how long the objects may take to become ready.
	HealthTimeout time.Duration `yaml:"healthTimeout"`
}

// ParseIndex reads a bundle.yaml, strictly. file is its name in errors.
func ParseIndex(file string, data []byte) (*Index, error) {
	var idx Index
	if err := strictyaml.Decode(file, data, &idx); err != nil {
		return nil, err
	}
	if idx.APIVersion != "holdfast.dev/v1alpha1" || idx.Kind != "Bundle" {
		return nil, &strictyaml.Error{File: file, Line: 1, Msg: fmt.Sprintf("apiVersion %q and kind %q are not a bundle's", idx.APIVersion, idx.Kind)}
	}
	return &idx, nil
}

// ParseBundle reads a bundle and checks that it is whole: every addon has the
// number of objects and the digest that the index says, the index has its own
// digest, and there is no other file.
func ParseBundle(files map[string][]byte) (*Bundle, error) {
	data, ok := files[BundleFile]
	if !ok {
		return nil, fmt.Errorf("the bundle has no %s", BundleFile)
	}
	idx, err := ParseIndex(BundleFile, data)
	if err != nil {
		return nil, err
	}
	b := &Bundle{Index: *idx, Files: files}
	seen := 1
	for _, a := range idx.Addons {
		objects := b.Objects(a.Name)
		if len(objects) != a.Objects {
			return nil, fmt.Errorf("the bundle has %d objects of %s, its index says %d", len(objects), a.Name, a.Objects)
		}
		if got := digestFiles(objects); got != a.Digest {
			return nil, fmt.Errorf("the bundle's files of %s have the digest %s, its index says %s", a.Name, got, a.Digest)
		}
		seen += len(objects)
	}
	if seen != len(files) || idx.Objects != seen-1 {
		return nil, fmt.Errorf("the bundle has %d files, its index accounts for %d of them and says %d objects", len(files), seen, idx.Objects)
	}
	if got := idx.digest(); got != idx.Digest {
		return nil, fmt.Errorf("the bundle's index has the digest %s and says %s", got, idx.Digest)
	}
	return b, nil
}

// Object is one file of a bundle.
type Object struct {
	Path string
	Data []byte
}

// Objects lists an addon's objects, sorted by path.
func (b *Bundle) Objects(addon string) []Object {
	var out []Object
	for _, p := range slices.Sorted(maps.Keys(b.Files)) {
		if strings.HasPrefix(p, addon+"/") {
			out = append(out, Object{p, b.Files[p]})
		}
	}
	return out
}

// digestFiles hashes paths and contents; objects are sorted by path.
func digestFiles(objects []Object) string {
	h := sha256.New()
	for _, o := range objects {
		h.Write(fmt.Appendf(nil, "%s\x00%d\x00", o.Path, len(o.Data)))
		h.Write(o.Data)
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// digest hashes what the agent goes by: the addons and deletions, and not where they came from.
func (i *Index) digest() string {
	h := sha256.New()
	for _, a := range i.Addons {
		h.Write(fmt.Appendf(nil, "%s\x00%s\x00%s\x00%d\x00%d\x00%q\x00%s\n", a.Name, a.Version, a.Digest, a.Objects, a.Order, a.Requires, a.HealthTimeout))
	}
	for _, d := range i.Deletions {
		h.Write(fmt.Appendf(nil, "delete\x00%s\x00%s\x00%s\x00%s\n", d.Kind, d.Namespace, d.Name, d.UID))
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil))
}

// newBundle assembles a cluster's bundle from its units, in order.
func newBundle(cluster, commit string, units []*unit, deletions []fleet.Deletion) (*Bundle, error) {
	b := &Bundle{
		Index: Index{APIVersion: "holdfast.dev/v1alpha1", Kind: "Bundle", Cluster: cluster, Commit: commit, Deletions: deletions},
		Files: map[string][]byte{},
	}
	for _, u := range units {
		for _, o := range u.out.Objects {
			b.Files[o.Path] = o.Text
		}
		a := IndexAddon{
			Name: u.addon.Name, Version: u.addon.Version.String(), Digest: u.out.Digest, Objects: len(u.out.Objects),
			Order: u.addon.Order, HealthTimeout: u.addon.Health.Timeout, Requires: slices.Sorted(slices.Values(u.addon.Requires.Addons)),
		}
		b.Index.Objects += a.Objects
		b.Index.Addons = append(b.Index.Addons, a)
	}
	b.Index.Digest = b.Index.digest()
	text, err := yaml.Marshal(b.Index)
	if err != nil {
		return nil, fmt.Errorf("write index of %s: %w", cluster, err)
	}
	b.Files[BundleFile] = text
	return b, nil
}
