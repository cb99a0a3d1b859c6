// Package inventory lists the disks of a host from sysfs, and remembers what
// the kernel's names for them meant. Absence is never evidence here: a list
// that could not be read whole says so.
package inventory

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"regexp"
	"slices"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostfs"
)

// Disk is one drive that is there now.
type Disk struct {
	ID     string
	Weak   bool
	Device string // sda
	Model  string
	Serial string
	Media  v1alpha1.Media
	Size   int64 // bytes
	RO     bool
	Slot   string
	// Answered are the requests that the disk has completed since it is there,
	// and Waiting those that it has not, on all ways to it; both 0 when the kernel does not say.
	Answered, Waiting uint64
	// Network says how it is reached over a network; empty for a disk of the host. Told is the id by which
	// it would be known as one, if its ID is of where it is instead (diskid.Networked).
	Network, Told string
	// Names are all the kernel's names that lead to this disk: the device, its
	// partitions, major:minor numbers, SCSI address, ATA port and device, SAS
	// address, NVMe controllers, PCI addresses of NVMe controllers.
	Names []string
	// Paths are those of Names that are of one way among several to the disk;
	// none when there is one way.
	Paths []string
	// Above are the names of devices that are stacked on this disk alone.
	Above []string
	// Members are those of Names that are one of several members of a file system.
	Members []string
}

// Snapshot is one look at the host.
type Snapshot struct {
	Disks []Disk // by ID
	// Shared are the names of devices that are stacked on several disks, or on
	// what is no disk of this host: a fault of one is of no disk that is known.
	Shared []string
	// System are the ids of the disks that the host itself lives on; nil when that
	// could not be read.
	System []string
	// Unplaced are ids of disks that may be there: of each NVMe disk without a controller that by which it would be
	// listed as one of the host, and that as one of a network. Nothing is known of them, and of all others nothing lacks.
	Unplaced []string
	// Err is why the list may lack disks. What is listed is there all the same.
	Err error
}

// Find is the disk with the id.
func (s *Snapshot) Find(id string) (*Disk, bool) {
	i := sort.Search(len(s.Disks), func(i int) bool { return s.Disks[i].ID >= id })
	if i < len(s.Disks) && s.Disks[i].ID == id {
		return &s.Disks[i], true
	}
	return nil, false
}

// Told is the disk that is reached over a network and would have the id as a disk of the host.
func (s *Snapshot) Told(id string) (*Disk, bool) {
	i := slices.IndexFunc(s.Disks, func(d Disk) bool { return d.Told == id })
	if id == "" || i < 0 {
		return nil, false
	}
	return &s.Disks[i], true
}

// MayBe says whether the disk with an id that Find does not find may be there all the same.
func (s *Snapshot) MayBe(id string) bool { return slices.Contains(s.Unplaced, id) }

// unplaced takes in an error of a disk whose place is not known, and says whether it is one.
func (s *Snapshot) unplaced(err error) bool {
	u, ok := errors.AsType[*diskid.UnplacedError](err)
	if ok {
		s.Unplaced = append(s.Unplaced, u.ID, u.Remote)
	}
	return ok
}

const sysBlock = "/sys/block"

// Scan lists the disks.
func Scan(host *hostfs.FS) Snapshot {
	names, err := host.ReadDir(sysBlock)
	if err != nil {
		return Snapshot{Err: fmt.Errorf("list disks: %w", err)}
	}
	if len(names) == 0 {
		// A host without any block device is likelier to be a sysfs that is not mounted.
		if _, err := host.ReadDir("/sys/devices"); err != nil {
			return Snapshot{Err: fmt.Errorf("list disks: no block device at all: %w", err)}
		}
	}
	var s Snapshot
	var errs []error
	slots := bySlot(host)
	for _, dev := range names {
		was, _ := host.Lstat(path.Join(sysBlock, dev)) // of nil nothing is concluded
		d, err := read(host, dev, slots)
		switch {
		case err == nil:
			if stayed(host, dev, was) { // else half of it was read, such as no slot
				d.Model, d.Serial, d.Slot = text(d.Model), text(d.Serial), text(d.Slot)
				s.Disks = append(s.Disks, d)
			}
		case errors.Is(err, diskid.ErrNoDisk), gone(host, dev):
		case s.unplaced(err):
		default:
			errs = append(errs, err)
		}
	}
	sort.SliceStable(s.Disks, func(i, j int) bool { return s.Disks[i].ID < s.Disks[j].ID })
	var twins error
	s.Disks, twins = withoutTwins(host, s.Disks)
	nameLegs(host, names, s.Disks)
	stack := newStack(host, s.Disks)
	s.Shared = stack.name(names, s.Disks)
	s.System = stack.system(s.Disks)
	s.Err = errors.Join(append(errs, twins)...)
	return s
}

// text is what a drive says of itself, or a file's name, as UTF-8: it goes into labels and
// into JSON, and a drive may say any byte. Those that are no text become what the
// JSON of a status would make of them.
func text(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

// withoutTwins leaves out disks that share an id, which is an error: a fault of
// one would be put down to the other. Two loop devices of one file are one disk,
// so is what is reached over a network twice, and so are the paths of a multipath device.
func withoutTwins(host *hostfs.FS, disks []Disk) ([]Disk, error) {
	var keep []Disk
	var errs []error
	for i := 0; i < len(disks); {
		d := disks[i]
		loops := strings.HasPrefix(d.Device, "loop") || diskid.Networked(d.ID, d.Weak)
		n := 1
		for ; i+n < len(disks) && disks[i+n].ID == d.ID; n++ {
			loops = loops && (strings.HasPrefix(disks[i+n].Device, "loop") || diskid.Networked(disks[i+n].ID, disks[i+n].Weak))
			d.Names = append(d.Names, disks[i+n].Names...)
			d.Answered, d.Waiting = d.Answered+disks[i+n].Answered, d.Waiting+disks[i+n].Waiting
		}
		if n == 1 || loops {
			keep = append(keep, d)
		} else if samePaths(host, disks[i:i+n]) {
			d.Paths = slices.Clone(d.Names)
			keep = append(keep, d)
		} else {
			errs = append(errs, fmt.Errorf("%d disks have the same id %s, among them %s and %s", n, d.ID, d.Device, disks[i+1].Device))
		}
		i += n
	}
	return keep, errors.Join(errs...)
}

// stayed says that dev is still listed and, as far as both are known, the one that it was: a name is free for the
// next disk at once.
func stayed(host *hostfs.FS, dev string, was fs.FileInfo) bool {
	is, err := host.Lstat(path.Join(sysBlock, dev))
	if err != nil || was == nil {
		return !errors.Is(err, fs.ErrNotExist)
	}
	return os.SameFile(was, is)
}

// gone says whether dev went away while it was looked at.
func gone(host *hostfs.FS, dev string) bool {
	_, err := host.ReadDir(path.Join(sysBlock, dev))
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENODEV)
}

func read(host *hostfs.FS, dev string, slots map[string]string) (Disk, error) {
	is, err := diskid.Identify(host, dev)
	if err != nil {
		return Disk{}, err
	}
	d := Disk{ID: is.ID, Weak: is.Weak, Device: dev, Slot: slots[dev], Network: is.Network, Told: is.Told}
	r := reader{host: host, dir: path.Join(sysBlock, dev)}
	d.Model = r.attr("device/model")
	d.Size = r.number("size") * 512 // sysfs counts in 512 bytes whatever the sector size, block/genhd.c
	d.RO = r.attr("ro") == "1"
	d.Media = diskid.Media(dev, r.attr("queue/rotational"))
	d.Answered, d.Waiting = r.traffic(dev)
	if d.Serial, err = diskid.Serial(host, dev); err != nil {
		r.fail(err)
	}
	d.Names = r.names(dev)
	for _, look := range []func(*hostfs.FS, *Disk) error{remote, nvme} {
		if err := look(host, &d); err != nil {
			r.fail(err)
		}
	}
	if d.Slot == "" {
		d.Slot = r.slot(dev)
	}
	if r.err != nil {
		return Disk{}, fmt.Errorf("read disk %s: %w", dev, r.err)
	}
	return d, nil
}

// traffic reads a disk's file stat (Documentation/block/stat.rst): completed reads,
// writes, discards (Linux 4.18) and flushes (5.5), and requests in flight. What
// is of another form says nothing.
func traffic(stat string) (answered, waiting uint64) {
	fields := strings.Fields(stat)
	number := func(i int) uint64 {
		if i >= len(fields) {
			return 0
		}
		n, err := strconv.ParseUint(fields[i], 10, 64)
		if err != nil {
			return 0
		}
		return n
	}
	return number(0) + number(4) + number(11) + number(15), number(8)
}

// reader reads one disk's directory and keeps the first error.
type reader struct {
	host *hostfs.FS
	dir  string
	err  error
}

func (r *reader) fail(err error) {
	if r.err == nil && !errors.Is(err, fs.ErrNotExist) {
		r.err = err
	}
}

func (r *reader) attr(name string) string {
	v, err := diskid.Attr(r.host, path.Join(r.dir, name))
	if err != nil {
		r.fail(err)
	}
	return v
}

func (r *reader) number(name string) int64 {
	v := r.attr(name)
	if v == "" {
		return 0
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > 1<<53 {
		r.fail(fmt.Errorf("%s is %q", name, v))
		return 0
	}
	return n
}

func (r *reader) list(name string) []string {
	names, err := r.host.ReadDir(path.Join(r.dir, name))
	if err != nil {
		r.fail(err)
	}
	return names
}

var (
	scsiRE     = regexp.MustCompile(`^\d+:\d+:\d+:\d+$`)
	ataRE      = regexp.MustCompile(`^ata\d+$`)
	nvmeCtrlRE = regexp.MustCompile(`^nvme\d+$`)
	pciRE      = regexp.MustCompile(`^[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
)

// partitions are the disk's, by their names.
func (r *reader) partitions(dev string) (all []string) {
	for _, sub := range r.list("") {
		if strings.HasPrefix(sub, dev) && r.attr(path.Join(sub, "partition")) != "" {
			all = append(all, sub)
		}
	}
	return all
}

// traffic is the disk's. Its own count of requests in flight has what is sent to partitions from Linux
// 5.11 on, and has it no more since each request is counted where it was sent to
// (bdev_count_inflight in block/genhd.c: 6.12.117 and 7.0 are so, 6.1.176 is not; on 6.18 twelve reads of
// a partition were none of the disk's). So those of the partitions are read too. The greater count
// is the number at least; neither is more than there are. What was answered is the disk's in all.
func (r *reader) traffic(dev string) (answered, waiting uint64) {
	answered, waiting = traffic(r.attr("stat"))
	sent := uint64(0)
	for _, p := range r.partitions(dev) {
		_, n := traffic(r.attr(path.Join(p, "stat")))
		sent += n
	}
	return answered, max(waiting, sent)
}

// names collects what the kernel calls the disk. The places are in the path of
// the device, …/0000:00:1f.2/ata3/host2/target2:0:0/2:0:0:0/block/sda.
func (r *reader) names(dev string) []string {
	names := []string{dev}
	if n := r.attr("dev"); n != "" {
		names = append(names, n)
	}
	names = append(names, r.partitionNames(dev)...)
	place, err := r.host.Resolve(r.dir)
	if err != nil {
		r.fail(err)
	}
	device, err := r.host.Resolve(path.Join(r.dir, "device"))
	if err != nil {
		r.fail(err)
	}
	ata, address := "", ""
	for _, el := range append(strings.Split(place, "/"), strings.Split(device, "/")...) {
		switch {
		case scsiRE.MatchString(el) && address == "":
			address = el
			names = append(names, el)
		case ataRE.MatchString(el) && ata == "":
			ata = el
			names = append(names, el)
		case nvmeCtrlRE.MatchString(el) && !slices.Contains(names, el):
			names = append(names, el)
		}
	}
	if ata != "" && address != "" {
		names = append(names, ata+"."+ataUnit(address))
	}
	return append(names, r.sasAddresses(device)...)
}

// partitionNames are the names and the numbers of the device's partitions, and of an eMMC's
// hardware partitions with theirs.
func (r *reader) partitionNames(dev string) (names []string) {
	for _, sub := range r.list("") {
		hardware := diskid.HardwarePartition(sub)
		if !strings.HasPrefix(sub, dev) || !hardware && r.attr(path.Join(sub, "partition")) == "" {
			continue
		}
		names = append(names, sub)
		if n := r.attr(path.Join(sub, "dev")); n != "" {
			names = append(names, n)
		}
		if hardware {
			in := reader{host: r.host, dir: path.Join(r.dir, sub)}
			names = append(names, in.partitionNames(sub)...)
			r.fail(in.err)
		}
	}
	return names
}

// ataUnit is the two digits that libata prints behind the port: link and
// device number, which ata_scsi_scan_host puts into channel and target.
func ataUnit(address string) string {
	f := strings.Split(address, ":")
	c, _ := strconv.Atoi(f[1]) // digits, see scsiRE; too long a number is no unit
	t, _ := strconv.Atoi(f[2])
	return fmt.Sprintf("%02d", c+t)
}

// slot is where the disk sits, for a person who must find it.
func (r *reader) slot(dev string) string {
	for _, n := range r.list("device") {
		if s, ok := strings.CutPrefix(n, "enclosure_device:"); ok { // drivers/misc/enclosure.c
			return s
		}
	}
	if f := r.attr("loop/backing_file"); f != "" {
		return strings.TrimSuffix(f, " (deleted)")
	}
	place, err := r.host.Resolve(path.Join(r.dir, "device"))
	if err != nil {
		return dev
	}
	return strings.TrimPrefix(place, "/sys/devices/")
}

// bySlot maps devices to udev's names for their places. Hosts without udev
// have none.
func bySlot(host *hostfs.FS) map[string]string {
	const dir = "/dev/disk/by-path"
	links, err := host.ReadDir(dir)
	if err != nil {
		return nil
	}
	out := map[string]string{}
	for _, l := range links {
		if p, err := host.Resolve(path.Join(dir, l)); err == nil {
			if dev := path.Base(p); out[dev] == "" {
				out[dev] = l
			}
		}
	}
	return out
}
