// Package local offers the prepared partitions of one node as local
// PersistentVolumes. It creates volumes and does nothing else: it deletes,
// cleans and changes none.
//
// A volume stands for one partition of one disk, and never for a path. Decide
// is the pure core: what was read of the host goes in, the volumes to create
// and the reasons for the others come out. Whatever cannot be read is withheld.
package local
