// Package scheduler is a plugin of kube-scheduler that gives claims their
// volumes with an eye on disks. It takes the place of VolumeBinding.
//
// # Why in its place, and how
//
// Upstream's VolumeBinding picks a volume for each claim by itself, the smallest
// one that matches, and compares each claim alone with a node's free capacity
// (pkg/scheduler/framework/plugins/volumebinding/binder.go, v1.36.3). Another
// plugin can refuse a node and cannot choose another volume on it. So this
// plugin wraps the upstream one: it sorts a pod's claims in two. Its own are the
// unbound ones with delayed binding whose storage class has no provisioner
// (local volumes) or is provisioned by lvm.holdfast.dev. All others, bound ones
// included, are handed to the upstream plugin, which is given a view of the pod
// without the plugin's own. A pod without own claims takes the upstream path and
// nothing else, unchanged.
//
// For its own claims the plugin does all the work of VolumeBinding: package
// placement chooses for all claims of the pod together, the ledger reserves the
// choice, PreBind writes it by compare-and-swap and waits until the claims are
// bound. What is written is what upstream writes: the volume's claimRef, which
// the PV controller completes, or the claim's selected-node annotation, which
// starts the provisioner. Beside the latter, the annotations
// holdfast.dev/volume-group and holdfast.dev/disk tell the provisioner, and this
// plugin after a restart, which volume group was chosen.
//
// # Where the truth is
//
// The informers' stores are the truth, read through indexes. Stores are updated
// before event handlers run, so a pod that an event wakes sees what woke it. The
// ledger holds only what the stores cannot know yet: choices that are being
// written, and volumes that a CSIStorageCapacity does not tell of yet. It is
// shared by all profiles of a scheduler. Filter only asks. Reserve, which the
// scheduler calls for one pod at a time, decides anew under the ledger's lock.
//
// # What is not guaranteed
//
// Another scheduler that binds claims of the same classes beside this one is not
// seen until its writes arrive. A volume still goes to one claim only, since the
// writes are compare-and-swaps; but two claims of one group that two schedulers
// place at the same time can meet on one disk, and a volume group can be
// promised twice. The same holds for volumes that a person binds by hand.
// Give all classes with disks to one scheduler, or to replicas with leader election.
package scheduler
