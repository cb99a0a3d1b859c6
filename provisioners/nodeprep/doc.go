// Package nodeprep makes a node's disks what its NodeFlavor says: GPT
// partitions with file systems, mounted by systemd, or LVM volume groups. It
// writes /etc/holdfast/disks.yaml, from which the disk monitor learns which
// disks the node must have and the provisioners which volumes they may offer.
//
// BuildPlan is the pure core: what was read of the host goes in, what becomes
// of each disk and why comes out. Host reads, Preparer acts.
//
// A disk is taken only when it is proven blank, or when exactly what is on it
// was shown to a person who named the disk with a single-use token. Before each
// effect its intent, with every UUID that it will leave behind, is durable in
// the state file; after it the outcome is. So what a power cut leaves half made
// is recognised by those UUIDs, and is never guessed. A disk is kept open from the
// look at it to the effect on it, so that the kernel's names cannot come to mean another
// one (see held); one whose id names a place is never taken for the recorded one on that word (see weak.go).
package nodeprep
