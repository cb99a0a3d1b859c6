package nodeprep

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/google/uuid"
)

// A GUID partition table, UEFI specification 2.10 section 5.3: a protective
// MBR in the first sector, the header in the second, 128 entries of 128 bytes
// behind it; a copy of entries and header at the end of the disk.
const (
	gptSignature = "EFI PART"
	gptHeader    = 92
	gptEntries   = 128
	gptEntry     = 128
	mebibyte     = int64(1) << 20
	typeLinux    = "0fc63daf-8483-4772-8e79-3d69d8477de4" // Linux filesystem data
)

// GPT is what the first and last MiB of a disk say of its partition table.
type GPT struct {
	// Other is what is there that is no part of a partition table, or of another kind; empty for nothing.
	Other string
	// Protective is set when the MBR is the one of a partition table.
	Protective bool
	First      GPTCopy
	Last       GPTCopy
}

// GPTCopy is one of the two copies.
type GPTCopy struct {
	GUID    string // of the header; empty when there is no header
	Whole   bool   // both checksums are right
	Entries []GPTPart
}

// GPTPart is one entry.
type GPTPart struct {
	UUID, Type  string
	Start, Size int64 // bytes
}

// ReadGPT reads the table from the first and last MiB of a disk of that size,
// both in bytes. It takes half written ones apart too.
func ReadGPT(head, tail []byte, size, sector int64) GPT {
	var g GPT
	if int64(len(head)) != mebibyte || int64(len(tail)) != mebibyte || (sector != 512 && sector != 4096) {
		g.Other = "a disk that is too small, or whose sectors have an unusual size"
		return g
	}
	table := int64(gptEntries * gptEntry)
	g.mbr(head[:sector])
	g.First = g.copy("primary", head[sector:2*sector], head[2*sector:2*sector+table], sector)
	g.Last = g.copy("backup", tail[mebibyte-sector:], tail[mebibyte-sector-table:mebibyte-sector], sector)
	if i := nonZero(head[2*sector+table:]); i >= 0 {
		g.other("data at byte %d", 2*sector+table+int64(i))
	}
	if i := nonZero(tail[:mebibyte-sector-table]); i >= 0 {
		g.other("data at byte %d", size-mebibyte+int64(i))
	}
	return g
}

func (g *GPT) other(format string, args ...any) {
	if g.Other == "" {
		g.Other = fmt.Sprintf(format, args...)
	}
}

// mbr reads the first sector: zero, or one partition of type 0xee and nothing else.
func (g *GPT) mbr(s []byte) {
	if nonZero(s) < 0 {
		return
	}
	const entry = 446
	rest := append(bytes.Clone(s[:entry]), s[entry+16:510]...)
	rest = append(rest, s[512:]...)
	if s[entry+4] != 0xee || s[510] != 0x55 || s[511] != 0xaa || nonZero(rest) >= 0 {
		g.other("a boot sector")
		return
	}
	g.Protective = true
}

func (g *GPT) copy(which string, header, table []byte, sector int64) GPTCopy {
	var c GPTCopy
	if nonZero(header) >= 0 {
		if string(header[:8]) != gptSignature || nonZero(header[gptHeader:]) >= 0 {
			g.other("something else in place of the %s partition table", which)
			return c
		}
		c.GUID = guid(header[56:72])
		sum := bytes.Clone(header[:gptHeader])
		clear(sum[16:20])
		c.Whole = binary.LittleEndian.Uint32(header[12:]) == gptHeader &&
			binary.LittleEndian.Uint32(header[80:]) == gptEntries && binary.LittleEndian.Uint32(header[84:]) == gptEntry &&
			binary.LittleEndian.Uint32(header[16:]) == crc32.ChecksumIEEE(sum) &&
			binary.LittleEndian.Uint32(header[88:]) == crc32.ChecksumIEEE(table)
	}
	for i := range gptEntries {
		e := table[i*gptEntry : (i+1)*gptEntry]
		if nonZero(e) < 0 {
			continue
		}
		first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		if first > 1<<50 || last < first || last > 1<<50 {
			g.other("something else in place of the %s partition table's entries", which)
			return c
		}
		c.Entries = append(c.Entries, GPTPart{
			Type: guid(e[:16]), UUID: guid(e[16:32]), Start: int64(first) * sector, Size: int64(last-first+1) * sector,
		})
	}
	return c
}

// guid is a GUID whose first three fields are little-endian, in lower case.
func guid(b []byte) string {
	u := uuid.UUID{b[3], b[2], b[1], b[0], b[5], b[4], b[7], b[6]}
	copy(u[8:], b[8:16])
	return u.String()
}

// nonZero is the index of the first byte that is not zero, or -1.
func nonZero(b []byte) int {
	const chunk = 4096
	var zeroes [chunk]byte
	start := 0
	for start+chunk <= len(b) && bytes.Equal(b[start:start+chunk], zeroes[:]) {
		start += chunk
	}
	for i, x := range b[start:] {
		if x != 0 {
			return start + i
		}
	}
	return -1
}

// made says how far a partition table is that was to have this GUID and these
// entries.
type made int

const (
	absent  made = iota // no byte of it is there
	partial             // nothing but parts of it are there
	whole               // both copies are there, and are exactly it
	foreign             // something else is there
)

// compare tells the wanted table from any other by its GUIDs and places.
func (g *GPT) compare(want *Table) made {
	if g.Other != "" {
		return foreign
	}
	wanted := map[GPTPart]bool{}
	for _, p := range want.Partitions {
		wanted[GPTPart{UUID: p.UUID, Type: typeLinux, Start: p.Start, Size: p.Size}] = true
	}
	nothing, all := !g.Protective, g.Protective
	for _, c := range []GPTCopy{g.First, g.Last} {
		if c.GUID != "" && c.GUID != want.GUID {
			return foreign
		}
		for _, e := range c.Entries {
			if !wanted[e] {
				return foreign
			}
		}
		nothing = nothing && c.GUID == "" && len(c.Entries) == 0
		all = all && c.Whole && len(c.Entries) == len(wanted)
	}
	switch {
	case nothing:
		return absent
	case all:
		return whole
	}
	return partial
}
