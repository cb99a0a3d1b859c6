package server

import (
	"flag"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"holdfast.dev/e2e/cluster/datadir"
)

// Options say how to run a control plane.
type Options struct {
	// Name is the cluster's name: a DNS label of at most 40 characters.
	Name string
	// Parent is the directory in which the data directory is made.
	Parent string
	// Kubeconfig, when set, receives a copy of the administrator's kubeconfig.
	Kubeconfig string
	// BindAddress is the IP address that the API server listens on, on a free port.
	BindAddress string
	// ReadyFile, when set, receives the line that is printed when the cluster is ready.
	ReadyFile string
	// LogDir receives the logs in place of the data directory, and keeps them.
	LogDir string
	// Keep keeps the data directory after the end.
	Keep bool
	// Fsync makes etcd write through to the disk. Without it a crash of the
	// machine loses data that are thrown away anyway.
	Fsync bool
	// Verbosity is klog's -v.
	Verbosity int
	// NodeMonitorGracePeriod is how long a Node may be silent before it is NotReady.
	NodeMonitorGracePeriod time.Duration
	// ReadyTimeout is how long the start may take.
	ReadyTimeout time.Duration
	// APIServerArgs, ControllerManagerArgs and SchedulerArgs follow the
	// components' own flags.
	APIServerArgs, ControllerManagerArgs, SchedulerArgs []string
}

// BindFlags declares the options as flags.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.Name, "name", "holdfast", "name of the `cluster`")
	fs.StringVar(&o.Parent, "dir", datadir.DefaultParent(os.TempDir(), os.Getuid()),
		"`directory` in which the cluster's data directory is made; what earlier clusters left in it is removed")
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "`file` to write the administrator's kubeconfig to, besides the one in the data directory")
	fs.StringVar(&o.BindAddress, "bind-address", "127.0.0.1", "IP `address` to listen on, on a free port")
	fs.StringVar(&o.ReadyFile, "ready-file", "", "`file` to write the ready line to, besides standard output")
	fs.StringVar(&o.LogDir, "log-dir", "", "`directory` for logs that stay; default is in the data directory")
	fs.BoolVar(&o.Keep, "keep", false, "keep the data directory after the end")
	fs.BoolVar(&o.Fsync, "fsync", false, "let etcd write through to the disk")
	fs.IntVar(&o.Verbosity, "v", 0, "verbosity of the Kubernetes components")
	fs.DurationVar(&o.NodeMonitorGracePeriod, "node-monitor-grace-period", 50*time.Second,
		"how long a node may be silent before it is NotReady")
	fs.DurationVar(&o.ReadyTimeout, "ready-timeout", time.Minute, "how long the start may take")
	fs.Var((*args)(&o.APIServerArgs), "apiserver-arg", "`flag` for kube-apiserver, such as --event-ttl=10m; may be repeated")
	fs.Var((*args)(&o.ControllerManagerArgs), "controller-manager-arg", "`flag` for kube-controller-manager; may be repeated")
	fs.Var((*args)(&o.SchedulerArgs), "scheduler-arg", "`flag` for kube-scheduler; may be repeated")
}

var validName = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]{0,38}[a-z0-9])?$`)

// Validate checks the options.
func (o *Options) Validate() error {
	switch {
	case !validName.MatchString(o.Name):
		return fmt.Errorf("--name %q: use 1 to 40 of a-z, 0-9 and '-', with a letter or digit at both ends", o.Name)
	case o.Parent == "":
		return fmt.Errorf("--dir is empty: name a directory")
	case net.ParseIP(o.BindAddress) == nil:
		return fmt.Errorf("--bind-address %q is no IP address", o.BindAddress)
	case net.ParseIP(o.BindAddress).IsUnspecified():
		return fmt.Errorf("--bind-address %q names every address: choose one, since it goes into the kubeconfig", o.BindAddress)
	case o.ReadyTimeout <= 0:
		return fmt.Errorf("--ready-timeout %s: use a duration above zero", o.ReadyTimeout)
	case o.NodeMonitorGracePeriod < time.Second:
		return fmt.Errorf("--node-monitor-grace-period %s: use at least 1s", o.NodeMonitorGracePeriod)
	}
	for _, list := range [][]string{o.APIServerArgs, o.ControllerManagerArgs, o.SchedulerArgs} {
		for _, a := range list {
			if !strings.HasPrefix(a, "--") {
				return fmt.Errorf("component flag %q does not begin with --", a)
			}
		}
	}
	return nil
}

// args is a flag that may be repeated.
type args []string

func (a *args) String() string     { return strings.Join(*a, " ") }
func (a *args) Set(s string) error { *a = append(*a, s); return nil }
