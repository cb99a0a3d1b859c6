package lab

import (
	"context"
	"fmt"
	"time"

	"holdfast.dev/e2e/lab/machine"
)

const (
	// StorageClass is that of the prepared disks.
	StorageClass = "local-ssd"
	mib          = 1 << 20
	// xfsSize is more than mkfs.xfs asks for (300 MiB).
	xfsSize        = 384 * mib
	rolloutTimeout = 8 * time.Minute
)

// ExampleNode declares the number-th node as a lab for people has it: a disk on
// each bus, named after it, all prepared; each node is a zone of its own.
func ExampleNode(number int) NodeOptions {
	serial := func(kind string) string { return fmt.Sprintf("%s%d0001", kind, number) }
	// NAA 5, an invented vendor, the node and the disk (T10 SPC-5, 7.8.6.6.6).
	wwn := func(disk uint64) uint64 { return 0x5000c500a1b00000 + uint64(number)<<8 + disk }
	return NodeOptions{
		Name:   fmt.Sprintf("n%d", number),
		Labels: map[string]string{"holdfast.dev/flavor": Flavor, "topology.kubernetes.io/zone": fmt.Sprintf("az%d", number)},
		Disks: []Disk{
			{Disk: machine.Disk{Name: "ata", Bus: machine.ATA, Serial: serial("ATA"), WWN: wwn(1), Size: 128 * mib}, StorageClass: StorageClass, Filesystem: "ext4"},
			{Disk: machine.Disk{Name: "scsi", Bus: machine.SCSI, Serial: serial("SCSI"), WWN: wwn(2), Size: xfsSize}, StorageClass: StorageClass, Filesystem: "xfs"},
			{Disk: machine.Disk{Name: "nvme", Bus: machine.NVMe, Serial: serial("NVME"), Size: 128 * mib}, StorageClass: StorageClass, Filesystem: "ext4"},
		},
	}
}

// Rollout turns the nodes on, brings the agent into the cluster, pushes the
// fleet, and returns when every addon is healthy.
func (l *Lab) Rollout(ctx context.Context) error {
	took, err := l.Up(ctx)
	if err != nil {
		return err
	}
	l.say("%d nodes Ready, the slowest %.0f s after power-on", len(l.Nodes), took.Seconds())
	if err := l.Join(ctx); err != nil {
		return err
	}
	_, err = l.Push(ctx, "the fleet")
	return err
}

// Push commits what was changed in the fleet repository, pushes it, and
// returns when the cluster runs it, and how long that took.
func (l *Lab) Push(ctx context.Context, message string) (time.Duration, error) {
	commit, err := l.Fleet.Commit(ctx, message)
	if err != nil {
		return 0, err
	}
	start, err := l.Fleet.Push(ctx)
	if err != nil {
		return 0, err
	}
	l.say("pushed %.12s: %s", commit, message)
	got, err := l.Fleet.AwaitRollout(ctx, commit, rolloutTimeout, ClusterName)
	if err != nil {
		return 0, err
	}
	took := got[ClusterName].Healthy.Sub(start)
	l.say("every addon is healthy %.1f s after the push", took.Seconds())
	return took, nil
}
