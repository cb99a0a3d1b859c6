package inventory

import (
	"path"
	"slices"
	"strings"

	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostfs"
)

// nvme adds to an NVMe disk the names of its controllers, and where those are that are in
// this host. Of a disk with native multipath the controllers are in the subsystem; the place of the only
// one is the disk's.
func nvme(host *hostfs.FS, d *Disk) error {
	if !strings.HasPrefix(d.Device, "nvme") {
		return nil
	}
	device, err := host.Resolve(path.Join(sysBlock, d.Device, "device"))
	if err != nil {
		return err
	}
	controllers, err := diskid.Controllers(host, device)
	if err != nil {
		return err
	}
	for _, c := range controllers {
		if !slices.Contains(d.Names, c.Name) {
			d.Names = append(d.Names, c.Name)
		}
		if !c.Remote() {
			d.Names = append(d.Names, pciAddress(c.Place)...)
		}
	}
	if len(controllers) == 1 && controllers[0].Place != device && d.Slot == "" {
		d.Slot = strings.TrimPrefix(controllers[0].Place, "/sys/devices/")
	}
	return nil
}

// pciAddress is the address of the PCI function that a place of sysfs lies in, or nothing.
func pciAddress(place string) []string {
	all := strings.Split(place, "/")
	for _, el := range slices.Backward(all) {
		if pciRE.MatchString(el) {
			return []string{el}
		}
	}
	return nil
}
