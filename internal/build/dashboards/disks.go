package dashboards

// Disks are the dashboards of the addon disk-monitor: from all clusters down to
// one disk.
func Disks() []Dashboard {
	const (
		m       = "holdfast_disk_monitor_"
		state   = m + "disk_state"
		cluster = `cluster=~"$cluster"`
		node    = `cluster=~"$cluster", node=~"$node"`
		disk    = `cluster=~"$cluster", node=~"$node", disk=~"$disk"`
	)
	return []Dashboard{
		{
			UID: "holdfast-disks-fleet", Title: "Holdfast: disks of the fleet", About: "Which disks are bad, where, and who is blind",
			Of: state, Variables: []string{"cluster"},
			Panels: []Panel{
				{Stat, "Failed", "Reads or writes fail, or the disk says that it will", "", 4, []Query{{`sum(` + state + `{` + cluster + `, state="Failed"})`, ""}}},
				{Stat, "Missing", "Must be there, and are not", "", 4, []Query{{`sum(` + state + `{` + cluster + `, state="Missing"})`, ""}}},
				{Stat, "Degraded", "Work with warnings", "", 4, []Query{{`sum(` + state + `{` + cluster + `, state="Degraded"})`, ""}}},
				{Stat, "Unknown", "Could not be looked at, or do not answer", "", 4, []Query{{`sum(` + state + `{` + cluster + `, state="Unknown"})`, ""}}},
				{Stat, "Nodes without a monitor", "Nobody watches their disks", "", 4, []Query{{`count(up{` + cluster + `, job="disk-monitor"} == 0)`, ""}}},
				{Stat, "Nodes with too few disks", "Fewer than their flavor says", "", 4, []Query{{`sum(` + m + `condition{` + cluster + `, type="FlavorSatisfied", status="false"})`, ""}}},
				{Table, "Bad disks", "The evidence and the volumes: holdfast disks show DISK", "", 24, []Query{{`(` + state + `{` + cluster + `, state=~"Failed|Missing|Degraded"} == 1) * on (cluster, node, disk) group_left (device, slot) ` + m + `disk_info{` + cluster + `}`, ""}}},
				{Series, "Disks by state", "Without the healthy ones", "", 12, []Query{{`sum by (cluster, state) (` + state + `{` + cluster + `, state!="Healthy"})`, "{{cluster}} {{state}}"}}},
				{Series, "Fault records that count", "A lower bound: the kernel limits their rate", "", 12, []Query{{`sum by (class) (` + m + `faults_total{` + cluster + `})`, "{{class}}"}}},
				{Table, "Most worn", "The vendor's estimate of the endurance used up", "percentunit", 12, []Query{{`topk(20, ` + m + `smart_endurance_used_ratio{` + cluster + `})`, ""}}},
				{Table, "Hottest", "", "celsius", 12, []Query{{`topk(20, ` + m + `smart_temperature_celsius{` + cluster + `})`, ""}}},
			},
		},
		{
			UID: "holdfast-disks-node", Title: "Holdfast: disks of a node", About: "Every disk of a node, and whether its monitor sees all",
			Of: state, Variables: []string{"cluster", "node"},
			Panels: []Panel{
				{Table, "Disks", "", "", 24, []Query{{m + `disk_info{` + node + `}`, ""}}},
				{States, "State of each disk", "1 while the disk is in the state", "", 24, []Query{{state + `{` + node + `, state!="Healthy"}`, "{{node}} {{disk}} {{state}}"}}},
				{Series, "Temperature", "", "celsius", 12, []Query{{m + `smart_temperature_celsius{` + node + `}`, "{{node}} {{disk}}"}}},
				{Series, "Fault records that count", "A lower bound: the kernel limits their rate", "", 12, []Query{{m + `faults_total{` + node + `}`, "{{node}} {{disk}} {{class}}"}}},
				{States, "What the monitor sees", "1 while the condition is True", "", 12, []Query{{m + `condition{` + node + `, status="true"}`, "{{node}} {{type}}"}}},
				{Series, "Age of SMART data", "Since each disk last told its health", "s", 12, []Query{{`time() - ` + m + `smart_last_answer_timestamp_seconds{` + node + `}`, "{{node}} {{disk}}"}}},
				{Series, "Look at the disks", "How long the last one took", "s", 8, []Query{{m + `inventory_scan_duration_seconds{` + node + `}`, "{{node}}"}}},
				{Series, "Kernel log", "Records read; those lost were overwritten before", "", 8, []Query{
					{`rate(` + m + `kernel_log_records_total{` + node + `}[5m])`, "{{node}} read"}, {`increase(` + m + `kernel_log_lost_records_total{` + node + `}[5m])`, "{{node}} lost"}}},
				{Series, "Faults of no disk", "Records that name a device which is no disk of the node", "", 8, []Query{{`increase(` + m + `kernel_log_unattributed_total{` + node + `}[5m])`, "{{node}} {{class}}"}}},
			},
		},
		{
			UID: "holdfast-disk", Title: "Holdfast: a disk", About: "What one disk says of itself, and what the kernel says of it",
			Of: state, Variables: []string{"cluster", "node", "disk"},
			Panels: []Panel{
				{Table, "Disk", "", "", 24, []Query{{m + `disk_info{` + disk + `}`, ""}}},
				{States, "State", "1 while the disk is in the state", "", 12, []Query{{state + `{` + disk + `}`, "{{state}}"}}},
				{Series, "Fault records that count", "", "", 12, []Query{{m + `faults_total{` + disk + `}`, "{{class}}"}, {m + `smart_findings{` + disk + `}`, "SMART thresholds"}}},
				{Stat, "Does not answer", "1 when it did not when it was last asked", "", 4, []Query{{`1 - ` + m + `smart_answers{` + disk + `}`, ""}}},
				{Stat, "Predicts its failure", "", "", 4, []Query{{m + `smart_failing{` + disk + `}`, ""}}},
				{Series, "Powered on", "", "s", 4, []Query{{m + `smart_power_on_seconds_total{` + disk + `}`, "{{disk}}"}}},
				{Series, "Temperature", "", "celsius", 6, []Query{{m + `smart_temperature_celsius{` + disk + `}`, "{{disk}}"}}},
				{Series, "Endurance used, spare left", "NVMe warns when the spare falls to its threshold", "percentunit", 6, []Query{
					{m + `smart_endurance_used_ratio{` + disk + `}`, "used"}, {m + `smart_nvme_available_spare_ratio{` + disk + `}`, "spare"}, {m + `smart_nvme_spare_threshold_ratio{` + disk + `}`, "threshold"}}},
				{States, "NVMe critical warning", "", "", 12, []Query{{m + `smart_nvme_critical_warning{` + disk + `}`, "{{reason}}"}}},
				{Series, "Errors that the disk counts", "", "", 12, []Query{
					{m + `smart_nvme_media_errors_total{` + disk + `}`, "media errors"}, {m + `smart_ata_errors_total{` + disk + `}`, "ATA errors"},
					{m + `smart_scsi_uncorrected_errors_total{` + disk + `}`, "uncorrected, {{operation}}"}, {m + `smart_scsi_scan_errors{` + disk + `}`, "found by scans"}, {m + `smart_failed_self_tests{` + disk + `}`, "failed self-tests"}}},
				{Table, "ATA attributes", "What counts of the raw value", "none", 12, []Query{{m + `smart_ata_attribute{` + disk + `}`, ""}}},
				{Table, "Margin of ATA attributes", "Value less threshold: 0 or less has failed", "none", 12, []Query{{m + `smart_ata_attribute_margin{` + disk + `}`, ""}}},
				{Series, "Written and read", "", "Bps", 12, []Query{{`rate(` + m + `smart_nvme_written_bytes_total{` + disk + `}[30m])`, "written"}, {`rate(` + m + `smart_nvme_read_bytes_total{` + disk + `}[30m])`, "read"}}},
				{Series, "Power", "", "", 12, []Query{{m + `smart_power_cycles_total{` + disk + `}`, "cycles"}, {m + `smart_nvme_unsafe_shutdowns_total{` + disk + `}`, "unsafe shutdowns"}}},
			},
		},
	}
}
