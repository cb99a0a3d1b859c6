package fleet

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
	"k8s.io/apimachinery/pkg/util/validation"

	"holdfast.dev/internal/strictyaml"
)

// ApprovalsFile is the path of the approvals in a fleet repository.
const ApprovalsFile = "approvals.yaml"

// DataKinds are the kinds whose deletion takes data, or much else, with it. None
// is pruned unless a [Deletion] names it.
var DataKinds = []string{"PersistentVolume", "PersistentVolumeClaim", "Namespace", "CustomResourceDefinition"}

// Deletion approves that one object, and no other of its name, may be deleted
// when the bundle no longer has it. The UID makes it good for one time: what is
// made again has another.
type Deletion struct {
	Kind      string `yaml:"kind"`
	Namespace string `yaml:"namespace,omitempty"`
	Name      string `yaml:"name"`
	UID       string `yaml:"uid"`
	// Reason is for whoever reads the commit; bundles do not carry it.
	Reason string `yaml:"-"`
}

type approvalsDocument struct {
	APIVersion string      `yaml:"apiVersion"`
	Kind       string      `yaml:"kind"`
	Deletions  []yaml.Node `yaml:"deletions"`
}

type approvalsShape struct {
	APIVersion string             `yaml:"apiVersion"`
	Kind       string             `yaml:"kind"`
	Deletions  []deletionDocument `yaml:"deletions"`
}

type deletionDocument struct {
	Cluster   string `yaml:"cluster"`
	Kind      string `yaml:"kind"`
	Namespace string `yaml:"namespace"`
	Name      string `yaml:"name"`
	UID       string `yaml:"uid"`
	Reason    string `yaml:"reason"`
}

var uidRE = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// Approvals reads an approvals.yaml: the deletions that are approved, by cluster,
// in the order of the file. The error joins one [strictyaml.Error] for each fault.
func (f *Fleet) Approvals(file string, data []byte) (map[string][]Deletion, error) {
	root, err := strictyaml.Node(file, data)
	if err != nil {
		return nil, err
	}
	if err := strictyaml.Decode(file, data, &approvalsShape{}); err != nil {
		return nil, err
	}
	var d approvalsDocument
	if err := root.Decode(&d); err != nil {
		return nil, &strictyaml.Error{File: file, Msg: err.Error()}
	}
	c := &compiler{file: file}
	if d.APIVersion != "holdfast.dev/v1alpha1" || d.Kind != "Approvals" {
		c.fault(root.Line, "write apiVersion: holdfast.dev/v1alpha1 and kind: Approvals", "apiVersion %q and kind %q are not the approvals'", d.APIVersion, d.Kind)
	}
	out := map[string][]Deletion{}
	lines := map[string]int{}
	for i := range d.Deletions {
		n := &d.Deletions[i]
		var e deletionDocument
		if err := n.Decode(&e); err != nil {
			c.fault(n.Line, "", "%s", err.Error())
			continue
		}
		c.deletion(f, n.Line, &e)
		key := fmt.Sprintf("%s %s %s/%s", e.Cluster, e.Kind, e.Namespace, e.Name)
		if first, dup := lines[key]; dup {
			c.fault(n.Line, "keep the one with the UID that is meant", "the deletion of %s is there twice, first in line %d", key, first)
		}
		lines[key] = n.Line
		out[e.Cluster] = append(out[e.Cluster], Deletion{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name, UID: e.UID, Reason: e.Reason})
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	return out, nil
}

func (c *compiler) deletion(f *Fleet, line int, e *deletionDocument) {
	if !slices.ContainsFunc(f.Clusters, func(cl Cluster) bool { return cl.Name == e.Cluster }) {
		c.fault(line, "name one of "+File, "there is no cluster %q", e.Cluster)
	}
	if !slices.Contains(DataKinds, e.Kind) {
		c.fault(line, "write one of "+strings.Join(DataKinds, ", ")+"; other kinds need no approval", "the kind %q needs none", e.Kind)
	}
	if namespaced := e.Kind == "PersistentVolumeClaim"; namespaced != (e.Namespace != "") {
		c.fault(line, "give a PersistentVolumeClaim its namespace, and nothing else one", "the namespace %q does not fit the kind %s", e.Namespace, e.Kind)
	}
	if len(validation.IsDNS1123Subdomain(e.Name)) > 0 {
		c.fault(line, "write the object's name; patterns are not supported", "the name %q is not an object's", e.Name)
	}
	if !uidRE.MatchString(e.UID) {
		c.fault(line, "holdfast plan prints it", "the uid %q is not one", e.UID)
	}
	if strings.TrimSpace(e.Reason) == "" {
		c.fault(line, "write reason: and why", "the deletion of %s %s has no reason", e.Kind, e.Name)
	}
}
