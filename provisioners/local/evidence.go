package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"holdfast.dev/internal/bounded"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

const mountTable = "/proc/1/mountinfo"

// Host reads what a node says of its disks. Every read has a deadline, and a
// read that hangs is waited for and never started twice.
type Host struct {
	fs      *hostfs.FS
	timeout time.Duration
	state   string // OfferedDir as this process may write it; empty for below fs

	mu   sync.Mutex
	busy map[string]flight // reads under way
}

// flight is a read that is under way.
type flight struct {
	since time.Time
	ended chan struct{}
}

// NewHost reads below f. timeout bounds each disk's reads.
func NewHost(f *hostfs.FS, timeout time.Duration) *Host {
	return &Host{fs: f, timeout: timeout, busy: map[string]flight{}}
}

// Disks reads disks.yaml. The error is fs.ErrNotExist before node preparation.
func (h *Host) Disks(ctx context.Context) (*nodedisks.File, error) {
	return within(ctx, h, "file", func() (*nodedisks.File, error) {
		data, err := h.fs.ReadFile(nodedisks.Path)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", nodedisks.Path, err)
		}
		return nodedisks.Parse(nodedisks.Path, data)
	})
}

// Look gathers the evidence for every partition of f, all disks side by side,
// and how many disks have each id (nil when not all could be read). Into file
// systems whose volume stands, by its name, it does not look.
func (h *Host) Look(ctx context.Context, f *nodedisks.File, stands func(volume string) bool) (map[string]Evidence, map[string]int) {
	mounts, mountErr := h.Mounts(ctx)
	all := map[string]Evidence{}
	var present map[string]int
	var mu sync.Mutex
	var wg sync.WaitGroup
	wg.Go(func() {
		ids, err := within(ctx, h, "list", h.present)
		if err == nil {
			mu.Lock()
			defer mu.Unlock()
			present = ids
		}
	})
	for _, d := range f.Disks {
		if !offered(d) {
			continue
		}
		wg.Go(func() {
			found, err := within(ctx, h, "disk "+d.ID, func() (map[string]Evidence, error) {
				return h.disk(d, mounts, mountErr, stands), nil
			})
			mu.Lock()
			defer mu.Unlock()
			for _, p := range d.Partitions {
				ev := found[p.UUID]
				if err != nil {
					ev = Evidence{Err: err}
				}
				all[p.UUID] = ev
			}
		})
	}
	wg.Wait()
	return all, present
}

// Mounts reads the mount table of the host's first process.
func (h *Host) Mounts(ctx context.Context) (Mounts, error) {
	return within(ctx, h, "mounts", func() (Mounts, error) {
		data, err := h.fs.ReadFile(mountTable)
		if err != nil {
			return Mounts{}, fmt.Errorf("read mount table: %w", err)
		}
		return ParseMounts(data)
	})
}

// Find looks at one partition through udev's link alone, mounted or not, and
// says how many disks have the disk's id. The device is nil when there is none.
func (h *Host) Find(ctx context.Context, disk string, p nodedisks.Partition, mounts Mounts) (Evidence, int, error) {
	type found struct {
		ev    Evidence
		twins int
	}
	out, err := within(ctx, h, "disk "+disk, func() (found, error) {
		ids, err := h.present()
		if err != nil {
			return found{}, err
		}
		return found{h.raw(p, mounts), ids[disk]}, nil
	})
	return out.ev, out.twins, errors.Join(err, out.ev.Err)
}

// begin waits for its turn to read key. A read that has taken longer than the
// timeout is not waited for.
func (h *Host) begin(ctx context.Context, key string) error {
	for {
		h.mu.Lock()
		f, busy := h.busy[key]
		if !busy {
			h.busy[key] = flight{time.Now(), make(chan struct{})}
			h.mu.Unlock()
			return nil
		}
		h.mu.Unlock()
		left := h.timeout - time.Since(f.since)
		if left <= 0 {
			return fmt.Errorf("read %s: an earlier read still hangs", key)
		}
		timer := time.NewTimer(left)
		select {
		case <-f.ended:
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
		timer.Stop()
	}
}

func (h *Host) end(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.busy[key].ended)
	delete(h.busy, key)
}

// within runs read, for at most the host's timeout. While a read of the same
// key hangs, no other one is started: a dead disk costs one goroutine.
func within[T any](ctx context.Context, h *Host, key string, read func() (T, error)) (T, error) {
	if err := h.begin(ctx, key); err != nil {
		var zero T
		return zero, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, h.timeout, fmt.Errorf("read %s: no answer in %s", key, h.timeout))
	defer cancel()
	return bounded.Call(ctx, func() (T, error) {
		defer h.end(key)
		return read()
	})
}

// present counts the host's disks by id. Two loop devices of one file are one
// disk, as in the monitor's inventory.
func (h *Host) present() (map[string]int, error) {
	names, err := h.fs.ReadDir("/sys/block")
	if err != nil {
		return nil, err
	}
	ids := map[string]int{}
	for _, name := range names {
		id, weak, err := diskid.FromSysfs(h.fs, name)
		switch {
		case errors.Is(err, diskid.ErrNoDisk), errors.Is(err, fs.ErrNotExist): // not a disk, or gone since
		case unplaced(err): // an id that is known, which is none of another disk's
		case err != nil:
			return nil, err
		case weak:
			ids[id] = 1
		default:
			ids[id]++
		}
	}
	return ids, nil
}

// unplaced says whether an error is of a disk whose id is known, and its place is not.
func unplaced(err error) bool {
	_, ok := errors.AsType[*diskid.UnplacedError](err)
	return ok
}

func (h *Host) disk(d nodedisks.Disk, mounts Mounts, mountErr error, stands func(string) bool) map[string]Evidence {
	found := make(map[string]Evidence, len(d.Partitions))
	for _, p := range d.Partitions {
		ev := Evidence{Err: mountErr}
		switch {
		case mountErr != nil:
		case p.Filesystem == "":
			if ev = h.raw(p, mounts); ev.Err == nil && ev.Device != nil {
				ev.Certificate, ev.Residue, ev.Err = h.Certified(d.ID, p, ev.Device.Bytes)
			}
		default:
			ev = h.mounted(p, mounts)
			if ev.Err == nil && ev.Mount != nil && !stands(VolumeName(d.ID, p.UUID)) {
				ev.Residue, ev.Err = h.Pristine(p.MountPoint)
			}
		}
		found[p.UUID] = ev
	}
	return found
}

// mounted follows mount point → device number → partition → disk.
func (h *Host) mounted(p nodedisks.Partition, mounts Mounts) Evidence {
	m, err := mounts.At(p.MountPoint)
	if err != nil || m == nil {
		return Evidence{Err: err}
	}
	dir, err := h.fs.Resolve(path.Join("/sys/dev/block", m.Device))
	if errors.Is(err, fs.ErrNotExist) { // no block device: tmpfs, NFS, or a disk that was pulled
		return Evidence{Mount: m}
	}
	if err != nil {
		return Evidence{Err: fmt.Errorf("find device %s: %w", m.Device, err)}
	}
	dev, err := h.device(dir, p.UUID)
	ev := Evidence{Mount: m, Device: dev, Err: err}
	for _, point := range mounts.Of(m.Device) {
		if point != p.MountPoint {
			ev.UsedAt = append(ev.UsedAt, point)
		}
	}
	return ev
}

// raw follows by-partuuid link → partition → disk, and asks who uses it.
func (h *Host) raw(p nodedisks.Partition, mounts Mounts) Evidence {
	name, err := h.linked(p.UUID)
	if err != nil || name == "" {
		return Evidence{Err: err}
	}
	dir, err := h.partitionDir(name)
	if err != nil || dir == "" {
		return Evidence{Err: err}
	}
	dev, err := h.device(dir, p.UUID)
	if err != nil {
		return Evidence{Err: err}
	}
	number, err := h.fs.ReadString(path.Join(dir, "dev"))
	if err != nil {
		return Evidence{Err: fmt.Errorf("read number of %s: %w", name, err)}
	}
	dev.Number = number
	return Evidence{Device: dev, UsedAt: append(mounts.Of(number), mounts.NodesOf(name)...)}
}

// partitionDir is the sysfs directory of the partition name, or empty.
func (h *Host) partitionDir(name string) (string, error) {
	disks, err := h.fs.ReadDir("/sys/block")
	if err != nil {
		return "", fmt.Errorf("find partition %s: %w", name, err)
	}
	for _, d := range disks {
		if !strings.HasPrefix(name, d) || name == d {
			continue
		}
		dir, err := h.fs.Resolve(path.Join("/sys/block", d, name))
		if err == nil {
			return dir, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return "", fmt.Errorf("find partition %s: %w", name, err)
		}
	}
	return "", nil
}

// device reads the block device at the sysfs directory dir.
func (h *Host) device(dir, wantUUID string) (*Device, error) {
	dev := &Device{Name: path.Base(dir)}
	if _, err := h.fs.ReadFile(path.Join(dir, "partition")); errors.Is(err, fs.ErrNotExist) {
		return dev, nil
	} else if err != nil {
		return nil, fmt.Errorf("read partition %s: %w", dev.Name, err)
	}
	dev.Partition = true
	is, err := diskid.Identify(h.fs, path.Base(path.Dir(dir)))
	if err != nil {
		return nil, err
	}
	dev.DiskID = is.ID
	if diskid.Networked(is.ID, is.Weak) {
		dev.Network = is.Network
	}
	if dev.PartitionUUID, err = h.partitionUUID(dir, dev.Name, wantUUID); err != nil {
		return nil, err
	}
	size, err := h.fs.ReadString(path.Join(dir, "size"))
	if err != nil {
		return nil, fmt.Errorf("read size of %s: %w", dev.Name, err)
	}
	sectors, err := strconv.ParseInt(size, 10, 64) // of 512 bytes, whatever the disk's own
	if err != nil || sectors < 0 || sectors > 1<<53 {
		return nil, fmt.Errorf("read size of %s: %q is no number of sectors", dev.Name, size)
	}
	dev.Bytes = sectors * 512
	dev.Holders, err = h.fs.ReadDir(path.Join(dir, "holders"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read holders of %s: %w", dev.Name, err)
	}
	return dev, nil
}

// partitionUUID asks the kernel (uevent, since Linux 6.10) and udev's links.
// Where both answer, they must agree. No answer is an error.
func (h *Host) partitionUUID(dir, name, want string) (string, error) {
	uevent, err := h.fs.ReadString(path.Join(dir, "uevent"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read uevent of %s: %w", name, err)
	}
	var kernel string
	for line := range strings.SplitSeq(uevent, "\n") {
		if v, ok := strings.CutPrefix(line, "PARTUUID="); ok {
			kernel = strings.ToLower(strings.TrimSpace(v))
		}
	}
	linked, err := h.linked(want)
	if err != nil {
		return "", err
	}
	if kernel != "" {
		if linked != "" && (kernel == want) != (linked == name) {
			return "", fmt.Errorf("read partition UUID of %s: the kernel says %s, udev links %s to %s", name, kernel, want, linked)
		}
		return kernel, nil
	}
	if linked == name {
		return want, nil
	}
	return h.searchLinks(name)
}

// linked is the name of the device that udev's link for uuid names, or empty.
func (h *Host) linked(uuid string) (string, error) {
	target, err := h.fs.Resolve(path.Join(byPartUUID, uuid))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read link of partition %s: %w", uuid, err)
	}
	return path.Base(target), nil
}

func (h *Host) searchLinks(name string) (string, error) {
	uuids, err := h.fs.ReadDir(byPartUUID)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read partition UUID of %s: %w", name, err)
	}
	for _, uuid := range uuids {
		if linked, err := h.linked(uuid); err != nil {
			return "", err
		} else if linked == name {
			return uuid, nil
		}
	}
	return "", fmt.Errorf("read partition UUID of %s: neither the kernel nor udev tells it", name)
}
