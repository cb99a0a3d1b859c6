package lvm

import (
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/util/validation"

	"holdfast.dev/internal/daemon"
)

// Options of the daemon.
type Options struct {
	daemon.Options
	NodeName     string
	Namespace    string // of the CSIStorageCapacity objects
	HostRoot     string
	Socket       string // where the driver listens
	KubeletDir   string // as the kubelet sees it, and mounted at the same path
	Registration string // directory; empty when node-driver-registrar registers
	Provision    bool   // off when external-provisioner does it
	Refresh      time.Duration
	CgroupRoot   string // empty for no limits
	Transfer     string // address for other nodes' drivers; empty for none
}

// BindFlags registers the options' flags with their defaults.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	o.Options.BindFlags(fs, "127.0.0.1:9814")
	fs.StringVar(&o.NodeName, "node-name", "", "name of this Node")
	fs.StringVar(&o.Namespace, "namespace", "holdfast-system", "namespace of the CSIStorageCapacity objects")
	fs.StringVar(&o.HostRoot, "host-root", "/host", "where the host's / is mounted")
	fs.StringVar(&o.Socket, "socket", "/var/lib/kubelet/plugins/"+DriverName+"/csi.sock", "unix socket of the CSI services, at a path that the kubelet has too")
	fs.StringVar(&o.Registration, "registration-dir", "/var/lib/kubelet/plugins_registry", "where to register with the kubelet; empty leaves that to node-driver-registrar")
	fs.BoolVar(&o.Provision, "provision", true, "make, delete and expand volumes of claims and publish capacity; false leaves that to external-provisioner and external-resizer")
	fs.DurationVar(&o.Refresh, "refresh", 30*time.Second, "how often one volume group is read while nothing changes")
	fs.StringVar(&o.Transfer, "transfer-address", "", "IP address and port where other nodes' drivers fetch volumes that claims there are copies of, and by which this node fetches; needs --provision; empty for neither")
	fs.StringVar(&o.CgroupRoot, "cgroup-root", "/sys/fs/cgroup", "cgroup v2 hierarchy of the host, for limits of volumes; empty for none")
}

// Validate checks the options.
func (o *Options) Validate() error {
	if o.NodeName == "" {
		return errors.New("check --node-name: it is empty (give the Node's name, in a pod spec.nodeName)")
	}
	if e := validation.IsValidLabelValue(o.NodeName); len(e) > 0 {
		return fmt.Errorf("check --node-name: %q is no label value: %s", o.NodeName, strings.Join(e, "; "))
	}
	if !filepath.IsAbs(o.Socket) || len(o.Socket) > 107 {
		return fmt.Errorf("check --socket: %q is not an absolute path of at most 107 bytes (unix(7))", o.Socket)
	}
	if o.Transfer != "" {
		if a, err := netip.ParseAddrPort(o.Transfer); err != nil || a.Addr().IsUnspecified() {
			return fmt.Errorf("check --transfer-address: %q is no IP address of this node and port", o.Transfer)
		}
	}
	if o.Refresh < 30*time.Second {
		return fmt.Errorf("check --refresh: %s is less than 30s", o.Refresh)
	}
	return nil
}
