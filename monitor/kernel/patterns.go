package kernel

import "holdfast.dev/api/v1alpha1"

// Names of devices as the kernel prints them. A device name ends before a
// space, a comma, a colon, a bracket.
const (
	dev  = `(?P<dev>[^\s,:()\]]+)`
	sd   = `(?P<dev>\d+:\d+:\d+:\d+): (?:\[(?P<dev>sd\w+)\] )?(?:tag#\d+ )?`
	hctl = `(?P<dev>\d+:\d+:\d+:\d+)`
	ata  = `^(?P<dev>ata\d+(?:\.\d+)?): `
	nvme = `^nvme (?P<dev>nvme\d+): `
)

const (
	crit = v1alpha1.SeverityCritical
	warn = v1alpha1.SeverityWarning
)

// Patterns is the table: the first pattern that matches a line decides. The
// wording of each is from the kernel's source that it names, as it was from
// 4.15 to 7.1.
func Patterns() []Pattern {
	var all []Pattern
	for _, p := range [][]Pattern{
		blockPatterns(), scsiPatterns(), ataPatterns(), nvmePatterns(), mmcPatterns(),
		ext4Patterns(), xfsPatterns(), btrfsPatterns(), otherFilesystemPatterns(),
		mdPatterns(), mapperPatterns(), bcachePatterns(), remotePatterns(), controllerPatterns(), hungPatterns(),
	} {
		all = append(all, p...)
	}
	return all
}

// attachPatterns are lines that say that another device may own a name from
// now on. "nvme nvme0: 8/0/0 default/read/poll queues" is not one: a reset of
// the same controller prints it too. Nor is "Attached SCSI disk": sd_probe prints it after
// device_add_disk, which reads the partition table, so that the faults of a disk that is bad from the
// beginning come before it. The size comes first, and then only when it changes (sd_print_capacity);
// a size of 0 is of a disk that does not answer, new or not.
func attachPatterns() []Pattern {
	return []Pattern{
		{Expr: `^(?P<dev>loop\d+): detected capacity change from 0 to [1-9]`, Source: "block/genhd.c set_capacity_and_notify"},
		{Expr: `^scsi ` + hctl + `: Direct-Access`, Source: "drivers/scsi/scsi_scan.c scsi_add_lun"},
		{Expr: `^sd ` + hctl + `: \[(?P<dev>sd\w+)\] [1-9]\d* \d+-byte logical blocks: `, Source: "drivers/scsi/sd.c sd_print_capacity"},
		{Expr: nvme + `pci function `, Source: "drivers/nvme/host/pci.c nvme_probe"},
		{Expr: `^virtio_blk \S+: \[(?P<dev>vd\w+)\] \d+ \d+-byte logical blocks`, Source: "drivers/block/virtio_blk.c virtblk_update_capacity"},
		{Expr: ata + `ATA-\d+: `, Source: "drivers/ata/libata-core.c ata_dev_configure"},
	}
}
