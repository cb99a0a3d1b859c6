// Package node is a node without a kubelet: it registers with an API server,
// and runs the pods that are scheduled to it as processes of this machine, from
// the same manifests that a real cluster gets. What a container would see of
// its host lies below the node's root directory, disks included (package disk).
package node

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"holdfast.dev/api/v1alpha1"
)

// Options configure a node.
type Options struct {
	Name         string
	Kubeconfig   string
	Root         string
	Address      string
	PodCIDR      string
	BinDir       string
	Labels       string
	Disks        int
	DiskSize     string
	StorageClass string
	Flavor       string
	Group        string
	Socket       string
	Simulate     bool
	ReadyFile    string

	labels   map[string]string
	podRange netip.Prefix
	diskSize int64
}

// BindFlags declares the flags of holdfast-node.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	fs.StringVar(&o.Name, "name", "", "name of the Node")
	fs.StringVar(&o.Kubeconfig, "kubeconfig", "", "credentials of system:node:<name> in group system:nodes")
	fs.StringVar(&o.Root, "root", "", "the node's root directory; made when it is not there, kept at the end")
	fs.StringVar(&o.Address, "address", "", "the node's address, such as 127.10.1.1; pods with hostNetwork have it too")
	fs.StringVar(&o.PodCIDR, "pod-cidr", "", "range of the other pods' addresses (default 127.a.d.0/24 of an address 127.a.b.c, d = 128 + (8*b + c) mod 128)")
	fs.StringVar(&o.BinDir, "bin-dir", "bin", "image registry.holdfast.dev/<binary>:<tag> is the file <binary> in this directory")
	fs.StringVar(&o.Labels, "labels", "", "labels of the Node, key=value,…")
	fs.IntVar(&o.Disks, "disks", 0, "number of disks")
	fs.StringVar(&o.DiskSize, "disk-size", "64Mi", "size of each disk")
	fs.StringVar(&o.StorageClass, "storage-class", "local-ssd", "storage class in disks.yaml")
	fs.StringVar(&o.Flavor, "flavor", "", "label "+v1alpha1.LabelFlavor+" of the Node")
	fs.StringVar(&o.Group, "group", "data", "group of the flavor that the disks belong to, in disks.yaml")
	fs.StringVar(&o.Socket, "socket", "", "unix socket of the fault API (default <root>/node.sock)")
	fs.BoolVar(&o.Simulate, "simulate", false, "plain files instead of loop devices, even as root")
	fs.StringVar(&o.ReadyFile, "ready-file", "", "write the line that is printed once the node is ready here too")
}

// Validate checks the options and fills in what follows from others.
func (o *Options) Validate() (err error) {
	for name, v := range map[string]string{"name": o.Name, "kubeconfig": o.Kubeconfig, "root": o.Root, "address": o.Address} {
		if v == "" {
			return fmt.Errorf("--%s is missing", name)
		}
	}
	if msgs := validation.IsDNS1123Subdomain(o.Name); len(msgs) > 0 {
		return fmt.Errorf("--name %q: %s", o.Name, msgs[0])
	}
	addr, err := netip.ParseAddr(o.Address)
	if err != nil || !addr.Is4() {
		return fmt.Errorf("--address %q is not an IPv4 address", o.Address)
	}
	if o.PodCIDR == "" {
		b := addr.As4()
		b[2], b[3] = 128|(8*b[2]+b[3])%128, 0
		o.PodCIDR = netip.PrefixFrom(netip.AddrFrom4(b), 24).String()
	}
	if o.podRange, err = netip.ParsePrefix(o.PodCIDR); err != nil || !o.podRange.Addr().Is4() || o.podRange.Contains(addr) {
		return fmt.Errorf("--pod-cidr %q is not an IPv4 range without the node's own address", o.PodCIDR)
	}
	if o.labels, err = parseLabels(o.Labels); err != nil {
		return err
	}
	if o.Flavor != "" {
		o.labels[v1alpha1.LabelFlavor] = o.Flavor
	}
	size, err := resource.ParseQuantity(o.DiskSize)
	if err != nil {
		return fmt.Errorf("--disk-size %q: %w", o.DiskSize, err)
	}
	o.diskSize = size.Value()
	for _, p := range []*string{&o.Root, &o.BinDir, &o.Kubeconfig} {
		if *p, err = filepath.Abs(*p); err != nil {
			return err
		}
	}
	if o.Socket == "" {
		o.Socket = filepath.Join(o.Root, "node.sock")
	}
	const maxSocket = 107 // sun_path of unix(7), without its final zero
	if len(o.Socket) > maxSocket {
		return fmt.Errorf("--socket %s is longer than %d bytes, which no socket can be", o.Socket, maxSocket)
	}
	return nil
}

// prepareRoot makes the root directory and resolves symbolic links in its
// path: the mount table, which is compared with it, has none.
func (o *Options) prepareRoot() (err error) {
	if err := os.MkdirAll(o.Root, 0o755); err != nil {
		return fmt.Errorf("create node root: %w", err)
	}
	o.Root, err = filepath.EvalSymlinks(o.Root)
	return err
}

func parseLabels(s string) (map[string]string, error) {
	out := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		if pair == "" {
			continue
		}
		k, v, ok := strings.Cut(pair, "=")
		msgs := append(validation.IsQualifiedName(k), validation.IsValidLabelValue(v)...)
		if !ok || len(msgs) > 0 {
			return nil, fmt.Errorf("--labels: %q is not key=value: %s", pair, strings.Join(msgs, "; "))
		}
		out[k] = v
	}
	return out, nil
}

// addresses hands out pod addresses. Not safe for concurrent use.
type addresses struct {
	prefix netip.Prefix
	used   map[netip.Addr]bool
	last   netip.Addr
}

// take gives want when it is free and in range, else the next free address:
// not the lowest, so that a new pod does not meet the old one's connections.
func (a *addresses) take(want string) (string, error) {
	if addr, err := netip.ParseAddr(want); err == nil && a.prefix.Contains(addr) && !a.used[addr] {
		a.used[addr] = true
		return want, nil
	}
	first := a.prefix.Masked().Addr().Next()
	addr := a.last
	for range 1 << min(16, 32-a.prefix.Bits()) {
		if addr = addr.Next(); !addr.IsValid() || !a.prefix.Contains(addr) || !a.prefix.Contains(addr.Next()) {
			addr = first
		}
		if !a.used[addr] {
			a.used[addr], a.last = true, addr
			return addr.String(), nil
		}
	}
	return "", fmt.Errorf("no free address in %s", a.prefix)
}

func (a *addresses) release(ip string) {
	if addr, err := netip.ParseAddr(ip); err == nil {
		delete(a.used, addr)
	}
}

func newAddresses(p netip.Prefix) *addresses {
	return &addresses{prefix: p, used: map[netip.Addr]bool{}, last: p.Masked().Addr()}
}

// hostPort joins an address and a port.
func hostPort(host string, port int) string { return net.JoinHostPort(host, fmt.Sprint(port)) }
