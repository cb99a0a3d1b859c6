//go:build lab

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/e2e/lab"
	"holdfast.dev/e2e/lab/guest"
	"holdfast.dev/e2e/lab/machine"
	"holdfast.dev/e2e/wait"
)

// testNodes turns the nodes on until both are Ready. A containerd takes an OCI
// archive of ours.
func testNodes(t *testing.T) {
	took := have[time.Duration](t)(l.Up(t.Context()))
	if l.ImageBuild > 0 {
		bench("lab_image_build_seconds", l.ImageBuild.Seconds(), "s")
	}
	bench("lab_node_ready_seconds", took.Seconds(), "s")
	if said := have[string](t)(l.Nodes[0].ImportArchive(t.Context())); !strings.Contains(said, lab.ArchivedImage) {
		t.Errorf("the import of an OCI archive says %q", said)
	}
}

// sh runs a script in a node.
func sh(t *testing.T, n *lab.Node, script string, args ...any) string {
	t.Helper()
	return strings.TrimSpace(have[string](t)(n.Run(t.Context(), fmt.Sprintf(script, args...))))
}

// fails runs a script that must end with an error of the node, and returns what it said.
func fails(t *testing.T, n *lab.Node, script string, args ...any) string {
	t.Helper()
	_, err := n.Run(t.Context(), fmt.Sprintf(script, args...))
	var exit *guest.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("%s: it works (%v)", fmt.Sprintf(script, args...), err)
	}
	return exit.Output
}

// testDiskFaults injects every fault of a disk, sees it with the node's own
// eyes, undoes it, and sees that it is gone.
func testDiskFaults(t *testing.T) {
	n := l.Nodes[0]
	for _, bus := range buses {
		t.Run(string(bus), func(t *testing.T) {
			sameSmart(t, n, have[string](t)(n.AwaitDevice(t.Context(), "spare"+string(bus))))
			spareFaults(t, n, "spare"+string(bus))
		})
	}
	t.Run("pulled while mounted", func(t *testing.T) { pullMounted(t, l.Nodes[1], string(machine.NVMe)) })
	t.Run("scsi_debug", func(t *testing.T) {
		dev := have[string](t)(n.DebugDisk(t.Context(), 16, true))
		if said := fails(t, n, "dd if=/dev/%s of=/dev/null bs=512 skip=4660 count=1 iflag=direct", dev); !strings.Contains(said, "No data available") {
			t.Errorf("a read of the bad sector says %q", said)
		}
		sh(t, n, "dd if=/dev/%s of=/dev/null bs=512 count=1 iflag=direct", dev)
		sameSmart(t, n, dev)
		must(t, n.RemoveDebugDisk(t.Context()))
		sh(t, n, "[ ! -e /dev/%s ]", dev)
	})
	t.Run("dm-error", func(t *testing.T) {
		dev := have[string](t)(n.AwaitDevice(t.Context(), "sparescsi"))
		must(t, n.BadBlockDevice(t.Context(), "bad", dev, 100, 101, 300))
		for _, sector := range []int{100, 101, 300} {
			fails(t, n, "dd if=/dev/mapper/bad of=/dev/null bs=512 skip=%d count=1 iflag=direct", sector)
		}
		sh(t, n, "dd if=/dev/mapper/bad of=/dev/null bs=512 count=100 iflag=direct; dd if=/dev/mapper/bad of=/dev/null bs=512 skip=301 iflag=direct count=10")
		must(t, n.RemoveMapped(t.Context(), "bad"))
		sh(t, n, "[ ! -e /dev/mapper/bad ]; dd if=/dev/%s of=/dev/null bs=512 skip=100 count=1 iflag=direct", dev)
	})
	t.Run("dm-flakey", func(t *testing.T) {
		dev := have[string](t)(n.AwaitDevice(t.Context(), "sparescsi"))
		must(t, n.FlakyDevice(t.Context(), "flaky", dev, 0, 3600))
		fails(t, n, "dd if=/dev/mapper/flaky of=/dev/null bs=512 count=1 iflag=direct")
		must(t, n.RemoveMapped(t.Context(), "flaky"))
		sh(t, n, "dd if=/dev/%s of=/dev/null bs=512 count=1 iflag=direct", dev)
	})
}

func spareFaults(t *testing.T, n *lab.Node, disk string) {
	ctx := t.Context()
	dev := have[string](t)(n.AwaitDevice(ctx, disk))
	d := have[machine.Disk](t)(n.Disk(disk))
	set := func(f machine.Fault) {
		t.Helper()
		must(t, n.SetFault(ctx, disk, f))
	}
	read := "timeout 20 dd if=/dev/" + dev + " of=/dev/null bs=4k skip=%d count=%d iflag=direct 2>&1"
	write := "timeout 20 dd if=/dev/zero of=/dev/" + dev + " bs=4k count=1 oflag=direct 2>&1"

	says := "No data available" // ENODATA, the kernel's errno of a medium error (include/linux/blk_types.h, BLK_STS_MEDIUM)
	if d.Bus == machine.ATA {
		says = "Input/output error" // QEMU's ATA disk aborts the command without saying why
	}
	set(machine.Fault{BadSectors: []int64{800}}) // in block 100
	if said := fails(t, n, read, 100, 1); !strings.Contains(said, says) {
		t.Errorf("a read of a bad sector says %q", said)
	}
	sh(t, n, read, 200, 1)
	set(machine.Fault{})
	sh(t, n, read, 100, 1)

	set(machine.Fault{ReadOnly: true})
	fails(t, n, "%s", write)
	sh(t, n, read, 0, 1)
	set(machine.Fault{})
	sh(t, n, "%s", write)

	// Ten requests at two a second; the first ones are free (QEMU lets bursts of a tenth of a second through).
	set(machine.Fault{IOPS: 2})
	if took := timed(t, n, fmt.Sprintf(read, 0, 10)); took < 3*time.Second {
		t.Errorf("ten slow reads took %s", took)
	}
	set(machine.Fault{})
	if took := timed(t, n, fmt.Sprintf(read, 0, 10)); took > 3*time.Second {
		t.Errorf("ten reads of a good disk took %s", took)
	}

	// One request may pass; the second waits for an hour.
	set(machine.Fault{Hung: true})
	sh(t, n, "dd if=/dev/%s of=/dev/null bs=64k count=4 iflag=direct >/dev/null 2>&1 &\nsleep 3\ngrep '^State:.D' /proc/$!/status", dev)
	set(machine.Fault{})
	sh(t, n, "for i in $(seq 200); do pgrep -x dd >/dev/null || exit 0; sleep 0.1; done; exit 1")

	if d.Bus == machine.NVMe {
		warning := func() string {
			return sh(t, n, "nvme smart-log /dev/%s | awk -F: '/^critical_warning/ {print $2}'", dev)
		}
		set(machine.Fault{CriticalWarning: 0x04})
		if w := have[int64](t)(strconv.ParseInt(warning(), 0, 16)); w != 4 {
			t.Errorf("the critical warning is %d", w)
		}
		sameSmart(t, n, dev)
		set(machine.Fault{})
		if w := have[int64](t)(strconv.ParseInt(warning(), 0, 16)); w != 0 {
			t.Errorf("the critical warning stays %d", w)
		}
	}

	must(t, n.Pull(ctx, disk))
	if d := have[string](t)(n.Device(ctx, disk)); d != "" {
		t.Errorf("the pulled disk is %s", d)
	}
	must(t, n.Insert(ctx, disk))
	have[string](t)(n.AwaitDevice(ctx, disk))
	if d.Bus == machine.ATA {
		return // an emulated AHCI port cannot get another disk while the power is on
	}
	must(t, n.Pull(ctx, disk))
	wwn := d.WWN
	if wwn != 0 {
		wwn += 0x100
	}
	must(t, n.Swap(ctx, disk, d.Serial+"B", wwn))
	dev = have[string](t)(n.AwaitDevice(ctx, disk))
	if s := sh(t, n, "lsblk --nodeps --noheadings --raw --output SERIAL /dev/%s", dev); s != d.Serial+"B" {
		t.Errorf("the new disk has serial %q", s)
	}
}

// pullMounted pulls a disk whose file system is mounted: what was on it is there
// again when the disk is.
func pullMounted(t *testing.T, n *lab.Node, disk string) {
	dir := have[string](t)(n.MountPoint(disk))
	sh(t, n, "echo kept > %[1]s/row; sync %[1]s/row", dir)
	must(t, n.Pull(t.Context(), disk))
	if d := have[string](t)(n.Device(t.Context(), disk)); d != "" {
		t.Errorf("the pulled disk is %s", d)
	}
	must(t, n.Insert(t.Context(), disk))
	if row := sh(t, n, "cat %[1]s/row; rm %[1]s/row; sync %[1]s", dir); row != "kept" {
		t.Errorf("the file on the disk says %q", row)
	}
}

// timed runs a script and measures inside the node: a busy host delays a shell.
func timed(t *testing.T, n *lab.Node, script string) time.Duration {
	t.Helper()
	out := sh(t, n, "a=$(date +%%s%%N)\n{ %s; } >/dev/null 2>&1\nb=$(date +%%s%%N)\necho $(( (b-a)/1000000 ))", script)
	ms := have[int](t)(strconv.Atoi(out))
	return time.Duration(ms) * time.Millisecond
}

// ready is whether a node is Ready, as the API has it.
func ready(ctx context.Context, name string) (bool, error) {
	var node corev1.Node
	if err := l.Client.Get(ctx, client.ObjectKey{Name: name}, &node); err != nil {
		return false, err
	}
	for _, c := range node.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue, nil
		}
	}
	return false, nil
}

// testNodeFaults: each fault of a node is seen in the API or in the node, and undone.
func testNodeFaults(t *testing.T) {
	a := l.Nodes[0]
	ctx := t.Context()
	t.Run("KillKubelet", func(t *testing.T) {
		pid := "systemctl show --property MainPID --value kubelet.service"
		before := sh(t, a, "%s", pid)
		must(t, a.KillKubelet(ctx))
		eventually(t, patience, "another kubelet", func() (bool, error) {
			now, err := a.Run(ctx, pid)
			now = strings.TrimSpace(now)
			return err == nil && now != before && now != "0", err
		})
	})
	t.Run("JumpClock", func(t *testing.T) {
		must(t, a.JumpClock(ctx, time.Hour))
		if off := clockOff(t, a); off < 59*time.Minute || off > 61*time.Minute {
			t.Errorf("the clock is off by %s", off)
		}
		must(t, a.RestoreClock(ctx))
		if off := clockOff(t, a); off.Abs() > 10*time.Second {
			t.Errorf("the restored clock is off by %s", off)
		}
	})
	// At once, for it takes a minute each. The panic also ends what the first
	// node's kernel has logged of the faults before.
	t.Run("RestartsAndCutNetwork", func(t *testing.T) {
		must(t, l.OnAll(ctx, func(ctx context.Context, n *lab.Node) error {
			if n == a {
				return resetAndPanic(ctx, n)
			}
			return cutOff(ctx, n)
		}))
	})
}

func resetAndPanic(ctx context.Context, n *lab.Node) error {
	if err := n.Reset(ctx); err != nil {
		return err
	}
	boot, err := n.BootID(ctx)
	if err != nil {
		return err
	}
	if err := n.Panic(ctx); err != nil {
		return err
	}
	return n.AwaitReady(ctx, boot)
}

// cutOff cuts a node's network until the API knows, while the shell goes on.
func cutOff(ctx context.Context, n *lab.Node) error {
	if err := n.CutNetwork(ctx, true); err != nil {
		return err
	}
	if _, err := wait.Until(ctx, patience, n.Name+" not Ready", func() (bool, error) {
		ok, err := ready(ctx, n.Name)
		return !ok, err
	}); err != nil {
		return err
	}
	if _, err := n.Run(ctx, "true"); err != nil {
		return fmt.Errorf("shell without the cluster's network: %w", err)
	}
	if err := n.CutNetwork(ctx, false); err != nil {
		return err
	}
	_, err := wait.Until(ctx, patience, n.Name+" Ready", func() (bool, error) { return ready(ctx, n.Name) })
	return err
}

// clockOff is how far a node's clock is from this host's.
func clockOff(t *testing.T, n *lab.Node) time.Duration {
	t.Helper()
	s := have[int64](t)(strconv.ParseInt(sh(t, n, "date +%%s"), 10, 64))
	return time.Until(time.Unix(s, 0))
}
