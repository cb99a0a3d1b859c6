package smart

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// commandTimeout is what the kernel gives one command. After it the kernel
// resets the disk's link, which costs the disk's users more than the health is
// worth: it is as long as the kernel's own for reads and writes.
const commandTimeout = 30 * time.Second

// File is a Device on a device file. It needs CAP_SYS_RAWIO (ATA, SCSI) or
// CAP_SYS_ADMIN (NVMe).
type File struct {
	f    *os.File
	nvme bool
}

// Open opens a device file, such as /dev/sda, /dev/nvme0 or /dev/nvme0n1. It
// does not read the medium, and does not wait for it.
func Open(device string) (*File, error) {
	f, err := os.OpenFile(device, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return NewFile(f)
}

// NewFile makes a Device of an open device file, and closes it when it is none.
func NewFile(f *os.File) (*File, error) {
	info, err := f.Stat()
	if err == nil && info.Mode()&os.ModeDevice == 0 {
		err = fmt.Errorf("%s is no device", f.Name())
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return &File{f: f, nvme: strings.HasPrefix(filepath.Base(f.Name()), "nvme")}, nil
}

// Close closes the device file.
func (d *File) Close() error { return d.f.Close() }

// NVMe implements Device.
func (d *File) NVMe() bool { return d.nvme }

// nvmeAdmin is struct nvme_passthru_cmd of include/uapi/linux/nvme_ioctl.h.
type nvmeAdmin struct {
	opcode, flags          uint8
	_                      uint16
	nsid, cdw2, cdw3       uint32
	metadata               uint64
	addr                   unsafe.Pointer // 64 bits on every machine that this builds for
	metadataLen, dataLen   uint32
	cdw10, cdw11, cdw12    uint32
	cdw13, cdw14, cdw15    uint32
	timeoutMillis, result0 uint32
}

const (
	nvmeIoctlID    = 0x4e40     // _IO('N', 0x40)
	nvmeIoctlAdmin = 0xc0484e41 // _IOWR('N', 0x41, struct nvme_passthru_cmd)
)

// Namespace implements Namespaced. A controller's own device file, /dev/nvme0, knows no
// NVME_IOCTL_ID (drivers/nvme/host/ioctl.c, nvme_ns_ioctl and nvme_dev_ioctl).
func (d *File) Namespace() (uint32, error) {
	id, err := d.ioctl(nvmeIoctlID, nil)
	return uint32(id), err
}

// Admin implements Device.
func (d *File) Admin(c AdminCommand, data []byte) error {
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&data[0])
	cmd := nvmeAdmin{
		opcode: c.Opcode, nsid: c.NSID, cdw10: c.CDW10, cdw11: c.CDW11,
		addr: unsafe.Pointer(&data[0]), dataLen: uint32(len(data)), timeoutMillis: uint32(commandTimeout / time.Millisecond),
	}
	status, err := d.ioctl(nvmeIoctlAdmin, unsafe.Pointer(&cmd))
	if err != nil {
		return err
	}
	return adminStatus(status)
}

// adminStatus is what NVME_IOCTL_ADMIN_CMD returns: a positive number is the
// disk's refusal, and then the data says nothing (drivers/nvme/host/ioctl.c).
func adminStatus(result int) error {
	if result == 0 {
		return nil
	}
	return StatusError{Type: uint8(result>>8) & 7, Code: uint8(result)}
}

// sgIO is struct sg_io_hdr of include/scsi/sg.h.
type sgIO struct {
	interfaceID, direction   int32
	cmdLen, maxSense         uint8
	iovecs                   uint16
	dataLen                  uint32
	data, cmd, sense         unsafe.Pointer
	timeoutMillis, flags     uint32
	packID                   int32
	user                     unsafe.Pointer
	status, masked, message  uint8
	senseLen                 uint8
	hostStatus, driverStatus uint16
	residual                 int32
	durationMillis, info     uint32
}

const (
	sgIoctl      = 0x2285 // SG_IO
	sgNoData     = -1
	sgFromDevice = -3

	statusCheckCondition = 0x02
	driverSense          = 0x08
)

// SCSI implements Device.
func (d *File) SCSI(cdb, data []byte) (int, Sense, error) {
	sense := make([]byte, 64)
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(&cdb[0])
	pin.Pin(&sense[0])
	io := sgIO{
		interfaceID: 'S', direction: sgNoData, cmdLen: uint8(len(cdb)), maxSense: uint8(len(sense)),
		cmd: unsafe.Pointer(&cdb[0]), sense: unsafe.Pointer(&sense[0]), timeoutMillis: uint32(commandTimeout / time.Millisecond),
	}
	if len(data) > 0 {
		pin.Pin(&data[0])
		io.direction, io.dataLen, io.data = sgFromDevice, uint32(len(data)), unsafe.Pointer(&data[0])
	}
	if _, err := d.ioctl(sgIoctl, unsafe.Pointer(&io)); err != nil {
		return 0, nil, err
	}
	if io.hostStatus != 0 || io.driverStatus&^driverSense != 0 {
		return 0, nil, fmt.Errorf("the command did not reach the disk or had no answer: host status 0x%02x, driver status 0x%02x", io.hostStatus, io.driverStatus)
	}
	s := Sense(sense[:io.senseLen])
	n := len(data) - int(max(0, min(io.residual, int32(len(data)))))
	switch key, asc, ascq := s.Codes(); {
	case io.status == 0, io.status == statusCheckCondition && len(s) > 0 && (key == keyNone || key == keyRecovered):
		return n, s, nil
	default:
		return 0, s, SenseError{Status: io.status, Key: key, ASC: asc, ASCQ: ascq}
	}
}

func (d *File) ioctl(request uintptr, arg unsafe.Pointer) (int, error) {
	conn, err := d.f.SyscallConn()
	if err != nil {
		return 0, err
	}
	var result uintptr
	var errno syscall.Errno
	if err := conn.Control(func(fd uintptr) {
		result, _, errno = unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg))
	}); err != nil {
		return 0, err
	}
	switch {
	case errors.Is(errno, unix.ENOTTY), errors.Is(errno, unix.EINVAL):
		return 0, fmt.Errorf("%w: %w", ErrUnsupported, errno)
	case errno != 0:
		return 0, errno
	}
	return int(result), nil
}
