#!/bin/sh
# Records anew what others say of the pages here, or of those in the directory that is named:
# skdump (libatasmart-bin) and smartctl (smartmontools) of ata/, sg_inq, sg_vpd and sg_logs
# (sg3-utils) of scsi/. smartctl reads drives alone, and its own report of what a drive has
# answered (-r ataioctl,2) on standard input: a dump is written out as such a report.
set -eu
cd "${1:-$(dirname "$0")}"

for disk in scsi/*/; do
	for tool in inquiry:"sg_inq" vpd:"sg_vpd --all" logs:"sg_logs"; do
		from=$disk${tool%%:*}
		[ ! -e "$from.hex" ] || ${tool#*:} --inhex="$from.hex" | sed 's/ *$//' >"$from.txt"
	done
done

cd ata

page() { # name, file, offset
	echo "REPORT-IOCTL: Device=- Command=$1"
	echo "REPORT-IOCTL: Device=- Command=$1 returned 0"
	echo "===== [$1] DATA START (BASE-16) ====="
	xxd -s "$3" -l 512 -c 16 -g 1 "$2" | awk '{ printf "%03d-%03d:", 16*(NR-1), 16*NR-1; for (i = 2; i <= 17; i++) printf " %s", $i; print " |................|" }'
	echo "===== [$1] DATA END (512 Bytes) ====="
}

for dump in *.bin; do
	name=${dump%.bin}
	{ # the size: a chunk is its name, its length (4 bytes) and its data
		page "IDENTIFY DEVICE" "$dump" 8
		data=528
		if [ "$(xxd -s 520 -l 4 -p "$dump")" = 534d5354 ]; then # SMST
			failing=$((1 - 0x$(xxd -s 528 -l 4 -p "$dump")))
			data=540
		fi
		page "SMART READ ATTRIBUTE VALUES" "$dump" $data
		page "SMART READ ATTRIBUTE THRESHOLDS" "$dump" $((data + 520))
		if [ $data = 540 ]; then
			echo "REPORT-IOCTL: Device=- Command=SMART STATUS CHECK"
			echo "REPORT-IOCTL: Device=- Command=SMART STATUS CHECK returned $failing"
		fi
	} | smartctl --json=c --info --health --attributes - | jq -c '{json_format_version, smartctl: (.smartctl | {version, drive_database_version, exit_status, messages}),
		device, model_name, serial_number, firmware_version, user_capacity, rotation_rate, smart_support, smart_status, temperature, power_on_time, power_cycle_count,
		ata_smart_attributes: {table: [.ata_smart_attributes.table[] | {id, value, worst, thresh, flags: {prefailure: .flags.prefailure}, raw}]}} | del(.. | nulls)' >"$name.smartctl.json"
	{
		skdump --load="$dump" | sed 's/\x1b\[[0-9;]*m//g' | grep -E '^(Model|Serial|Firmware|Quirks|ID#| *[0-9]+ )'
		for field in status power-on power-cycle temperature; do
			echo "$field: $(skdump --load="$dump" --$field 2>&1 || true)"
		done
	} >"$name.skdump"
done
