// Package cleaner cleans partitions whose local volume was released, so that the
// package local offers them anew. The protocol, and why, is in the comment of
// package local; the erasing itself is in package wipe.
//
// It is a daemon of its own and not a part of local-volume-provisioner: it is root
// and opens disks for writing, may delete volumes and create none, and runs only
// where a storage class asks for it. The other one has no privilege at all, may
// create volumes and delete none, and runs everywhere.
//
// Judge is the pure core: it says whether a volume's partition may be cleaned now.
// Cleaning does it, step by step; Controller finds what there is to do, one
// cleaning at a time for each disk.
package cleaner
