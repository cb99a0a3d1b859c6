package inventory

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostfs"
)

// nvme adds to an NVMe disk what its controllers are: their names, where they are, and
// whether they are in this host. Of a disk with native multipath the controllers are in the
// subsystem (drivers/nvme/host/core.c nvme_init_subsystem).
func nvme(host *hostfs.FS, d *Disk) error {
	if !strings.HasPrefix(d.Device, "nvme") {
		return nil
	}
	r := reader{host: host, dir: path.Join(sysBlock, d.Device)}
	device, err := host.Resolve(path.Join(r.dir, "device"))
	if err != nil {
		r.fail(err)
		return r.err
	}
	if nvmeCtrlRE.MatchString(path.Base(device)) {
		r.dir = device
		if d.Remote = overNetwork(r.attr("transport")); !d.Remote {
			d.Names = append(d.Names, pciAddress(device)...)
		}
	} else {
		d.Remote = r.subsystem(d, device)
	}
	if r.err != nil || !d.Remote {
		return r.err
	}
	r.dir = device
	nqn := r.attr("subsysnqn")
	r.dir = path.Join(sysBlock, d.Device)
	nsid := r.attr("nsid")
	if r.err == nil && (nqn == "" || nsid == "") {
		r.err = errors.New("it has no subsysnqn or no nsid")
	}
	if r.err != nil {
		return fmt.Errorf("read NVMe namespace: %w", r.err)
	}
	d.ID, d.Weak, d.Media = diskid.Slug(diskid.NVMeoFPrefix+nqn+"-ns-"+nsid), true, v1alpha1.MediaVirtual
	return nil
}

// subsystem names the controllers of a subsystem. The place of the only one is the disk's.
// remote says that it has controllers, and none in this host.
func (r *reader) subsystem(d *Disk, device string) (remote bool) {
	r.dir = device
	var places []string
	local := false
	for _, c := range r.list("") {
		if !nvmeCtrlRE.MatchString(c) {
			continue
		}
		if !slices.Contains(d.Names, c) {
			d.Names = append(d.Names, c)
		}
		place, err := r.host.Resolve(path.Join(device, c))
		if err != nil {
			r.fail(err)
			continue
		}
		places = append(places, place)
		if !overNetwork(r.attr(path.Join(c, "transport"))) {
			d.Names = append(d.Names, pciAddress(place)...)
			local = true
		}
	}
	if len(places) == 1 && d.Slot == "" {
		d.Slot = strings.TrimPrefix(places[0], "/sys/devices/")
	}
	return len(places) > 0 && !local
}

// overNetwork says whether a controller's transport leads out of the host: tcp, rdma, fc,
// and loop, which is a target of this host's own (drivers/nvme/host/sysfs.c
// nvme_sysfs_show_transport prints the name of nvme_ctrl_ops). Drives are of pcie, and of
// drivers/nvme/host/apple.c.
func overNetwork(transport string) bool {
	return transport != "" && transport != "pcie" && transport != "apple-nvme"
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
