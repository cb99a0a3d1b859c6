package diskid

import (
	"strings"

	"holdfast.dev/api/v1alpha1"
)

// Media is what the disk that the kernel calls dev is made of. rotational is its
// attribute queue/rotational, empty when it is not told.
//
// A disk that does not say that it is no spinning one is taken for a hard disk, as the kernel
// does (drivers/scsi/sd.c sd_read_block_characteristics leaves a disk that reports no
// rotation rate as it was made: rotational). The other way about, a slow disk would be
// given to claims that ask for a fast one.
func Media(dev, rotational string) v1alpha1.Media {
	switch {
	case strings.HasPrefix(dev, "loop"), strings.HasPrefix(dev, "vd"):
		return v1alpha1.MediaVirtual
	case strings.HasPrefix(dev, "nvme"):
		return v1alpha1.MediaNVMe
	case rotational == "0":
		return v1alpha1.MediaSSD
	}
	return v1alpha1.MediaHDD
}
