// Package fleet compiles fleet.yaml: the clusters, and the rings in which a
// change reaches them. Every cluster is in exactly one ring; anything else is an
// error that names file, line and remedy.
package fleet

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation"

	"holdfast.dev/internal/strictyaml"
	"holdfast.dev/salt/jinja"
	"holdfast.dev/salt/pyyaml"
)

// File is the path in a fleet repository.
const File = "fleet.yaml"

// Fleet is a compiled fleet.yaml.
type Fleet struct {
	// Clusters in the order of the file.
	Clusters []Cluster
	// Rings in the order of rollout.
	Rings []Ring
	// Policies that every rendered object must satisfy.
	Policies []Policy
}

// Cluster is one cluster.
type Cluster struct {
	Name string
	// AZ is the availability zone.
	AZ string
	// Kubernetes is the version, such as 1.36 or 1.36.3.
	Kubernetes string
	// Labels are free; rings and Salt's targets select by them.
	Labels map[string]string
	// Ring is the name of the one ring that the cluster is in.
	Ring string
	// Line is where the cluster is written.
	Line int
}

// Grains are what Salt's targets and templates know of the cluster: its labels,
// and cluster, id, az and kubernetes.
func (c *Cluster) Grains() map[string]string {
	g := maps.Clone(c.Labels)
	if g == nil {
		g = map[string]string{}
	}
	g["cluster"], g["id"], g["az"], g["kubernetes"] = c.Name, c.Name, c.AZ, c.Kubernetes
	return g
}

// reserved are the grains that no label may be called.
var reserved = []string{"cluster", "id", "az", "kubernetes"}

// document is fleet.yaml as it is written.
type document struct {
	APIVersion string      `yaml:"apiVersion"`
	Kind       string      `yaml:"kind"`
	Windows    []yaml.Node `yaml:"windows"`
	Freeze     []yaml.Node `yaml:"freeze"`
	Policies   []yaml.Node `yaml:"policies"`
	Clusters   []yaml.Node `yaml:"clusters"`
	Rings      []yaml.Node `yaml:"rings"`
}

type clusterDocument struct {
	Name       string            `yaml:"name"`
	AZ         string            `yaml:"az"`
	Kubernetes yaml.Node         `yaml:"kubernetes"`
	Labels     map[string]string `yaml:"labels"`
}

// compiler collects the faults of one file.
type compiler struct {
	file string
	errs []error
}

func (c *compiler) fault(line int, hint, format string, args ...any) {
	c.errs = append(c.errs, &strictyaml.Error{File: c.file, Line: line, Msg: fmt.Sprintf(format, args...), Hint: hint})
}

// Compile reads a fleet.yaml. The error joins one [strictyaml.Error] for each fault.
func Compile(file string, data []byte) (*Fleet, error) {
	// Salt sees the labels as grains, so that what YAML readers take differently is refused here, too.
	if _, err := pyyaml.One(&pyyaml.File{Name: file, Output: jinja.Plain(data)}); err != nil {
		return nil, err
	}
	root, err := strictyaml.Node(file, data)
	if err != nil {
		return nil, err
	}
	if err := strictyaml.Decode(file, data, &shape{}); err != nil {
		return nil, err
	}
	var d document
	if err := root.Decode(&d); err != nil {
		return nil, &strictyaml.Error{File: file, Msg: err.Error()}
	}
	c := &compiler{file: file}
	if d.APIVersion != "holdfast.dev/v1alpha1" || d.Kind != "Fleet" {
		c.fault(root.Line, "write apiVersion: holdfast.dev/v1alpha1 and kind: Fleet", "apiVersion %q and kind %q are not a fleet's", d.APIVersion, d.Kind)
	}
	f := &Fleet{}
	for i := range d.Clusters {
		c.cluster(f, &d.Clusters[i])
	}
	windows, freezes := c.windows(d.Windows), c.freezes(d.Freeze)
	for i := range d.Rings {
		c.ring(f, &d.Rings[i], windows, freezes)
	}
	c.policies(f, d.Policies)
	if len(d.Clusters) == 0 {
		c.fault(root.Line, "add one below clusters:", "the fleet has no cluster")
	}
	if len(d.Rings) == 0 {
		c.fault(root.Line, "add one below rings:", "the fleet has no ring")
	}
	if len(c.errs) == 0 {
		c.assign(f)
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	return f, nil
}

// shape has the types of the whole file, so that one strict decoding finds
// unknown fields and wrong types.
type shape struct {
	APIVersion string            `yaml:"apiVersion"`
	Kind       string            `yaml:"kind"`
	Windows    []windowDocument  `yaml:"windows"`
	Freeze     []freezeDocument  `yaml:"freeze"`
	Policies   []policyDocument  `yaml:"policies"`
	Clusters   []clusterDocument `yaml:"clusters"`
	Rings      []ringDocument    `yaml:"rings"`
}

func (c *compiler) name(line int, kind, name string) bool {
	if problems := validation.IsDNS1123Label(name); len(problems) > 0 {
		c.fault(line, "use lower-case letters, digits and -, at most 63", "the %s's name %q is not valid", kind, name)
		return false
	}
	return true
}

// versionRE is a Kubernetes version: the minor, or a patch release.
var versionRE = regexp.MustCompile(`^1\.[0-9]{1,3}(?:\.[0-9]{1,3})?$`)

func (c *compiler) cluster(f *Fleet, n *yaml.Node) {
	var d clusterDocument
	if err := n.Decode(&d); err != nil {
		c.fault(n.Line, "", "%s", err.Error())
		return
	}
	if !c.name(n.Line, "cluster", d.Name) {
		return
	}
	if i := slices.IndexFunc(f.Clusters, func(o Cluster) bool { return o.Name == d.Name }); i >= 0 {
		c.fault(n.Line, "rename or remove one", "the cluster %q is there twice, first in line %d", d.Name, f.Clusters[i].Line)
		return
	}
	if problems := validation.IsDNS1123Label(d.AZ); len(problems) > 0 {
		c.fault(n.Line, "write az: with lower-case letters, digits and -", "the cluster %q is in the availability zone %q, which is not a valid name", d.Name, d.AZ)
	}
	switch v := &d.Kubernetes; {
	case v.Kind == 0:
		c.fault(n.Line, `write kubernetes: "1.36"`, "the cluster %q has no Kubernetes version", d.Name)
	case v.ShortTag() == "!!float" || v.ShortTag() == "!!int":
		c.fault(v.Line, fmt.Sprintf("quote it: %q", v.Value), "the Kubernetes version of %q is a number, in which 1.30 and 1.3 are the same", d.Name)
	case v.ShortTag() != "!!str" || !versionRE.MatchString(v.Value):
		c.fault(v.Line, `write kubernetes: "1.36"`, "the Kubernetes version %q of %q is not valid", v.Value, d.Name)
	}
	for _, key := range slices.Sorted(maps.Keys(d.Labels)) {
		value := d.Labels[key]
		switch {
		case slices.Contains(reserved, key):
			c.fault(n.Line, "remove it; the cluster's own fields say it", "the label %q of the cluster %q is reserved", key, d.Name)
		case len(validation.IsQualifiedName(key)) > 0 || strings.Contains(key, "/"), len(validation.IsValidLabelValue(value)) > 0:
			c.fault(n.Line, "use letters, digits, -, _ and ., at most 63", "the label %q: %q of the cluster %q is not valid", key, value, d.Name)
		}
	}
	f.Clusters = append(f.Clusters, Cluster{Name: d.Name, AZ: d.AZ, Kubernetes: d.Kubernetes.Value, Labels: d.Labels, Line: n.Line})
}

// assign puts every cluster into its ring.
func (c *compiler) assign(f *Fleet) {
	for i := range f.Clusters {
		cl := &f.Clusters[i]
		for j := range f.Rings {
			r := &f.Rings[j]
			if !r.selects(cl) {
				continue
			}
			if cl.Ring != "" {
				c.fault(cl.Line, "narrow the select of one", "the cluster %q is in two rings, %q (line %d) and %q (line %d)", cl.Name, cl.Ring, lineOf(f, cl.Ring), r.Name, r.Line)
				continue
			}
			cl.Ring = r.Name
			r.Clusters = append(r.Clusters, cl.Name)
		}
		if cl.Ring == "" {
			c.fault(cl.Line, "change its labels, or add a ring that selects them", "the cluster %q is in no ring", cl.Name)
		}
	}
	for _, r := range f.Rings {
		if len(r.Clusters) == 0 {
			c.fault(r.Line, "correct its select, or remove it", "the ring %q selects no cluster", r.Name)
		}
	}
}

func lineOf(f *Fleet, ring string) int {
	i := slices.IndexFunc(f.Rings, func(r Ring) bool { return r.Name == ring })
	return f.Rings[i].Line
}

func (r *Ring) selects(c *Cluster) bool {
	labels := c.Grains()
	for key, want := range r.Select {
		if got, ok := labels[key]; !ok || got != want {
			return false
		}
	}
	return true
}
