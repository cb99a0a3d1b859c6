package kernel

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast.dev/api/v1alpha1"
)

// releases are the kernels that the table below is about: long-term ones that
// distributions of today run, with every wording of the messages between 5.10 and 6.12.
var releases = []string{"5.10", "5.15", "6.1", "6.12"}

// wording is a message as some of these kernels print it: the format of the function in
// the file, in Go's verbs, and what may stand in it.
type wording struct {
	kernels  string // those that print it so
	source   string // file and function, of the first of them
	format   string
	args     []any
	class    v1alpha1.FaultClass
	severity v1alpha1.Severity // empty: no fault
	device   string            // as the line names it
}

const every = "5.10 5.15 6.1 6.12"

var wordings = []wording{
	// Until 5.15 the block layer puts the function's name first; from 5.16 on it does not.
	{"5.10 5.15", "block/blk-core.c print_req_error", "%s: %s error, dev %s, sector %d op 0x%x:(%s) flags 0x%x phys_seg %d prio class %d", []any{"blk_update_request", "critical medium", "sda", 2048, 0, "READ", 0x80700, 1, 0}, v1alpha1.FaultMedium, crit, "sda"},
	{"6.1 6.12", "block/blk-mq.c blk_print_req_error", "%s error, dev %s, sector %d op 0x%x:(%s) flags 0x%x phys_seg %d prio class %d", []any{"critical medium", "sda", 2048, 0, "READ", 0x80700, 1, 2}, v1alpha1.FaultMedium, crit, "sda"},
	{"5.10 5.15", "block/blk-core.c print_req_error", "%s: %s error, dev %s, sector %d op 0x%x:(%s) flags 0x%x phys_seg %d prio class %d", []any{"blk_update_request", "I/O", "nvme0n1", 81920, 1, "WRITE", 0x8800, 3, 0}, v1alpha1.FaultBlockIO, crit, "nvme0n1"},
	{"6.1 6.12", "block/blk-mq.c blk_print_req_error", "%s error, dev %s, sector %d op 0x%x:(%s) flags 0x%x phys_seg %d prio class %d", []any{"I/O", "nvme0n1", 81920, 1, "WRITE", 0x8800, 3, 2}, v1alpha1.FaultBlockIO, crit, "nvme0n1"},
	{"5.10 5.15", "block/blk-core.c print_req_error", "%s: %s error, dev %s, sector %d op 0x%x:(%s) flags 0x%x phys_seg %d prio class %d", []any{"blk_update_request", "operation not supported", "sda", 0, 3, "DISCARD", 0x800, 1, 0}, "", "", ""},
	{"6.1 6.12", "block/blk-mq.c blk_print_req_error", "%s error, dev %s, sector %d op 0x%x:(%s) flags 0x%x phys_seg %d prio class %d", []any{"operation not supported", "sda", 0, 3, "DISCARD", 0x800, 1, 2}, "", "", ""},
	{every, "fs/buffer.c buffer_io_error", "Buffer I/O error on dev %s, logical block %d%s", []any{"dm-2", 4227072, ", lost async page write"}, v1alpha1.FaultBufferIO, crit, "dm-2"},

	// The command is named from 5.19 on, and the tag, the opcode and the size from 6.8 or 6.9 on.
	{"5.10 5.15", "drivers/nvme/host/pci.c nvme_timeout", "nvme %s: I/O %d QID %d timeout, aborting", []any{"nvme1", 775, 2}, v1alpha1.FaultNVMe, warn, "nvme1"},
	{"6.1", "drivers/nvme/host/pci.c nvme_timeout", "nvme %s: I/O %d (%s) QID %d timeout, aborting", []any{"nvme1", 775, "Write", 2}, v1alpha1.FaultNVMe, warn, "nvme1"},
	{"6.12", "drivers/nvme/host/pci.c nvme_timeout", "nvme %s: I/O tag %d (%04x) opcode %#x (%s) QID %d timeout, aborting req_op:%s(%d) size:%d", []any{"nvme1", 627, 0xa273, 1, "I/O Cmd", 5, "WRITE", 1, 8192}, v1alpha1.FaultNVMe, warn, "nvme1"},
	{"5.10 5.15 6.1", "drivers/nvme/host/pci.c nvme_timeout", "nvme %s: I/O %d QID %d timeout, reset controller", []any{"nvme1", 775, 2}, v1alpha1.FaultNVMe, warn, "nvme1"},
	{"6.12", "drivers/nvme/host/pci.c nvme_timeout", "nvme %s: I/O tag %d (%04x) opcode %#x (%s) QID %d timeout, reset controller", []any{"nvme1", 192, 0x80c0, 1, "I/O Cmd", 1}, v1alpha1.FaultNVMe, warn, "nvme1"},
	{"5.10 5.15 6.1", "drivers/nvme/host/pci.c nvme_timeout", "nvme %s: I/O %d QID %d timeout, disable controller", []any{"nvme1", 24, 0}, v1alpha1.FaultNVMe, crit, "nvme1"},
	{"6.12", "drivers/nvme/host/pci.c nvme_timeout", "nvme %s: I/O tag %d (%04x) QID %d timeout, disable controller", []any{"nvme1", 28, 0x301c, 0}, v1alpha1.FaultNVMe, crit, "nvme1"},
	{every, "drivers/nvme/host/pci.c nvme_warn_reset", "nvme %s: controller is down; will reset: CSTS=0x%x, PCI_STATUS=0x%x", []any{"nvme0", uint32(0xffffffff), 0x10}, v1alpha1.FaultNVMe, crit, "nvme0"},
	// Without CSTS in the first kernels of 5.10, with it in its stable ones (5.10.262).
	{"5.10", "drivers/nvme/host/core.c nvme_wait_ready", "nvme %s: Device not ready; aborting %s", []any{"nvme0", "reset"}, v1alpha1.FaultNVMe, crit, "nvme0"},
	{every, "drivers/nvme/host/core.c nvme_wait_ready", "nvme %s: Device not ready; aborting %s, CSTS=0x%x", []any{"nvme0", "reset", 1}, v1alpha1.FaultNVMe, crit, "nvme0"},
	{"5.10 5.15 6.1", "drivers/nvme/host/pci.c nvme_remove_dead_ctrl", "nvme %s: Removing after probe failure status: %d", []any{"nvme0", -19}, v1alpha1.FaultDeviceOffline, crit, "nvme0"},
	{"6.12", "drivers/nvme/host/pci.c nvme_reset_work", "nvme %s: Disabling device after reset failure: %d", []any{"nvme0", -19}, v1alpha1.FaultDeviceOffline, crit, "nvme0"},
	// From 5.18 on; before, the block layer's line is the only one.
	{"6.1 6.12", "drivers/nvme/host/core.c nvme_log_error", "%s: %s(0x%x) @ LBA %d, %d blocks, %s (sct 0x%x / sc 0x%x) %s%s", []any{"nvme0n1", "Read", 2, 1234, 8, "Unrecovered Read Error", 2, 0x81, "DNR ", ""}, v1alpha1.FaultMedium, crit, "nvme0n1"},
	{"6.1 6.12", "drivers/nvme/host/core.c nvme_log_error, without NVME_VERBOSE_ERRORS", "%s: %s(0x%x) @ LBA %d, %d blocks, %s (sct 0x%x / sc 0x%x) %s%s", []any{"nvme0n1", "I/O Cmd", 2, 0, 1, "I/O Error", 2, 0x81, "DNR ", ""}, v1alpha1.FaultMedium, crit, "nvme0n1"},

	// The driver byte says DRIVER_SENSE until 5.13.
	{"5.10", "drivers/scsi/scsi_logging.c scsi_print_result", "sd %s: [%s] tag#%d FAILED Result: hostbyte=%s driverbyte=%s cmd_age=%ds", []any{"0:0:0:0", "sda", 12, "DID_NO_CONNECT", "DRIVER_SENSE", 0}, v1alpha1.FaultDeviceOffline, crit, "sda"},
	{"5.15 6.1 6.12", "drivers/scsi/scsi_logging.c scsi_print_result", "sd %s: [%s] tag#%d FAILED Result: hostbyte=%s driverbyte=%s cmd_age=%ds", []any{"0:0:0:0", "sda", 12, "DID_NO_CONNECT", "DRIVER_OK", 0}, v1alpha1.FaultDeviceOffline, crit, "sda"},
	{every, "drivers/scsi/scsi_logging.c scsi_log_print_sense_hdr", "sd %s: [%s] tag#%d Sense Key : %s [%s] ", []any{"0:0:0:0", "sda", 12, "Medium Error", "current"}, v1alpha1.FaultMedium, crit, "sda"},
	{every, "drivers/scsi/scsi_logging.c scsi_log_print_sense_hdr", "sd %s: [%s] tag#%d Add. Sense: %s", []any{"0:0:0:0", "sda", 12, "Unrecovered read error"}, v1alpha1.FaultMedium, crit, "sda"},
	{every, "drivers/scsi/scsi_lib.c scsi_device_state_check", "sd %s: rejecting I/O to %s device", []any{"0:0:0:0", "offline"}, v1alpha1.FaultDeviceOffline, crit, "0:0:0:0"},
	{every, "drivers/scsi/scsi_error.c scsi_eh_offline_sdevs", "sd %s: Device offlined - not ready after error recovery", []any{"0:0:0:0"}, v1alpha1.FaultDeviceOffline, crit, "0:0:0:0"},

	{every, "drivers/ata/libata-eh.c ata_eh_link_report", "ata%d.%02d: error: { %s%s%s%s}", []any{3, 0, "", "UNC ", "", ""}, v1alpha1.FaultMedium, crit, "ata3.00"},
	// Until 6.1 COMRESET comes first; in 6.12 the second is the only one.
	{"5.10 5.15 6.1", "drivers/ata/libata-sata.c sata_link_hardreset", "ata%d: COMRESET failed (errno=%d)", []any{3, -16}, v1alpha1.FaultLink, warn, "ata3"},
	{every, "drivers/ata/libata-eh.c ata_eh_reset", "ata%d: reset failed (errno=%d), retrying in %d secs", []any{3, -16, 8}, v1alpha1.FaultLink, warn, "ata3"},
	{"5.10 5.15", "drivers/ata/libata-eh.c ata_dev_disable", "ata%d.%02d: disabled", []any{3, 0}, v1alpha1.FaultDeviceOffline, crit, "ata3.00"},
	{"6.1 6.12", "drivers/ata/libata-eh.c ata_dev_disable", "ata%d.%02d: disable device", []any{3, 0}, v1alpha1.FaultDeviceOffline, crit, "ata3.00"},

	{every, "fs/ext4/super.c __ext4_error", "EXT4-fs error (device %s): %s:%d: comm %s: %s", []any{"sda1", "ext4_find_entry", 1455, "ls", "reading directory lblock 0"}, v1alpha1.FaultFilesystem, crit, "sda1"},
	{every, "fs/ext4/super.c ext4_handle_error", "EXT4-fs (%s): Remounting filesystem read-only", []any{"sda1"}, v1alpha1.FaultFilesystem, crit, "sda1"},
	{every, "fs/jbd2/journal.c jbd2_journal_abort", "Aborting journal on device %s.", []any{"sda1-8"}, v1alpha1.FaultFilesystem, crit, "sda1"},

	// XFS has said it in two lines until 5.14, and says it in one since 5.15.
	{"5.10", "fs/xfs/xfs_fsops.c xfs_do_force_shutdown", "XFS (%s): Log I/O Error Detected. Shutting down filesystem", []any{"sda1"}, v1alpha1.FaultFilesystem, crit, "sda1"},
	{"5.15 6.1 6.12", "fs/xfs/xfs_fsops.c xfs_do_force_shutdown", "XFS (%s): %s (0x%x) detected at %s (%s:%d).  Shutting down filesystem.", []any{"sda1", "Log I/O Error", 2, "xlog_ioend_work+0x9e/0xb0 [xfs]", "fs/xfs/xfs_log.c", 1378}, v1alpha1.FaultFilesystem, crit, "sda1"},
	{every, "fs/xfs/xfs_buf.c xfs_buf_ioerror_alert", "XFS (%s): metadata I/O error in \"%s\" at daddr 0x%x len %d error %d", []any{"sda1", "xfs_imap_to_bp+0x6a/0xa0 [xfs]", 0x40, 32, 5}, v1alpha1.FaultFilesystem, crit, "sda1"},

	// btrfs tells its state from 5.18 on.
	{"5.10 5.15", "fs/btrfs/super.c __btrfs_handle_fs_error", "BTRFS: error (device %s) in %s:%d: errno=%d %s", []any{"sda1", "btrfs_commit_transaction", 2279, -5, "IO failure"}, v1alpha1.FaultFilesystem, crit, "sda1"},
	{"6.1 6.12", "fs/btrfs/super.c __btrfs_handle_fs_error (6.12: messages.c)", "BTRFS: error (device %s%s) in %s:%d: errno=%d %s", []any{"sda1", " state A", "btrfs_commit_transaction", 2279, -5, "IO failure"}, v1alpha1.FaultFilesystem, crit, "sda1"},

	{every, "drivers/md/raid1.c raid1_error", "md/raid1:%s: Disk failure on %s, disabling device.\nmd/raid1:%s: Operation continuing on %d devices.", []any{"md0", "sda1", "md0", 1}, v1alpha1.FaultDeviceOffline, crit, "sda1"},
	{every, "drivers/md/raid10.c raid10_error", "md/raid10:%s: Disk failure on %s, disabling device.\nmd/raid10:%s: Operation continuing on %d devices.", []any{"md0", "sda1", "md0", 3}, v1alpha1.FaultDeviceOffline, crit, "sda1"},
	{every, "kernel/hung_task.c check_hung_task", "INFO: task %s:%d blocked for more than %d seconds.", []any{"jbd2/sda1-8", 412, 120}, v1alpha1.FaultHungIO, crit, "sda1"},
	{every, "drivers/scsi/sd.c sd_probe", "sd %s: [%s] Attached SCSI %sdisk", []any{"0:0:0:0", "sda", ""}, "", "", ""},
}

// Each of these kernels' wordings is known, whichever of them it was changed in.
func TestVersions(t *testing.T) {
	m := NewMatcher()
	byRelease := map[string]int{}
	for i, w := range wordings {
		line := fmt.Sprintf(w.format, w.args...)
		if strings.Contains(line, "%!") {
			t.Fatalf("wording %d (%s): %s", i, w.source, line)
		}
		for _, k := range strings.Fields(w.kernels) {
			if !slices.Contains(releases, k) {
				t.Errorf("%s: there is no release %s", w.source, k)
			}
			byRelease[k]++
		}
		ev, _ := m.Match(&Record{Message: []byte(line)}, time.Now())
		switch {
		case ev == nil && w.severity != "":
			t.Errorf("%s, %s: not known: %s", w.kernels, w.source, line)
		case ev == nil:
		case ev.Class != w.class || ev.Severity != w.severity:
			t.Errorf("%s, %s: %s %s, want %s %s: %s", w.kernels, w.source, ev.Class, ev.Severity, w.class, w.severity, line)
		case !slices.ContainsFunc(ev.Devices, func(d string) bool { return sameName(d, w.device) }):
			t.Errorf("%s, %s: of %q, want %s: %s", w.kernels, w.source, ev.Devices, w.device, line)
		}
	}
	for _, k := range releases {
		t.Logf("%s: %d wordings", k, byRelease[k])
		if byRelease[k] < 25 {
			t.Errorf("%s: %d wordings are too few to say that its messages are known", k, byRelease[k])
		}
	}
}

// Real lines whose kernel is told are known as well in each range of releases as in all.
func TestCorpusByRelease(t *testing.T) {
	f, err := os.Open("testdata/corpus.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()                                              // read only
	bands := []string{"4.15", "5.0", "5.5", "5.11", "5.16", "6.2", "6.9", "6.13"} // each begins one
	found, faults, others, alarms := map[string]int{}, map[string]int{}, map[string]int{}, map[string]int{}
	m := NewMatcher()
	for in := bufio.NewScanner(f); in.Scan(); {
		var l struct {
			labelled
			Kernel string `json:"kernel"`
		}
		if err := json.Unmarshal(in.Bytes(), &l); err != nil {
			t.Fatal(err)
		}
		band := bandOf(bands, l.Kernel)
		if band == "" {
			continue
		}
		argue(&l.labelled, message(l.Line))
		ev, _ := m.Match(&Record{Message: []byte(message(l.Line))}, time.Now())
		critical := ev != nil && ev.Severity == v1alpha1.SeverityCritical
		if l.Label == "fault" {
			faults[band]++
			if critical {
				found[band]++
			}
		} else {
			others[band]++
			if critical {
				alarms[band]++
				t.Logf("from %s on: %s", band, l.Line)
			}
		}
	}
	for _, b := range bands {
		t.Logf("from %-5s on: %3d of %3d faults, %d of %3d others are called faults", b, found[b], faults[b], alarms[b], others[b])
		if faults[b] == 0 || float64(found[b]) < 0.97*float64(faults[b]) || float64(alarms[b]) > 0.01*float64(others[b]) {
			t.Errorf("from %s on the patterns are worse than elsewhere", b)
		}
	}
}

// bandOf is the last of the bands that begins at or before a release; empty when it is not told.
func bandOf(bands []string, kernel string) (band string) {
	number := func(s string) int {
		major, rest, _ := strings.Cut(s, ".")
		minor := rest
		if i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' }); i >= 0 {
			minor = rest[:i]
		}
		a, err1 := strconv.Atoi(major)
		b, err2 := strconv.Atoi(minor)
		if err1 != nil || err2 != nil {
			return -1
		}
		return 1000*a + b
	}
	for _, b := range bands {
		if number(kernel) >= number(b) {
			band = b
		}
	}
	return band
}
