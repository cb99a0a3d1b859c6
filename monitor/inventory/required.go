package inventory

import (
	"errors"
	"fmt"
	"io/fs"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

// ErrNotPrepared is returned while the host has no disks.yaml. It is no
// evidence that the host must have no disks.
var ErrNotPrepared = errors.New("the host has no " + nodedisks.Path)

// Required is what disks.yaml says.
func Required(host *hostfs.FS) (*nodedisks.File, error) {
	data, err := host.ReadFile(nodedisks.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, ErrNotPrepared
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", nodedisks.Path, err)
	}
	return nodedisks.Parse(nodedisks.Path, data)
}
