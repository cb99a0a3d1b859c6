package disk

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// firstLoop is where this package's loop devices are numbered from. Their
// numbers are random: a device name that was never used before is in no old
// line of the kernel log, so that nobody takes an earlier disk's fault for
// this one's.
const (
	firstLoop = 4096
	endLoop   = 1 << 18 // 20 bits of minor number, less those of partitions
)

// configureLoop makes a loop device and binds image to it.
func configureLoop(ctx context.Context, image string) (*loopDisk, error) {
	file, err := os.OpenFile(image, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // the kernel holds its own reference
	control, err := openLoopControl()
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }() // holds nothing
	for tries := 0; ; tries++ {
		d, err := tryLoop(control, file, firstLoop+rand.IntN(endLoop-firstLoop))
		if err == nil {
			return d, nil
		}
		// Taken by another node, or swept by one before it was opened.
		taken := errors.Is(err, unix.EEXIST) || errors.Is(err, unix.EBUSY) || errors.Is(err, unix.ENXIO) || errors.Is(err, os.ErrNotExist)
		if !taken || tries == 100 {
			return nil, err
		}
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

func openLoopControl() (*os.File, error) {
	f, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("loop disks need /dev/loop-control, or run with --simulate: %w", err)
	}
	return f, nil
}

func tryLoop(control, image *os.File, n int) (_ *loopDisk, err error) {
	if err := unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_ADD, n); err != nil {
		return nil, fmt.Errorf("make loop device %d: %w", n, err)
	}
	d := &loopDisk{number: n, name: fmt.Sprintf("loop%d", n), part: fmt.Sprintf("loop%dp1", n)}
	if d.dev, err = deviceNumber(filepath.Join("/sys/block", d.name, "dev")); err != nil {
		return nil, err
	}
	node := "/dev/" + d.name
	if _, err := os.Stat(node); errors.Is(err, os.ErrNotExist) { // there is no devtmpfs
		if err := unix.Mknod(node, unix.S_IFBLK|0o660, int(d.dev)); err != nil && !errors.Is(err, unix.EEXIST) { // fits, unix.Mkdev
			return nil, fmt.Errorf("make %s: %w", node, err)
		}
	}
	if d.whole, err = os.OpenFile(node, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	// With PARTSCAN the kernel drops the partitions itself when it clears the device.
	config := &unix.LoopConfig{Fd: uint32(image.Fd()), Size: sectorSize}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_PARTSCAN
	copy(config.Info.File_name[:len(config.Info.File_name)-1], image.Name())
	if err := unix.IoctlLoopConfigure(int(d.whole.Fd()), config); err != nil {
		return nil, errors.Join(fmt.Errorf("configure %s: %w", d.name, err), d.whole.Close())
	}
	return d, nil
}

// deviceNumber reads a sysfs attribute such as 259:3.
func deviceNumber(name string) (uint64, error) {
	data, err := os.ReadFile(name)
	if err != nil {
		return 0, err
	}
	major, minor, _ := strings.Cut(strings.TrimSpace(string(data)), ":")
	ma, err1 := strconv.ParseUint(major, 10, 32)
	mi, err2 := strconv.ParseUint(minor, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return 0, fmt.Errorf("read device number in %s: %w", name, err)
	}
	return unix.Mkdev(uint32(ma), uint32(mi)), nil
}

// blkpgPartition is struct blkpg_partition of linux/blkpg.h.
type blkpgPartition struct {
	Start, Length int64 // bytes
	Number        int32
	_             [128]byte // device and volume name, unused by the kernel
}

// addPartition tells the kernel about partition 1, for kernels without a GPT
// parser. EBUSY means that the kernel found it by itself.
func (d *loopDisk) addPartition(size int64) error {
	p := blkpgPartition{Start: partitionStart * sectorSize, Length: int64(partitionSectors(size)) * sectorSize, Number: 1}
	arg := unix.BlkpgIoctlArg{Op: unix.BLKPG_ADD_PARTITION, Datalen: int32(unsafe.Sizeof(p)), Data: (*byte)(unsafe.Pointer(&p))}
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, d.whole.Fd(), unix.BLKPG, uintptr(unsafe.Pointer(&arg)))
	if errno != 0 && errno != unix.EBUSY {
		return fmt.Errorf("add partition 1 of %s: %w", d.name, errno)
	}
	var err error
	if d.partDev, err = deviceNumber(filepath.Join("/sys/block", d.name, d.part, "dev")); err != nil {
		return fmt.Errorf("find partition 1 of %s: %w", d.name, err)
	}
	return nil
}
