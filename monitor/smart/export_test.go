package smart

import "context"

// AdminStatus reads the result of the ioctl for NVMe admin commands.
var AdminStatus = adminStatus

// ReaderOf makes a Reader whose disks are what read says.
func ReaderOf(read func(ctx context.Context, device string) (*Report, error)) *Reader {
	return &Reader{read: read}
}
