package superblock_test

import (
	"encoding/binary"
	"testing"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/internal/superblock"
)

// id is the UUID 000102….
func id(b []byte) {
	for i := range 16 {
		b[i] = byte(i)
	}
}

const idText = "00010203-0405-0607-0809-0a0b0c0d0e0f"

// ext4 is what mkfs.ext4 -b 4096 -m 5 -L data writes.
func ext4(change func(sb []byte)) []byte {
	b := make([]byte, 4096)
	sb, le := b[1024:], binary.LittleEndian
	le.PutUint32(sb, 65536)
	le.PutUint32(sb[4:], 1000)
	le.PutUint32(sb[8:], 50)
	le.PutUint32(sb[24:], 2)
	le.PutUint16(sb[56:], 0xef53)
	le.PutUint16(sb[88:], 256)
	id(sb[104:])
	copy(sb[120:], "data")
	change(sb)
	return b
}

func xfs(change func(sb []byte)) []byte {
	b, be := make([]byte, 4096), binary.BigEndian
	copy(b, "XFSB")
	be.PutUint32(b[4:], 4096)
	id(b[32:])
	be.PutUint16(b[104:], 512)
	copy(b[108:], "twelve bytes")
	change(b)
	return b
}

func TestParse(t *testing.T) {
	asMade := func([]byte) {}
	fresh := superblock.Superblock{Kind: "ext4", UUID: idText, Label: "data", BlockSize: 4096, InodeSize: 256, Inodes: 65536, Reserved: 5, Unused: true}
	x := superblock.Superblock{Kind: "xfs", UUID: idText, Label: "twelve bytes", BlockSize: 4096, InodeSize: 512}
	with := func(s superblock.Superblock, change func(*superblock.Superblock)) superblock.Superblock {
		change(&s)
		return s
	}
	cases := map[string]struct {
		reason string
		data   []byte
		want   superblock.Superblock
	}{
		"Ext4":       {"all that mkfs must be told to make it anew", ext4(asMade), fresh},
		"Mounted":    {"the kernel counts mounts", ext4(func(sb []byte) { sb[52] = 1 }), with(fresh, func(s *superblock.Superblock) { s.Unused = false })},
		"MountTime":  {"and tune2fs -c 0 sets the count back, not the time", ext4(func(sb []byte) { sb[44] = 1 }), with(fresh, func(s *superblock.Superblock) { s.Unused = false })},
		"BadBlocks":  {"it is still somebody's, whatever else it says", ext4(func(sb []byte) { sb[24] = 200 }), with(fresh, func(s *superblock.Superblock) { s.BlockSize = 0 })},
		"BadReserve": {"more reserved than there is", ext4(func(sb []byte) { sb[10] = 200 }), with(fresh, func(s *superblock.Superblock) { s.Reserved = 0 })},
		"XFS":        {"the label has no end where it is long", xfs(asMade), x},
		"InProgress": {"mkfs.xfs was killed", xfs(func(sb []byte) { sb[126] = 1 }), with(x, func(s *superblock.Superblock) { s.Unused = true })},
		"Zeros":      {"nothing", make([]byte, 4096), superblock.Superblock{}},
		"Short":      {"too little to tell", ext4(asMade)[:1500], superblock.Superblock{}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if diff := cmp.Diff(tc.want, superblock.Parse(tc.data)); diff != "" {
				t.Errorf("reason: %s\n%s", tc.reason, diff)
			}
		})
	}
}
