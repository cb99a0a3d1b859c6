package inventory

import (
	"path"
	"regexp"
	"slices"
	"strings"

	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostfs"
)

// stack finds which disks a stacked device lies on, by the links that the
// kernel keeps in its directory slaves (block/holder.c).
type stack struct {
	host  *hostfs.FS
	owner map[string]int // of the names of disks and partitions: index of the disk
	below map[string][]int
}

func newStack(host *hostfs.FS, disks []Disk) *stack {
	s := &stack{host: host, owner: map[string]int{}, below: map[string][]int{}}
	for i := range disks {
		for _, name := range disks[i].Names {
			s.owner[name] = i
		}
	}
	return s
}

// name gives the names of each device that is stacked on one disk alone,
// however high, to that disk: a logical volume, a dm-crypt device, a multipath
// device, an array of one. Which of several disks a fault of a device is of,
// nobody can tell from its name: the names of the others are returned.
func (s *stack) name(devices []string, disks []Disk) (shared []string) {
	for _, dev := range devices {
		if !diskid.Stacked(dev) {
			continue
		}
		if on := s.disks(dev); len(on) == 1 {
			d := &disks[on[0]]
			if isMultipath(s.host, dev) { // it is the disk, by all its paths
				d.Names = append(d.Names, s.names(dev)...)
			} else {
				d.Above = append(d.Above, s.names(dev)...)
			}
		} else {
			shared = append(shared, s.names(dev)...)
		}
	}
	s.nameMembers(disks)
	return shared
}

// disks are the disks below a device. One that cannot be traced to the end lies
// on a disk that is not in the list: then it is on none that is known.
func (s *stack) disks(dev string) []int {
	if i, ok := s.owner[dev]; ok {
		return []int{i}
	}
	if on, ok := s.below[dev]; ok {
		return on
	}
	s.below[dev] = nil // so that a cycle, which sysfs has none of, ends
	if whole := s.partitioned(dev); whole != "" {
		s.below[dev] = s.disks(whole)
		return s.below[dev]
	}
	slaves, err := s.host.ReadDir(path.Join(sysBlock, dev, "slaves"))
	if err != nil {
		return nil
	}
	var on []int
	for _, slave := range slaves {
		under := s.disks(slave)
		if len(under) == 0 {
			on = nil
			break
		}
		on = append(on, under...)
	}
	slices.Sort(on)
	on = slices.Compact(on)
	s.below[dev] = on
	return on
}

// partitioned is the device that dev is a partition of, such as an array's: a partition
// lies in the directory of its device and has no slaves, which block/genhd.c
// device_add_disk makes for whole devices alone. It is empty when dev is no partition.
func (s *stack) partitioned(dev string) string {
	place, err := s.host.Resolve(path.Join("/sys/class/block", dev))
	if err != nil {
		return ""
	}
	if n, err := s.host.ReadString(path.Join(place, "partition")); err != nil || n == "" {
		return ""
	}
	return path.Base(path.Dir(place))
}

// names are what the kernel's lines call a stacked device: dm-3, its numbers, the name
// that the device mapper knows it by, which some file systems print, and its partitions.
func (s *stack) names(dev string) []string {
	r := reader{host: s.host, dir: path.Join(sysBlock, dev)} // what cannot be read is a name less
	names := append([]string{dev}, r.partitionNames(dev)...)
	for _, attr := range []string{"dev", "dm/name"} {
		if v, err := s.host.ReadString(path.Join(sysBlock, dev, attr)); err == nil && v != "" {
			names = append(names, v)
		}
	}
	return names
}

// nameMembers marks the disks and partitions that are one of several members of
// a btrfs: it says its own name with that of any member (fs/btrfs/super.c, s_id).
func (s *stack) nameMembers(disks []Disk) {
	const dir = "/sys/fs/btrfs"
	all, err := s.host.ReadDir(dir)
	if err != nil {
		return // no btrfs
	}
	for _, fs := range all {
		members, err := s.host.ReadDir(path.Join(dir, fs, "devices"))
		if err != nil || len(members) < 2 {
			continue
		}
		for _, m := range members {
			if i, ok := s.owner[m]; ok {
				disks[i].Members = append(disks[i].Members, m)
			}
		}
	}
}

// isMultipath says whether a device is of multipath-tools, or a partition that
// kpartx made on one: its uuid has their prefix (libmultipath/devmapper.c, UUID_PREFIX).
func isMultipath(host *hostfs.FS, dev string) bool {
	uuid, err := host.ReadString(path.Join(sysBlock, dev, "dm/uuid"))
	return err == nil && strings.Contains(uuid, "mpath-")
}

// samePaths says whether disks of one id are the paths of one multipath device: one holds
// all of them, but for those that nobody holds, which were taken out of its map
// (multipathd/cli_handlers.c cli_del_path) or are not in it yet.
func samePaths(host *hostfs.FS, disks []Disk) bool {
	var common []string
	held := false
	for i := range disks {
		holders, err := host.ReadDir(path.Join(sysBlock, disks[i].Device, "holders"))
		if err != nil {
			return false
		}
		if len(holders) == 0 {
			continue
		}
		if !held {
			common, held = holders, true
		}
		common = slices.DeleteFunc(common, func(h string) bool { return !slices.Contains(holders, h) })
	}
	return slices.ContainsFunc(common, func(h string) bool { return isMultipath(host, h) })
}

// legRE is an NVMe namespace by way of one controller, which is hidden; the
// kernel's messages name it (drivers/nvme/host/core.c, nvme_alloc_ns).
var legRE = regexp.MustCompile(`^(nvme\d+)c\d+(n\d+)$`)

// nameLegs gives the names of hidden legs to their NVMe disks, and says which
// names of an NVMe disk are of one way among several. What waits is counted at the
// legs: the disk above them counts nothing before Linux 6.4, and then takes a request
// that went another way for one that never ended.
func nameLegs(host *hostfs.FS, devices []string, disks []Disk) {
	for i := range disks {
		d := &disks[i]
		if !strings.HasPrefix(d.Device, "nvme") {
			continue
		}
		var ways []string
		controllers := 0
		for _, n := range d.Names {
			if nvmeCtrlRE.MatchString(n) {
				controllers++
			} else if !pciRE.MatchString(n) {
				continue
			}
			ways = append(ways, n)
		}
		before := len(ways)
		for _, dev := range devices {
			if m := legRE.FindStringSubmatch(dev); m != nil && m[1]+m[2] == d.Device {
				if d.Names, ways = append(d.Names, dev), append(ways, dev); len(ways) == before+1 {
					d.Answered, d.Waiting = 0, 0
				}
				r := reader{host: host, dir: path.Join(sysBlock, dev)}
				answered, waiting := traffic(r.attr("stat"))
				d.Answered, d.Waiting = d.Answered+answered, d.Waiting+waiting
			}
		}
		if controllers > 1 {
			d.Paths = ways
		}
	}
}
