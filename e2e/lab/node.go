package lab

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"embed"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/lab/guest"
	"holdfast.dev/e2e/lab/machine"
	"holdfast.dev/e2e/lab/network"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/internal/hostexec"
)

//go:embed seed
var seedFiles embed.FS

const (
	// serviceCIDR and apiService are those of e2e/cluster.
	serviceCIDR = "10.96.0.0/16"
	apiService  = "10.96.0.1"

	// bootTimeout is ten times what a boot takes on two quiet processors.
	bootTimeout = 10 * time.Minute
	// payloadFree is for what containers write into their layers.
	payloadFree = 1 << 30
	// commandTimeout is for a short command in a machine that is busy.
	commandTimeout = time.Minute
)

// NodeOptions declare a node.
type NodeOptions struct {
	Name   string
	Labels map[string]string
	Memory int // MiB; default 2048
	// Disks beside the system's own, in the order of their places.
	Disks []Disk
}

// Disk is a disk of a node, and how Prepare lays it out.
type Disk struct {
	machine.Disk
	// StorageClass and Filesystem (ext4 or xfs) of its only partition; with no
	// StorageClass and no Pool the disk stays as it is and is not in disks.yaml.
	StorageClass, Filesystem string
	// Pool makes the disk a volume group of that pool, half of it a thin pool.
	Pool string
}

// Node is a machine with a kubelet. Its methods may be called concurrently, but
// for those that change its disks or turn its power on and off.
type Node struct {
	*machine.Machine
	Name    string
	Address string
	// SSHPort of 127.0.0.1 leads to the node's sshd.
	SSHPort int

	lab    *Lab
	number int // from 1
	o      NodeOptions
	shell  *guest.Shell
	disks  []*prepared
	acting sync.Mutex // one action of Do at a time
}

// newNode makes the node's machine. It is off.
func (l *Lab) newNode(ctx context.Context, number int, o NodeOptions) (*Node, error) {
	if o.Memory == 0 {
		o.Memory = 2048
	}
	port, err := freePort()
	if err != nil {
		return nil, fmt.Errorf("make node %s: %w", o.Name, err)
	}
	n := &Node{Name: o.Name, Address: network.MachineAddress(number), SSHPort: port, lab: l, number: number, o: o}
	n.shell = guest.NewShell(fmt.Sprintf("127.0.0.1:%d", port), l.keys)
	dir := filepath.Join(l.dir, o.Name)
	seed, err := n.writeSeed(ctx, dir)
	if err != nil {
		return nil, fmt.Errorf("make node %s: %w", o.Name, err)
	}
	cpus := 2
	if l.Accelerator == machine.TCG {
		cpus = 1 // two nodes share two processors: more of them only wait for each other's locks
	}
	mo := machine.Options{
		Name: o.Name, Dir: dir, Image: l.image, Accelerator: l.Accelerator, CPUs: cpus, Memory: o.Memory,
		NetworkSocket: l.net.Socket(), MAC: network.MAC(number), SSHPort: port,
		ReadOnly: []string{seed}, Overlaid: []string{l.payload},
	}
	for _, d := range o.Disks {
		mo.Disks = append(mo.Disks, d.Disk)
		n.disks = append(n.disks, &prepared{Disk: d})
	}
	if n.Machine, err = machine.New(ctx, mo); err != nil {
		return nil, err
	}
	return n, nil
}

// writeSeed writes the image of everything that makes this node differ from others.
func (n *Node) writeSeed(ctx context.Context, dir string) (string, error) {
	src := filepath.Join(dir, "seed")
	if err := os.CopyFS(dir, seedFiles); err != nil {
		return "", err
	}
	_, apiPort, err := net.SplitHostPort(strings.TrimPrefix(n.lab.Cluster.Server(), "https://"))
	if err != nil {
		return "", err
	}
	var labels []string
	for _, k := range slices.Sorted(maps.Keys(n.o.Labels)) {
		labels = append(labels, k+"="+n.o.Labels[k])
	}
	env := [][2]string{
		{"NAME", n.Name}, {"ADDRESS", n.Address}, {"LABELS", strings.Join(labels, ",")}, {"GATEWAY", network.Gateway}, {"HOST", network.Host},
		{"API_PORT", apiPort}, {"API_SERVICE", apiService}, {"SERVICE_CIDR", serviceCIDR},
	}
	var b strings.Builder
	for _, e := range env {
		fmt.Fprintf(&b, "%s=%s\n", e[0], e[1])
	}
	cni, err := os.ReadFile(filepath.Join(src, "cni.conflist"))
	if err != nil {
		return "", err
	}
	files := map[string][]byte{
		"node.env":             []byte(b.String()),
		"cni.conflist":         []byte(strings.ReplaceAll(string(cni), "POD_SUBNET", network.PodSubnet(n.number))),
		"authorized_keys":      n.lab.keys.AuthorizedKey,
		"ssh_host_ed25519_key": n.lab.keys.HostKey,
		"bootstrap.kubeconfig": n.lab.bootstrap,
		"ca.crt":               n.lab.ca,
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(src, name), data, 0o600); err != nil {
			return "", err
		}
	}
	out := filepath.Join(dir, "seed.img")
	return out, writeFilesystem(ctx, "seed", src, out, 0)
}

// writeFilesystem makes an ext4 image of a directory, with some bytes to spare.
func writeFilesystem(ctx context.Context, label, dir, out string, free int64) error {
	size := int64(8<<20) + free
	err := filepath.Walk(dir, func(_ string, info os.FileInfo, err error) error {
		if err == nil {
			size += info.Size() + 8<<10
		}
		return err
	})
	if err != nil {
		return err
	}
	size += size / 16
	_, err = hostexec.Run(ctx, 2*time.Minute, hostexec.Command{Path: "mkfs.ext4",
		Args: []string{"-q", "-F", "-L", label, "-m", "0", "-E", "root_owner=0:0", "-d", dir, out, fmt.Sprintf("%dk", size>>10)}})
	return err
}

func freePort() (int, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	return ln.Addr().(*net.TCPAddr).Port, ln.Close()
}

// Run runs a script with sh as root and returns what it prints. Without a
// deadline in ctx it has a minute.
func (n *Node) Run(ctx context.Context, script string) (string, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, commandTimeout)
		defer cancel()
	}
	out, err := n.shell.Run(ctx, script)
	if err != nil {
		return out, fmt.Errorf("node %s: %w", n.Name, err)
	}
	return out, nil
}

// AwaitShell waits until the system is up so far that it runs commands.
func (n *Node) AwaitShell(ctx context.Context) error {
	_, err := wait.Until(ctx, bootTimeout, "shell in node "+n.Name, func() (bool, error) {
		if !n.Running() {
			return false, machine.ErrOff
		}
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		_, err := n.shell.Run(ctx, "true")
		return err == nil, err
	})
	return err
}

// BootID names the current start of the node's kernel.
func (n *Node) BootID(ctx context.Context) (string, error) {
	out, err := n.Run(ctx, "cat /proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(out), err
}

// AwaitReady waits until the node's kubelet says that it is ready. After a
// restart, boot is the boot id that must be over; else it is empty.
func (n *Node) AwaitReady(ctx context.Context, boot string) error {
	_, err := wait.Until(ctx, bootTimeout, "node "+n.Name+" Ready", func() (bool, error) {
		var node corev1.Node
		if err := n.lab.Client.Get(ctx, client.ObjectKey{Name: n.Name}, &node); err != nil {
			return false, err
		}
		if node.Status.NodeInfo.BootID == boot {
			return false, errors.New("it has not started again yet")
		}
		for _, c := range node.Status.Conditions {
			if c.Type == corev1.NodeReady {
				if c.Status != corev1.ConditionTrue {
					return false, errors.New(c.Message)
				}
				return true, nil
			}
		}
		return false, nil
	})
	return err
}

// AwaitReport waits until the node's disk monitor has reported from a later boot
// than the one with this id.
func (n *Node) AwaitReport(ctx context.Context, before string) error {
	_, err := wait.Until(ctx, bootTimeout, "report of node "+n.Name, func() (bool, error) {
		var cn v1alpha1.ComputeNode
		err := n.lab.Client.Get(ctx, client.ObjectKey{Name: n.Name}, &cn)
		return err == nil && cn.Status.BootID != before, err
	})
	return err
}

// PowerCut takes the power away, as it goes away: nothing is flushed.
func (n *Node) PowerCut() {
	n.Machine.PowerCut()
	n.shell.Reset()
}

// BeginReboot has the node restart in an orderly way.
func (n *Node) BeginReboot(ctx context.Context) error {
	defer n.shell.Reset() // its connection ends without a word
	_, err := n.Run(ctx, "systemctl --no-block reboot")
	return err
}

// Reboot restarts the node in an orderly way and returns when its new kernel
// runs commands.
func (n *Node) Reboot(ctx context.Context) error { return n.restart(ctx, n.BeginReboot) }

// Panic makes the node's kernel panic, and restart.
func (n *Node) Panic(ctx context.Context) error {
	return n.restart(ctx, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		_, err := n.Run(ctx, "echo c > /proc/sysrq-trigger")
		if errors.Is(err, guest.ErrAway) {
			return nil // as it must be
		}
		return errors.Join(errors.New("the kernel lives on"), err)
	})
}

// Reset presses the reset button.
func (n *Node) Reset(ctx context.Context) error { return n.restart(ctx, n.Machine.Reset) }

func (n *Node) restart(ctx context.Context, bringDown func(context.Context) error) error {
	before, err := n.BootID(ctx)
	if err != nil {
		return err
	}
	if err := bringDown(ctx); err != nil {
		return fmt.Errorf("restart node %s: %w", n.Name, err)
	}
	n.shell.Reset()
	_, err = wait.Until(ctx, bootTimeout, "restart of node "+n.Name, func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
		defer cancel()
		now, err := n.BootID(ctx)
		return err == nil && now != before, err
	})
	return err
}

// ImportArchive has the node's containerd import the OCI archive of
// ArchivedImage, as nodes without a registry do.
func (n *Node) ImportArchive(ctx context.Context) (said string, err error) {
	return n.Run(ctx, "ctr -n k8s.io images import --digests "+PayloadDir+"/"+ArchivedImage+".tar")
}

// KillKubelet kills the kubelet with -9. systemd starts it again.
func (n *Node) KillKubelet(ctx context.Context) error {
	_, err := n.Run(ctx, "systemctl kill --signal=KILL kubelet.service")
	return err
}

// KillPod kills every process of a pod's containers with -9.
func (n *Node) KillPod(ctx context.Context, pod *corev1.Pod) error {
	if pod.Spec.NodeName != n.Name {
		return fmt.Errorf("kill pod %s/%s: it is on node %q", pod.Namespace, pod.Name, pod.Spec.NodeName)
	}
	var b strings.Builder
	for _, c := range pod.Status.ContainerStatuses {
		if _, id, ok := strings.Cut(c.ContainerID, "containerd://"); ok && c.State.Running != nil {
			fmt.Fprintf(&b, "ctr -n k8s.io task kill --all --signal SIGKILL %s\n", id)
		}
	}
	if b.Len() == 0 {
		return fmt.Errorf("kill pod %s/%s: no container of it runs", pod.Namespace, pod.Name)
	}
	_, err := n.Run(ctx, b.String())
	return err
}

// JumpClock sets the node's clock off by d. RestoreClock undoes it.
func (n *Node) JumpClock(ctx context.Context, d time.Duration) error {
	return n.setClock(ctx, time.Now().Add(d))
}

// RestoreClock sets the node's clock to this host's.
func (n *Node) RestoreClock(ctx context.Context) error { return n.setClock(ctx, time.Now()) }

func (n *Node) setClock(ctx context.Context, t time.Time) error {
	_, err := n.Run(ctx, fmt.Sprintf("date --utc --set=@%.3f", float64(t.UnixMilli())/1000))
	return err
}
