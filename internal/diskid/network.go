package diskid

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"holdfast.dev/internal/hostfs"
)

// Identity is what a disk is called, and how it is reached.
type Identity struct {
	// ID is the disk's id; Weak says that it names a place and not a drive.
	ID   string
	Weak bool
	// Network says how a disk is reached over a network, such as "iSCSI" or "NVMe over tcp". It is
	// empty for a disk of the host. Such a disk may be other hosts' as well.
	Network string
	// Told is the id that the disk would have as one of the host, of one whose ID names where
	// in the network it is; empty for any other.
	Told string
}

var (
	sessionRE = regexp.MustCompile(`^session\d+$`)
	rportRE   = regexp.MustCompile(`^rport-\d+:\d+-\d+$`)
	rbdRE     = regexp.MustCompile(`^rbd(\d+)$`)
	ctrlRE    = regexp.MustCompile(`^nvme\d+$`)
	subsysRE  = regexp.MustCompile(`^nvme-subsys\d+$`)
)

// clients are the prefixes of names of disks that a client of a network or a program makes:
// ATA over Ethernet (drivers/block/aoe/aoeblk.c; sysfs writes '!' for '/'), rnbd (drivers/block/rnbd/rnbd-clt.c),
// ublk (drivers/block/ublk_drv.c). They have the ids of places that they had when they were prepared
// as disks of the host, so that what is on them is not missing.
var clients = map[string]string{"etherd!e": "ATA over Ethernet", "rnbd": "RNBD", "ublkb": "ublk"}

// network is how the disk dev of the host's list is reached over a network, and the id of where it is.
// Both are empty for a disk of the host, the id alone for a disk of Fibre Channel, which is named as a
// drive, since the paths of a multipath device are found by that, and for those of clients.
func network(f *hostfs.FS, dev, dir string) (how, id string, err error) {
	for prefix, how := range clients {
		if numbered(dev, prefix) {
			return how, "", nil
		}
	}
	device, err := f.Resolve(path.Join(dir, "device"))
	if errors.Is(err, fs.ErrNotExist) {
		return "", "", nil
	}
	if err != nil {
		return "", "", err
	}
	if strings.HasPrefix(dev, "nvme") {
		return fabric(f, dev, dir, device)
	}
	if session := Session(device); session != "" {
		id, err := iscsi(f, session, device)
		return "iSCSI", id, err
	}
	// A remote port lies in the path of its disks, …/host3/rport-3:0-1/target3:0:0/3:0:0:0
	// (drivers/scsi/scsi_transport_fc.c fc_remote_port_create).
	if slices.ContainsFunc(strings.Split(device, "/"), rportRE.MatchString) {
		return "Fibre Channel", "", nil
	}
	return "", "", nil
}

// Session is the iSCSI session in the path of a disk's device, or empty,
// …/host3/session1/target3:0:0/3:0:0:0 (drivers/scsi/scsi_transport_iscsi.c iscsi_add_session).
func Session(device string) string {
	for el := range strings.SplitSeq(device, "/") {
		if sessionRE.MatchString(el) {
			return el
		}
	}
	return ""
}

// iscsi is the id of target and LUN.
func iscsi(f *hostfs.FS, session, device string) (string, error) {
	target, err := Attr(f, path.Join("/sys/class/iscsi_session", session, "targetname"))
	if err == nil && target == "" {
		err = errors.New("it has no targetname")
	}
	if err != nil {
		return "", fmt.Errorf("read iSCSI %s: %w", session, err)
	}
	return Slug(iscsiPrefix + target + "-lun-" + device[strings.LastIndexByte(device, ':')+1:]), nil
}

// fabric is the id of subsystem and namespace, of one that no controller of this host leads to.
func fabric(f *hostfs.FS, dev, dir, device string) (how, id string, err error) {
	controllers, err := Controllers(f, device)
	if err != nil {
		return "", "", err
	}
	for _, c := range controllers {
		if !c.Remote() {
			return "", "", nil
		}
		how = "NVMe over " + c.Transport
	}
	if len(controllers) == 0 && !subsysRE.MatchString(path.Base(device)) {
		return "", "", nil // a device of another kind, such as a recorded one
	}
	nqn, err := Attr(f, path.Join(device, "subsysnqn"))
	nsid, e := Attr(f, path.Join(dir, "nsid"))
	if err = errors.Join(err, e); err == nil && (nqn == "" || nsid == "") {
		err = errors.New("it has no subsysnqn or no nsid")
	}
	if err != nil {
		return "", "", fmt.Errorf("read NVMe namespace: %w", err)
	}
	id = Slug(nvmeofPrefix + nqn + "-ns-" + nsid)
	if len(controllers) == 0 {
		return "", "", &UnplacedError{Device: dev, Subsystem: path.Base(device), Remote: id}
	}
	return how, id, nil
}

// UnplacedError is of an NVMe disk whose last controller has gone: whether it is in this host or in a network is not
// known. Its names are. Such a disk stays for as long as it is in use, such as one that was pulled
// while it was mounted, up to about Linux 5.14 (drivers/nvme/host/core.c nvme_free_ns_head), or for delayed_removal_secs.
type UnplacedError struct {
	Device, Subsystem string
	// ID is the disk's id if it is one of the host, with Weak as of Identity; Remote if it is one of a network.
	ID     string
	Weak   bool
	Remote string
}

func (e *UnplacedError) Error() string {
	return fmt.Sprintf("NVMe subsystem %s has no controller now: whether %s (%s) is in this host or in a network is not known", e.Subsystem, e.Device, e.ID)
}

// Controller is a controller of an NVMe disk.
type Controller struct {
	Name      string // nvme0
	Place     string // its directory in sysfs
	Transport string // empty when the kernel does not say
}

// Remote says whether a controller's transport leads out of the host: tcp, rdma, fc,
// and loop, which is a target of this host's own (drivers/nvme/host/sysfs.c
// nvme_sysfs_show_transport prints the name of nvme_ctrl_ops). Drives are of pcie, and of
// drivers/nvme/host/apple.c.
func (c Controller) Remote() bool {
	return c.Transport != "" && c.Transport != "pcie" && c.Transport != "apple-nvme"
}

// Controllers are those of an NVMe disk whose device in sysfs is the directory: the one that it is,
// or those of the subsystem (drivers/nvme/host/core.c nvme_init_subsystem links them there, nvme_free_ctrl
// takes the link away). A subsystem whose disk outlives its last controller has none, such as with
// delayed_removal_secs (drivers/nvme/host/multipath.c).
func Controllers(f *hostfs.FS, device string) ([]Controller, error) {
	names, dir := []string{path.Base(device)}, path.Dir(device)
	if !ctrlRE.MatchString(names[0]) {
		var err error
		if names, err = f.ReadDir(device); err != nil {
			return nil, err
		}
		dir = device
	}
	var all []Controller
	for _, name := range names {
		if !ctrlRE.MatchString(name) {
			continue
		}
		place, err := f.Resolve(path.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // it went meanwhile
		}
		if err != nil {
			return nil, err
		}
		transport, err := Attr(f, path.Join(place, "transport"))
		if err != nil {
			return nil, err
		}
		all = append(all, Controller{name, place, transport})
	}
	return all, nil
}

// Image is what an RBD device shows: pool, namespace, image and snapshot (Documentation/ABI/testing/sysfs-bus-rbd).
// It is empty for what is no RBD device.
func Image(f *hostfs.FS, dev string) (string, error) {
	m := rbdRE.FindStringSubmatch(dev)
	if m == nil {
		return "", nil
	}
	var of [4]string
	for i, name := range []string{"pool", "pool_ns", "name", "current_snap"} {
		var err error
		if of[i], err = Attr(f, path.Join("/sys/bus/rbd/devices", m[1], name)); err != nil {
			return "", fmt.Errorf("read RBD device: %w", err)
		}
	}
	if of[0] == "" || of[2] == "" {
		return "", errors.New("read RBD device: it has no pool or no name")
	}
	image := strings.Join(slices.DeleteFunc([]string{of[0], of[1], of[2]}, func(s string) bool { return s == "" }), "/")
	if of[3] != "" && of[3] != "-" { // "-" is the image itself
		image += "@" + of[3]
	}
	return image, nil
}
