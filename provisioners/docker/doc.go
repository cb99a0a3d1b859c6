// Package docker is holdfast-docker-volume: Docker's volume plugin API over the
// volumes of provisioners/lvm, for hosts that run containers without Kubernetes.
// The engine makes, formats, wipes and removes; this package translates, and
// counts who has a volume mounted.
//
// What is on disk is the only record of which volumes there are: their tags, of
// kind docker, which neither the CSI driver nor holdfast volumes recover takes
// for a PersistentVolume. Docker's names are in the tags.
//
// Docker gives an ID with each Mount and Unmount. The IDs that hold a volume
// are in a small file, which is written before each effect:
//
//	Mount    write ID, not told → mount → write ID, told → answer
//	Unmount  write without ID → unmount when none is left → remove the file → answer
//
// An ID that is not told after the death of the process, or after an error, is
// dropped: Docker did not hear that it may use the volume. One that is told is
// dropped by Docker's Unmount only, or when Docker asks to remove the volume,
// this process did not tell it, and no mount namespace of the host shows the
// volume: then Docker died, or we did, before the other side knew. See
// provisioners/docker/README.md.
package docker
