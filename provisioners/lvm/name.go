package lvm

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
)

var (
	vgUUID  = regexp.MustCompile(`^[a-zA-Z0-9]{6}(-[a-zA-Z0-9]{4}){5}-[a-zA-Z0-9]{6}$`)
	ourName = regexp.MustCompile(`^hf[vse]-[a-z0-9][a-z0-9-]{0,63}$`)
	plain   = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,47}$`)
)

// Kind is what a logical volume of ours is.
type Kind string

// Kinds.
const (
	KindVolume    Kind = "volume"
	KindSnapshot  Kind = "snapshot"
	KindEphemeral Kind = "ephemeral" // lives as long as its pod
	KindTail      Kind = "tail"      // extents that a raw volume is to grow by; see tail.go
	// KindDocker is a volume of holdfast-docker-volume. CSI knows none of them: no
	// handle names one, and no PersistentVolume is made of its tags.
	KindDocker Kind = "docker"
	// KindTransfer is the snapshot that another node's driver is given to read. It has no
	// handle either, and goes with the request.
	KindTransfer Kind = "transfer"
)

// prefix of the names of a kind. None of LVM's reserved names begins with or has it
// (lib/metadata/lv_manip.c, lib/misc/lvm-string.c: snapshot, pvmove, _mlog, _tdata, …).
func (k Kind) prefix() string {
	switch k {
	case KindSnapshot:
		return "hfs-"
	case KindEphemeral:
		return "hfe-"
	case KindTail:
		return "hft-"
	case KindDocker:
		return "hfd-"
	case KindTransfer:
		return "hfx-"
	}
	return "hfv-"
}

// LV is the logical volume that a volume of this kind and name has, in whatever group.
func (k Kind) LV(name string) string { return lvName(k, name) }

// lvName is the logical volume of a name that CSI gave: the name itself when LVM can
// have it, else its hash. A hash is longer than any plain name, so that the
// two never meet.
func lvName(kind Kind, name string) string {
	if plain.MatchString(name) {
		return kind.prefix() + name
	}
	sum := sha256.Sum256([]byte(name))
	return kind.prefix() + hex.EncodeToString(sum[:25])
}
