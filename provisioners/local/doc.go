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
package local
