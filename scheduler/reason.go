package scheduler

import (
	"fmt"
	"slices"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/placement"
)

// reason says why a node, or any node, is refused. The scheduler counts nodes by
// reason ("0/3 nodes are available: 2 node(s) …"), so that of a node names
// neither the node nor anything that differs between nodes.
type reason string

const reasonElsewhere reason = "node(s) did not have the pod's volumes: a claim of it is bound to, or being made on, another node"

// reason puts a refusal of the placement into words.
func (b *builder) reason(r *placement.Refusal) reason {
	if b.unread {
		return "node(s) were not asked: the quarantine of disks (ComputeNodes of holdfast.dev) cannot be read; " +
			"check that the addon crds is installed and what the scheduler may list"
	}
	class, lvm := b.classOf(r.Claim)
	closed := ""
	if b.closed {
		closed = ", not counting disks in quarantine"
	}
	switch r.Kind {
	case placement.NoBin:
		if lvm {
			return reason("node(s) had no volume group for storage class " + class + closed)
		}
		return reason("node(s) had no free volume of storage class " + class + " for the claim" + closed)
	case placement.NoRoom:
		if lvm {
			return reason("node(s) had no volume group of storage class " + class + " with enough room left" + closed)
		}
		return reason("node(s) had no free volume of storage class " + class + " that is large enough" + closed)
	case placement.NoDisk:
		return reason("node(s) had room only where the disk is not named (label " + v1alpha1.LabelDisk + "), which a disk anti-affinity group needs" + closed)
	case placement.GroupUsed:
		return reason("node(s) had no disk left that group " + r.Group + " does not use yet" + closed + " (add a disk or a node, or use the label " + v1alpha1.LabelAntiAffinityPreferred + ")")
	case placement.GroupTooLarge:
		return reason(fmt.Sprintf("node(s) had fewer free disks than the %d claims of the pod in group %s need%s (give the pod fewer claims in the group, or use the label %s)",
			r.Need, r.Group, closed, v1alpha1.LabelAntiAffinityPreferred))
	case placement.NotTogether:
		return reason("node(s) could take each claim of the pod, but not all of them together" + closed)
	case placement.Undecided:
		return "node(s) were given up: the claims of the pod can be placed in too many ways to try them all (give the pod fewer claims or groups)"
	}
	return reason("node(s) were refused: " + string(r.Kind))
}

func (b *builder) classOf(name string) (class string, lvm bool) {
	i := slices.IndexFunc(b.p.free, func(c claim) bool { return c.name == name })
	if i < 0 {
		return "", false
	}
	return b.p.free[i].class.Name, b.p.free[i].class.Provisioner == v1alpha1.DriverLVM
}
