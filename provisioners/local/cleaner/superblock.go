package cleaner

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"strconv"
)

// superblock reads what mkfs must be told so that a file system keeps its
// identity and geometry. It is zero when data, the first bytes of the partition,
// is no such file system.
func superblock(kind string, data []byte) Shape {
	switch kind {
	case "ext4":
		return ext4Shape(data)
	case "xfs":
		return xfsShape(data)
	}
	return Shape{}
}

// ext4Shape follows struct ext4_super_block (fs/ext4/ext4.h), 1024 bytes into the partition.
func ext4Shape(data []byte) Shape {
	const magic = 0xEF53
	if len(data) < 2048 {
		return Shape{}
	}
	sb, le := data[1024:2048], binary.LittleEndian
	if le.Uint16(sb[0x38:]) != magic || le.Uint32(sb[0x18:]) > 6 {
		return Shape{}
	}
	s := Shape{
		UUID: formatUUID(sb[0x68:0x78]), Label: text(sb[0x78:0x88]),
		BlockSize: 1024 << le.Uint32(sb[0x18:]), InodeSize: int(le.Uint16(sb[0x58:])), Inodes: le.Uint32(sb),
	}
	if blocks := le.Uint32(sb[4:]); blocks > 0 { // the low halves do for a percentage below 2^32 blocks
		if reserved := le.Uint32(sb[8:]); le.Uint32(sb[0x150:]) == 0 && reserved < blocks {
			s.Reserved = float64(reserved) * 100 / float64(blocks)
		}
	}
	return s
}

// xfsShape follows struct xfs_dsb (fs/xfs/libxfs/xfs_format.h).
func xfsShape(data []byte) Shape {
	if len(data) < 512 || !bytes.Equal(data[:4], []byte("XFSB")) {
		return Shape{}
	}
	be := binary.BigEndian
	return Shape{
		UUID: formatUUID(data[32:48]), Label: text(data[108:120]),
		BlockSize: int(be.Uint32(data[4:])), InodeSize: int(be.Uint16(data[104:])),
	}
}

func formatUUID(b []byte) string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// mkfs is the command that makes a file system of that shape; the device comes
// last. What the shape does not tell is mkfs's default. Discarding is off: the
// partition was wiped by a method of its own.
func mkfs(kind string, s Shape) (name string, args []string, err error) {
	add := func(flag, value string) {
		if value != "" && value != "0" {
			args = append(args, flag, value)
		}
	}
	switch kind {
	case "ext4":
		args = []string{"-q", "-F", "-E", "nodiscard", "-m", strconv.FormatFloat(s.Reserved, 'f', 4, 64)}
		add("-U", s.UUID)
		add("-L", s.Label)
		add("-b", strconv.Itoa(s.BlockSize))
		add("-I", strconv.Itoa(s.InodeSize))
		add("-N", strconv.FormatUint(uint64(s.Inodes), 10))
		return "mkfs.ext4", args, nil
	case "xfs":
		args = []string{"-q", "-K"}
		if s.UUID != "" {
			args = append(args, "-m", "uuid="+s.UUID)
		}
		add("-L", s.Label)
		if s.BlockSize != 0 {
			args = append(args, "-b", "size="+strconv.Itoa(s.BlockSize))
		}
		if s.InodeSize != 0 {
			args = append(args, "-i", "size="+strconv.Itoa(s.InodeSize))
		}
		return "mkfs.xfs", args, nil
	}
	return "", nil, fmt.Errorf("make file system: %q is not ext4 or xfs", kind)
}
