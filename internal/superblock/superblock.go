// Package superblock reads the superblocks of the file systems that nodes have: ext4 and XFS.
package superblock

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

// Superblock is what a file system says of itself. The zero value is no file system.
type Superblock struct {
	Kind      string // ext4 (or its older kin ext2 and ext3, which have the same magic) or xfs
	UUID      string // in lower case
	Label     string
	BlockSize int // 0 for one that ext4 does not have
	InodeSize int
	Inodes    uint32  // ext4
	Reserved  float64 // ext4: percent of the blocks
	// Unused: it can never have been mounted to be written.
	Unused bool
}

// Parse reads the superblock in the first bytes of a partition, of which it needs 2048.
func Parse(data []byte) Superblock {
	switch {
	case len(data) < 2048:
		return Superblock{}
	case string(data[:4]) == "XFSB":
		return xfs(data)
	case binary.LittleEndian.Uint16(data[1024+0x38:]) == 0xef53:
		return ext4(data[1024:2048])
	}
	return Superblock{}
}

// ext4 follows struct ext4_super_block (fs/ext4/ext4.h). The kernel counts s_mnt_count
// (0x34) up and sets s_mtime (0x2c), and writes that out, before the first change of a file
// system mounted to be written, ext4_setup_super.
func ext4(sb []byte) Superblock {
	le := binary.LittleEndian
	s := Superblock{
		Kind: "ext4", UUID: uuid(sb[0x68:0x78]), Label: text(sb[0x78:0x88]),
		InodeSize: int(le.Uint16(sb[0x58:])), Inodes: le.Uint32(sb),
		Unused: le.Uint16(sb[0x34:]) == 0 && le.Uint32(sb[0x2c:]) == 0,
	}
	if log := le.Uint32(sb[0x18:]); log <= 6 {
		s.BlockSize = 1024 << log
	}
	if blocks := le.Uint32(sb[4:]); blocks > 0 { // the low halves do for a percentage below 2^32 blocks
		if reserved := le.Uint32(sb[8:]); le.Uint32(sb[0x150:]) == 0 && reserved < blocks {
			s.Reserved = float64(reserved) * 100 / float64(blocks)
		}
	}
	return s
}

// xfs follows struct xfs_dsb (fs/xfs/libxfs/xfs_format.h). mkfs.xfs clears sb_inprogress
// (126) last, and the kernel does not mount a file system that has it set,
// xfs_validate_sb_common.
func xfs(sb []byte) Superblock {
	be := binary.BigEndian
	return Superblock{
		Kind: "xfs", UUID: uuid(sb[32:48]), Label: text(sb[108:120]),
		BlockSize: int(be.Uint32(sb[4:])), InodeSize: int(be.Uint16(sb[104:])),
		Unused: sb[126] != 0,
	}
}

func uuid(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func text(b []byte) string {
	b, _, _ = bytes.Cut(b, []byte{0})
	return string(b)
}
