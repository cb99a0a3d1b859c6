package machine

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
)

// Bus is what a disk is attached to, which decides the driver that reports its faults.
type Bus string

// Buses.
const (
	ATA  Bus = "ata"  // AHCI; cannot be plugged while the machine runs
	SCSI Bus = "scsi" // virtio-scsi
	NVMe Bus = "nvme"
)

// Disk is a disk of a machine.
type Disk struct {
	// Name is the place of the disk: d1, d2, …. It stays when the disk is swapped.
	Name   string
	Bus    Bus
	Serial string
	// WWN, a 64 bit number, is for ATA and SCSI; 0 for none.
	WWN  uint64
	Size int64 // bytes
}

var nameRE = regexp.MustCompile(`^[a-z][a-z0-9]{0,15}$`)
var serialRE = regexp.MustCompile(`^[A-Za-z0-9]{1,20}$`)

func (d Disk) validate() error {
	switch {
	case !nameRE.MatchString(d.Name):
		return fmt.Errorf("disk name %q is not 1 to 16 of a-z and 0-9, a letter first", d.Name)
	case !serialRE.MatchString(d.Serial):
		return fmt.Errorf("disk %s: serial %q is not 1 to 20 letters and digits", d.Name, d.Serial)
	case d.Size <= 0 || d.Size%512 != 0:
		return fmt.Errorf("disk %s: size %d is no multiple of 512", d.Name, d.Size)
	case d.Bus != ATA && d.Bus != SCSI && d.Bus != NVMe:
		return fmt.Errorf("disk %s: bus %q is not ata, scsi or nvme", d.Name, d.Bus)
	case d.Bus == NVMe && d.WWN != 0:
		return fmt.Errorf("disk %s: an NVMe disk has no WWN", d.Name)
	}
	return nil
}

// bay is a place for a disk, with the disk in it.
type bay struct {
	disk       Disk
	dir        string
	index      int
	generation int  // of the disk: one more with each swap
	pulled     bool // not in its place
	plugged    bool // QEMU has the device
	failing    bool // QEMU has the node that injects faults
	fault      Fault
}

func (b *bay) path() string {
	return filepath.Join(b.dir, fmt.Sprintf("disk-%s-%d.img", b.disk.Name, b.generation))
}

// The nodes of a disk, from the device down: NAME (raw), NAME-fault (blkdebug,
// while there is a fault), NAME-file. Swapping the middle one in and out of a
// running machine is what makes faults come and go.
func (b *bay) node() string      { return b.disk.Name }
func (b *bay) faultNode() string { return b.disk.Name + "-fault" }
func (b *bay) fileNode() string  { return fmt.Sprintf("%s-file-%d", b.disk.Name, b.generation) }
func (b *bay) device() string    { return "dev-" + b.disk.Name }

func (b *bay) makeDisk() error {
	b.generation++
	f, err := os.OpenFile(b.path(), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := f.Truncate(b.disk.Size); err != nil {
		_ = f.Close() // the first error says more
		return err
	}
	return f.Close()
}

func (b *bay) fileOptions() map[string]any {
	return map[string]any{"driver": "file", "node-name": b.fileNode(), "filename": b.path(), "discard": "unmap"}
}

func (b *bay) rawOptions() map[string]any {
	return map[string]any{"driver": "raw", "node-name": b.node(), "file": b.fileNode()}
}

// deviceOptions are those of -device and device_add. Places are fixed, so that
// a disk's path in sysfs stays.
func (b *bay) deviceOptions() map[string]any {
	o := map[string]any{"id": b.device(), "drive": b.node(), "serial": b.disk.Serial}
	switch b.disk.Bus {
	case ATA:
		o["driver"], o["bus"], o["model"], o["rerror"], o["werror"] = "ide-hd", fmt.Sprintf("ahci.%d", b.index), "HF-ATA", "report", "report"
	case SCSI:
		o["driver"], o["bus"], o["vendor"], o["product"], o["rerror"], o["werror"] = "scsi-hd", "scsi.0", "HF", "SCSI", "report", "report"
		o["scsi-id"], o["lun"] = b.index, 0
	case NVMe:
		o["driver"], o["addr"] = "nvme", fmt.Sprintf("0x%x", 0x10+b.index)
	}
	if b.disk.WWN != 0 {
		o["wwn"] = b.disk.WWN
	}
	return o
}

// args are the bay's part of QEMU's command line.
func (b *bay) args() []string {
	var out []string
	for _, o := range []struct {
		flag    string
		options map[string]any
	}{{"-blockdev", b.fileOptions()}, {"-blockdev", b.rawOptions()}, {"-device", b.deviceOptions()}} {
		data, err := json.Marshal(o.options)
		if err != nil {
			panic(err) // strings and numbers
		}
		out = append(out, o.flag, string(data))
	}
	b.failing = false
	return out
}
