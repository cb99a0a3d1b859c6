package inventory

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"strings"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostfs"
)

// Remote says whether a disk of a status is reached over a network. Such disks have weak
// ids, of where they are: an iSCSI disk of target and LUN, an NVMe namespace of subsystem
// and number, an RBD image of pool, namespace and image. What is wrong with one is the
// network's or the server's affair, and fails no disk of the host.
func Remote(d *v1alpha1.Disk) bool { return d.Weak && diskid.Networked(d.ID) }

var (
	sessionRE = regexp.MustCompile(`^session\d+$`)
	rbdRE     = regexp.MustCompile(`^rbd(\d+)$`)
)

// iscsi makes a disk that is reached by iSCSI one of its target and LUN. The session
// is in the path of the device, …/host3/session1/target3:0:0/3:0:0:0
// (drivers/scsi/scsi_transport_iscsi.c). Messages of the session and of its
// connections are of each of its disks.
func iscsi(host *hostfs.FS, d *Disk) error {
	place, err := host.Resolve(path.Join(sysBlock, d.Device, "device"))
	if err != nil {
		return nil // a device without one is not of SCSI
	}
	session := ""
	for _, el := range strings.Split(place, "/") {
		if sessionRE.MatchString(el) {
			session = el
		}
	}
	if session == "" {
		return nil
	}
	dir := path.Join("/sys/class/iscsi_session", session)
	target, err := diskid.Attr(host, path.Join(dir, "targetname"))
	if err == nil && target == "" {
		err = errors.New("it has no targetname")
	}
	if err != nil {
		return fmt.Errorf("read iSCSI %s of disk %s: %w", session, d.Device, err)
	}
	lun := place[strings.LastIndexByte(place, ':')+1:]
	d.ID, d.Weak, d.Remote, d.Media = diskid.Slug(diskid.ISCSIPrefix+target+"-lun-"+lun), true, true, v1alpha1.MediaVirtual
	// The connections of session 1 are connection1:0 and so on (iscsi_create_conn).
	d.Names = append(d.Names, session, "connection"+strings.TrimPrefix(session, "session")+":0")
	return nil
}

// rbd is the disk that an RBD image is (Documentation/ABI/testing/sysfs-bus-rbd); ok is
// false for what is no RBD device.
func rbd(host *hostfs.FS, dev string) (d Disk, ok bool, err error) {
	m := rbdRE.FindStringSubmatch(dev)
	if m == nil {
		return d, false, nil
	}
	r := reader{host: host, dir: path.Join("/sys/bus/rbd/devices", m[1])}
	pool, space, image, snap := r.attr("pool"), r.attr("pool_ns"), r.attr("name"), r.attr("current_snap")
	r.dir = path.Join(sysBlock, dev)
	d = Disk{Weak: true, Remote: true, Device: dev, Media: v1alpha1.MediaVirtual, Size: r.number("size") * 512, RO: r.attr("ro") == "1", Names: r.names(dev)}
	d.Answered, d.Waiting = r.traffic(dev)
	if r.err == nil && (pool == "" || image == "") {
		r.err = errors.New("it has no pool or no name")
	}
	if r.err != nil {
		return d, true, fmt.Errorf("read RBD device %s: %w", dev, r.err)
	}
	parts := []string{pool}
	if space != "" {
		parts = append(parts, space)
	}
	parts = append(parts, image)
	d.Slot = strings.Join(parts, "/")
	if snap != "" && snap != "-" { // "-" is the image itself
		d.Slot += "@" + snap
	}
	d.ID = diskid.Slug(diskid.RBDPrefix + d.Slot)
	return d, true, nil
}
