package smart

import "context"

// ReaderOf makes a Reader whose disks are what read says.
func ReaderOf(read func(ctx context.Context, device string) (*Report, error)) *Reader {
	return &Reader{read: read}
}
