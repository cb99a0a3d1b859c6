package inventory

import (
	"path"
	"slices"
	"strings"

	"holdfast.dev/internal/mounttable"
)

// system are the ids of the disks below what the host itself lives on: the whole
// of an array, what is below a logical volume. It is nil when the host's mount
// table cannot be read.
func (s *stack) system(disks []Disk) []string {
	mounts, err := mounttable.Read(s.host, "1")
	if err != nil || len(mounts) == 0 { // every host has a root
		return nil
	}
	ids := []string{}
	for _, m := range mounts {
		if !mounttable.System(m.Mountpoint) {
			continue
		}
		// btrfs has a number of its own, so its source says the device.
		links := []string{"/sys/dev/block/" + mounttable.Number(m)}
		if strings.HasPrefix(m.Source, "/dev/") {
			links = append(links, m.Source)
		}
		for _, link := range links {
			device, err := s.host.Resolve(link)
			if err != nil {
				continue
			}
			for _, i := range s.disks(path.Base(device)) {
				ids = append(ids, disks[i].ID)
			}
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids)
}
