package lab

import (
	"context"
	"fmt"
	"time"
)

// Layer is what lies between a disk and a file system.
type Layer string

// Layers. Raw is none; MD is a mirror with one leg.
const (
	Raw     Layer = "raw"
	LVM     Layer = "lvm"
	MD      Layer = "md"
	DMCrypt Layer = "dm-crypt"
)

// stackTimeout is for making or removing a layer with its file system.
const stackTimeout = 2 * time.Minute

// makeLayer leaves the device in top; $disk is the disk, $name names the layer.
var makeLayer = map[Layer]string{
	Raw: `top=$disk`,
	LVM: `vgcreate -q "$name" "$disk" >/dev/null
lvcreate -q --yes --name data --extents 100%FREE "$name" >/dev/null
top=/dev/$name/data`,
	// A bitmap or a journal would only be written to; one leg is what is left of a mirror.
	MD: `mdadm --create "/dev/md/$name" --run --quiet --metadata=1.2 --level=1 --raid-devices=1 --force "$disk"
top=/dev/md/$name`,
	// The key derivation is the cheapest that there is: an emulated processor does it, and nothing secret is on the disk.
	DMCrypt: `head -c 32 /dev/urandom > "/run/$name.key"
cryptsetup luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --luks2-metadata-size 16k --luks2-keyslots-size 256k --key-file "/run/$name.key" "$disk"
cryptsetup open --key-file "/run/$name.key" "$disk" "$name"
top=/dev/mapper/$name`,
}

// removeLayer takes a closed layer off its disk.
var removeLayer = map[Layer]string{
	LVM:     `vgremove -q --yes "$name" >/dev/null; pvremove -q "$disk" >/dev/null`,
	MD:      `mdadm --zero-superblock "$disk"`,
	DMCrypt: `rm "/run/$name.key"`,
}

// closeLayer takes a layer away whose disk may be gone, and leaves what is on the
// disk; $top is its device.
var closeLayer = map[Layer]string{
	// What lies on a device that has gone does not come back with it.
	LVM:     `dmsetup remove --retry "$top"`,
	MD:      `mdadm --stop --quiet "$top"`,
	DMCrypt: `cryptsetup close "$name"`,
}

// openLayer brings a layer back from its disk, and leaves its device in top.
var openLayer = map[Layer]string{
	Raw: `top=$disk`,
	LVM: `vgchange -q --activate y "$name" >/dev/null
top=/dev/$name/data`,
	// An array that could not write its superblock has failed for good (drivers/md/md.c, super_written).
	MD: `top=/dev/md/$name
mdadm --assemble --quiet --run --force "$top" "$disk"`,
	DMCrypt: `cryptsetup open --key-file "/run/$name.key" "$disk" "$name"
top=/dev/mapper/$name`,
}

// Stack makes a layer on a disk that is not prepared, an ext4 file system on it,
// and mounts that. It returns where. The disk is one that the node must have until
// Unstack undoes all of it; a restart of the node leaves the layer on the disk and
// nothing mounted.
func (n *Node) Stack(ctx context.Context, layer Layer, disk string) (dir string, err error) {
	dev, err := n.AwaitDevice(ctx, disk)
	if err != nil {
		return "", err
	}
	dir = "/mnt/holdfast-stack/" + disk
	p, err := n.disk(disk)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, stackTimeout)
	defer cancel()
	if _, err := n.Run(ctx, fmt.Sprintf(`set -e
disk=/dev/%s name=stack-%s dir=%s
wipefs --all --quiet "$disk"
%s
udevadm settle --timeout=20
mkfs.ext4 -q -F "$top"
mkdir -p "$dir"
mount "$top" "$dir"`, dev, disk, dir, makeLayer[layer])); err != nil {
		return "", err
	}
	if p.stacked, err = n.identify(ctx, dev); err != nil {
		return "", err
	}
	return dir, n.writeDisksFile(ctx)
}

// Restore makes the layer and the file system of a stack good, whose disk has failed
// writes, or was gone, and is good again: it closes it, checks the file system, and
// mounts it anew.
func (n *Node) Restore(ctx context.Context, layer Layer, disk string) error {
	dev, err := n.AwaitDevice(ctx, disk)
	if err != nil {
		return err
	}
	if err := n.CloseStack(ctx, layer, disk); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stackTimeout)
	defer cancel()
	_, err = n.Run(ctx, fmt.Sprintf(`set -e
disk=/dev/%s name=stack-%s dir=/mnt/holdfast-stack/%[2]s
%s
udevadm settle --timeout=20
out=$(fsck.ext4 -fy "$top" 2>&1) || [ $? -le 2 ] || { echo "$out" >&2; exit 1; }
mount "$top" "$dir"`, dev, disk, openLayer[layer]))
	return err
}

// CloseStack unmounts a stack, when others have (the kubelet, some time after a pod is
// gone), and takes its layer away. Its disk may be gone; what is on it stays.
func (n *Node) CloseStack(ctx context.Context, layer Layer, disk string) error {
	ctx, cancel := context.WithTimeout(ctx, stackTimeout)
	defer cancel()
	// A link in /dev/md goes with the array's disk; findmnt gives the kernel's own name.
	_, err := n.Run(ctx, fmt.Sprintf(`set -e
name=stack-%s dir=/mnt/holdfast-stack/%[1]s
top=$(findmnt -nro SOURCE "$dir")
for i in $(seq 300); do [ "$(findmnt -nro TARGET -S "$top" | wc -l)" -gt 1 ] || break; sleep 0.2; done
for i in $(seq 100); do ! umount "$dir" || break; sleep 0.2; done
%s
udevadm settle --timeout=20`, disk, closeLayer[layer]))
	return err
}

// Unstack removes what Stack made; the disk is blank then.
func (n *Node) Unstack(ctx context.Context, layer Layer, disk string) error {
	dev, err := n.AwaitDevice(ctx, disk)
	if err != nil {
		return err
	}
	p, err := n.disk(disk)
	if err != nil {
		return err
	}
	p.stacked = ""
	if err := n.writeDisksFile(ctx); err != nil {
		return err
	}
	if err := n.CloseStack(ctx, layer, disk); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stackTimeout)
	defer cancel()
	_, err = n.Run(ctx, fmt.Sprintf(`set -e
disk=/dev/%s name=stack-%s
%s
wipefs --all --quiet "$disk"`, dev, disk, removeLayer[layer]))
	return err
}

// sectorOf prints the first sector of a file as the disk below its file system
// counts it: down through partitions (start in sysfs), linear and crypt targets
// of the device mapper (their tables, Documentation/admin-guide/device-mapper),
// and the first leg of a mirror (md/rd0/offset, Documentation/admin-guide/md.rst).
// It also prints that disk's device. The file's data are written before, and
// forgotten by the page cache after.
const sectorOf = `set -e
file=%s
sync "$file"
# physical_offset of the first extent, in blocks of 512 bytes
at=$(filefrag -b512 -v "$file" | awk '$1 == "0:" {gsub(/\./, "", $4); print $4}')
dev=$(readlink -f "$(findmnt -nro SOURCE --target "$file")")
while :; do
  sys=/sys/class/block/${dev##*/}
  if [ -e "$sys/partition" ]; then
    at=$((at + $(cat "$sys/start")))
    dev=$(dirname "$(readlink -f "$sys")")
  elif [ -e "$sys/md" ]; then
    at=$((at + $(cat "$sys/md/rd0/offset")))
    dev=$(readlink -f "$sys/md/rd0/block")
  elif [ -e "$sys/dm" ]; then
    set -- $(dmsetup table "$dev" | awk -v at="$at" '$1 <= at && at < $1 + $2 && $3 == "linear" {print $1, $4, $5} $1 <= at && at < $1 + $2 && $3 == "crypt" {print $1, $7, $8}')
    at=$((at - $1 + $3))
    dev=$(readlink -f "/sys/dev/block/$2")
  else
    break
  fi
done
echo "$at ${dev##*/}"
echo 3 > /proc/sys/vm/drop_caches`

// firstSector is the first sector of a file, which must be on the disk.
func (n *Node) firstSector(ctx context.Context, disk, file string) (sector int64, err error) {
	dev, err := n.AwaitDevice(ctx, disk)
	if err != nil {
		return 0, err
	}
	out, err := n.Run(ctx, fmt.Sprintf(sectorOf, file))
	if err != nil {
		return 0, err
	}
	var on string
	if _, err := fmt.Sscan(out, &sector, &on); err != nil {
		return 0, fmt.Errorf("find the sectors of %s: %q", file, out)
	}
	if on != dev {
		return 0, fmt.Errorf("%s is on %s, and disk %s is %s", file, on, disk, dev)
	}
	return sector, nil
}
