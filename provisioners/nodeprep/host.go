package nodeprep

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
	"syscall"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostexec"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/mounttable"
)

// Exec runs a program; hostexec.Run is the one of the product.
type Exec func(ctx context.Context, timeout time.Duration, c hostexec.Command) ([]byte, error)

const (
	sysBlock    = "/sys/block"
	sysSector   = 512              // sysfs counts in 512 bytes whatever the sector size, block/genhd.c
	readTimeout = 90 * time.Second // of all that is read of one disk: a retrying one takes long
	toolTimeout = 30 * time.Second
	atOnce      = 8 // disks that are read side by side
)

// Host reads what is known of the host's disks. It changes nothing.
type Host struct {
	FS    *hostfs.FS
	Exec  Exec
	Flags Flags
	// Stat asks the kernel of an open device; StatNode is the one of the product.
	Stat func(*os.File) (Node, error)
	// Progress hears of reads that take long.
	Progress io.Writer

	mu sync.Mutex // of Progress
}

// users are who uses block devices, by the kernel's number and name.
type users struct {
	number map[string][]string // 8:17 to mount points
	name   map[string][]string // sdb1 to mount points and swap
}

// Scan lists the disks and reads what is on each. extents are where on a disk
// partitions may come. The error is why the list may lack disks.
func (h *Host) Scan(ctx context.Context, state *State, extents func(*Found) []Extent) ([]Found, error) {
	names, err := h.FS.ReadDir(sysBlock)
	if err != nil {
		return nil, fmt.Errorf("list disks: %w", err)
	}
	used, err := h.users()
	if err != nil {
		return nil, err // without it nothing is known to be free
	}
	slots := h.slots()
	found := make([]*Found, len(names))
	errs := make([]error, len(names))
	var wg sync.WaitGroup
	room := make(chan struct{}, atOnce)
	for i, name := range names {
		wg.Go(func() {
			room <- struct{}{}
			defer func() { <-room }()
			found[i], errs[i] = h.disk(ctx, name, slots[name], nil, used, state, extents)
			if found[i] != nil {
				found[i].hold.close()
				found[i].hold = nil
			}
		})
	}
	wg.Wait()
	var out []Found
	for _, f := range found {
		if f != nil {
			out = append(out, *f)
		}
	}
	slices.SortFunc(out, func(a, b Found) int { return strings.Compare(a.ID, b.ID) })
	out, twins := withoutTwins(out)
	return out, errors.Join(append(errs, twins)...)
}

// withoutTwins leaves out all disks that share an id: paths of a multipath
// disk, clones. One of them would be taken for the other. So would be a disk of the host that is
// reached over a network too. Those of a network by their places are kept: they are not touched.
func withoutTwins(all []Found) ([]Found, error) {
	var keep []Found
	var errs []error
	told := map[string]bool{}
	for i := range all {
		told[all[i].Told] = true
	}
	for i := 0; i < len(all); {
		n := 1
		for i+n < len(all) && all[i+n].ID == all[i].ID {
			n++
		}
		switch {
		case diskid.Networked(all[i].ID, all[i].Weak):
			keep = append(keep, all[i]) // twice, it is one all the same
		case told[all[i].ID]:
			errs = append(errs, fmt.Errorf("disk %s (%s) is reached over a network too: it is not touched", all[i].ID, all[i].Device))
		case n == 1:
			keep = append(keep, all[i])
		default:
			errs = append(errs, fmt.Errorf("%d devices have the disk id %s, among them %s and %s: none of them is touched", n, all[i].ID, all[i].Device, all[i+1].Device))
		}
		i += n
	}
	return keep, errors.Join(errs...)
}

// disk reads one disk, and keeps it open for the caller to close; nil for what is
// none, or is gone. hold is the disk when it is open already.
func (h *Host) disk(ctx context.Context, dev, slot string, hold *held, used *users, state *State, extents func(*Found) []Extent) (*Found, error) {
	is, err := diskid.Identify(h.FS, dev)
	if errors.Is(err, diskid.ErrNoDisk) || errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV) {
		return nil, nil
	}
	if u, ok := errors.AsType[*diskid.UnplacedError](err); ok { // it keeps its id from others, and they are judged
		return &Found{ID: u.ID, Weak: u.Weak, Device: dev, Slot: slot, ReadOnly: true, hold: hold, Content: Content{Err: err.Error()}}, nil
	}
	if err != nil {
		return nil, err
	}
	f := &Found{ID: is.ID, Weak: is.Weak, Device: dev, Slot: slot, Network: is.Network, Told: is.Told, hold: hold}
	attr := func(name string) string {
		v, e := diskid.Attr(h.FS, path.Join(sysBlock, dev, name))
		err = errors.Join(err, e)
		return v
	}
	f.Model, f.ReadOnly = attr("device/model"), attr("ro") != "0"
	if f.Media = diskid.Media(dev, attr("queue/rotational")); diskid.Networked(f.ID, f.Weak) {
		f.Media = v1alpha1.MediaVirtual // as the disk monitor has it
	}
	if f.Slot == "" {
		f.Slot = h.slot(dev, attr("loop/backing_file"))
	}
	size, e1 := strconv.ParseInt(attr("size"), 10, 64)
	sector, e2 := strconv.ParseInt(attr("queue/logical_block_size"), 10, 64)
	serial, e3 := diskid.Serial(h.FS, dev)
	if err := errors.Join(err, e1, e2, e3); err != nil {
		return nil, fmt.Errorf("read disk %s (%s): %w", dev, f.ID, err)
	}
	if size <= 0 || size > 1<<53 {
		return nil, nil // a card reader without a card
	}
	f.Size, f.SectorSize, f.Serial = size*sysSector, sector, serial
	if diskid.Networked(f.ID, f.Weak) {
		// Whether the host lives on it sysfs says. Nothing more is to be known, and a network may hang.
		if _, err := h.uses(dev, used, &f.Content); err != nil {
			return nil, fmt.Errorf("read disk %s (%s): %w", dev, f.ID, err)
		}
		return f, nil
	}
	f.Content = h.content(ctx, f, used, state, extents(f))
	return f, nil
}

// slot is where the disk sits, as the disk monitor names it too.
func (h *Host) slot(dev, backing string) string {
	names, err := h.FS.ReadDir(path.Join(sysBlock, dev, "device"))
	if err == nil {
		for _, n := range names {
			if s, ok := strings.CutPrefix(n, "enclosure_device:"); ok { // drivers/misc/enclosure.c
				return s
			}
		}
	}
	if backing != "" {
		return strings.TrimSuffix(backing, " (deleted)")
	}
	place, err := h.FS.Resolve(path.Join(sysBlock, dev, "device"))
	if err != nil {
		return dev
	}
	return strings.TrimPrefix(place, "/sys/devices/")
}

// slots are udev's names for the places of devices. Hosts without udev have none.
func (h *Host) slots() map[string]string {
	const dir = "/dev/disk/by-path"
	out := map[string]string{}
	links, err := h.FS.ReadDir(dir)
	if err != nil {
		return out
	}
	for _, l := range links {
		if p, err := h.FS.Resolve(path.Join(dir, l)); err == nil && out[path.Base(p)] == "" {
			out[path.Base(p)] = l
		}
	}
	return out
}

// users reads the mount table and the swap areas.
func (h *Host) users() (*users, error) {
	infos, err := mounttable.Read(h.FS, "1")
	if err != nil {
		return nil, err
	}
	if len(infos) == 0 {
		return nil, errors.New("read mount table: it is empty, and every host has a root (is /proc of the host there?)")
	}
	u := &users{number: map[string][]string{}, name: map[string][]string{}}
	for _, m := range infos {
		number := mounttable.Number(m)
		u.number[number] = append(u.number[number], m.Mountpoint)
		if name, ok := strings.CutPrefix(m.Source, "/dev/"); ok { // btrfs has a number of its own
			if p, err := h.FS.Resolve(m.Source); err == nil {
				name = path.Base(p)
			}
			u.name[name] = append(u.name[name], m.Mountpoint)
		}
	}
	swaps, err := h.FS.ReadFile("/proc/swaps")
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // a kernel without swap has none
		return nil, fmt.Errorf("read swap areas: %w", err)
	}
	for line := range strings.Lines(string(swaps)) {
		if f := strings.Fields(line); len(f) > 0 && strings.HasPrefix(f[0], "/dev/") {
			name := path.Base(f[0])
			if p, err := h.FS.Resolve(f[0]); err == nil {
				name = path.Base(p)
			}
			u.name[name] = append(u.name[name], "swap")
		}
	}
	return u, nil
}

// of lists who uses the device at the sysfs directory dir: mounts, swap, and
// what is stacked on it, all the way up.
func (h *Host) of(u *users, dir string, depth int) (text []string, points []string, err error) {
	name := path.Base(dir)
	number, err := h.FS.ReadString(path.Join(dir, "dev"))
	if err != nil {
		return nil, nil, fmt.Errorf("read device number of %s: %w", name, err)
	}
	points = append(slices.Clone(u.number[number]), u.name[name]...)
	slices.Sort(points)
	points = slices.Compact(points)
	for _, p := range points {
		if p == "swap" {
			text = append(text, name+" is swap")
		} else {
			text = append(text, name+" is mounted at "+p)
		}
	}
	holders, err := h.FS.ReadDir(path.Join(dir, "holders"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("read holders of %s: %w", name, err)
	}
	for _, holder := range holders {
		text = append(text, name+" is part of "+holder)
		if depth == 0 {
			continue
		}
		t, p, err := h.of(u, path.Join(sysBlock, holder), depth-1)
		if err != nil {
			return nil, nil, err
		}
		text, points = append(text, t...), append(points, p...)
	}
	return text, points, nil
}

// partitions are those that the kernel knows.
func (h *Host) partitions(dev string) ([]Partition, error) {
	names, err := h.FS.ReadDir(path.Join(sysBlock, dev))
	if err != nil {
		return nil, fmt.Errorf("read partitions of %s: %w", dev, err)
	}
	var out []Partition
	for _, name := range names {
		if !strings.HasPrefix(name, dev) {
			continue
		}
		var n [3]int64
		var errs []error
		for i, attr := range []string{"partition", "start", "size"} {
			v, err := h.FS.ReadString(path.Join(sysBlock, dev, name, attr))
			if i == 0 && errors.Is(err, fs.ErrNotExist) {
				break
			}
			if err == nil {
				n[i], err = strconv.ParseInt(v, 10, 64)
			}
			errs = append(errs, err)
		}
		if err := errors.Join(errs...); err != nil {
			return nil, fmt.Errorf("read partition %s: %w", name, err)
		}
		if len(errs) > 0 {
			out = append(out, Partition{Name: name, Number: int(n[0]), Start: n[1] * sysSector, Size: n[2] * sysSector})
		}
	}
	slices.SortFunc(out, func(a, b Partition) int { return a.Number - b.Number })
	return out, nil
}
