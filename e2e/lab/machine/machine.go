// Package machine runs virtual machines with disks that fail on demand: QEMU
// processes, driven over QMP. A fault belongs to the disk and outlives the
// power: a bad sector is bad after a restart, and a pulled disk is not there.
package machine

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"
	"time"

	"holdfast.dev/e2e/lab/image"
	"holdfast.dev/e2e/lab/qmp"
	"holdfast.dev/internal/hostexec"
)

// ErrOff is returned for what only a running machine can do.
var ErrOff = errors.New("the machine is off")

const (
	// qmpTimeout bounds one command; QEMU answers in milliseconds, but the host may be busy.
	qmpTimeout = 20 * time.Second
	qemu       = "qemu-system-x86_64"
)

// Options describe a machine.
type Options struct {
	Name string // host name
	// Dir is the machine's own directory: disks, sockets and logs. Its path is
	// at most 80 bytes long, for the sockets in it.
	Dir   string
	Image image.Image
	// Accelerator is what Accelerator chose.
	Accelerator string
	CPUs        int
	Memory      int // MiB
	// NetworkSocket and MAC join the machine to a network.Network.
	NetworkSocket, MAC string
	// SSHPort of 127.0.0.1 leads to the machine's sshd over a card of its own,
	// which a cut of the network leaves alone.
	SSHPort int
	// ReadOnly and Overlaid are images of file systems that the machine mounts by
	// label; what it writes to the latter stays its own.
	ReadOnly, Overlaid []string
	Disks              []Disk
}

// Machine is a virtual machine. Its methods may be called concurrently.
type Machine struct {
	o Options

	mu      sync.Mutex
	process *hostexec.Process
	qmp     *qmp.Client
	bays    []*bay
	cut     bool // network
}

// New makes the machine's overlay of the system image and its disks, and
// starts nothing.
func New(ctx context.Context, o Options) (*Machine, error) {
	m := &Machine{o: o}
	if err := os.MkdirAll(o.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("make machine %s: %w", o.Name, err)
	}
	for i, file := range m.overlaid() {
		if _, err := hostexec.Run(ctx, time.Minute, hostexec.Command{Path: "qemu-img",
			Args: []string{"create", "-q", "-f", "qcow2", "-F", "raw", "-b", file, m.overlay(i)}}); err != nil {
			return nil, fmt.Errorf("make machine %s: %w", o.Name, err)
		}
	}
	for i, d := range o.Disks {
		if err := d.validate(); err != nil {
			return nil, fmt.Errorf("make machine %s: %w", o.Name, err)
		}
		b := &bay{disk: d, dir: o.Dir, index: i}
		if err := b.makeDisk(); err != nil {
			return nil, fmt.Errorf("make machine %s: %w", o.Name, err)
		}
		m.bays = append(m.bays, b)
	}
	return m, nil
}

// overlaid are the images that the machine has overlays of, its root first.
func (m *Machine) overlaid() []string { return append([]string{m.o.Image.Root}, m.o.Overlaid...) }

func (m *Machine) overlay(i int) string { return m.path(fmt.Sprintf("overlay-%d.qcow2", i)) }

func (m *Machine) path(name string) string { return filepath.Join(m.o.Dir, name) }

// Console is the file with everything that the machine wrote to its serial
// console, over all its starts.
func (m *Machine) Console() string { return m.path("console.log") }

// ConsoleSocket is a UNIX socket that speaks with the serial console.
func (m *Machine) ConsoleSocket() string { return m.path("console.sock") }

// Log is the file behind the machine's /dev/virtio-ports/NAME (see Logs), or
// what QEMU itself says for the name "qemu".
func (m *Machine) Log(name string) string { return m.path(name + ".log") }

// Logs are the ports through which the machine writes logs straight to files
// of this host: a machine that is dead cannot be asked.
var Logs = []string{"kubelet", "containerd"}

// PowerOn starts the machine. It returns when the machine runs, long before
// its system is up.
func (m *Machine) PowerOn(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.running() {
		return nil
	}
	if err := m.powerOn(ctx); err != nil {
		m.powerOff()
		return fmt.Errorf("power on %s: %w", m.o.Name, err)
	}
	return nil
}

func (m *Machine) powerOn(ctx context.Context) error {
	out, err := os.OpenFile(m.Log("qemu"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { _ = out.Close() }() // QEMU has its own copy
	if m.process, err = hostexec.Start(hostexec.Command{Path: qemu, Args: m.args(), Stdout: out, Stderr: out}); err != nil {
		return err
	}
	if m.qmp, err = m.connect(ctx); err != nil {
		return err
	}
	for _, b := range m.bays {
		if b.plugged {
			if err := m.apply(ctx, b); err != nil {
				return err
			}
		}
	}
	if m.cut {
		if err := m.setLink(ctx, false); err != nil {
			return err
		}
	}
	return m.do(ctx, "cont", nil)
}

// connect waits for QEMU's monitor.
func (m *Machine) connect(ctx context.Context) (*qmp.Client, error) {
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		c, err := qmp.Dial(ctx, m.path("qmp.sock"))
		if err == nil {
			return c, nil
		}
		select {
		case <-m.process.Done():
			return nil, fmt.Errorf("QEMU ended: %w", m.process.Err())
		case <-ctx.Done():
			return nil, err
		case <-tick.C:
		}
	}
}

// kernelArgs leave out what costs time at each start and is of no use here:
// tests of ciphers, security modules, auditing, generators of systemd. Timers go
// by the tick, which is never stopped: a node with Holdfast on it is idle for two
// thirds of the time then, and never when each timer sets the emulated clock anew.
const kernelArgs = "console=ttyS0 root=/dev/vda rw net.ifnames=0 quiet loglevel=4 mitigations=off cryptomgr.notests audit=0 apparmor=0 selinux=0 " +
	"nokaslr raid=noautodetect rcupdate.rcu_expedited=1 highres=off nohz=off preempt=none systemd.show_status=0 systemd.gpt_auto=0"

// machineID is the same at every start (machine-id(5)).
func machineID(name string) string {
	sum := sha256.Sum256([]byte("holdfast-lab " + name))
	return hex.EncodeToString(sum[:16])
}

// args is QEMU's command line. The machine starts paused: faults are in place
// before its first instruction.
func (m *Machine) args() []string {
	o := &m.o
	// Of what newer processors have, emulation makes the most expensive use: with
	// ERMS the kernel clears pages byte by byte, which takes four times as long.
	cpu, accel := "Nehalem", "tcg,thread=multi,tb-size=512"
	if o.Accelerator == KVM {
		cpu, accel = "host", "kvm"
	}
	a := []string{
		"-name", o.Name, "-S", "-nodefaults", "-no-user-config", "-display", "none",
		// The chipset of 1996 hot-plugs PCI devices through ACPI, at once; a newer
		// one would wait five seconds for somebody to press the attention button.
		"-machine", "pc", "-accel", accel, "-cpu", cpu, "-smp", fmt.Sprint(o.CPUs), "-m", fmt.Sprint(o.Memory),
		"-kernel", o.Image.Kernel, "-initrd", o.Image.Initrd,
		"-append", kernelArgs + " systemd.machine_id=" + machineID(o.Name),
		"-qmp", "unix:" + m.path("qmp.sock") + ",server=on,wait=off",
		"-chardev", "socket,id=console,path=" + m.ConsoleSocket() + ",server=on,wait=off,logfile=" + m.Console() + ",logappend=on",
		"-serial", "chardev:console",
		"-netdev", "stream,id=cluster,server=off,addr.type=unix,addr.path=" + o.NetworkSocket,
		"-device", "virtio-net-pci,netdev=cluster,id=cluster-nic,mac=" + o.MAC + ",romfile=",
		"-netdev", fmt.Sprintf("user,id=ssh,restrict=on,hostfwd=tcp:127.0.0.1:%d-:22", o.SSHPort),
		"-device", "virtio-net-pci,netdev=ssh,mac=52:54:00:4d:fe:01,romfile=",
		"-device", "virtio-rng-pci",
		"-device", "virtio-serial-pci",
	}
	for i := range m.overlaid() {
		// It is thrown away: nobody needs it after a crash of this host.
		a = append(a, "-drive", "file="+m.overlay(i)+",format=qcow2,if=virtio,cache=unsafe,discard=unmap")
	}
	for _, name := range Logs {
		a = append(a, "-chardev", "file,id="+name+",append=on,path="+m.Log(name), "-device", "virtserialport,chardev="+name+",name="+name)
	}
	for _, file := range o.ReadOnly {
		a = append(a, "-drive", "file="+file+",format=raw,if=virtio,readonly=on")
	}
	a = append(a, "-device", "ahci,id=ahci", "-device", "virtio-scsi-pci,id=scsi")
	for _, b := range m.bays {
		b.plugged = !b.pulled
		if b.plugged {
			a = append(a, b.args()...)
		}
	}
	return a
}

// PowerCut takes the power away: SIGKILL, and nothing is flushed.
func (m *Machine) PowerCut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.powerOff()
}

func (m *Machine) powerOff() {
	if m.process != nil {
		// A process that is gone already needs no signal.
		_ = m.process.Signal(syscall.SIGKILL)
		<-m.process.Done()
		m.process = nil
	}
	if m.qmp != nil {
		_ = m.qmp.Close() // the other end is gone
		m.qmp = nil
	}
}

// Reset presses the reset button: nothing is flushed, and the power stays on.
func (m *Machine) Reset(ctx context.Context) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.do(ctx, "system_reset", nil)
}

// running reports whether QEMU runs. The caller holds mu.
func (m *Machine) running() bool {
	if m.process == nil {
		return false
	}
	select {
	case <-m.process.Done():
		return false
	default:
		return true
	}
}

// Running reports whether the machine has power: it loses it in a power cut and
// when its system shuts down. A restart and a panic keep it.
func (m *Machine) Running() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.running()
}

// Off is closed when the machine has lost its power; it is nil when it has none.
func (m *Machine) Off() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.process == nil {
		return nil
	}
	return m.process.Done()
}

// PID is QEMU's process id, or 0.
func (m *Machine) PID() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.running() {
		return 0
	}
	return m.process.PID()
}

// CutNetwork unplugs the network cable, or plugs it in again.
func (m *Machine) CutNetwork(ctx context.Context, cut bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut = cut
	if !m.running() {
		return nil
	}
	return m.setLink(ctx, !cut)
}

func (m *Machine) setLink(ctx context.Context, up bool) error {
	return m.do(ctx, "set_link", map[string]any{"name": "cluster-nic", "up": up})
}

// do executes one QMP command. The caller holds mu.
func (m *Machine) do(ctx context.Context, command string, args any) error {
	if m.qmp == nil {
		return ErrOff
	}
	ctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	return m.qmp.Do(ctx, command, args, nil)
}

// bay finds a disk's place by the disk's name. The caller holds mu.
func (m *Machine) bay(name string) (*bay, error) {
	i := slices.IndexFunc(m.bays, func(b *bay) bool { return b.disk.Name == name })
	if i < 0 {
		return nil, fmt.Errorf("machine %s has no disk %q", m.o.Name, name)
	}
	return m.bays[i], nil
}
