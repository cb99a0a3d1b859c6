package nodeprep

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"holdfast.dev/api/v1alpha1"
)

// Found is a disk of the host and what was read of it.
type Found struct {
	ID         string
	Weak       bool   // the id names a place and not a drive
	Device     string // sdb, of the kernel now
	Model      string
	Serial     string
	Media      v1alpha1.Media
	Size       int64 // bytes
	SectorSize int64 // bytes, logical
	ReadOnly   bool
	Slot       string
	// Network says how it is reached over a network, empty for a disk of the host. Told is
	// the id that it would have as one, when its own is of where in the network it is.
	Network, Told string
	Content       Content

	hold *held // while it is kept open
}

// Content is what is on a disk. Its zero value is a disk of which nothing is known.
type Content struct {
	// Err is why something could not be read. Nothing else counts then.
	Err string
	// System is set when the host itself lives on the disk.
	System bool
	// Used is who uses the disk now: mounts, swap, devices stacked on it.
	Used []string
	// Signatures are what blkid, wipefs and lsblk know of, on the disk and its partitions.
	Signatures []Signature
	// Partitions are those that the kernel knows.
	Partitions []Partition
	// Edges is where the first byte that is not zero is, in the first and last MiB of
	// the disk and of each place where a partition may come; empty for nowhere.
	Edges string
	// Middle is the same for 4 KiB at each of 256 places all over the disk.
	Middle string
	// GPT is the partition table as its bytes say.
	GPT GPT
	// HalfPV is set when the first and last MiB have nothing but what an interrupted pvcreate leaves.
	HalfPV bool
	// Weak is set when the disk's id names a place; Size is the disk's, in bytes.
	Weak bool
	Size int64
	// Whole is set when a weak disk was read to its last byte. Between is then a SHA-256 of what is
	// not zero between its first and last MiB, empty for nothing, and BetweenAt where that begins.
	Whole              bool
	Between, BetweenAt string
	// Sum is a SHA-256 of all bytes that were read and are not zero.
	Sum string

	// kept is set when the disk is open since the token in use was given: it is that disk.
	kept bool
}

// Signature is one trace of an earlier use.
type Signature struct {
	Device string // sdb1
	Type   string // ext4, gpt, LVM2_member, …
	UUID   string
}

// Partition is one that the kernel knows, and what is in it.
type Partition struct {
	Name        string // sdb1
	Number      int
	Start, Size int64 // bytes
	Used        []string
	// Type and UUID are the file system's, or empty.
	Type, UUID string
	// Edges is where the first byte that is not zero is in the first and last MiB; empty for nowhere.
	Edges string
	// Whole is set when the file system's own checker finds no fault with it, and
	// Unused when it can never have been mounted to be written. They are asked for only
	// where a making was begun and its outcome is not recorded.
	Whole, Unused bool
}

// Blank says why the disk is not blank, or nothing. emptied is set for a disk
// whose contents were given up with a token: only traces count there.
func (c *Content) Blank(emptied bool) string {
	why := c.looksBlank(emptied)
	switch {
	case why != "" || !c.Weak || emptied:
		return why
	case !c.Whole:
		return "was not read whole, and its id names a place and not a drive"
	case c.Between != "":
		return "has data of no known kind " + c.BetweenAt
	}
	return ""
}

// looksBlank is Blank as far as samples tell.
func (c *Content) looksBlank(emptied bool) string {
	switch {
	case c.Err != "":
		return c.Err
	case len(c.Used) > 0:
		return "in use: " + strings.Join(c.Used, ", ")
	case len(c.Signatures) > 0:
		return "has " + c.describe()
	case len(c.Partitions) > 0:
		return "has " + c.describe()
	case c.Edges != "":
		return "has data of no known kind " + c.Edges
	case c.Middle != "" && !emptied:
		return "has data of no known kind " + c.Middle
	}
	return ""
}

// describe lists what is on the disk, for a person.
func (c *Content) describe() string {
	var all []string
	if n := len(c.Partitions); n > 0 {
		all = append(all, fmt.Sprintf("%d partitions", n))
	}
	for _, s := range c.Signatures {
		text := s.Type + " on " + s.Device
		if s.UUID != "" {
			text += " (" + s.UUID + ")"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// Digest changes with anything that was found on the disk. It is what a token
// is bound to.
func (c *Content) Digest() string {
	x := *c
	x.Used, x.Partitions = nil, slices.Clone(c.Partitions)
	for i := range x.Partitions {
		x.Partitions[i].Used = nil
		x.Partitions[i].Name = "" // the kernel's names change at boot
	}
	x.Signatures = make([]Signature, len(c.Signatures))
	for i, s := range c.Signatures {
		x.Signatures[i] = Signature{Type: s.Type, UUID: s.UUID}
	}
	slices.SortFunc(x.Signatures, func(a, b Signature) int {
		return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.UUID, b.UUID))
	})
	data, err := json.Marshal(x)
	if err != nil {
		panic(err) // a struct of strings and numbers
	}
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// traces are what a wipe takes away, one line each.
func (c *Content) traces() []string {
	var out []string
	for _, s := range c.Signatures {
		out = append(out, "signature "+s.Type+" "+s.UUID)
	}
	for _, p := range c.Partitions {
		out = append(out, fmt.Sprintf("partition %d+%d", p.Start, p.Size))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// partition finds the one that begins at start and has that size.
func (c *Content) partition(start, size int64) *Partition {
	for i := range c.Partitions {
		if p := &c.Partitions[i]; p.Start == start && p.Size == size {
			return p
		}
	}
	return nil
}
