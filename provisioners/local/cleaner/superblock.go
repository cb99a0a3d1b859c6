package cleaner

import (
	"fmt"
	"strconv"

	"holdfast.dev/internal/superblock"
)

// shape is what mkfs must be told so that a file system keeps its identity and
// geometry. It is zero when data, the first bytes of the partition, is no such
// file system.
func shape(kind string, data []byte) Shape {
	s := superblock.Parse(data)
	if s.Kind != kind || s.BlockSize == 0 {
		return Shape{}
	}
	return Shape{UUID: s.UUID, Label: s.Label, BlockSize: s.BlockSize, InodeSize: s.InodeSize, Inodes: s.Inodes, Reserved: s.Reserved}
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
