package lab

import (
	"context"
	"fmt"
	"strings"
)

// These faults are made by the node's own kernel. They reach what the emulated
// disks cannot: sense codes of SCSI (scsi_debug), single bad blocks below a
// device mapper's name, a device that fails for some seconds of each interval
// (dm-flakey). None of them outlives a restart of the node.

// DebugDisk adds a SCSI disk that only exists in the node's memory, sized in
// MiB, whose first bad sectors begin at 4660 = 0x1234 when broken is true
// (https://www.kernel.org/doc/html/v6.1/scsi/scsi_debug.html, opts 2). It
// returns its device. There can be one; RemoveDebugDisk undoes it.
func (n *Node) DebugDisk(ctx context.Context, sizeMiB int, broken bool) (string, error) {
	opts := 0
	if broken {
		opts = 2
	}
	out, err := n.Run(ctx, fmt.Sprintf(`
modprobe scsi_debug dev_size_mb=%d opts=%d
udevadm settle --timeout=20
ls /sys/bus/pseudo/drivers/scsi_debug/adapter0/host*/target*/*/block`, sizeMiB, opts))
	return strings.TrimSpace(out), err
}

// RemoveDebugDisk takes the disk of DebugDisk away.
func (n *Node) RemoveDebugDisk(ctx context.Context) error {
	_, err := n.Run(ctx, "rmmod scsi_debug")
	return err
}

// BadBlockDevice maps a device of the node to /dev/mapper/NAME, where the given
// sectors, in ascending order, can be neither read nor written. The device
// mapper's error target does it: dm-dust, whose bad blocks a write mends, is not
// in Debian's kernel (CONFIG_DM_DUST). RemoveMapped undoes it.
func (n *Node) BadBlockDevice(ctx context.Context, name, dev string, sectors ...int64) error {
	var b strings.Builder
	fmt.Fprintf(&b, "end=$(blockdev --getsz /dev/%s)\ndmsetup create %s <<END\n", dev, name)
	next := int64(0)
	for _, s := range sectors {
		if s < next {
			return fmt.Errorf("map %s: the bad sectors %v are not in ascending order", dev, sectors)
		}
		if s > next {
			fmt.Fprintf(&b, "%d %d linear /dev/%s %d\n", next, s-next, dev, next)
		}
		fmt.Fprintf(&b, "%d 1 error\n", s)
		next = s + 1
	}
	fmt.Fprintf(&b, "%d $((end - %d)) linear /dev/%s %d\nEND\n", next, next, dev, next)
	_, err := n.Run(ctx, b.String())
	return err
}

// FlakyDevice maps a device of the node to /dev/mapper/NAME, which works for up
// seconds, fails every request for down seconds, and so on
// (https://www.kernel.org/doc/html/v6.1/admin-guide/device-mapper/dm-flakey.html).
// RemoveMapped undoes it.
func (n *Node) FlakyDevice(ctx context.Context, name, dev string, up, down int) error {
	_, err := n.Run(ctx, fmt.Sprintf("modprobe dm-flakey\ndmsetup create %s --table \"0 $(blockdev --getsz /dev/%[2]s) flakey /dev/%[2]s 0 %d %d\"", name, dev, up, down))
	return err
}

// RemoveMapped removes what BadBlockDevice and FlakyDevice mapped.
func (n *Node) RemoveMapped(ctx context.Context, name string) error {
	_, err := n.Run(ctx, "dmsetup remove --retry "+name)
	return err
}
