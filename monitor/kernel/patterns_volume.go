package kernel

import "holdfast.dev/api/v1alpha1"

func mdPatterns() []Pattern {
	const (
		raid  = "drivers/md/raid1.c, raid10.c, raid5.c"
		md    = "drivers/md/md.c"
		array = v1alpha1.FaultArray
		// raid0 and linear print no colon before the array's name.
		of = `^md/\w+?:? ?(?P<dev>md\w+): `
	)
	return []Pattern{
		{v1alpha1.FaultDeviceOffline, crit, `^md/\S+ Disk failure on ` + dev + `(?:,| detected)`, raid + " error handlers", "the member was given up"},
		{v1alpha1.FaultMedium, warn, `^md/\S+ read error corrected \(\d+ sectors at (?P<at>\d+) on ` + dev + `\)`, raid, "the array rewrote what the member could not read"},
		{v1alpha1.FaultMedium, crit, `^md/\S+ (?:read error (?:not correctable|NOT corrected!!|on replacement device) \(sector \d+ on|read correction write failed \(.* on|unable to read back corrected sectors \(.* on) ` + dev + `\)`, raid, "the member cannot be read, and the array cannot repair it"},
		{v1alpha1.FaultDeviceOffline, crit, `^md/\S+ Too many read errors, failing device ` + dev + `\.`, raid, "the member was given up"},
		{v1alpha1.FaultMedium, crit, `^md/\S+ ` + dev + `: unrecoverable I/O read error for block `, raid, "no member can read this"},
		{v1alpha1.FaultDeviceOffline, crit, `^md/\S+ ` + dev + `: (?:Raid device exceeded read_error threshold|[Ff]ailing (?:raid device|drive))`, raid, "the member was given up"},
		{array, crit, of + `(?:Operation continuing on \d+ devices|recovery aborted due to read error|[Nn]ot enough operational|insufficient working devices|Cannot continue operation|` +
			`\d+ read_errors > |cannot start dirty degraded|failed to run raid set|journal disk is missing|failed to rewrite stripes|Cannot get enough stripes|bitmap superblock UUID mismatch)`, raid, "the array has lost members, or does not start"},
		{v1alpha1.FaultBlockIO, crit, `^md/\S+ make_request: Sector \d+ out of bounds on dev ` + dev + `:`, "drivers/md/md-linear.c", "the member is smaller than the array believes"},
		{v1alpha1.FaultPath, crit, `^multipath: IO failure on ` + dev + `, disabling IO path`, "drivers/md/md-multipath.c (to 6.7)", "one of several ways is lost"},
		{array, crit, `^md: kicking non-fresh ` + dev + ` from array!`, md + " md_kick_rdev_from_array", "the member had left the array before, and has old data"},
		{v1alpha1.FaultBlockIO, crit, `^md: (?:disabled device ` + dev + `, could not read superblock|could not read ` + dev + `'s sb, not importing)`, md + " read_disk_sb", "the member cannot be read"},
		{array, crit, `^md: (?:invalid superblock checksum on ` + dev + `|fatal superblock inconsistency in ` + dev + ` |` + dev + ` has zero or unknown size, marking faulty)`, md, "the member is not what it should be"},
		{array, crit, `^md: ` + dev + `: \w+ array has a missing/failed member`, md + " is_mddev_broken", "an array without redundancy has lost a member"},
		{array, crit, `^md: super_written gets error=-?\d`, md + " super_written", "a member's superblock could not be written"},
		{array, crit, `^md: (?:pers->run\(\) failed|bitmap read error: )`, md + ", md-bitmap.c", "the array does not start, or its bitmap cannot be read"},
		{array, crit, `^(?P<dev>md\w+): (?:disabling internal bitmap due to errors|kicking failed bitmap file|bitmap initialisation failed: -|invalid bitmap file superblock|bitmap superblock UUID mismatch)`, "drivers/md/md-bitmap.c", "the array's bitmap cannot be read or written"},
	}
}

func mapperPatterns() []Pattern {
	const (
		mapper = v1alpha1.FaultMapper
		bad    = v1alpha1.FaultIntegrity
		pool   = `(?:(?P<dev>\d+:\d+): )?`
	)
	return []Pattern{
		{v1alpha1.FaultPath, crit, `^device-mapper: multipath: (?:\d+:\d+: )?Failing path (?P<dev>\d+:\d+)`, "drivers/md/dm-mpath.c fail_path", "one of several ways is lost"},
		{v1alpha1.FaultDeviceOffline, crit, `^device-mapper: multipath: queue_if_no_path timeout on ` + dev + `, failing`, "drivers/md/dm-mpath.c queue_if_no_path_timeout_work", "every way is lost, for longer than may be waited"},
		{v1alpha1.FaultDeviceOffline, crit, `^device-mapper: multipath: (?P<dev>\d+:\d+): returning EIO`, "drivers/md/dm-mpath.c dm_report_EIO", "every way is lost"},
		{mapper, crit, `^device-mapper: (?:thin|cache): ` + pool + `(?:metadata operation '\w+' failed|aborting current metadata transaction|failed to (?:abort metadata|set 'needs_check')|` +
			`unable to (?:read needs_check flag|switch (?:pool|cache) to write mode)|switching (?:pool|cache) to (?:read-only|fail|failure|out-of-data-space)|` +
			`(?:No|Could not get) free metadata blocks|(?:migration|invalidation) failed; couldn't update|could not write (?:dirty bitset|cache metadata)|\w+: alloc_data_block\(\) failed: error = -5)`, "drivers/md/dm-thin.c, dm-cache-target.c", "the pool takes no more writes, or fails"},
		{mapper, crit, `^device-mapper: (?:(?:thin|cache|era)(?: metadata)?|block manager|btree spine|space map (?:metadata|common)|array): (?:couldn't read superblock|(?:index_check|bitmap check) failed: |\w+: __commit_transaction\(\) failed, error = -5|sb_check failed|\w+ validator check failed|` +
			`(?:node_check|array_block_check|get_ablock) failed|unable to allocate new metadata block|could not create block manager)`, "drivers/md/persistent-data, dm-thin-metadata.c", "metadata is wrong or could not be read"},
		{bad, crit, `device-mapper: crypt: (?:` + dev + `: )?INTEGRITY AEAD ERROR`, "drivers/md/dm-crypt.c crypt_endio", "an authentication tag is wrong"},
		{bad, crit, `^device-mapper: integrity: (?:` + dev + `: )?Checksum failed at sector`, "drivers/md/dm-integrity.c integrity_metadata", "a checksum is wrong"},
		{bad, crit, `^device-mapper: integrity: Error on (?:writing|reading|copying|superblock|invalid|journal|tag|syncing)`, "drivers/md/dm-integrity.c dm_integrity_io_error", "the device below failed"},
		{bad, crit, `^device-mapper: verity(?:-fec)?: (?P<dev>\d+:\d+): (?:(?:data|metadata) block \d+ is corrupted|reached maximum errors|FEC \d+: failed to correct)`, "drivers/md/dm-verity-target.c verity_handle_err", "a hash is wrong"},
		{mapper, crit, `^device-mapper: raid1?: (?:Failed to read superblock of device|Primary mirror \((?P<dev>\d+:\d+)\) failed while out-of-sync|All sides of mirror have failed|` +
			`All replicated volumes dead|Read failure on mirror device (?P<dev>\d+:\d+)\. +Failing I/O|Unable to read primary mirror|Write error during recovery)`, "drivers/md/dm-raid1.c, dm-raid.c", "a mirror has lost a leg"},
		{mapper, crit, `^device-mapper: snapshots: (?:Invalidating snapshot|Snapshot (?:overflowed|is marked invalid)|(?:(?:Read|Write) error(?: in exception store)?|Flush after merge failed): shutting down merge|Read error in exception store|Corruption detected)`, "drivers/md/dm-snap.c __invalidate_snapshot", "the snapshot is lost"},
		{mapper, crit, `^device-mapper: writecache: (?:error (?:flushing|writing)|unable to read metadata|hardware memory error|copy error)`, "drivers/md/dm-writecache.c", "the cache failed; what it holds may be lost"},
		{mapper, crit, `^device-mapper: zoned(?: metadata)?: \(` + dev + `\): (?:Backing device queue dying|(?:Reset zone \d+|Report zones) failed|Invalid checksum)`, "drivers/md/dm-zoned-metadata.c", "the zoned device below failed"},
		{mapper, crit, `^device-mapper: zone: Revalidate zones failed`, "drivers/md/dm-zone.c", "the zoned device below failed"},
		{mapper, crit, `^(?:device-mapper: |k)vdo\d+:\w+: Unrecoverable error, entering read-only mode`, "drivers/md/dm-vdo/vdo.c", "the pool takes no more writes"},
	}
}

func bcachePatterns() []Pattern {
	const (
		mapper = v1alpha1.FaultMapper
		super  = "drivers/md/bcache/super.c"
	)
	return []Pattern{
		{v1alpha1.FaultBlockIO, crit, `^bcache: bch_count_backing_io_errors\(\) ` + dev + `: IO error on backing device, unrecoverable`, "drivers/md/bcache/io.c", "the backing device failed a request"},
		{Expr: `IO error on .*, recovering`, Source: "drivers/md/bcache/io.c bch_count_io_errors", About: "read again from the backing device"},
		{v1alpha1.FaultBlockIO, crit, `^bcache: bch_count_io_errors\(\) ` + dev + `: IO error on `, "drivers/md/bcache/io.c", "the cache device failed a request"},
		{mapper, crit, `^bcache: bch_cache_set_error\(\) (?:bcache: )?error on \S+: ` + dev + `: too many IO errors`, super, "the cache was given up"},
		{mapper, crit, `^bcache: (?:bch_cache_set_error\(\) )?(?:bcache: )?error on `, super, "the cache was given up"},
		{mapper, crit, `^bcache: bch_cache_set_error\(\) , disabling caching`, super, "the cache was given up"},
		{v1alpha1.FaultBlockIO, crit, `^bcache: bch_cached_dev_error\(\) stop \w+: too many IO errors on backing device ` + dev, super, "the backing device was given up"},
		{v1alpha1.FaultDeviceOffline, crit, `^bcache: cached_dev_status_update\(\) ` + dev + `: (?:device offline for|disable I/O request)`, super, "the backing device is gone"},
		{mapper, crit, `^bcache: bch_cached_dev_run\(\) I/O disabled on cached dev ` + dev, super, "the backing device takes no I/O"},
		{mapper, crit, `^bcache: conditional_stop_bcache_device\(\) stop_when_cache_set_failed of ` + dev + ` is .* stop it`, super, "the device is stopped for its failed cache"},
		{v1alpha1.FaultBlockIO, crit, `^bcache: backing_request_endio\(\) Can't flush ` + dev + `: returned bi_status`, "drivers/md/bcache/request.c", "the backing device failed a flush"},
		{mapper, crit, `^bcache: bch_journal_replay\(\) (?:bcache: )?journal entries \S+ missing!`, "drivers/md/bcache/journal.c", "writes are lost"},
	}
}
