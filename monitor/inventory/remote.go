package inventory

import (
	"path"
	"strings"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostfs"
)

// remote adds what is known of a disk that is reached over a network, whose medium is nobody's affair here:
// which image it is, or the names of its iSCSI session. Messages of the session and of its connections are
// of each of its disks; those of session 1 are connection1:0 and so on (drivers/scsi/scsi_transport_iscsi.c iscsi_create_conn).
func remote(host *hostfs.FS, d *Disk) error {
	if !diskid.Networked(d.ID, d.Weak) {
		return nil
	}
	d.Media = v1alpha1.MediaVirtual
	image, err := diskid.Image(host, d.Device)
	if err != nil {
		return err
	}
	if image != "" {
		d.Slot = image
		return nil
	}
	device, err := host.Resolve(path.Join(sysBlock, d.Device, "device"))
	if err != nil {
		return err
	}
	if session := diskid.Session(device); session != "" {
		d.Names = append(d.Names, session, "connection"+strings.TrimPrefix(session, "session")+":0")
	}
	return nil
}
