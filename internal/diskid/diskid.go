// Package diskid names disks. A disk id is what every join goes through: it
// follows the drive and not the place or the kernel's name for it. Where the
// hardware gives no name, the id is weak: it names a place.
package diskid

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"holdfast.dev/internal/hostfs"
)

// ErrNoDisk is returned for a block device that is not a disk of this host: a
// RAM disk, a mapper device, an optical drive, a hidden multipath leg, a device of nbd or drbd, raw flash, a hardware partition of an eMMC, or a
// loop device without a backing file.
var ErrNoDisk = errors.New("not a disk")

const (
	maxSlug  = 200
	maxLabel = 63 // of a Kubernetes label value
	hashLen  = 8
)

// Slug turns s into lower-case letters, digits, '.', '_' and '-' with a letter
// or digit at both ends, at most 200 bytes. Every run of other characters
// becomes one '-'. What is cut ends with a hash, so that two long names stay
// two. It is empty when s has no letter and no digit. Slug(Slug(s)) is Slug(s).
func Slug(s string) string {
	var b strings.Builder
	gap := false
	for _, r := range strings.ToLower(s) {
		switch {
		case r >= 'a' && r <= 'z', r >= '0' && r <= '9', r == '.', r == '_', r == '-':
			if gap {
				b.WriteByte('-')
				gap = false
			}
			b.WriteRune(r)
		default:
			gap = true
		}
	}
	return cut(strings.Trim(b.String(), "-._"), s, maxSlug)
}

// Label is id as a Kubernetes label value: id itself when it is one, else cut
// and ended with a hash of the whole id.
func Label(id string) string {
	s := Slug(id)
	if s == id && len(id) <= maxLabel {
		return id
	}
	return strings.TrimLeft(trimTo(s, maxLabel-hashLen-1)+"-"+hash(id), "-")
}

// Prefixes of weak ids.
const (
	pathPrefix   = "path-"
	loopPrefix   = "loop-"
	iscsiPrefix  = "iscsi-"
	nvmeofPrefix = "nvmeof-"
	rbdPrefix    = "rbd-"
)

// Weak says whether an id, or its label, names a place and not a drive. Two nodes may have
// the same.
func Weak(id string) bool {
	return strings.HasPrefix(id, pathPrefix) || strings.HasPrefix(id, loopPrefix) || networked(id)
}

// Networked says whether an id, or its label, is of where in a network a disk is: a weak one may be,
// and a drive may be called so. What is wrong with such a disk is the network's or the server's affair.
func Networked(id string, weak bool) bool { return weak && networked(id) }

func networked(id string) bool {
	return strings.HasPrefix(id, iscsiPrefix) || strings.HasPrefix(id, nvmeofPrefix) || strings.HasPrefix(id, rbdPrefix)
}

// Key tells a disk from all others of a cluster: it is the id, or its label, and of a weak
// one with its node.
func Key(node, id string) string {
	if Weak(id) {
		return id + " of node " + node
	}
	return id
}

func cut(s, whole string, limit int) string {
	if len(s) <= limit {
		return s
	}
	return trimTo(s, limit-hashLen-1) + "-" + hash(whole)
}

func trimTo(s string, n int) string {
	return strings.TrimRight(s[:min(n, len(s))], "-._")
}

func hash(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])[:hashLen]
}

// notDisks are the name prefixes of block devices that are not disks of the
// host (Documentation/admin-guide/devices.txt).
var notDisks = []string{"ram", "zram", "sr", "fd", "nbd", "drbd", "zd", "bcache", "mtdblock"}

// Stacked says whether dev is a device of the device mapper or an array of md: dm-0, md127,
// md_d0, md_home (drivers/md/md.c md_alloc and add_named_array). bcache is not among them:
// only its backing device is in its slaves, and a fault may be its cache's.
func Stacked(dev string) bool {
	return numbered(dev, "dm-") || numbered(dev, "md") || strings.HasPrefix(dev, "md_")
}

func numbered(dev, prefix string) bool {
	rest, ok := strings.CutPrefix(dev, prefix)
	return ok && rest != "" && rest[0] >= '0' && rest[0] <= '9'
}

// FromSysfs is ID and Weak of Identify.
func FromSysfs(f *hostfs.FS, dev string) (id string, weak bool, err error) {
	i, err := Identify(f, dev)
	return i.ID, i.Weak, err
}

// Identify is what the disk that the kernel calls dev now, such as sda, is called.
// The id is the lower-case WWN; else model and serial; else, with Weak set, the
// backing file of a loop device or the path of the bus. Of an iSCSI disk, an NVMe namespace of
// a network and an RBD image it is, with Weak set, where they are: target and LUN, subsystem and number, pool,
// namespace and image. The error is ErrNoDisk
// for what is no disk, and is fs.ErrNotExist when there is no such device, or it went while it was read. An
// attribute that is there and cannot be read is an error and never a lesser
// id: an id must not change because a disk is dying. Nor is it guessed whether a disk is the host's:
// an NVMe disk whose last controller has gone is an UnplacedError until it goes as well, or comes back.
func Identify(f *hostfs.FS, dev string) (Identity, error) {
	other := func(prefix string) bool { return numbered(dev, prefix) }
	if Stacked(dev) || HardwarePartition(dev) || slices.ContainsFunc(notDisks, other) {
		return Identity{}, ErrNoDisk
	}
	dir := path.Join("/sys/block", dev)
	i, err := identify(f, dev, dir)
	// What a disk has left while it goes names another one, or none. Its link goes before
	// most of it (block/genhd.c del_gendisk).
	if _, e := f.Lstat(dir); errors.Is(e, fs.ErrNotExist) {
		i, err = Identity{}, e
	}
	if err != nil {
		return Identity{}, fmt.Errorf("identify disk %s: %w", dev, err)
	}
	return i, nil
}

func identify(f *hostfs.FS, dev, dir string) (Identity, error) {
	if _, err := f.ReadDir(dir); err != nil {
		return Identity{}, err
	}
	if rbdRE.MatchString(dev) {
		image, err := Image(f, dev)
		return Identity{ID: Slug(rbdPrefix + image), Weak: true, Network: "RBD"}, err
	}
	id, weak, err := drive(f, dev, dir)
	if err != nil {
		return Identity{}, err
	}
	how, place, err := network(f, dev, dir)
	if unplaced, ok := errors.AsType[*UnplacedError](err); ok {
		unplaced.ID, unplaced.Weak = id, weak
	}
	if err != nil {
		return Identity{}, err
	}
	if place != "" {
		return Identity{ID: place, Weak: true, Network: how, Told: id}, nil
	}
	return Identity{ID: id, Weak: weak, Network: how}, nil
}

var hardwarePartition = regexp.MustCompile(`^mmcblk\d+(boot\d+|rpmb|gp\d+)$`)

// HardwarePartition says whether dev is a part that an eMMC has of its own, to boot from
// or for a general purpose, such as mmcblk0boot0: a block device, which is the card's as a
// partition is (drivers/mmc/core/block.c mmc_blk_alloc_part; the names are of
// drivers/mmc/core/mmc.c mmc_part_add). Its directory in sysfs lies in the card's.
func HardwarePartition(dev string) bool { return hardwarePartition.MatchString(dev) }

// drive is the id of a disk of the host.
func drive(f *hostfs.FS, dev, dir string) (id string, weak bool, err error) {
	if hidden, err := Attr(f, path.Join(dir, "hidden")); err != nil || hidden == "1" {
		return "", false, errors.Join(err, noDiskIf(err == nil))
	}
	if strings.HasPrefix(dev, "loop") {
		return loop(f, dir)
	}
	for _, name := range []string{"wwid", "device/wwid"} {
		v, err := Attr(f, path.Join(dir, name))
		if err != nil {
			return "", false, err
		}
		if id := wwn(v); id != "" {
			return id, false, nil
		}
	}
	model, err := Attr(f, path.Join(dir, "device/model"))
	if err != nil {
		return "", false, err
	}
	serial, err := Serial(f, dev)
	if err != nil {
		return "", false, err
	}
	if strings.HasPrefix(dev, "vd") && model == "" {
		model = "virtio" // virtio-blk has no model, as in udev's /dev/disk/by-id
	}
	if Slug(serial) != "" {
		return Slug(model + "-" + serial), false, nil
	}
	place, err := f.Resolve(path.Join(dir, "device"))
	if errors.Is(err, fs.ErrNotExist) {
		place, err = dir, nil
	}
	return Slug(pathPrefix + strings.TrimPrefix(place, "/sys/")), true, err
}

func noDiskIf(yes bool) error {
	if yes {
		return ErrNoDisk
	}
	return nil
}

// loop names a loop device after its backing file (drivers/block/loop.c
// loop_attr_backing_file_show). The file's name stays its name after the file
// is deleted, which d_path marks.
func loop(f *hostfs.FS, dir string) (string, bool, error) {
	file, err := Attr(f, path.Join(dir, "loop/backing_file"))
	if err != nil {
		return "", false, err
	}
	slug := Slug(strings.TrimSuffix(file, " (deleted)"))
	if slug == "" {
		return "", false, ErrNoDisk
	}
	return Slug(loopPrefix + slug), true, nil
}

// wwn is the id in a wwid attribute, or empty when it names no drive. SCSI
// prints naa., eui. or t10. and NVMe eui., uuid. or nvme. before it
// (drivers/scsi/scsi_lib.c scsi_vpd_lun_id, drivers/nvme/host/sysfs.c wwid_show).
func wwn(v string) string {
	v = strings.ToLower(strings.TrimSpace(v))
	for _, p := range []string{"naa.", "eui.", "0x"} {
		v = strings.TrimPrefix(v, p)
	}
	if strings.Trim(v, "0") == "" {
		return ""
	}
	return Slug(v)
}

// Serial is the serial number of dev, or empty when it tells none.
func Serial(f *hostfs.FS, dev string) (string, error) {
	dir := path.Join("/sys/block", dev)
	for _, name := range []string{"serial", "device/serial"} {
		v, err := Attr(f, path.Join(dir, name))
		if err != nil || v != "" {
			return v, err
		}
	}
	page, err := Attr(f, path.Join(dir, "device/vpd_pg80")) // SPC-4, unit serial number page
	if err != nil || len(page) < 4 {
		return "", err
	}
	return strings.Trim(page[4:], " \x00\n"), nil
}

// Attr reads a sysfs attribute, trimmed. One that is absent or that the device
// does not support is empty; any other fault is an error.
func Attr(f *hostfs.FS, name string) (string, error) {
	v, err := f.ReadString(name)
	for _, absent := range []error{fs.ErrNotExist, syscall.ENOTDIR, syscall.EINVAL, syscall.ENXIO, syscall.ENODATA, syscall.EOPNOTSUPP} {
		if errors.Is(err, absent) {
			return "", nil
		}
	}
	return v, err
}
