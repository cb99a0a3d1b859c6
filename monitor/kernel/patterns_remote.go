package kernel

import "holdfast.dev/api/v1alpha1"

// remotePatterns are about disks that are reached over a network.
func remotePatterns() []Pattern {
	const remote = v1alpha1.FaultNetwork
	return []Pattern{
		{remote, crit, `^ ?(?P<dev>session\d+): session recovery timed out`, "drivers/scsi/scsi_transport_iscsi.c session_recovery_timedout", "an iSCSI target is given up"},
		{remote, warn, `^ ?(?P<dev>connection\d+:\d+): detected conn error`, "drivers/scsi/scsi_transport_iscsi.c iscsi_conn_error_event", "an iSCSI connection is lost and made anew"},
		{remote, warn, `^ ?(?P<dev>connection\d+:\d+): ping timeout of`, "drivers/scsi/libiscsi.c iscsi_check_transport_timeouts", "an iSCSI target does not answer"},
		{v1alpha1.FaultPath, crit, `^ ?(?P<dev>rport-\d+:\d+-\d+): blocked FC remote port time out: (?:removing target|removing rport and starget|no longer a FCP target)`, "drivers/scsi/scsi_transport_fc.c fc_timeout_deleted_rport", "a port of the fabric is given up, with its disks"},
		{v1alpha1.FaultPath, crit, `^qla2xxx \[(?P<dev>[0-9a-f:.]+)\]-\w+:\d+: FCPort \S+ state transitioned from \w+ to DEAD `, "drivers/scsi/qla2xxx", "a port of the fabric is given up, with its disks"},
		{remote, crit, `^block (?P<dev>nbd\d+): (?:Connection timed out$|Dead connection, failed to find a fallback|(?:Receive|Send) (?:control|data) failed|Other side returned error|` +
			`Attempted send on (?:invalid|closed) socket|Request send failed|Suspicious reply|Possible stuck request|Unexpected reply|Wrong magic)`, "drivers/block/nbd.c", "the server failed a request, or is gone"},
		{remote, crit, `^rbd: (?P<dev>rbd\d+): (?: *(?:read|write|discard|zeroout) .*|\s*)result -\d`, "drivers/block/rbd.c rbd_img_handle_request", "the Ceph cluster failed a request"},
		{remote, crit, `^rbd: (?P<dev>rbd\d+): (?:copyup failed|snap object map update failed|failed to reregister watch|beyond EOD|(?:read|write) \w+ at \w+ \(\w+\))`, "drivers/block/rbd.c", "the Ceph cluster failed a request"},
		{remote, crit, `^libceph: (?:\([^)]*\): )?(?:tid \d+ on (?P<dev>osd\d+) timeout|osdc handle_map corrupt msg|corrupt )`, "net/ceph/osd_client.c", "an OSD does not answer, or answers what makes no sense"},
		{remote, crit, `^ceph: (?:\[[^]]*\]: )?(?:ceph: )?(?:(?P<dev>mds\d+) (?:rejected session|reconnect denied)|error -\d+ preparing reconnect for (?P<dev>mds\d+)|` +
			` ?dropping dirty|async (?:create|unlink) failure)`, "fs/ceph/mds_client.c, file.c", "what was written to CephFS is lost, or the server refuses the client"},
		{remote, crit, `^(?:block |drbd \S+ )(?P<dev>drbd\d+): (?:Local IO failed|IO ERROR: |disk\( ?(?:\w+ -> Failed|Failed -> Diskless) ?\)|Split-Brain detected but unresolved)`, "drivers/block/drbd", "the local disk was given up, or both sides have changed"},
		{v1alpha1.FaultBlockIO, crit, `^block drbd\d+: local (?:READ|WRITE) IO error sector \S+ on ` + dev, "drivers/block/drbd/drbd_worker.c", "the disk below failed a request"},
		{v1alpha1.FaultBlockIO, crit, `^loop: (?:Write|Read) error at byte offset`, "drivers/block/loop.c; names no device", "the file system below failed a request"},
		{v1alpha1.FaultMapper, crit, `^zram: Decompression failed!`, "drivers/block/zram/zram_drv.c", "memory holds what cannot be unpacked"},
	}
}
