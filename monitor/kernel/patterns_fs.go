package kernel

import "holdfast.dev/api/v1alpha1"

const fsc = v1alpha1.FaultFilesystem

func ext4Patterns() []Pattern {
	const (
		super = "fs/ext4/super.c "
		jbd2  = "fs/jbd2/journal.c, commit.c, recovery.c"
		// The name of a journal ends with its inode.
		journal = `(?P<dev>\S+?)(?:-\d+)?`
	)
	return []Pattern{
		{Expr: `Directory contains filename that is invalid UTF-8`, Source: "fs/ext4/namei.c ext4_match", About: "a file's name, not the disk"},
		{fsc, warn, `^EXT4-fs error \(device ` + dev + `\) in \S+: (?:Out of memory|error 28|No space left)`, super + "__ext4_std_error", "no memory, no space"},
		{fsc, crit, `^EXT4-fs error \(device ` + dev + `\)`, super + "__ext4_error", "metadata is wrong or could not be read"},
		{Expr: `ext4_end_bio:\d+: I/O error 3 `, Source: "fs/ext4/page-io.c; BLK_STS_NOSPC is 3 in include/linux/blk_types.h", About: "the device's own backing store is full"},
		{fsc, crit, `^EXT4-fs warning \(device ` + dev + `\): ext4_end_bio:\d+: I/O error `, "fs/ext4/page-io.c ext4_end_bio", "data of a file could not be written"},
		{fsc, crit, `^EXT4-fs warning \(device ` + dev + `\): \S+: Error -5 while reading MMP block`, "fs/ext4/mmp.c read_mmp_block", "metadata could not be read"},
		{fsc, crit, `^EXT4-fs warning \(device ` + dev + `\): \S+: inode #.* (?:error -(?:5|74|117) reading directory (?:index )?block|Corrupt directory, running e2fsck)`, "fs/ext4/namei.c __ext4_read_dirblock, ext4_dx_find_entry, dx_probe", "a directory could not be read, or is wrong"},
		{fsc, crit, `^EXT4-fs \((?:device )?` + dev + `\): (?:Remounting filesystem read-only|I/O error while writing superblock|previous I/O error to superblock detected|` +
			`unable to read superblock|Can't read superblock on 2nd try|can't read (?:group )?descriptor \d|Delayed block allocation failed for inode .* with error (?:5|30|74|117)\b|This should not happen!! Data will be lost|` +
			`failed to convert unwritten extents .*error -(?:5|30|74|117)\)|` +
			`error loading journal|journal bmap failed|no journal found|journal inode is deleted|invalid journal inode|Could not load journal inode|get root inode failed|corrupt root inode|mount failed|` +
			`\w+: (?:Checksum for group|(?:Block|Inode) (?:bitmap|table) for group)|group descriptors corrupted|panic forced after error)`, super, "stopped after an error, or does not mount for one"},
		{fsc, warn, `^EXT4-fs \(` + dev + `\): (?:couldn't read superblock of external journal|external journal has (?:bad|corrupt) superblock|failed to open journal device|I/O error on journal device)`, super, "the disk of the journal is to blame, which is another one"},
		{fsc, crit, `^EXT4-fs: \S+ aborting transaction: (?:Journal has aborted|IO failure|Corrupt filesystem|Filesystem failed CRC)`, "fs/ext4/ext4_jbd2.c ext4_journal_abort_handle", "metadata could not be written"},
		{fsc, crit, `^Aborting journal on device (?P<dev>\S+?)(?:-\d+)?\.$`, "fs/jbd2/journal.c __jbd2_journal_abort_hard", "the journal stopped after an error"},
		{fsc, crit, `^JBD2: (?:Detected IO errors(?: -\d+)? while flushing file data on|(?:Error -\d+|I/O error) (?:detected )?when updating journal superblock for|` +
			`previous I/O error detected for journal superblock update for) ` + journal + `\.?$`, jbd2, "data of a file, or the journal, could not be written"},
		{fsc, crit, `^JBD2: journal transaction \d+ on ` + journal + ` is corrupt`, jbd2, "the journal is corrupt"},
		{fsc, crit, `^JBD2: (?:journal recovery failed|recovery failed|journal reset failed|journal checksum error|no valid journal superblock found|Failed to read block at offset|` +
			`IO error -\d+ recovering block|Invalid checksum (?:recovering|found)|bad block at offset \d|corrupted journal superblock|error -\d+ scanning journal|IO error reading journal superblock|recovery pass \d+ ended at transaction)`, jbd2, "the journal cannot be read or replayed"},
		{fsc, crit, `Cannot read journal superblock`, jbd2, "the journal cannot be read"},
	}
}

func xfsPatterns() []Pattern {
	const (
		xfs    = "fs/xfs/xfs_fsops.c xfs_do_force_shutdown, xfs_buf.c xfs_buf_ioerror_alert, xfs_error.c, xfs_log_recover.c"
		umount = "; flag 0x4 is SHUTDOWN_FORCE_UMOUNT in fs/xfs/xfs_mount.h"
		asked  = "somebody asked for the shutdown"
	)
	return []Pattern{
		{fsc, crit, `^` + dev + `: writeback error on inode \d+`, "fs/iomap/buffered-io.c iomap_finish_ioend", "data of a file could not be written"},
		{fsc, crit, `^XFS \(` + dev + `\): writeback error on sector \d+`, "fs/xfs/xfs_aops.c xfs_destroy_ioend (to 5.4)", "data of a file could not be written"},
		// One by one: what begins with a fixed string is found faster.
		{Expr: `xfs_fs_goingdown`, Source: xfs, About: asked},
		{Expr: `User initiated shutdown`, Source: xfs, About: asked},
		{Expr: `\(0x[0-9a-f]*[4-7c-f]\) detected`, Source: xfs + umount, About: asked},
		{Expr: `xfs_do_force_shutdown\(0x[0-9a-f]*[4-7c-f]\)`, Source: xfs + umount, About: asked},
		{fsc, warn, `^XFS \(` + dev + `\): (?:metadata I/O error.* error 28$|SB validate failed)`, xfs, "no space; no XFS, or one that is too new"},
		{fsc, crit, `^XFS \(` + dev + `\): (?:metadata I/O error|Metadata corruption detected|Metadata CRC error detected|Corruption (?:detected|Alert|warning)|` +
			`Corruption of (?:in-memory|on-disk) |(?:Metadata |Log )?I/O [Ee]rror |I/O Error Detected|Internal error |log I/O error|log mount(?:/recovery)? failed|log recovery (?:read|write) I/O error|` +
			`empty log check failed|[Ff]ailed to (?:read root inode|recover)|Filesystem has been shut down|xfs_do_force_shutdown\(|All device paths lost|Block device removal|` +
			`Error -(?:5|74|117) reserving|Unmount and run xfs_repair|First \d+ bytes of corrupted|Please run xfs_repair|Failing async write|failed to (?:find log head|locate log tail)|` +
			`log record CRC mismatch|last sector read failed|log device read failed|corrupted root inode|Uncorrected metadata errors|write error -\d+ updating|page discard (?:on page|unable to)|` +
			`\w+: \w+\(\) returned error -(?:5|74|117))`, xfs, "metadata is wrong or could not be read or written; the filesystem stops"},
		{fsc, crit, `^XFS \(` + dev + `\): (?:\w+: (?:daddr 0x[0-9a-f]+ out of range|unmount record failed|Bad (?:regular |directory )?inode \d|bad inode \d|detected corrupt incore inode)|` +
			`Allocated a known in-use inode|ondisk log corrupt)`, "fs/xfs/xfs_buf.c xfs_buf_find, xfs_log.c xlog_unmount_write, xfs_inode.c xfs_iflush, xfs_notify_failure.c", "metadata is wrong, or could not be written"},
	}
}

func btrfsPatterns() []Pattern {
	const (
		src = "fs/btrfs/disk-io.c, volumes.c, scrub.c, tree-checker.c, extent-tree.c"
		// From 5.18 on with the letters of the filesystem's state (fs/btrfs/messages.c).
		on     = `^BTRFS:? (?:critical|error|warning|info) \(device ` + dev + `(?::? state \w+)?\)`
		member = `^BTRFS (?:critical|error|warning|info) \(device [^)]+\): `
	)
	return []Pattern{
		{fsc, crit, `^BTRFS error \(device [^)]+\): bdev (?:/dev/(?:mapper/)?` + dev + `|<missing disk>) errs: `, "fs/btrfs/volumes.c btrfs_dev_stat_inc_and_print; at info level it is what happened before this mount", "the device's error count grew"},
		{fsc, crit, member + `(?:scrub: )?(?:unable to fixup \(\w+\) error|(?:i/o|checksum) error) at logical \d+ on dev /dev/(?:mapper/)?` + dev, src, "a place of the device cannot be read, or is not what was written"},
		{fsc, crit, member + `(?:IO error rebuilding|failed to rebuild valid) logical \d+ for dev (?:/dev/(?:mapper/)?)?` + dev, "fs/btrfs/scrub.c scrub_write_block_to_dev_replace and its caller (to 6.3)", "a place cannot be read, nor made again from others"},
		{fsc, crit, member + `zoned: (?:failed to read|offline/readonly) zone \d+ on (?:device )?(?:/dev/(?:mapper/)?)?` + dev, "fs/btrfs/zoned.c", "a zone cannot be read, or takes no writes any more"},
		{fsc, crit, member + `lost (?:super block|page) write due to IO error on /dev/(?:mapper/)?` + dev, src, "metadata could not be written"},
		{fsc, crit, member + `btrfs_scrub_dev\(/dev/(?:mapper/)?` + dev + `, .* failed -5`, src, "the device cannot be read"},
		{fsc, crit, on + ` in \S+ errno=-(?:2|5|17|22|30|117)\b`, "fs/btrfs/messages.c __btrfs_handle_fs_error", "the filesystem stops after an error"},
		{Expr: `checksum verify failed .*, ignored$`, Source: "fs/btrfs/disk-io.c, mount option rescue=ignoredatacsums", About: "somebody asked for it"},
		{fsc, crit, on + `: (?:corrupt (?:leaf|node)|parent transid verify failed|unable to find (?:ref byte|logical)|failed to read (?:chunk|tree|block groups|log|root)|couldn't read tree root|` +
			`bad (?:tree block start|fsid)|level verify failed|tree first key mismatch|block=\d+ (?:read|write) time tree block corruption|(?:read|write) time tree block corruption|` +
			`failed to run delayed ref|csum failed|direct IO failed .* err no (?:10|-5)\b|(?:\S+ )?checksum verify failed|` +
			`dev extent devid|bdev \S+ unexpected block io error: (?:[124-9]|1\d)|\d+ errors while writing supers|` +
			`emergency shutdown|scrub: (?:unable to fixup|tree block)|forced readonly)`, src, "data or metadata is corrupt, a device is missing, or the filesystem stops"},
		// Apart from the above: one expression of so many would require no string that few lines have.
		{fsc, crit, on + `: (?:unable to find (?:chunk map|block group for)|failed to (?:read (?:the system array|devices)|load root)|tree level mismatch detected|bad tree block level|invalid tree nritems|` +
			`block=\d+ bad generation|superblock (?:checksum mismatch|contains fatal errors)|super block corruption detected|csum for on-disk super block|commit super ret -(?:5|30|117)\b|` +
			`corrupted chunk tree|found a bad chunk map|chunk \d+ has missing dev extent|too many dev extents|dev extent physical offset)`, src, "metadata is corrupt, or could not be read or written"},
		{v1alpha1.FaultArray, crit, member + `(?:devid \d+ uuid \S+ is missing|chunk \d+ missing|failed to find devid|error writing primary super block to device \d|btrfs device id \d+ has gone missing)`, src, "another member than the one that is named is lost"},
		{fsc, warn, on + `: open_ctree failed`, "fs/btrfs/disk-io.c open_ctree", "it does not mount; the line before says why"},
		{fsc, crit, `^BTRFS: Transaction aborted \(error -(?:2|5|17|22|30|117)\)`, "fs/btrfs/transaction.h btrfs_abort_transaction", "metadata could not be written"},
	}
}

func otherFilesystemPatterns() []Pattern {
	return []Pattern{
		{fsc, crit, `^F2FS-fs \(` + dev + `\): (?:Remounting filesystem read-only|Stopped filesystem due to reason: [1-9]|Unable to read \d\w+ superblock|Failed to get valid F2FS checkpoint|` +
			`access invalid blkaddr|inconsistent node block)`, "fs/f2fs/super.c, checkpoint.c, node.c", "metadata is wrong or could not be read or written"},
		{fsc, crit, `^gfs2: fsid=\S+: (?:about to withdraw|[Ff]ile system withdrawn|withdrawn|telling LM to withdraw|fatal: |Error \d+ writing to journal)`, "fs/gfs2/util.c gfs2_withdraw", "the filesystem stops after an error"},
		{fsc, crit, `^OCFS2: ERROR \(device ` + dev + `\)`, "fs/ocfs2/super.c __ocfs2_error", "metadata is wrong"},
		{fsc, crit, `^OCFS2: (?:File system is now read-only|Returning error to the calling process)`, "fs/ocfs2/super.c ocfs2_handle_error", "the filesystem stops after an error"},
		{fsc, crit, `^On-disk corruption discovered\. Please run fsck\.ocfs2`, "fs/ocfs2/super.c ocfs2_handle_error", "the filesystem stops after an error"},
	}
}
