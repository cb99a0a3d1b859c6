package lvm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/nodedisks"
)

// GroupInfo is a volume group that the driver manages, as disks.yaml has it.
type GroupInfo struct {
	Name, UUID string
	Pool       string // group of the NodeFlavor; storage classes name it
	ThinPool   string // empty when it has none
	Disks      []string
	Media      v1alpha1.Media // of all its disks; empty when they differ
}

// OneDisk is the id of the disk that the whole group lies on, or empty.
func (g GroupInfo) OneDisk() string {
	if len(g.Disks) == 1 {
		return g.Disks[0]
	}
	return ""
}

// Groups are the volume groups of disks.yaml.
func Groups(f *nodedisks.File) []GroupInfo {
	var all []GroupInfo
	for _, v := range f.VolumeGroups {
		g := GroupInfo{Name: v.Name, UUID: v.UUID, Pool: v.Pool, ThinPool: v.ThinPool}
		for _, d := range f.Disks {
			if d.VolumeGroup != v.Name {
				continue
			}
			switch {
			case len(g.Disks) == 0:
				g.Media = d.Media
			case g.Media != d.Media:
				g.Media = ""
			}
			g.Disks = append(g.Disks, d.ID)
		}
		all = append(all, g)
	}
	return all
}

// Host is what the engine needs of the machine.
type Host interface {
	// Run runs a program to its end or to the deadline, and returns what it printed.
	// The error of a program that ended by itself has a method ExitStatus.
	Run(ctx context.Context, timeout time.Duration, program string, args ...string) ([]byte, error)
	// Devices are the block devices that LVM may look at for this group. None is an error.
	Devices(ctx context.Context, g GroupInfo) (Devices, error)
	// Exclusive is nil when the device can be opened O_EXCL now: nothing has it mounted,
	// holds it or has opened it so.
	Exclusive(device string) error
	// Present says whether the device node is there.
	Present(device string) (bool, error)
	// Open opens a device for reading or writing, and alone: nothing mounts it meanwhile.
	Open(device string, write bool) (RawDevice, error)
}

// Devices are the block devices of a volume group.
type Devices struct {
	Paths []string
	// Network says which of the group's disks is reached over a network, and how; empty when none is.
	Network string
}

// Mount is an entry of the mount table.
type Mount struct {
	Target     string
	Filesystem string
	ReadOnly   bool
}

// Usage is what a file system or device holds. Inodes are 0 for a device.
type Usage struct {
	Total, Used, Available         int64
	Inodes, InodesUsed, InodesFree int64
	Block                          bool
}

// Mounts reads the mount table.
type Mounts interface {
	// Of are the mounts of a device, bind mounts of its node included.
	Of(device string) ([]Mount, error)
	// At is the topmost mount at a path, or nil, and whether it is of the device;
	// device may be empty.
	At(target, device string) (m *Mount, same bool, err error)
	// Usage asks the file system or device at a path; it has a deadline of its own.
	Usage(ctx context.Context, path string) (Usage, error)
}

// Kinds of errors, for the codes of CSI. The text says what to do.
var (
	// ErrInvalid is a request that can never succeed.
	ErrInvalid = errors.New("invalid request")
	// ErrNotFound is a volume that is certainly not there.
	ErrNotFound = errors.New("not found")
	// ErrExists is a name that is taken by something else.
	ErrExists = errors.New("exists already")
	// ErrBusy is a volume that another call works on.
	ErrBusy = errors.New("another operation on the volume is under way")
	// ErrInUse is a volume that is mounted or open.
	ErrInUse = errors.New("in use")
	// ErrRefused is a state of the volume that a person must look at.
	ErrRefused = errors.New("refused")
	// ErrHeld is a volume whose data must stay for now: its disk is bad.
	ErrHeld = errors.New("held")
	// ErrUnavailable is a volume group that does not answer now.
	ErrUnavailable = errors.New("the volume group does not answer")
	// ErrOutOfRange is a size that can not be.
	ErrOutOfRange = errors.New("impossible size")
)

// Handle names a volume for as long as it lives: the UUID of its group, which
// follows the disks and not the node, and the name of the logical volume.
type Handle struct{ Group, LV string }

func (h Handle) String() string { return h.Group + "/" + h.LV }

// ParseHandle reads a handle. The error is ErrNotFound: what is not in this form was
// never handed out by this driver.
func ParseHandle(s string) (Handle, error) {
	g, lv, ok := strings.Cut(s, "/")
	if !ok || !vgUUID.MatchString(g) || !ourName.MatchString(lv) {
		return Handle{}, fmt.Errorf("volume id %q is not one of %s: %w", s, DriverName, ErrNotFound)
	}
	return Handle{Group: g, LV: lv}, nil
}
