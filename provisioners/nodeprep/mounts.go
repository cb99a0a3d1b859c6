package nodeprep

import (
	"fmt"
	"path"
	"strings"

	"github.com/coreos/go-systemd/v22/unit"
)

// MountFacts is what was read of one mount point.
type MountFacts struct {
	Err string
	// Device is the kernel's name of the partition whose whole file system is visible there; empty when nothing is mounted.
	Device string
	// Other is what else is mounted there.
	Other string
	// Dir is set when the directory is there, Files when something is in it, Immutable when
	// nobody can write to it. They are of the directory below and not known while Device is set.
	Dir, Files, Immutable bool
	// Unit is set when the unit file is as it should be, Linked when it starts at boot.
	Unit, Linked bool
}

const (
	unitDir  = "/etc/systemd/system"
	unitLink = unitDir + "/local-fs.target.wants"
)

// unitName is the name of the unit that mounts point, as systemd-escape --path
// --suffix=mount has it.
func unitName(point string) string { return unit.UnitNamePathEscape(point) + ".mount" }

// unitFile is the content of the mount unit. nofail: neither the boot nor
// local-fs.target waits for or fails with a data disk, systemd.mount(5).
func (p *TablePartition) unitFile(disk string) string {
	options := append([]string{"nofail"}, p.MountOptions...)
	return fmt.Sprintf(`# Written by node-prepare; it is written anew when it is changed.
[Unit]
Description=Holdfast volume %[1]s on disk %[2]s
Documentation=https://holdfast.dev/provisioners/nodeprep
JobTimeoutSec=2min

[Mount]
What=/dev/disk/by-uuid/%[3]s
Where=%[4]s
Type=%[5]s
Options=%[6]s
TimeoutSec=90s

[Install]
WantedBy=local-fs.target
`, p.UUID, disk, p.FSUUID, p.MountPoint, p.Filesystem, strings.Join(options, ","))
}

// Steps of a mount, in their order.
const (
	mountDir   = "make its directory"
	mountLock  = "make the directory immutable"
	mountUnit  = "write its unit"
	mountStart = "start its unit"
)

// nextMount says what is left to do until the file system is mounted, or why it
// cannot be. It is asked only of file systems whose making is recorded.
func (p *TablePartition) nextMount(c *Content, f MountFacts, unitsOnly bool) (do []string, refused string) {
	part := c.partition(p.Start, p.Size)
	switch {
	case f.Err != "":
		return nil, f.Err
	case f.Other != "":
		return nil, fmt.Sprintf("%s is mounted at %s", f.Other, p.MountPoint)
	case part == nil:
		return nil, "the kernel does not know the partition of " + p.MountPoint
	case f.Device != "" && f.Device != part.Name:
		return nil, fmt.Sprintf("%s is mounted at %s, which is for %s", f.Device, p.MountPoint, part.Name)
	case f.Device == "" && f.Files:
		return nil, fmt.Sprintf("%s is not mounted, and there are files in the directory: a mount would hide them (move them away)", p.MountPoint)
	}
	if f.Device == "" && !f.Dir {
		do = append(do, mountDir)
	}
	if f.Device == "" && !f.Immutable {
		do = append(do, mountLock)
	}
	if !f.Unit || !f.Linked {
		do = append(do, mountUnit)
	}
	if f.Device == "" && !unitsOnly {
		do = append(do, mountStart)
	}
	return do, ""
}

func unitPath(point string) string { return path.Join(unitDir, unitName(point)) }
func linkPath(point string) string { return path.Join(unitLink, unitName(point)) }
