package nodeprep

import (
	"errors"
	"flag"
	"fmt"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"

	"holdfast.dev/internal/output"
)

// Options of node-prepare.
type Options struct {
	FlavorFile string
	NodeName   string
	Kubeconfig string
	Apply      bool
	Certify    bool
	Wipe       map[string]string // disk id to token
	Replace    map[string]string // missing disk to new disk
	Output     output.Format
	HostRoot   string
	UnitsOnly  bool
}

// BindFlags registers the options' flags with their defaults.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	o.Output = output.Table
	fs.StringVar(&o.FlavorFile, "flavor-file", "", "NodeFlavor to follow; without it the one that the Node's label holdfast.dev/flavor names")
	fs.StringVar(&o.NodeName, "node-name", "", "name of this Node: its ComputeNode says which disks are quarantined, failed or to be replaced")
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "how to reach the API server; else KUBECONFIG, the pod's own, or ~/.kube/config")
	fs.BoolVar(&o.Apply, "apply", false, "do it; without it the plan is printed and no disk is changed")
	fs.BoolVar(&o.Certify, "certify", false, "read each raw partition that is made to its last byte, or zero it where its disk was given up, and certify that it is clean; takes as long as the disk does")
	fs.Func("wipe", "ID=TOKEN: give up what is on the disk; the plan prints the token, which works once (may be repeated)", pairs(&o.Wipe))
	fs.Func("replace", "OLD=NEW: give the place of a missing disk to a new one (may be repeated)", pairs(&o.Replace))
	fs.Var(&o.Output, "o", "table, json or yaml")
	fs.StringVar(&o.HostRoot, "host-root", "/", "where the host's / is mounted")
	fs.BoolVar(&o.UnitsOnly, "units-only", false, "write mount units and start none: systemd does not run, as while an image is made")
}

func pairs(m *map[string]string) func(string) error {
	return func(s string) error {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" || v == "" {
			return fmt.Errorf("%q is not two names with = between them", s)
		}
		if *m == nil {
			*m = map[string]string{}
		}
		if _, twice := (*m)[k]; twice {
			return fmt.Errorf("%s is given twice", k)
		}
		(*m)[k] = v
		return nil
	}
}

// Validate checks the options.
func (o *Options) Validate() error {
	if o.FlavorFile == "" && o.NodeName == "" {
		return errors.New("check --flavor-file and --node-name: both are empty (give a file with a NodeFlavor, or the Node's name)")
	}
	if o.NodeName != "" {
		if e := validation.IsDNS1123Subdomain(o.NodeName); len(e) > 0 {
			return fmt.Errorf("check --node-name: %q: %s", o.NodeName, e[0])
		}
	}
	if o.HostRoot != "/" && !o.UnitsOnly {
		return fmt.Errorf("check --host-root: systemd would be told of units below %s, which it does not read (add --units-only)", o.HostRoot)
	}
	seen := map[string]string{}
	for old, id := range o.Replace {
		if other := seen[id]; other != "" || old == id {
			return fmt.Errorf("check --replace: disk %s can take one place and not its own", id)
		}
		seen[id] = old
	}
	return nil
}
