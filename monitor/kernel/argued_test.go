package kernel

import (
	"regexp"
	"strings"
	"testing"
)

// argument is why a label of a corpus is not what the kernel's source says of the line. It is of
// a kind of line, and none is about one line alone: it holds for every corpus.
type argument struct {
	lines *regexp.Regexp
	wrong func(l *labelled) bool
	mend  func(l *labelled)
	why   string
}

func labelIs(label string) func(*labelled) bool {
	return func(l *labelled) bool { return l.Label == label }
}

func label(to string) func(*labelled) { return func(l *labelled) { l.Label = to } }

// arguments are the table of exceptions to a corpus' labels.
var arguments = []argument{
	{regexp.MustCompile(`critical space allocation error, dev |ext4_end_bio:\d+: I/O error 3 `), labelIs("fault"), label("warn"),
		"no space: 3 is BLK_STS_NOSPC (include/linux/blk_types.h), \"critical space allocation\" its name (block/blk-core.c blk_errors); the device below is full, as the same lines of a loop device say"},
	{regexp.MustCompile(`(?:FAILED|UNKNOWN\(0x2003\)) Result: hostbyte=0x07 `), labelIs("warn"), label("fault"),
		"0x07 is DID_ERROR and 0x2003 FAILED (include/scsi/scsi_status.h, scsi.h): the result that other lines spell out, from a kernel without CONFIG_SCSI_CONSTANTS"},
	{regexp.MustCompile(`^INFO: task jbd2/\S+-:\d+ (?:<\w+> )?blocked `), func(l *labelled) bool { return strings.HasSuffix(l.Device, "-") }, func(l *labelled) { l.Device = strings.TrimSuffix(l.Device, "-") },
		"kernel/hung_task.c prints task->comm, which is cut to 15 bytes: the dash is what is left of the inode in the name that fs/jbd2/journal.c jbd2_journal_init_inode gives its thread"},
	{regexp.MustCompile(`^BTRFS \w+ \(device [^)]*\): devid \d+ uuid \S+ is missing`), func(l *labelled) bool { return l.Device != "" }, func(l *labelled) { l.Device = "" },
		"fs/btrfs/volumes.c btrfs_report_missing_device: the device in brackets is the filesystem's name, a member that is there; the missing one has no name"},
	{readCorrected, func(l *labelled) bool { return strings.HasPrefix(l.Device, "md") }, func(l *labelled) { l.Device = readCorrected.FindStringSubmatch(message(l.Line))[1] },
		"drivers/md/raid5.c raid5_end_read_request prints the member whose sectors they were after \"on\": the array could read them"},
}

var readCorrected = regexp.MustCompile(`^md/raid\S+ read error corrected \(\d+ sectors at \d+ on (\S+)\)`)

// argue mends a label, and says why; empty when there is nothing to say against it.
func argue(l *labelled, msg string) string {
	for _, a := range arguments {
		if a.lines.MatchString(msg) && a.wrong(l) {
			a.mend(l)
			return a.why
		}
	}
	return ""
}

func TestArgue(t *testing.T) {
	for name, tc := range map[string]struct {
		line, label, device, wantLabel, wantDevice string
	}{
		"Space":     {"critical space allocation error, dev sdf, sector 2 op 0x1:(WRITE)", "fault", "sdf", "warn", "sdf"},
		"Ext4":      {"EXT4-fs warning (device dm-3): ext4_end_bio:342: I/O error 3 writing to inode 399", "fault", "dm-3", "warn", "dm-3"},
		"Ext4Other": {"EXT4-fs warning (device dm-3): ext4_end_bio:342: I/O error 10 writing to inode 399", "fault", "dm-3", "fault", "dm-3"},
		"Error":     {"sd 0:0:0:0: [sda] tag#13 UNKNOWN(0x2003) Result: hostbyte=0x07 driverbyte=DRIVER_OK cmd_age=30s", "warn", "sda", "fault", "sda"},
		"TimeOut":   {"sd 0:0:0:0: [sda] tag#13 UNKNOWN(0x2003) Result: hostbyte=0x03 driverbyte=DRIVER_OK cmd_age=30s", "warn", "sda", "warn", "sda"},
		"Cut":       {"INFO: task jbd2/nvme0n1p3-:375 blocked for more than 122 seconds.", "fault", "nvme0n1p3-", "fault", "nvme0n1p3"},
		"Whole":     {"INFO: task jbd2/sda1-8:375 blocked for more than 122 seconds.", "fault", "sda1", "fault", "sda1"},
		"Member":    {"md/raid:md127: read error corrected (8 sectors at 8960412480 on dm-1)", "warn", "md127", "warn", "dm-1"},
		"Missing":   {"BTRFS warning (device sdb): devid 3 uuid a9540970 is missing", "fault", "sdb", "fault", ""},
	} {
		t.Run(name, func(t *testing.T) {
			l := labelled{Line: tc.line, Label: tc.label, Device: tc.device}
			why := argue(&l, tc.line)
			if l.Label != tc.wantLabel || l.Device != tc.wantDevice {
				t.Errorf("%s of %q, want %s of %q", l.Label, l.Device, tc.wantLabel, tc.wantDevice)
			}
			if changed := tc.label != tc.wantLabel || tc.device != tc.wantDevice; changed != (why != "") {
				t.Errorf("why: %q", why)
			}
		})
	}
}
