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

// Retention says that one object stays on its cluster although the bundle no
// longer has it. Nothing happens to it: it is why the hub does not hold the bundle.
type Retention struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
}

// Approvals are what an approvals.yaml says, by cluster, in the order of the file.
type Approvals struct {
	Deletions map[string][]Deletion
	Retained  map[string][]Retention
}

type approvalsDocument struct {
	APIVersion string      `yaml:"apiVersion"`
	Kind       string      `yaml:"kind"`
	Deletions  []yaml.Node `yaml:"deletions"`
	Retained   []yaml.Node `yaml:"retained"`
}

type approvalsShape struct {
	APIVersion string              `yaml:"apiVersion"`
	Kind       string              `yaml:"kind"`
	Deletions  []deletionDocument  `yaml:"deletions"`
	Retained   []retentionDocument `yaml:"retained"`
}

type retentionDocument struct {
	Cluster   string `yaml:"cluster"`
	Kind      string `yaml:"kind"`
	Namespace string `yaml:"namespace"`
	Name      string `yaml:"name"`
	Reason    string `yaml:"reason"`
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

// Approvals reads an approvals.yaml. The error joins one [strictyaml.Error] for
// each fault.
func (f *Fleet) Approvals(file string, data []byte) (*Approvals, error) {
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
	out := &Approvals{Deletions: map[string][]Deletion{}, Retained: map[string][]Retention{}}
	lines := map[string]int{}
	once := func(line int, e *retentionDocument, what, hint string) {
		key := fmt.Sprintf("%s %s %s/%s", e.Cluster, e.Kind, e.Namespace, e.Name)
		if first, dup := lines[key]; dup {
			c.fault(line, hint, "the %s of %s is there twice, first in line %d", what, key, first)
		}
		lines[key] = line
	}
	for i := range d.Deletions {
		n := &d.Deletions[i]
		var e deletionDocument
		if err := n.Decode(&e); err != nil {
			c.fault(n.Line, "", "%s", err.Error())
			continue
		}
		named := retentionDocument{Cluster: e.Cluster, Kind: e.Kind, Namespace: e.Namespace, Name: e.Name, Reason: e.Reason}
		c.named(f, n.Line, &named, "deletion")
		if !uidRE.MatchString(e.UID) {
			c.fault(n.Line, "holdfast plan prints it", "the uid %q is not one", e.UID)
		}
		once(n.Line, &named, "deletion", "keep the one with the UID that is meant")
		out.Deletions[e.Cluster] = append(out.Deletions[e.Cluster], Deletion{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name, UID: e.UID, Reason: e.Reason})
	}
	for i := range d.Retained {
		n := &d.Retained[i]
		var e retentionDocument
		if err := n.Decode(&e); err != nil {
			c.fault(n.Line, "", "%s", err.Error())
			continue
		}
		c.named(f, n.Line, &e, "retention")
		once(n.Line, &e, "retention", "it is either deleted or retained; keep what is meant")
		out.Retained[e.Cluster] = append(out.Retained[e.Cluster], Retention{Kind: e.Kind, Namespace: e.Namespace, Name: e.Name})
	}
	if len(c.errs) > 0 {
		return nil, errors.Join(c.errs...)
	}
	return out, nil
}

// named checks what every entry names: one object of a cluster, and why.
func (c *compiler) named(f *Fleet, line int, e *retentionDocument, what string) {
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
	if strings.TrimSpace(e.Reason) == "" {
		c.fault(line, "write reason: and why", "the %s of %s %s has no reason", what, e.Kind, e.Name)
	}
}
