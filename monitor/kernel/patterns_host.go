package kernel

import "holdfast.dev/api/v1alpha1"

// controllerPatterns are about adapters, buses and cables: what is connected
// to them may be sound.
func controllerPatterns() []Pattern {
	const (
		hba = v1alpha1.FaultController
		pci = `(?P<dev>[0-9a-f]{4,}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])`
	)
	return []Pattern{
		{v1alpha1.FaultDeviceOffline, crit, `^(?P<dev>mpt[23]sas_cm\d+): removing handle\(0x\w+\), (?:sas_addr|wwid)\((?P<dev>0x\w+)\)`, "drivers/scsi/mpt3sas/mpt3sas_scsih.c _scsih_remove_device", "the adapter has lost a disk"},
		{v1alpha1.FaultDeviceOffline, crit, `^(?P<dev>mpi3mr\d+): .*Removing handle\(0x\w+\), wwid\((?P<dev>0x\w+)\)`, "drivers/scsi/mpi3mr/mpi3mr_os.c", "the adapter has lost a disk"},
		{v1alpha1.FaultDeviceOffline, crit, `^(?P<dev>mpt[23]sas_cm\d+): mpt3sas_transport_port_remove: removed: sas_addr\((?P<dev>0x\w+)\)`, "drivers/scsi/mpt3sas/mpt3sas_transport.c", "the adapter has lost a disk"},
		{v1alpha1.FaultDeviceOffline, crit, `^sd (?P<dev>\d+:\d+:\d+:\d+): device been deleted!`, "drivers/scsi/mpt3sas/mpt3sas_scsih.c", "the adapter has lost the disk"},
		{hba, crit, `^(?P<dev>mpt[23]sas_cm\d+): (?:\w+: )?(?:SAS host is non-operational|fault_state\(0x|diag reset: FAILED|hard reset: failed|FAILED$|` +
			`failed going to ready state|host reset: FAILED|Running mpt3sas_dead_ioc thread|PCI error: detected callback, state\(2\)|NVMe discovery error)`, "drivers/scsi/mpt3sas/mpt3sas_base.c", "the adapter has failed"},
		{hba, crit, `^megaraid_sas ` + pci + `: (?:\d+ \(\S+/(?:CRIT|FATAL|DEAD)\) - |FW in FAULT state|Failed to transition controller to ready|` +
			`Reset (?:not supported|failed), killing adapter|Hardware critical error)`, "drivers/scsi/megaraid/megaraid_sas_base.c", "the adapter, or an array of its own, has failed"},
		{v1alpha1.FaultDeviceOffline, crit, `^smartpqi ` + pci + `: offlined scsi (?P<dev>\d+:\d+:\d+:\d+)`, "drivers/scsi/smartpqi/smartpqi_init.c", "the adapter gave the disk up"},
		{hba, crit, `^smartpqi ` + pci + `: controller (?:is )?offline`, "drivers/scsi/smartpqi/smartpqi_init.c pqi_take_ctrl_offline", "the adapter has failed"},
		{v1alpha1.FaultDeviceOffline, crit, `^hpsa ` + pci + `: scsi (?P<dev>\d+:\d+:\d+:\d+): (?:removed|reset \w+ +failed)`, "drivers/scsi/hpsa.c hpsa_show_dev_msg", "the adapter has lost the disk, or cannot reset it"},
		{hba, crit, `^hpsa ` + pci + `: (?:Controller lockup detected|lockup detected after|Telling controller to do a CHKPT|failed \d+ commands in fail_all|` +
			`CDB \w+ : (?:hardware error|connection lost|protocol error)|error flushing cache)`, "drivers/scsi/hpsa.c", "the adapter has failed"},
		{hba, crit, `^aacraid ` + pci + `: (?:Adapter health - |adapter kernel panic)`, "drivers/scsi/aacraid/commsup.c", "the adapter has failed"},
		{v1alpha1.FaultDeviceOffline, crit, `^sas: error from +device (?P<dev>\w+), LUN \w+ couldn't be recovered in any way`, "drivers/scsi/libsas/sas_scsi_host.c", "error recovery did not bring the device back"},
		{hba, crit, `^scsi (?P<dev>host\d+): uas_eh_device_reset_handler FAILED err `, "drivers/usb/storage/uas.c", "a USB disk does not come back"},
		{v1alpha1.FaultPCIe, warn, `^nvme ` + pci + `: (?:AER: )?(?:PCIe|CXL) Bus Error: severity=Uncorrect(?:ed|able) \((?:Fatal|Non-Fatal)\)`, "drivers/pci/pcie/aer.c aer_print_error", "data on the bus is lost; recovery follows"},
		{v1alpha1.FaultPCIe, warn, `^nvme ` + pci + `: (?:AER: )?(?:PCIe|CXL) Bus Error: severity=Corrected`, "drivers/pci/pcie/aer.c aer_print_error", "the bus has sent again what was lost"},
	}
}

// hungPatterns are about tasks that wait for minutes. Which disk they wait for is
// in the name of few; a name is cut to 15 bytes.
func hungPatterns() []Pattern {
	const (
		long = `:\d+ (?:<\w+> )?blocked (?:in I/O wait )?for more than \d+ seconds`
		src  = "kernel/hung_task.c check_hung_task"
		hung = v1alpha1.FaultHungIO
	)
	return []Pattern{
		{hung, crit, `^INFO: task (?:jbd2/(?P<dev>[^\s:]+?)(?:-\d*)?|xfsaild/` + dev + `|kmmpd-` + dev + `)` + long, src, "the journal or the log is not written"},
		{hung, crit, `^INFO: task (?P<dev>md\w+)_raid\d+` + long, src, "an array waits for a member"},
		{hung, crit, `^INFO: task f2fs_\w+-(?P<dev>\d+:\d+)` + long, src, "the log is not written"},
		{hung, crit, `^INFO: task (?:btrfs-transacti|dmcrypt_write/\d+|txg_sync|usb-storage|(?P<dev>scsi_eh_\d+))` + long, src, "a task of the kernel waits for a disk"},
		{hung, warn, `^INFO: task .+:\d+ (?:<\w+> )?blocked in I/O wait for more than \d+ seconds`, src, "a program waits for I/O"},
	}
}
