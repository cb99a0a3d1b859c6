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

// Patterns is the table. Within a literal the order counts.
func Patterns() []Pattern {
	var all []Pattern
	for _, p := range [][]Pattern{blockPatterns(), scsiPatterns(), ataPatterns(), nvmePatterns(), filesystemPatterns(), mdPatterns()} {
		all = append(all, p...)
	}
	return all
}

func blockPatterns() []Pattern {
	// block/blk-mq.c blk_print_req_error; before 5.16 with the function's name
	// before it, before 5.4 without the operation.
	const (
		lit  = " error, dev "
		pre  = `^(?:(?:print_req_error|blk_update_request): )?`
		tail = ` error, dev ` + dev + `, sector \d+`
		rw   = `(?: op 0x\w+:\((?:READ|WRITE|FLUSH|ZONE_APPEND)\)|$| flags [0-9a-f]+$)`
		src  = "block/blk-mq.c blk_print_req_error; names in block/blk-core.c blk_errors"
	)
	return []Pattern{
		{Literal: lit, Expr: pre + `.+ error, dev (?:sr|fd|st)\d`, Source: src, About: "removable media: no disc, no floppy"},
		{Literal: lit, Expr: tail + ` op 0x\w+:\((?:DISCARD|SECURE_ERASE|WRITE_ZEROES|ZONE_\w*RESET\w*)\)`, Source: src, About: "an optional operation that the device refuses; callers fall back"},
		{Literal: lit, Expr: pre + `(?:operation not supported|device resource|kernel resource|nonblocking retry|reservation conflict|critical nexus|open zones exceeded|active zones exceeded|zone open resources|zone active resources|dm internal retry|duration limit exceeded|invalid) error`, Source: src, About: "a refusal or a retry; the data is not affected"},
		{v1alpha1.FaultMedium, crit, lit, pre + `critical medium` + tail, src, "the device cannot read or write this place"},
		{v1alpha1.FaultDeviceOffline, crit, lit, pre + `device offline` + tail, src, "the device was given up"},
		{v1alpha1.FaultBlockIO, crit, lit, pre + `(?:I/O|timeout|critical target)` + tail + rw, src, "a request has failed for good"},
		{v1alpha1.FaultBlockIO, warn, lit, pre + `(?:I/O|timeout|critical target|critical space allocation|protection|recoverable transport)` + tail, src, "a request failed: of another kind, for want of space, or on this path only"},
		{Literal: "Buffer I/O error on dev", Expr: `^Buffer I/O error on dev(?:ice)? (?:sr|fd)\d`, Source: "fs/buffer.c buffer_io_error", About: "removable media"},
		{v1alpha1.FaultBufferIO, crit, "Buffer I/O error on dev", `^Buffer I/O error on dev(?:ice)? ` + dev + `, logical block \d+`, "fs/buffer.c buffer_io_error", "a page of a file or of metadata could not be read or written back"},
		{v1alpha1.FaultLink, warn, "Failing path", `^device-mapper: multipath: (?:\d+:\d+: )?Failing path (?P<dev>\d+:\d+)`, "drivers/md/dm-mpath.c fail_path", "one of several paths is lost"},
	}
}

func scsiPatterns() []Pattern {
	const (
		sense = "drivers/scsi/scsi_logging.c scsi_log_print_sense_hdr"
		add   = "drivers/scsi/sense_codes.h, SPC-6 annex F"
		res   = "drivers/scsi/scsi_logging.c scsi_print_result; printed when the request is failed for good"
	)
	return []Pattern{
		{v1alpha1.FaultMedium, crit, "Sense Key : ", `^sd ` + sd + `Sense Key : (?:Medium Error|0x3\b)`, sense, "the medium"},
		{v1alpha1.FaultSCSI, crit, "Sense Key : ", `^sd ` + sd + `Sense Key : (?:Hardware Error|0x4\b)`, sense, "the drive's electronics or mechanics"},
		{v1alpha1.FaultSCSI, warn, "Sense Key : ", `^sd ` + sd + `Sense Key : (?:Aborted Command|0xb\b)`, sense, "the drive ended the command; mostly transport"},
		{v1alpha1.FaultSCSI, warn, "Add. Sense: ", `^sd ` + sd + `Add\. Sense: (?i:.*(?:failure prediction threshold exceeded|impending failure))`, add, "the drive predicts its failure"},
		{v1alpha1.FaultMedium, crit, "Add. Sense: ", `^sd ` + sd + `Add\. Sense: (?i:(?:unrecovered read error|read retries exhausted|error too long to correct|multiple read errors|write error|medium format corrupted|data synchronization mark error|record not found|random positioning error|mechanical positioning error|track following error|no defect spare location available|defect list error|l-ec uncorrectable error|cirr? unrecovered error|data phase crc error detected on medium))`, add, "the medium"},
		{v1alpha1.FaultSCSI, crit, "Add. Sense: ", `^sd ` + sd + `Add\. Sense: (?i:(?:logical unit failure|internal target failure|logical unit failed self-test|diagnostic failure|peripheral device write fault|hardware error|servo fault|spindle servo fault|failed self-configuration|ram failure))`, add, "the drive's electronics or mechanics"},
		{v1alpha1.FaultSCSI, warn, "ASC=0x5d", `^sd ` + sd + `ASC=0x5d\b`, add, "as above, from a kernel without SCSI_CONSTANTS"},
		{v1alpha1.FaultMedium, crit, "ASC=0x", `^sd ` + sd + `ASC=0x(?:c|11|14|15|16|31|32)\b`, add, "as above, from a kernel without SCSI_CONSTANTS"},
		{v1alpha1.FaultSCSI, crit, "ASC=0x", `^sd ` + sd + `ASC=0x(?:3|40|44|3e)\b`, add, "as above, from a kernel without SCSI_CONSTANTS"},
		{v1alpha1.FaultDeviceOffline, crit, " Result: hostbyte=", `^sd ` + sd + `(?:FAILED|UNKNOWN\(0x\w+\)) Result: hostbyte=(?:DID_NO_CONNECT|DID_BAD_TARGET|0x01|0x04)\b`, res, "nothing answers at the device's address"},
		{v1alpha1.FaultSCSI, crit, " Result: hostbyte=", `^sd ` + sd + `(?:FAILED|UNKNOWN\(0x\w+\)) Result: hostbyte=(?:DID_ERROR|0x07)\b`, res, "the adapter reports an error of its own or of the drive"},
		{v1alpha1.FaultSCSI, warn, " Result: hostbyte=", `^sd ` + sd + `(?:FAILED|UNKNOWN\(0x\w+\)) Result: hostbyte=(?:DID_TIME_OUT|DID_ABORT|DID_PARITY|DID_RESET|DID_SOFT_ERROR|DID_TRANSPORT_\w+|0x0[35680bef])\b`, res, "a timeout, an abort or a reset"},
		{v1alpha1.FaultDeviceOffline, crit, "rejecting I/O to ", `^(?:sd|scsi) ` + hctl + `: (?:\[(?P<dev>sd\w+)\] )?rejecting I/O to (?:offline|dead) device`, "drivers/scsi/scsi_lib.c scsi_device_state_check", "the device was given up"},
		{v1alpha1.FaultDeviceOffline, crit, "Device offlined - ", `^(?:sd|scsi) ` + hctl + `: Device offlined - `, "drivers/scsi/scsi_error.c scsi_eh_offline_sdevs", "error recovery did not bring the device back"},
		{v1alpha1.FaultDeviceOffline, crit, "device offline or changed", `^sd ` + sd + `device offline or changed`, "drivers/scsi/sd.c sd_setup_read_write_cmnd", "the device was given up"},
	}
}

func ataPatterns() []Pattern {
	const (
		report = "drivers/ata/libata-eh.c ata_eh_link_report"
		reset  = "drivers/ata/libata-eh.c ata_eh_reset"
	)
	return []Pattern{
		{v1alpha1.FaultMedium, crit, "error: { ", ata + `error: \{ (?:\w+ )*UNC `, report, "ATA error register: uncorrectable data"},
		{v1alpha1.FaultATA, crit, "error: { ", ata + `error: \{ (?:\w+ )*(?:IDNF|AMNF) `, report, "ATA error register: the sector's address or mark is not found"},
		{v1alpha1.FaultLink, warn, "error: { ", ata + `error: \{ (?:\w+ )*ICRC `, report, "ATA error register: checksum on the cable"},
		{v1alpha1.FaultMedium, crit, "(media error)", ata + `cmd (?s:.*)\sres .*\(media error\)`, report, "the command's result: the medium"},
		{v1alpha1.FaultATA, warn, "failed command: ", ata + `failed command: `, report, "a command failed; it is tried again"},
		{v1alpha1.FaultATA, warn, "qc timeout", ata + `qc timeout`, "drivers/ata/libata-core.c ata_exec_internal", "an internal command got no answer"},
		{v1alpha1.FaultDeviceOffline, crit, "disable", ata + `(?:disable device|disabled)$`, "drivers/ata/libata-core.c ata_dev_disable", "the device was given up"},
		{v1alpha1.FaultDeviceOffline, crit, "detaching (SCSI ", ata + `detaching \(SCSI `, "drivers/ata/libata-scsi.c ata_scsi_remove_dev", "the device is taken away"},
		{v1alpha1.FaultLink, crit, "reset failed, giving up", ata + `reset failed, giving up`, reset, "the link does not come back"},
		{v1alpha1.FaultLink, warn, "resetting link", ata + `(?:hard|soft) resetting link`, reset, "the link is reset"},
		{v1alpha1.FaultLink, warn, "RESET failed", ata + `COMRESET failed`, reset, "no answer to a reset; also while a drive spins up"},
		{v1alpha1.FaultLink, warn, "softreset failed", ata + `softreset failed`, reset, "as COMRESET"},
		{v1alpha1.FaultLink, warn, "limiting ", ata + `limiting (?:SATA link )?speed to `, "drivers/ata/libata-core.c sata_down_spd_limit", "slowed down after errors"},
		{v1alpha1.FaultLink, warn, "interface fatal error", ata + `irq_stat .*interface fatal error`, "drivers/ata/libahci.c ahci_error_intr", "transmission error"},
		{v1alpha1.FaultLink, warn, "SError: { ", ata + `SError: \{ `, report, "SATA error register: the link"},
	}
}

func nvmePatterns() []Pattern {
	const (
		pci  = "drivers/nvme/host/pci.c "
		core = "drivers/nvme/host/core.c "
	)
	return []Pattern{
		{v1alpha1.FaultNVMe, crit, " timeout, ", nvme + `I/O (?:tag )?\d+ .*QID \d+ timeout, disable controller`, pci + "nvme_timeout", "no answer while the controller starts"},
		{v1alpha1.FaultNVMe, warn, " timeout, ", nvme + `I/O (?:tag )?\d+ .*QID \d+ timeout, (?:aborting|reset controller|completion polled)`, pci + "nvme_timeout", "a command got no answer in time"},
		{v1alpha1.FaultNVMe, crit, "controller is down", nvme + `controller is down; will reset: CSTS=`, pci + "nvme_warn_reset", "the controller reports a fatal state or is off the bus"},
		{v1alpha1.FaultNVMe, crit, "Device not ready; aborting", nvme + `Device not ready; aborting (?:reset|initiali[sz]ation)`, core + "nvme_wait_ready", "the controller does not come back"},
		{v1alpha1.FaultNVMe, crit, "Identify Controller failed", nvme + `Identify Controller failed`, core + "nvme_init_identify", "the controller does not tell what it is"},
		{v1alpha1.FaultDeviceOffline, crit, "after probe failure", nvme + `Removing after probe failure`, pci + "nvme_remove_dead_ctrl", "the device was given up (to 6.5)"},
		{v1alpha1.FaultDeviceOffline, crit, "after reset failure", nvme + `Disabling device after reset failure`, pci + "nvme_reset_work", "the device was given up (from 6.5)"},
		{v1alpha1.FaultDeviceOffline, crit, "device inaccessible", `^nvme (?P<dev>[0-9a-f:.]+): Unable to change power state from \w+ to D0, device inaccessible`, "drivers/pci/pci.c pci_power_up", "the device is off the bus"},
		{v1alpha1.FaultNVMe, warn, "resetting controller", nvme + `resetting controller`, pci + "nvme_reset_prepare", "the controller is reset"},
		{v1alpha1.FaultNVMe, warn, "frozen state error detected", nvme + `frozen state error detected, reset controller`, pci + "nvme_error_detected", "PCIe error recovery"},
		{v1alpha1.FaultNVMe, warn, "Abort status", nvme + `Abort status: `, pci + "abort_endio", "a command was aborted after its timeout"},
		{v1alpha1.FaultMedium, crit, " @ LBA ", `^(?P<dev>nvme\w+): .+\(0x\w+\) @ LBA \d+, \d+ blocks, .+\(sct 0x2 / sc 0x\w+\)`, core + "nvme_log_error; NVMe base 2.0 section 3.3.3.2.1: media and data integrity", "the medium"},
		{v1alpha1.FaultNVMe, warn, " @ LBA ", `^(?P<dev>nvme\w+): .+\(0x\w+\) @ LBA \d+, \d+ blocks, .+\(sct 0x(?:3 / sc 0x\w+|0 / sc 0x(?:4|5|6))\)`, core + "nvme_log_error", "a path error, a transfer error or an internal error"},
	}
}

func filesystemPatterns() []Pattern {
	const (
		fsc  = v1alpha1.FaultFilesystem
		ext4 = "fs/ext4/super.c "
		xfs  = "fs/xfs/xfs_fsops.c xfs_do_force_shutdown"
	)
	return []Pattern{
		{Literal: "EXT4-fs error", Expr: `Directory contains filename that is invalid UTF-8`, Source: "fs/ext4/namei.c ext4_match", About: "a file's name, not the disk"},
		{fsc, crit, "EXT4-fs error", `^EXT4-fs error \(device ` + dev + `\)`, ext4 + "__ext4_error", "metadata is wrong or could not be read"},
		{Literal: "ext4_end_bio", Expr: `ext4_end_bio:\d+: I/O error 3 `, Source: "fs/ext4/page-io.c; BLK_STS_NOSPC is 3 in include/linux/blk_types.h", About: "the device's own backing store is full"},
		{fsc, crit, "ext4_end_bio", `^EXT4-fs warning \(device ` + dev + `\): ext4_end_bio:\d+: I/O error `, "fs/ext4/page-io.c ext4_end_bio", "data of a file could not be written"},
		{fsc, crit, "EXT4-fs (", `^EXT4-fs \(` + dev + `\): (?:Remounting filesystem read-only|I/O error while writing superblock|previous I/O error to superblock detected|unable to read superblock|Delayed block allocation failed for inode .* with error (?:5|74|117)\b)`, ext4 + "ext4_handle_error", "stopped after an error"},
		{fsc, crit, "Aborting journal on device", `^Aborting journal on device (?P<dev>\S+?)(?:-\d+)?\.$`, "fs/jbd2/journal.c __jbd2_journal_abort_hard", "the journal stopped after an error"},
		{fsc, crit, "JBD2: Detected IO errors", `^JBD2: Detected IO errors while flushing file data on (?P<dev>\S+?)(?:-\d+)?$`, "fs/jbd2/commit.c", "data of a file could not be written"},
		{fsc, crit, ": writeback error on inode", `^` + dev + `: writeback error on inode \d+`, "fs/iomap/buffered-io.c iomap_finish_ioend", "data of a file could not be written"},
		{Literal: "XFS (", Expr: `xfs_fs_goingdown|User initiated shutdown|(?:\(0x[0-9a-f]*[4-7c-f]\) detected|xfs_do_force_shutdown\(0x[0-9a-f]*[4-7c-f]\))`, Source: xfs + "; flag 0x4 is SHUTDOWN_FORCE_UMOUNT in fs/xfs/xfs_mount.h", About: "somebody asked for the shutdown"},
		{fsc, crit, "XFS (", `^XFS \(` + dev + `\): (?:metadata I/O error|Metadata corruption detected|Metadata CRC error detected|Corruption detected|Corruption of (?:in-memory|on-disk) |I/O Error Detected|(?:Metadata|Log) I/O Error |Internal error |log I/O error|log mount failed|log recovery write I/O error|empty log check failed|Failed to read root inode|Filesystem has been shut down|xfs_do_force_shutdown\()`, xfs, "metadata is wrong or could not be read or written; the filesystem stops"},
		{fsc, crit, "BTRFS error", `^BTRFS error \(device [^)]+\): bdev /dev/` + dev + ` errs: `, "fs/btrfs/volumes.c btrfs_dev_stat_inc_and_print", "the device's error count grew"},
	}
}

func mdPatterns() []Pattern {
	return []Pattern{
		{v1alpha1.FaultDeviceOffline, crit, "Disk failure on ", `^md/\S+ Disk failure on ` + dev + `(?:,| detected)`, "drivers/md/raid5.c, raid1.c, raid10.c error handlers", "the member was given up"},
		{v1alpha1.FaultMedium, crit, "read error not correctable", `^md/\S+ read error not correctable \(sector \d+ on ` + dev + `\)`, "drivers/md/raid5.c raid5_end_read_request", "the member cannot be read, and the array cannot repair it"},
		{v1alpha1.FaultMedium, warn, "read error corrected", `^md/\S+ read error corrected \(\d+ sectors at \d+ on ` + dev + `\)`, "drivers/md/raid5.c raid5_end_read_request", "the array rewrote what the member could not read"},
		{v1alpha1.FaultDeviceOffline, warn, "kicking non-fresh", `^md: kicking non-fresh ` + dev + ` from array!`, "drivers/md/md.c analyze_sbs", "the member had left the array before"},
	}
}

// attachPatterns are lines that say that another device may own a name from
// now on. "nvme nvme0: 8/0/0 default/read/poll queues" is not one: a reset of
// the same controller prints it too.
func attachPatterns() []Pattern {
	return []Pattern{
		{Literal: ": detected capacity change from 0 to", Expr: `^(?P<dev>loop\d+): detected capacity change from 0 to [1-9]`, Source: "block/genhd.c set_capacity_and_notify"},
		{Literal: "Attached SCSI", Expr: `^sd ` + hctl + `: \[(?P<dev>sd\w+)\] Attached SCSI`, Source: "drivers/scsi/sd.c sd_probe"},
		{Literal: "pci function", Expr: nvme + `pci function `, Source: "drivers/nvme/host/pci.c nvme_probe"},
		{Literal: "-byte logical blocks", Expr: `^virtio_blk \S+: \[(?P<dev>vd\w+)\] \d+ \d+-byte logical blocks`, Source: "drivers/block/virtio_blk.c virtblk_update_capacity"},
		{Literal: ": ATA-", Expr: ata + `ATA-\d+: `, Source: "drivers/ata/libata-core.c ata_dev_configure"},
	}
}
