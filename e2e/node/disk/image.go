package disk

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/diskfs/go-diskfs/partition/gpt"
	"golang.org/x/sys/unix"
)

const (
	sectorSize = 512
	// partitionStart is where every disk's only partition begins: 1 MiB, as fdisk and parted align it.
	partitionStart = 2048
	// minSize leaves room for both partition tables and an ext4 file system.
	minSize = 16 << 20
)

// partitionSectors is the length of the partition on a disk of size bytes: up
// to the last whole MiB before the backup table.
func partitionSectors(size int64) uint64 {
	const mib = 1 << 20 / sectorSize
	last := uint64(size)/sectorSize - 34
	return (last - partitionStart) / mib * mib
}

// createImage makes a sparse disk image with one GPT partition.
func createImage(name string, size int64, partitionUUID string) (err error) {
	if size < minSize || size%sectorSize != 0 {
		return fmt.Errorf("disk size %d is below %d or no multiple of %d bytes", size, minSize, sectorSize)
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(name))
		}
	}()
	if err := f.Truncate(size); err != nil {
		return err
	}
	n := partitionSectors(size)
	table := &gpt.Table{
		LogicalSectorSize: sectorSize, PhysicalSectorSize: sectorSize, ProtectiveMBR: true, GUID: newPartitionUUID(),
		Partitions: []*gpt.Partition{{
			Index: 1, Start: partitionStart, End: partitionStart + n - 1, Size: n * sectorSize,
			Type: gpt.LinuxFilesystem, Name: "holdfast", GUID: partitionUUID,
		}},
	}
	if err := table.Write(f, size); err != nil {
		return fmt.Errorf("write partition table: %w", err)
	}
	return nil
}

// copySparse copies the data of src and leaves its holes holes.
func copySparse(src, dst string) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // read only
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	for at := int64(0); ; {
		from, err := in.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // nothing but a hole up to the end
		}
		if err != nil {
			return err
		}
		to, err := in.Seek(from, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.NewOffsetWriter(out, from), io.NewSectionReader(in, from, to-from)); err != nil {
			return err
		}
		at = to
	}
}
