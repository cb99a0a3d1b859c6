package kernel

import "holdfast.dev/api/v1alpha1"

func blockPatterns() []Pattern {
	// block/blk-mq.c blk_print_req_error; before 5.16 with the function's name
	// before it, before 5.4 without the operation.
	const (
		pre  = `^(?:(?:print_req_error|blk_update_request|end_request): )?`
		tail = ` error, dev ` + dev + `, sector (?P<at>\d+)`
		rw   = `(?: op 0x\w+:\((?:READ|WRITE|FLUSH|ZONE_APPEND)\)| op 0x[012] flags |$| flags [0-9a-f]+$)`
		src  = "block/blk-mq.c blk_print_req_error; names in block/blk-core.c blk_errors"
	)
	return []Pattern{
		{Expr: pre + `.+ error, dev (?:sr|fd|st)\d`, Source: src, About: "removable media: no disc, no floppy"},
		{Expr: tail + ` op 0x\w+:\((?:DISCARD|SECURE_ERASE|WRITE_ZEROES|ZONE_\w*RESET\w*)\)`, Source: src, About: "an optional operation that the device refuses; callers fall back"},
		{Expr: pre + `(?:operation not supported|device resource|kernel resource|nonblocking retry|reservation conflict|critical nexus|open zones exceeded|active zones exceeded|zone open resources|zone active resources|dm internal retry|duration limit exceeded|invalid) error`, Source: src, About: "a refusal or a retry; the data is not affected"},
		{v1alpha1.FaultMedium, crit, pre + `critical medium` + tail, src, "the device cannot read or write this place"},
		{v1alpha1.FaultDeviceOffline, crit, pre + `device offline` + tail, src, "the device was given up"},
		{v1alpha1.FaultBlockIO, crit, pre + `(?:I/O|timeout|critical target)` + tail + rw, src, "a request has failed for good"},
		{v1alpha1.FaultBlockIO, warn, pre + `(?:I/O|timeout|critical target|critical space allocation|recoverable transport)` + tail, src, "a request failed: of another kind, for want of space, or on this path only"},
		{v1alpha1.FaultIntegrity, crit, pre + `protection` + tail + ` op 0x0\b`, src, "protection information does not match the data that was read (BLK_STS_PROTECTION)"},
		{v1alpha1.FaultIntegrity, warn, pre + `protection` + tail, src, "the same of a write: mostly the host's fault (drivers/scsi/scsi_lib.c scsi_io_completion_action, DIX), and the disk has refused it; older kernels do not tell which"},
		{Expr: `^Buffer I/O error on dev(?:ice)? (?:sr|fd)\d`, Source: "fs/buffer.c buffer_io_error", About: "removable media"},
		{v1alpha1.FaultBufferIO, crit, `^Buffer I/O error on dev(?:ice)? ` + dev + `, logical block \d+`, "fs/buffer.c buffer_io_error", "a page of a file or of metadata could not be read or written back"},
		{v1alpha1.FaultBufferIO, crit, `Dirty inode writeback failed for block device ` + dev + ` \(err=-5\)`, "block/bdev.c bdev_write_inode", "the device's own metadata could not be written back"},
		{v1alpha1.FaultBlockIO, crit, `^(?:Read|Write)-error on swap-device \((?P<dev>\d+:\d+):\d+\)`, "mm/page_io.c end_swap_bio_write", "memory of a process is lost, or could not be moved out"},
		{v1alpha1.FaultIntegrity, crit, `^` + dev + `: (?:guard|ref|app) tag error at (?:sector|location) \d`, "block/t10-pi.c", "protection information does not match the data"},
		{v1alpha1.FaultBlockIO, crit, `^ ?` + dev + `: unable to read partition table`, "block/partitions/core.c check_partition", "the first sectors cannot be read"},
		{v1alpha1.FaultBlockIO, crit, `^` + dev + `: failed to revalidate zones`, "block/blk-zoned.c blk_revalidate_disk_zones", "a zoned disk does not tell its zones"},
		{v1alpha1.FaultBlockIO, warn, `(?s:attempt to access beyond end of device\n(?P<dev>[^:\s]+): rw=)`, "block/blk-core.c bio_check_eod", "the device is smaller than its file system believes"},
	}
}

// Additional sense texts (drivers/scsi/sense_codes.h) that are about the medium,
// and such that are about the rest of the drive.
const (
	mediumSense = `unrecovered read error|read retries exhausted|error too long to correct|multiple (?:read|write) errors|excessive write errors|write error|` +
		`miscorrected error|read error - |id crc or ecc error|medium format corrupted|data sync(?:hronization mark)? error|address mark not found|` +
		`record(?:ed entity)? not found|random positioning error|mechanical positioning error|track following error|no seek complete|` +
		`no defect spare|defect list (?:error|update failure)|l-ec uncorrectable error|circ unrecovered error|` +
		`format command failed|sanitize command failed|depopulation failed|write after sanitize required`
	hardwareSense = `logical unit failure|multiple logical unit failures|internal target failure|logical unit failed self-|failed self-configuration|` +
		`diagnostic failure|power-on or self-test failure|data path failure|ram failure|peripheral device write fault|hardware error|servo fault|` +
		`(?:tracking|spindle) servo|head select fault|no reference position found|voltage fault|timeout on logical unit|command to logical unit failed|` +
		`logical unit (?:communication failure|does not respond to selection)|logical unit not ready, (?:hard reset|power cycle|manual intervention) required|` +
		`logical unit not ready, offline|data loss on logical unit|parity/data mismatch|rebuild failure|unable to decrypt data`
)

func scsiPatterns() []Pattern {
	const (
		sense = "drivers/scsi/scsi_logging.c scsi_log_print_sense_hdr"
		add   = "drivers/scsi/sense_codes.h, SPC-6 annex F"
		res   = "drivers/scsi/scsi_logging.c scsi_print_result; printed when the request is failed for good"
	)
	return []Pattern{
		{v1alpha1.FaultMedium, crit, `^sd ` + sd + `Sense Key : (?:Medium Error|0x3\b)`, sense, "the medium"},
		{v1alpha1.FaultSCSI, crit, `^sd ` + sd + `Sense Key : (?:Hardware Error|0x4\b)`, sense, "the drive's electronics or mechanics"},
		{v1alpha1.FaultSCSI, warn, `^sd ` + sd + `Sense Key : (?:Aborted Command|0xb\b)`, sense, "the drive ended the command; mostly transport"},
		{v1alpha1.FaultSCSI, warn, `^sd ` + sd + `Add\. Sense: (?i:.*(?:failure prediction threshold exceeded|impending failure))`, add, "the drive predicts its failure"},
		{v1alpha1.FaultMedium, warn, `^sd ` + sd + `Add\. Sense: (?i:.*(?:\brecovered\b|data auto-reallocated))`, add, "the drive has helped itself"},
		{v1alpha1.FaultIntegrity, crit, `^sd ` + sd + `Add\. Sense: (?i:logical block (?:guard|application tag|reference tag) check failed)`, add, "protection information does not match the data"},
		{v1alpha1.FaultMedium, crit, `^sd ` + sd + `Add\. Sense: (?i:` + mediumSense + `)`, add, "the medium"},
		{v1alpha1.FaultSCSI, crit, `^sd ` + sd + `Add\. Sense: (?i:` + hardwareSense + `)`, add, "the drive's electronics or mechanics, or it does not come up"},
		{v1alpha1.FaultSCSI, warn, `^sd ` + sd + `ASC=0x5d\b`, add, "as above, from a kernel without SCSI_CONSTANTS"},
		{v1alpha1.FaultMedium, crit, `^sd ` + sd + `ASC=0x(?:c|11|14|15|16|31|32)\b`, add, "as above, from a kernel without SCSI_CONSTANTS"},
		{v1alpha1.FaultSCSI, crit, `^sd ` + sd + `ASC=0x(?:3|40|44|3e)\b`, add, "as above, from a kernel without SCSI_CONSTANTS"},
		{v1alpha1.FaultDeviceOffline, crit, `^sd ` + sd + `(?:FAILED|UNKNOWN\(0x\w+\)) Result: hostbyte=(?:DID_NO_CONNECT|DID_BAD_TARGET|0x01|0x04)\b`, res, "nothing answers at the device's address"},
		{v1alpha1.FaultMedium, crit, `^sd ` + sd + `(?:FAILED|UNKNOWN\(0x\w+\)) Result: hostbyte=(?:DID_MEDIUM_ERROR|0x13)\b`, res, "the adapter reports the medium"},
		{v1alpha1.FaultSCSI, crit, `^sd ` + sd + `(?:FAILED|UNKNOWN\(0x\w+\)) Result: hostbyte=(?:DID_ERROR|DID_TARGET_FAILURE|0x07|0x10)\b`, res, "the adapter reports an error of its own or of the drive, after all retries"},
		{v1alpha1.FaultPath, crit, `^sd ` + sd + `(?:FAILED|UNKNOWN\(0x\w+\)) Result: hostbyte=(?:DID_TRANSPORT_DISRUPTED|DID_TRANSPORT_FAILFAST|0x0[ef])\b`, res, "the way to the disk is lost"},
		{v1alpha1.FaultSCSI, warn, `^sd ` + sd + `(?:FAILED|UNKNOWN\(0x\w+\)) Result: hostbyte=(?:DID_TIME_OUT|DID_ABORT|DID_PARITY|DID_RESET|DID_SOFT_ERROR|DID_TRANSPORT_MARGINAL|DID_ALLOC_FAILURE|0x0[3568b]|0x1[24])\b`, res, "a timeout, an abort, a reset, or an adapter that wants to be asked again"},
		{v1alpha1.FaultDeviceOffline, crit, `^(?:sd|scsi) ` + hctl + `: (?:\[(?P<dev>sd\w+)\] )?rejecting I/O to (?:offline|dead) device`, "drivers/scsi/scsi_lib.c scsi_device_state_check", "the device was given up"},
		{v1alpha1.FaultDeviceOffline, crit, `^(?:sd|scsi) ` + hctl + `: Device offlined - `, "drivers/scsi/scsi_error.c scsi_eh_offline_sdevs", "error recovery did not bring the device back"},
		{v1alpha1.FaultDeviceOffline, crit, `^sd ` + sd + `killing request`, "drivers/scsi/scsi_lib.c scsi_kill_request", "the device was given up"},
		{v1alpha1.FaultSCSI, crit, `^sd ` + sd + `timing out command, waited `, "drivers/scsi/scsi_lib.c scsi_softirq_done", "a command is given up after all its retries"},
		{v1alpha1.FaultDeviceOffline, crit, `^sd ` + sd + `Medium access timeout failure\. Offlining disk!`, "drivers/scsi/sd.c sd_eh_action", "the device was given up"},
		{v1alpha1.FaultDeviceOffline, crit, `^sd ` + sd + `(?:Spinning up disk)?\.*not responding\.\.\.`, "drivers/scsi/sd.c sd_spinup_disk", "the drive does not spin up"},
		{v1alpha1.FaultSCSI, crit, `^sd ` + sd + `Read Capacity\(\d+\) failed: Result: hostbyte=(?:DID_ERROR|0x07)\b`, "drivers/scsi/sd.c sd_print_result", "the capacity cannot be read"},
		{v1alpha1.FaultSCSI, warn, `^sd ` + sd + `Synchronize Cache\(\d+\) failed: Result: hostbyte=(?:DID_ERROR|0x07)\b`, "drivers/scsi/sd.c sd_print_result", "also what a disk that was pulled leaves"},
		{v1alpha1.FaultDeviceOffline, crit, `^sd ` + sd + `device offline or changed`, "drivers/scsi/sd.c sd_setup_read_write_cmnd", "the device was given up"},
	}
}

func ataPatterns() []Pattern {
	const (
		report = "drivers/ata/libata-eh.c ata_eh_link_report"
		reset  = "drivers/ata/libata-eh.c ata_eh_reset"
	)
	return []Pattern{
		{v1alpha1.FaultMedium, crit, ata + `error: \{ (?:\w+ )*UNC `, report, "ATA error register: uncorrectable data"},
		{v1alpha1.FaultATA, crit, ata + `error: \{ (?:\w+ )*(?:IDNF|AMNF) `, report, "ATA error register: the sector's address or mark is not found"},
		{v1alpha1.FaultLink, warn, ata + `error: \{ (?:\w+ )*ICRC `, report, "ATA error register: checksum on the cable"},
		{v1alpha1.FaultMedium, crit, ata + `cmd (?s:.*)\sres .*\(media error\)`, report, "the command's result: the medium"},
		{v1alpha1.FaultMedium, crit, `^\s*res [0-9a-f/:]+ Emask 0x\w+ \(media error\)`, report + "; names no device", "the same from a log that keeps only the record's last line"},
		{v1alpha1.FaultATA, crit, ata + `status: \{ (?:\w+ )*DF `, report, "ATA status register: device fault"},
		{v1alpha1.FaultATA, crit, ata + `FLUSH failed Emask`, "drivers/ata/libata-eh.c ata_eh_maybe_retry_flush", "what was in the drive's cache may be lost"},
		{v1alpha1.FaultATA, warn, ata + `failed command: `, report, "a command failed; it is tried again"},
		{v1alpha1.FaultATA, warn, ata + `qc timeout`, "drivers/ata/libata-core.c ata_exec_internal", "an internal command got no answer"},
		{v1alpha1.FaultDeviceOffline, crit, ata + `(?:disable device|disabled)$`, "drivers/ata/libata-eh.c ata_dev_disable", "the device was given up"},
		{v1alpha1.FaultDeviceOffline, crit, ata + `detaching \(SCSI `, "drivers/ata/libata-scsi.c ata_scsi_remove_dev", "the device is taken away"},
		{v1alpha1.FaultLink, crit, ata + `reset failed, giving up`, reset, "the link does not come back"},
		{v1alpha1.FaultLink, warn, ata + `(?:hard|soft) resetting link`, reset, "the link is reset"},
		{v1alpha1.FaultLink, warn, ata + `COMRESET failed`, "drivers/ata/libata-sata.c sata_link_hardreset (not in 6.12 any more)", "no answer to a reset; also while a drive spins up"},
		{v1alpha1.FaultLink, warn, ata + `reset failed \(errno=-?\d+\), retrying`, reset, "as COMRESET, which comes with it in older kernels"},
		{v1alpha1.FaultLink, crit, ata + `failed to recover PMP after \d+ tries, giving up`, "drivers/ata/libata-pmp.c sata_pmp_eh_recover", "the port multiplier and its disks are given up"},
		{v1alpha1.FaultLink, warn, ata + `hardreset failed`, reset, "as COMRESET"},
		{v1alpha1.FaultLink, warn, ata + `softreset failed`, reset, "as COMRESET"},
		{v1alpha1.FaultLink, warn, ata + `limiting (?:SATA link )?speed to `, "drivers/ata/libata-core.c sata_down_spd_limit", "slowed down after errors"},
		{v1alpha1.FaultLink, warn, ata + `irq_stat .*interface fatal error`, "drivers/ata/libahci.c ahci_error_intr", "transmission error"},
		{v1alpha1.FaultLink, warn, ata + `SError: \{ `, report, "SATA error register: the link"},
	}
}

func nvmePatterns() []Pattern {
	const (
		pci  = "drivers/nvme/host/pci.c "
		core = "drivers/nvme/host/core.c "
		// The PCI core's messages about a device of the driver nvme.
		nvmePCI = `^nvme (?P<dev>[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]): `
		power   = "drivers/pci/pci.c pci_power_up, pci_set_low_power_state"
		lba     = `^(?P<dev>nvme\w+): .+\(0x\w+\) @ LBA \d+, \d+ blocks, .+`
	)
	return []Pattern{
		{v1alpha1.FaultNVMe, crit, nvme + `I/O (?:tag )?\d+ .*QID \d+ timeout, disable controller`, pci + "nvme_timeout", "no answer while the controller starts"},
		{v1alpha1.FaultNVMe, warn, nvme + `I/O (?:tag )?\d+ .*QID \d+ timeout, (?:aborting|reset controller|completion polled)`, pci + "nvme_timeout", "a command got no answer in time"},
		{v1alpha1.FaultNVMe, crit, nvme + `controller is down; will reset: CSTS=`, pci + "nvme_warn_reset", "the controller reports a fatal state or is off the bus"},
		{v1alpha1.FaultNVMe, crit, nvme + `Device not ready; aborting (?:reset|initiali[sz]ation)`, core + "nvme_wait_ready", "the controller does not come back"},
		{v1alpha1.FaultNVMe, crit, nvme + `Identify Controller failed`, core + "nvme_init_identify", "the controller does not tell what it is"},
		{v1alpha1.FaultDeviceOffline, crit, nvme + `Removing after probe failure`, pci + "nvme_remove_dead_ctrl", "the device was given up (to 6.5)"},
		{v1alpha1.FaultDeviceOffline, crit, nvme + `Disabling device after reset failure`, pci + "nvme_reset_work", "the device was given up (from 6.5)"},
		{v1alpha1.FaultDeviceOffline, crit, nvmePCI + `Unable to change power state from \w+ to \w+, device inaccessible`, power, "the device is off the bus"},
		{v1alpha1.FaultDeviceOffline, crit, nvmePCI + `can't change power state from \w+ to \w+ \(config space inaccessible\)`, power, "the device is off the bus"},
		{v1alpha1.FaultDeviceOffline, crit, nvmePCI + `not ready \d+ms after .+; giving up`, "drivers/pci/pci.c pci_dev_wait", "the device does not come back after a reset"},
		{v1alpha1.FaultDeviceOffline, crit, nvme + `failure state error detected, request disconnect`, pci + "nvme_error_detected", "PCIe gives the device up"},
		{v1alpha1.FaultDeviceOffline, crit, nvme + `Removing controller(?: \(-?\d+\))?\.\.\.`, "drivers/nvme/host/tcp.c, rdma.c, fc.c", "a remote controller is given up after all its reconnects"},
		{v1alpha1.FaultNVMe, crit, nvme + `IO queues (?:lost|not created)`, pci + "nvme_reset_work", "the controller takes administration only"},
		{v1alpha1.FaultNVMe, crit, nvme + `identifiers changed for nsid`, core + "nvme_validate_ns", "another namespace answers under the number"},
		{v1alpha1.FaultPath, crit, nvme + `NVME-FC\{\d+\}: (?:Max reconnect attempts|dev_loss_tmo \(\d+\) expired)`, "drivers/nvme/host/fc.c nvme_fc_reconnect_or_delete", "the way over the fabric is given up"},
		{v1alpha1.FaultDeviceOffline, crit, `^block (?P<dev>nvme\w+): no available path - failing I/O`, "drivers/nvme/host/multipath.c nvme_ns_head_submit_bio", "every way to the disk is lost"},
		{v1alpha1.FaultNVMe, warn, nvme + `resetting controller`, pci + "nvme_reset_prepare", "the controller is reset"},
		{v1alpha1.FaultNVMe, warn, nvme + `frozen state error detected, reset controller`, pci + "nvme_error_detected", "PCIe error recovery"},
		{v1alpha1.FaultNVMe, warn, nvme + `Abort status: `, pci + "abort_endio", "a command was aborted after its timeout"},
		{v1alpha1.FaultMedium, crit, lba + `\(sct 0x2 / sc 0x\w+\)`, core + "nvme_log_error, of requests that are not tried again; NVMe base 2.0 section 3.3.3.2.1: media and data integrity", "the medium"},
		{v1alpha1.FaultNVMe, crit, lba + `\(sct 0x(?:0 / sc 0x(?:4|5|6|20)|1 / sc 0x(?:82|b9|ba|bb)|7 / sc 0x\w+)\)`, core + "nvme_log_error", "a transfer or internal error, a namespace or zone that takes no writes, a status of the vendor's"},
		{v1alpha1.FaultPath, crit, lba + `\(sct 0x3 / sc 0x1\)`, core + "nvme_log_error", "this way to the disk is lost for good"},
		{v1alpha1.FaultPath, warn, lba + `\(sct 0x3 / sc 0x\w+\)`, core + "nvme_log_error", "a path error"},
	}
}

func mmcPatterns() []Pattern {
	return []Pattern{
		{v1alpha1.FaultBlockIO, crit, `^(?P<dev>mmcblk\d+\w*): (?:.*r/w command failed|recovery failed!)`, "drivers/mmc/core/block.c mmc_blk_mq_rw_recovery", "a card or eMMC cannot read or write"},
		{v1alpha1.FaultBlockIO, warn, `^(?P<dev>mmcblk\d+\w*): error -\d+ (?:transferring data|sending)`, "drivers/mmc/core/block.c", "a command failed; it is tried again"},
		{v1alpha1.FaultBlockIO, crit, `^(?P<dev>mmc\d+): cache flush error -`, "drivers/mmc/core/mmc_ops.c mmc_flush_cache", "what was in the card's cache may be lost"},
	}
}
