// Package local offers the prepared partitions of one node as local
// PersistentVolumes. It creates volumes and does nothing else: it deletes,
// cleans and changes none. What cleans them is the package cleaner, a daemon of
// its own with rights of its own.
//
// A volume stands for one partition of one disk, and never for a path. Decide
// is the pure core: what was read of the host goes in, the volumes to create
// and the reasons for the others come out. Whatever cannot be read is withheld.
//
// # When a partition is offered
//
// Only while it is known to be clean. That no volume stands for it says nothing:
// its volume may have been deleted by hand, with the node, or with the cluster.
// What is known is known from the partition itself, so that it outlives the node:
//
//   - A file system is clean when it is as mkfs left it: nothing in it but
//     lost+found, which nobody has touched, and no attribute that a tenant may
//     have set. It is read each time, right before the volume is created. No
//     record can be stale, and node preparation has nothing to write. Blocks that
//     deleted files have left behind cannot be read through a file system.
//   - A raw partition cannot be read by this daemon, which has no privilege. It
//     is clean by a certificate (nodedisks.Certificate), which the cleaner writes
//     when it has read every byte of it as zero, or a person. A certificate names disk, partition and
//     size and is good for one volume: its use is on disk before the volume is
//     created. Certificates lie on the node's own disk. A node made anew has none,
//     and the cleaner reads its raw partitions again. (On the disk itself there
//     is no place: the volume is the whole partition, and rewriting the GPT below
//     the partitions of others is a risk that nobody needs.)
//
// Everything else is withheld as Dirty, and the Event says how a person keeps
// the data or gives it up: both make a volume again, by Manifest. A partition
// whose volume stands is left as it is, so that volumes of a version that had no
// certificates go on as before; a raw one's certificate counts as used from then.
//
// # When a partition is cleaned
//
// Never because something is missing. A volume must be there and say so itself:
// all of this is read live, by the cleaner, right before it begins, and a change
// of it ends the cleaning (cleaner.Judge):
//
//	the volume   is this node's, named after this disk and partition, Released, with
//	             reclaim policy Delete and a claim that has a UID, not being deleted
//	its claim    is gone: the API server knows no claim of that name, or one of another UID
//	its history  this node has seen the volume Bound to that claim, or a person approves; and has
//	             not cleaned it, its claim's, or a newer volume of the partition before
//	quarantine   the ComputeNode is there and does not list the disk, whose data is evidence then
//	the disk     exactly one has this id, and the partition on it this UUID (kernel and udev)
//	its users    none in any mount namespace but the host's own mount point, and no holder
//	its class    the addon's values say how volumes of this class are cleaned
//
// Then, with the step in a record on the node's disk before each effect:
//
//	Wipe    unmount; open exclusively, which the kernel refuses while anything has it
//	        mounted; erase chunk by chunk, read each back, and go on only when all is zero
//	Format  for a file system: mkfs with the UUID, label and geometry that it had
//	Mount   where it was, as it was
//	Delete  the volume, by UID and resource version: any change since keeps it
//
// The volume stays Released, which no claim can bind, until the last step. After
// a kill the record and the same facts lead on from the step; without the record
// the whole is done again. A raw partition gets its certificate after its volume
// was deleted, by the process that deleted it; after a crash in between it is
// read again. So a certificate never stands beside data.
//
// # When the cluster does not remember
//
// A cluster is set back or built anew from a backup, and a disk is not. So the node
// keeps a history of each partition beside its records (cleaner.History): which volumes it
// has seen Bound, and which it has cleaned.
//
//   - etcd is set back to before a cleaning. The volume is there again, Released, with the
//     same UID, and its partition has the next tenant's data. It is refused as AlreadyCleaned: by
//     its UID, by its claim's UID (a volume that is made again from a manifest has a new one of its own), and when
//     it is older than a volume that was cleaned since, by the API server's own clock. A certificate is
//     written only by the process that has wiped: one that finds the last step begun deletes the volume, and
//     whoever offers the partition then looks at what is on it.
//   - Volumes are restored before their claims, as the usual order of a backup tool has it. Kubernetes' PV
//     controller calls a volume Released as soon as its claimRef has a UID and the API server knows
//     no such claim (pkg/controller/volume/persistentvolume, syncVolume); it does not tell a claim that was
//     deleted from one that never was there. Only its word Bound does: it is given after the claim was
//     read. A volume that this node has never seen Bound therefore waits as NeverBound, which an Event of the Node and the
//     metric holdfast_local_volume_cleaner_waiting show. No time ends that: however long a claim has been
//     absent, that is absence, and a restore may take a day. A person ends it, with the annotation
//     holdfast.dev/clean-approved, whose value is the UID of the volume's claim, so that it is good for that claim's
//     data alone. What that costs: a volume that was bound and released while the cleaner did not run, or
//     before it was installed, waits for a person too.
//
// The history lies on the node's own disk. A node made anew has none: its released volumes wait for
// a person. It cannot help where a volume is set back to Bound: then the claim is there, and its pod gets the
// partition as it is.
package local
