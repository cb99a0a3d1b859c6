package vg

import (
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Keys of the tags that a volume carries, as key=value. They are what objects
// are made from again when the cluster is lost.
const (
	KeyID      = "hf.id"      // 128 random bits: this very volume, whatever its name
	KeyKind    = "hf.kind"    // volume, snapshot, ephemeral, tail, docker or transfer
	KeyIntent  = "hf.intent"  // phase/nonce; see Intent
	KeyCluster = "hf.cluster" // UID of the cluster
	KeyPV      = "hf.pv"      // name of the volume or snapshot, as CSI or Docker gave it
	KeyPVC     = "hf.pvc"     // namespace/name
	KeyClaim   = "hf.claim"   // UID of the claim that the volume is being made for; not there any more when it is ready
	KeyClass   = "hf.class"   // StorageClass
	KeyFS      = "hf.fs"      // xfs, ext4 or block
	KeyWipe    = "hf.wipe"    // zero, discard or none
	KeySource  = "hf.source"  // name of the logical volume that it was copied from
	KeySet     = "hf.set"     // id of the group snapshot that it is a member of
	KeyStripes = "hf.stripes"
	KeyOptions = "hf.options" // mount options of the class
	KeyReclaim = "hf.reclaim" // reclaim policy of the class
	// KeyOvercommit is how many bytes of it a thin pool may promise per byte that it has,
	// by the volume's class; 1 when it is not there.
	KeyOvercommit = "hf.overcommit"
)

// Phases of an intent. A volume is published in phase ready only, formatted in
// phase creating only, and never goes back from ready to creating.
const (
	Creating = "creating"
	Ready    = "ready"
	Deleting = "deleting"
)

// Tags are a volume's tags in LVM's own order.
type Tags []string

// ParseTags reads a report's field.
func ParseTags(field string) Tags {
	if field == "" {
		return nil
	}
	return strings.Split(field, ",")
}

// Tag is one tag: LVM knows letters, digits and _ + . - / = ! : & # in tags of at
// most 1024 bytes (lvm(8)). Other bytes of value become #xx, '#' too.
func Tag(key, value string) string {
	var b strings.Builder
	b.WriteString(key + "=")
	for i := range len(value) {
		c := value[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_+.-/=!:&", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "#%02x", c)
		}
	}
	return b.String()
}

// Get is the value of a key, or empty. A key that is there twice has none: such
// tags are not ours.
func (t Tags) Get(key string) string {
	var found []string
	for _, tag := range t {
		if v, ok := strings.CutPrefix(tag, key+"="); ok {
			found = append(found, v)
		}
	}
	if len(found) != 1 {
		return ""
	}
	return unescape(found[0])
}

func unescape(v string) string {
	var b strings.Builder
	for i := 0; i < len(v); i++ {
		if v[i] == '#' && i+2 < len(v) {
			if raw, err := hex.DecodeString(v[i+1 : i+3]); err == nil {
				b.Write(raw)
				i += 2
				continue
			}
		}
		b.WriteByte(v[i])
	}
	return b.String()
}

// Has says whether the exact tag is there.
func (t Tags) Has(tag string) bool { return slices.Contains(t, tag) }

// Intent is the phase that the volume is in and the nonce of the request that
// made it: a hash of everything that was asked for.
func (t Tags) Intent() (phase, nonce string) {
	phase, nonce, _ = strings.Cut(t.Get(KeyIntent), "/")
	return phase, nonce
}

// IntentTag is the tag of a phase.
func IntentTag(phase, nonce string) string { return Tag(KeyIntent, phase+"/"+nonce) }

// Ours says whether this driver made the volume.
func (t Tags) Ours() bool {
	phase, nonce := t.Intent()
	return t.Get(KeyID) != "" && nonce != "" && (phase == Creating || phase == Ready || phase == Deleting)
}
