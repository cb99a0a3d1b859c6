package nodeprep

import (
	"fmt"
	"path"
	"strings"

	"holdfast.dev/api/v1alpha1"
)

// mountRoot is where file systems are mounted, each below its partition's UUID:
// a name that recurs on no other disk. The local volume provisioner's admission
// policy allows /mnt/ by default.
const mountRoot = "/mnt/holdfast"

// noUUID is for records that are only looked at.
func noUUID() string { return "" }

// newRecord is what a disk is to become in a group, with every UUID that its
// making will leave behind. newUUID gives them.
func newRecord(g *v1alpha1.FlavorDisks, f *Found, newUUID func() string) (*Record, error) {
	r := &Record{Group: g.Name, Role: g.Role, Media: f.Media, Slot: f.Slot, Size: f.Size, SectorSize: f.SectorSize}
	if g.Layout == nil {
		return r, nil
	}
	if f.SectorSize != 512 && f.SectorSize != 4096 {
		return nil, fmt.Errorf("its sectors have %d bytes, not 512 or 4096", f.SectorSize)
	}
	if g.Layout.VolumeGroup != nil {
		r.PV = &PV{UUID: lvmUUID(newUUID())}
		return r, nil
	}
	places, err := Extents(g.Layout.Partitions, f.Size)
	if err != nil {
		return nil, err
	}
	r.Table = &Table{GUID: newUUID()}
	i := 0
	for _, l := range g.Layout.Partitions {
		for range max(1, l.Count) {
			p := TablePartition{UUID: newUUID(), Start: places[i].Start, Size: places[i].Size, StorageClass: l.StorageClass}
			if l.Filesystem != "" {
				p.Filesystem, p.FSUUID, p.MkfsOptions, p.MountOptions = l.Filesystem, newUUID(), l.MkfsOptions, l.MountOptions
				p.MountPoint = path.Join(mountRoot, p.UUID)
			}
			r.Table.Partitions = append(r.Table.Partitions, p)
			i++
		}
	}
	return r, nil
}

// lvmUUID is a UUID in LVM's own form, 6-4-4-4-4-4-6 of 32 characters. LVM
// takes any of its alphabet, lib/uuid/uuid.c id_valid; hexadecimal digits are
// part of it.
func lvmUUID(u string) string {
	u = strings.ReplaceAll(u, "-", "")
	if len(u) != 32 {
		return u
	}
	return strings.Join([]string{u[:6], u[6:10], u[10:14], u[14:18], u[18:22], u[22:26], u[26:]}, "-")
}

// remaining says what is left to do to the disk, for a person.
func (r *Record) remaining(unitsOnly bool) []string {
	var do []string
	if t := r.Table; t != nil {
		if t.Phase != Made {
			do = append(do, fmt.Sprintf("make a partition table with %d partitions", len(t.Partitions)))
		}
		for i, p := range t.Partitions {
			if p.Filesystem == "" {
				if r.Certify && p.Phase != Made {
					do = append(do, fmt.Sprintf("read all of raw partition %d (%s, class %s) and certify it", i+1, size(p.Size), p.StorageClass))
				}
				continue
			}
			if p.Phase != Made {
				do = append(do, fmt.Sprintf("mkfs.%s on partition %d (%s, class %s)", p.Filesystem, i+1, size(p.Size), p.StorageClass))
			}
		}
		for _, p := range t.Partitions {
			if p.Filesystem != "" && unitsOnly {
				do = append(do, "write the mount unit of "+mountName(p.MountPoint))
			} else if p.Filesystem != "" {
				do = append(do, "mount "+mountName(p.MountPoint))
			}
		}
	}
	if r.PV != nil && r.PV.Phase != Made {
		do = append(do, "make an LVM physical volume")
	}
	return do
}

// mountName is the mount point, as far as it is known before its UUID is.
func mountName(p string) string {
	if p == mountRoot {
		return mountRoot + "/<uuid>"
	}
	return p
}
