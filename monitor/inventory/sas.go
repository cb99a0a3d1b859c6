package inventory

import (
	"path"
	"regexp"
	"slices"
	"strings"
)

var (
	endDeviceRE  = regexp.MustCompile(`^end_device-\d+(:\d+)+$`)
	sasAddressRE = regexp.MustCompile(`^0x[0-9a-f]{16}$`)
)

// sasAddresses are the names by which SAS adapters call the disk, in the path of whose device
// the end device is, …/port-0:3/end_device-0:3/target0:0:3/0:0:3:0. Adapters give the address
// to the disk (drivers/scsi/mpt3sas/mpt3sas_ctl.c sas_address_show, so in mpi3mr, hpsa and
// smartpqi), the transport to the end device (drivers/scsi/scsi_transport_sas.c), and libsas
// prints it without 0x. One that cannot be read is a name less: hpsa and smartpqi answer
// ENODEV for an array of their own.
func (r *reader) sasAddresses(device string) (names []string) {
	files := []string{path.Join(r.dir, "device/sas_address")}
	for _, el := range strings.Split(device, "/") {
		if endDeviceRE.MatchString(el) {
			files = append(files, path.Join("/sys/class/sas_device", el, "sas_address"))
		}
	}
	for _, f := range files {
		v, err := r.host.ReadString(f)
		digits := strings.TrimPrefix(v, "0x")
		if err == nil && sasAddressRE.MatchString(v) && strings.Trim(digits, "0") != "" && !slices.Contains(names, v) {
			names = append(names, v, digits)
		}
	}
	return names
}
