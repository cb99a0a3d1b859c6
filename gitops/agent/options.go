package agent

import (
	"errors"
	"flag"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Options are the agent's settings.
type Options struct {
	Cluster   string // name in fleet.yaml
	Hub       string // base URL
	HubCAFile string // PEM: the authorities to know the hub by when joining
	TokenFile string // of the join token
	// SignersFile, when set, has the keys of which every bundle must carry a signature (ssh-keygen(1), ALLOWED SIGNERS).
	SignersFile string
	Identity    string // namespace/name of the Secret with the credential that joining gave
	// Apply is how objects come into the cluster: ApplyAgent (also when empty),
	// ApplyOther or ApplyFiles, then below AddonsDir. PruneGrace is how long after a
	// change of the files nothing is pruned; zero means 3 minutes.
	Apply, AddonsDir string
	PruneGrace       time.Duration
}

// BindFlags binds the options to flags.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.Cluster, "cluster", "", "name of this cluster in fleet.yaml")
	fs.StringVar(&o.Hub, "hub", "", "base URL of the hub")
	fs.StringVar(&o.HubCAFile, "hub-ca-file", "/var/run/secrets/holdfast/ca.crt", "PEM file with the hub's certificate authorities, from \"holdfast join\"")
	fs.StringVar(&o.TokenFile, "token-file", "/var/run/secrets/holdfast/token", "file with the token from \"holdfast join\", good for the first certificate")
	fs.StringVar(&o.SignersFile, "allowed-signers-file", "", "file with the SSH keys of which one must have signed a bundle (ssh-keygen(1), ALLOWED SIGNERS); empty for taking bundles unsigned")
	fs.StringVar(&o.Identity, "identity-secret", "holdfast-system/holdfast-agent-identity", "namespace/name of the Secret in which the agent keeps its certificate for the hub")
	fs.StringVar(&o.Apply, "apply", ApplyAgent, "who applies the bundle: agent; files (kube-addon-manager, from --addons-dir); other (Flux, Argo CD; the agent only looks)")
	fs.StringVar(&o.AddonsDir, "addons-dir", "/etc/kubernetes/addons", "directory of kube-addon-manager, for --apply=files")
	fs.DurationVar(&o.PruneGrace, "prune-grace", pruneGrace, "for --apply=files: longer than one pass of kube-addon-manager takes")
}

// Validate checks the options.
func (o *Options) Validate() error {
	if o.Cluster == "" {
		return errors.New("--cluster is empty; give the cluster's name in fleet.yaml")
	}
	if !slices.Contains([]string{"", ApplyAgent, ApplyOther, ApplyFiles}, o.Apply) {
		return fmt.Errorf("--apply=%s is not known; give agent, files or other", o.Apply)
	}
	if u, err := url.Parse(o.Hub); err != nil || u.Host == "" || u.Scheme != "https" {
		return fmt.Errorf("--hub %q is not an https URL", o.Hub)
	}
	if namespace, name, ok := strings.Cut(o.Identity, "/"); !ok || namespace == "" || name == "" {
		return fmt.Errorf("--identity-secret %q is not namespace/name", o.Identity)
	}
	return nil
}
