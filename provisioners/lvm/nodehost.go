package lvm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unsafe"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"holdfast.dev/internal/bounded"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostexec"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/mounttable"
)

const sysTimeout = 5 * time.Second // of reads that a dead disk can hold up

// NodeHost is the machine that the driver runs on. Programs are those of the driver's
// own image; /dev and the kubelet's directory are the host's, at the same paths; sysfs
// and the host's mount table are read below root.
type NodeHost struct{ root *hostfs.FS }

// NewNodeHost reads below root.
func NewNodeHost(root *hostfs.FS) *NodeHost { return &NodeHost{root: root} }

// Run is Host's.
func (*NodeHost) Run(ctx context.Context, timeout time.Duration, program string, args ...string) ([]byte, error) {
	env := []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "LVM_SUPPRESS_FD_WARNINGS=1"}
	return hostexec.Run(ctx, timeout, hostexec.Command{Path: program, Args: args, Env: env})
}

// within runs a read that may hang and is left behind then.
func within[T any](ctx context.Context, what string, read func() (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, sysTimeout, fmt.Errorf("%s: no answer in %s", what, sysTimeout))
	defer cancel()
	return bounded.Call(ctx, read)
}

// Devices is Host's: the group's disks by their ids, their partitions, and what lies
// on these but for logical volumes: md arrays, crypt, multipath. A disk of a network that disks.yaml
// lists by the id of a drive, as older versions of node preparation did, keeps what is on it.
func (h *NodeHost) Devices(ctx context.Context, g GroupInfo) (Devices, error) {
	return within(ctx, "read sysfs", func() (Devices, error) {
		names, err := h.root.ReadDir("/sys/block")
		if err != nil {
			return Devices{}, fmt.Errorf("list disks: %w", err)
		}
		var devices []string
		network := ""
		for _, dev := range names {
			is, err := diskid.Identify(h.root, dev)
			told := is.Told != "" && slices.Contains(g.Disks, is.Told)
			if err != nil || !told && !slices.Contains(g.Disks, is.ID) {
				continue // a disk of another group may be dying; ours are missed below
			}
			if told {
				network = fmt.Sprintf("disk %s is reached over a network (%s) as %s: nothing new is put onto it (move what is on it to drives of the node, then give its place to one with node-prepare --replace)", is.Told, is.Network, is.ID)
			}
			devices = append(devices, "/dev/"+dev)
			parts, err := h.root.ReadDir("/sys/class/block/" + dev)
			if err != nil {
				return Devices{}, fmt.Errorf("list partitions of %s: %w", dev, err)
			}
			for _, p := range append(parts, dev) {
				if p != dev {
					if !strings.HasPrefix(p, dev) {
						continue
					}
					devices = append(devices, "/dev/"+p)
				}
				devices = append(devices, h.holders(p, 0)...)
			}
		}
		if len(devices) == 0 {
			return Devices{}, fmt.Errorf("none of the disks %s is there", strings.Join(g.Disks, ", "))
		}
		slices.Sort(devices)
		return Devices{Paths: slices.Compact(devices), Network: network}, nil
	})
}

// holders are the devices on top of dev that may be physical volumes.
func (h *NodeHost) holders(dev string, depth int) []string {
	names, err := h.root.ReadDir("/sys/class/block/" + dev + "/holders")
	if err != nil || depth > 4 {
		return nil // none
	}
	var all []string
	for _, n := range names {
		uuid, err := diskid.Attr(h.root, "/sys/class/block/"+n+"/dm/uuid")
		if err != nil || strings.HasPrefix(uuid, "LVM-") {
			continue
		}
		all = append(append(all, "/dev/"+n), h.holders(n, depth+1)...)
	}
	return all
}

// Present is Host's. A node that a killed command of LVM left behind may lead to a
// number that another volume has by now: the kernel's own name of it decides.
func (h *NodeHost) Present(device string) (bool, error) {
	var st unix.Stat_t
	err := unix.Stat(device, &st)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at %s: %w", device, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFBLK {
		return false, fmt.Errorf("look at %s: it is no block device", device)
	}
	name, err := h.root.ReadString(fmt.Sprintf("/sys/dev/block/%d:%d/dm/name", unix.Major(st.Rdev), unix.Minor(st.Rdev)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, fmt.Errorf("ask what %s is: %w", device, err)
	}
	return name == mapperName(device), nil
}

// Open is Host's.
func (h *NodeHost) Open(device string, write bool) (RawDevice, error) {
	switch there, err := h.Present(device); {
	case err != nil:
		return nil, err
	case !there:
		return nil, fmt.Errorf("open %s: it is not there: %w", device, ErrUnavailable)
	}
	flags := unix.O_RDONLY
	if write {
		flags = unix.O_WRONLY
	}
	return openRaw(device, flags|unix.O_EXCL)
}

// rawFile is a block device. The kernel takes buffers at page boundaries past the page
// cache, which a slice of anybody's is not: there is one of its own between.
type rawFile struct {
	f    *os.File
	size int64
	mu   sync.Mutex
	buf  []byte
}

func openRaw(name string, flags int) (*rawFile, error) {
	f, err := os.OpenFile(name, flags|unix.O_DIRECT|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", name, err)
	}
	r := &rawFile{f: f}
	if r.size, err = f.Seek(0, io.SeekEnd); err == nil {
		r.buf, err = unix.Mmap(-1, 0, transferBlock, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open %s: %w", name, err), f.Close())
	}
	return r, nil
}

// Size is RawDevice's.
func (r *rawFile) Size() int64 { return r.size }

// ReadAt is RawDevice's, of one block at most.
func (r *rawFile) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	n, err := r.f.ReadAt(r.buf[:min(len(p), len(r.buf))], off)
	if copy(p, r.buf[:n]) < len(p) && err == nil {
		err = io.ErrShortBuffer
	}
	return n, err
}

// WriteAt is RawDevice's, of one block at most.
func (r *rawFile) WriteAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(p) > len(r.buf) {
		return 0, io.ErrShortBuffer
	}
	return r.f.WriteAt(r.buf[:copy(r.buf, p)], off)
}

// Zero is RawDevice's (BLKZEROOUT, block/ioctl.c).
func (r *rawFile) Zero(off, n int64) error {
	span := [2]uint64{uint64(off), uint64(n)}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, r.f.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&span))); errno != 0 {
		return fmt.Errorf("zero %d bytes of %s at %d: %w", n, r.f.Name(), off, errno)
	}
	return nil
}

// Sync is RawDevice's.
func (r *rawFile) Sync() error { return r.f.Sync() }

// Close is RawDevice's.
func (r *rawFile) Close() error { return errors.Join(unix.Munmap(r.buf), r.f.Close()) }

// mapperName is what the device mapper calls /dev/GROUP/VOLUME: LVM doubles the
// hyphens in both (lib/misc/lvm-string.c, build_dm_name).
func mapperName(device string) string {
	double := func(s string) string { return strings.ReplaceAll(s, "-", "--") }
	return double(path.Base(path.Dir(device))) + "-" + double(path.Base(device))
}

// Exclusive is Host's. udev looks into each device that was written, for a moment after
// it was closed: that is waited out, as long as libdm does (libdm-iface.c,
// DM_IOCTL_RETRIES and DM_RETRY_USLEEP_DELAY: 25 times 200 ms).
func (h *NodeHost) Exclusive(device string) error {
	var err error
	_ = wait.PollUntilContextTimeout(context.Background(), 200*time.Millisecond, 5*time.Second, true, func(context.Context) (bool, error) {
		err = h.alone(device)
		return !errors.Is(err, errOpened), nil
	})
	return err
}

// errOpened is somebody who may be gone in a moment.
var errOpened = errors.New("others have it open")

// alone is nil when the device can be opened alone. O_EXCL fails only for mounts, holders
// and others that open so (block/bdev.c bd_prepare_to_claim); the device mapper's own
// count tells of everybody else, such as a pod with a raw volume.
func (h *NodeHost) alone(device string) error {
	out, err := h.Run(context.Background(), sysTimeout, "dmsetup", "info", "-c", "--noheadings", "-o", "open", device)
	if err != nil {
		return fmt.Errorf("ask who has %s open: %w", device, err)
	}
	if n := strings.TrimSpace(string(out)); n != "0" {
		return fmt.Errorf("%s is opened %q times: %w", device, n, errOpened)
	}
	_, err = within(context.Background(), "open "+device, func() (struct{}, error) {
		fd, err := unix.Open(device, unix.O_RDONLY|unix.O_EXCL|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
		if err != nil {
			return struct{}{}, fmt.Errorf("open %s alone: %w", device, err)
		}
		return struct{}{}, unix.Close(fd)
	})
	return err
}

func rdev(name string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return 0, fmt.Errorf("look at %s: %w", name, err)
	}
	return st.Rdev, nil
}

// shows says whether a mount is of the device, or of its node. A pod's raw volume is a mount
// of the node. Where this process does not see that mount, as in a namespace that
// nothing propagates from, its path within devtmpfs tells: what the kernel calls the
// device, or what LVM has named its node.
func shows(m *mountinfo.Info, device string, dev uint64) bool {
	if uint32(m.Major) == unix.Major(dev) && uint32(m.Minor) == unix.Minor(dev) {
		return true
	}
	node, ok := mounttable.Node(m)
	if !ok {
		return false
	}
	if node == "dm-"+strconv.FormatUint(uint64(unix.Minor(dev)), 10) || m.Root == "/mapper/"+mapperName(device) || m.Root == strings.TrimPrefix(device, "/dev") {
		return true
	}
	at, err := rdev(m.Mountpoint)
	return err == nil && at == dev
}

func mountOf(m *mountinfo.Info) Mount {
	return Mount{Target: m.Mountpoint, Filesystem: m.FSType, ReadOnly: mounttable.ReadOnly(m)}
}

// Of is Mounts', in the host's view: a mount that somebody else made counts too.
func (h *NodeHost) Of(device string) ([]Mount, error) {
	dev, err := rdev(device)
	if err != nil {
		return nil, err
	}
	infos, err := mounttable.Read(h.root, "1")
	if err != nil {
		return nil, err
	}
	var all []Mount
	for _, m := range infos {
		if shows(m, device, dev) {
			all = append(all, mountOf(m))
		}
	}
	return all, nil
}

// At is Mounts', in the driver's own view.
func (h *NodeHost) At(target, device string) (*Mount, bool, error) {
	infos, err := mountinfo.GetMounts(nil)
	if err != nil {
		return nil, false, err
	}
	for _, m := range slices.Backward(infos) {
		if m.Mountpoint != path.Clean(target) {
			continue
		}
		mnt := mountOf(m)
		if device == "" {
			return &mnt, false, nil
		}
		dev, err := rdev(device)
		if err != nil {
			return nil, false, err
		}
		return &mnt, shows(m, device, dev), nil
	}
	return nil, false, nil
}

// Usage is Mounts'.
func (*NodeHost) Usage(ctx context.Context, name string) (Usage, error) {
	return within(ctx, "statfs "+name, func() (Usage, error) {
		var st unix.Stat_t
		if err := unix.Stat(name, &st); err != nil {
			return Usage{}, fmt.Errorf("look at %s: %w", name, err)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			f, err := os.Open(name)
			if err != nil {
				return Usage{}, err
			}
			defer func() { _ = f.Close() }() // read only
			n, err := f.Seek(0, io.SeekEnd)
			return Usage{Total: n, Block: true}, err
		}
		var s unix.Statfs_t
		if err := unix.Statfs(name, &s); err != nil {
			return Usage{}, fmt.Errorf("statfs %s: %w", name, err)
		}
		size := s.Bsize
		return Usage{
			Total: int64(s.Blocks) * size, Used: int64(s.Blocks-s.Bfree) * size, Available: int64(s.Bavail) * size,
			Inodes: int64(s.Files), InodesUsed: int64(s.Files - s.Ffree), InodesFree: int64(s.Ffree),
		}, nil
	})
}
