package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/uuid"
)

// simulated makes disks of plain files: the /sys tree that the kernel would
// show, a mount table, and a FIFO for the kernel log. It needs no privilege.
type simulated struct {
	root  string
	start time.Time
	kmsg  *os.File
	quit  chan struct{}
	done  chan struct{}

	mu       sync.Mutex
	sequence int64             // of the next kernel log record
	diskseq  int64             // of the last attached disk
	attached map[int]*fakeDisk // by loop number
}

// fakeDisk is one attached image.
type fakeDisk struct {
	number     int
	name, part string
	size       int64
	mountPoint string
}

const fakePartMajor = 259 // BLOCK_EXT_MAJOR, linux/major.h

func newSimulated(root string) (*simulated, error) {
	s := &simulated{root: root, start: time.Now(), quit: make(chan struct{}), done: make(chan struct{}), attached: map[int]*fakeDisk{}}
	for _, dir := range []string{"sys", "dev", "proc"} {
		if err := os.RemoveAll(filepath.Join(root, dir)); err != nil {
			return nil, fmt.Errorf("clear %s of the last run: %w", dir, err)
		}
	}
	for _, dir := range []string{"sys/block", "sys/dev/block", "sys/class/block", "sys/devices/virtual/block", "dev/disk/by-partuuid", "mnt/holdfast"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			return nil, err
		}
	}
	// Every start is a boot: the log's numbers begin anew.
	if err := WriteFile(filepath.Join(root, "proc/sys/kernel/random/boot_id"), []byte(string(uuid.NewUUID())+"\n"), 0o444); err != nil {
		return nil, err
	}
	fifo := filepath.Join(root, "dev/kmsg")
	if err := unix.Mkfifo(fifo, 0o644); err != nil {
		return nil, fmt.Errorf("make kernel log: %w", err)
	}
	kmsg, err := os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0) // held open: a reader never sees its end
	if err != nil {
		return nil, err
	}
	s.kmsg = kmsg
	if err := errors.Join(s.writeUptime(), s.writeMounts()); err != nil {
		return nil, errors.Join(err, kmsg.Close())
	}
	go s.tick()
	return s, nil
}

func (s *simulated) attach(_ context.Context, b *bay) error {
	info, err := os.Stat(b.Image)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for s.attached[n] != nil {
		n++
	}
	s.diskseq++
	d := &fakeDisk{number: n, name: fmt.Sprintf("loop%d", n), part: fmt.Sprintf("loop%dp1", n), size: info.Size(), mountPoint: b.MountPoint}
	if err := s.writeSysfs(d, b.Image); err != nil {
		return err
	}
	for link, target := range diskLinks(d.name, d.part, fmt.Sprintf("7:%d", n), fmt.Sprintf("%d:%d", fakePartMajor, n), b.PartitionUUID) {
		if err := os.Symlink(target, filepath.Join(s.root, link)); err != nil {
			return err
		}
	}
	if err := mountDir(dataDir(b), filepath.Join(s.root, b.MountPoint)); err != nil {
		return err
	}
	s.attached[n] = d
	b.dev, b.Device = d, d.name
	return s.writeMounts()
}

func (s *simulated) detach(b *bay) error {
	d, ok := b.dev.(*fakeDisk)
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b.dev = nil
	delete(s.attached, d.number)
	errs := []error{s.writeMounts(), unmountDir(filepath.Join(s.root, b.MountPoint), dataDir(b))}
	names := []string{"dev/" + d.name, "dev/" + d.part}
	for link := range diskLinks(d.name, d.part, fmt.Sprintf("7:%d", d.number), fmt.Sprintf("%d:%d", fakePartMajor, d.number), b.PartitionUUID) {
		names = append(names, link)
	}
	for _, name := range names {
		errs = append(errs, os.Remove(filepath.Join(s.root, name)))
	}
	// The links are gone before the directory: nobody sees half a disk.
	errs = append(errs, os.RemoveAll(filepath.Join(s.root, "sys/devices/virtual/block", d.name)))
	return errors.Join(errs...)
}

// writeSysfs writes what the kernel shows of a loop device with one partition.
func (s *simulated) writeSysfs(d *fakeDisk, image string) error {
	dir := filepath.Join(s.root, "sys/devices/virtual/block", d.name)
	sectors := d.size / sectorSize
	for name, value := range map[string]string{
		"dev":                       fmt.Sprintf("7:%d", d.number),
		"size":                      fmt.Sprint(sectors),
		"ro":                        "0",
		"removable":                 "0",
		"hidden":                    "0",
		"diskseq":                   fmt.Sprint(s.diskseq),
		"uevent":                    fmt.Sprintf("MAJOR=7\nMINOR=%d\nDEVNAME=%s\nDEVTYPE=disk", d.number, d.name),
		"queue/rotational":          "0",
		"queue/logical_block_size":  fmt.Sprint(sectorSize),
		"queue/physical_block_size": fmt.Sprint(sectorSize),
		"loop/backing_file":         image,
		"loop/autoclear":            "1",
		"loop/offset":               "0",
		d.part + "/partition":       "1",
		d.part + "/start":           fmt.Sprint(partitionStart),
		d.part + "/size":            fmt.Sprint(partitionSectors(d.size)),
		d.part + "/ro":              "0",
		d.part + "/dev":             fmt.Sprintf("%d:%d", fakePartMajor, d.number),
		d.part + "/uevent":          fmt.Sprintf("MAJOR=%d\nMINOR=%d\nDEVNAME=%s\nDEVTYPE=partition\nPARTN=1", fakePartMajor, d.number, d.part),
	} {
		if err := WriteFile(filepath.Join(dir, name), []byte(value+"\n"), 0o444); err != nil {
			return err
		}
	}
	for _, name := range []string{"holders", "slaves", d.part + "/holders"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	for _, name := range []string{d.name, d.part} {
		if err := os.WriteFile(filepath.Join(s.root, "dev", name), nil, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// readError empties the image and appends the record that the kernel writes
// for a read of it (block/blk-mq.c blk_print_req_error).
func (s *simulated) readError(_ context.Context, b *bay) (Fault, error) {
	d, ok := b.dev.(*fakeDisk)
	if !ok {
		return Fault{}, fmt.Errorf("disk %s is not attached: %w", b.Name, ErrState)
	}
	if err := os.Truncate(b.Image, 0); err != nil {
		return Fault{}, err
	}
	sector := partitionStart + partitionSectors(d.size) - readSize/sectorSize
	f := Fault{Disk: b.Name, ID: b.ID, Device: d.name, Sector: sector, Reads: 1}
	s.mu.Lock()
	defer s.mu.Unlock()
	f.Record = fmt.Sprintf("3,%d,%d,-;I/O error, dev %s, sector %d op 0x0:(READ) flags 0x800 phys_seg 1 prio class 2",
		s.sequence, time.Since(s.start).Microseconds(), d.name, sector)
	if _, err := unix.Write(int(s.kmsg.Fd()), []byte(f.Record+"\n")); err != nil {
		return f, fmt.Errorf("append to the kernel log, which nobody reads: %w", err)
	}
	s.sequence++
	f.Time = time.Now()
	return f, nil
}

func (*simulated) settle(*bay) error { return nil }

func (s *simulated) close() error {
	close(s.quit)
	<-s.done
	return s.kmsg.Close()
}

// tick keeps /proc/uptime going, which readers need to date records of the log.
func (s *simulated) tick() {
	defer close(s.done)
	t := time.NewTicker(time.Second)
	defer t.Stop()
	for {
		select {
		case <-s.quit:
			return
		case <-t.C:
			_ = s.writeUptime() // the next tick tries again
		}
	}
}

func (s *simulated) writeUptime() error {
	up := time.Since(s.start).Seconds()
	return WriteFile(filepath.Join(s.root, "proc/uptime"), fmt.Appendf(nil, "%.2f %.2f\n", up, up), 0o444)
}

// writeMounts writes the mount table; s.mu is held, or nobody else is there yet.
func (s *simulated) writeMounts() error {
	var b strings.Builder
	b.WriteString("20 1 254:1 / / rw,relatime - ext4 /dev/root rw\n")
	for n := 0; len(s.attached) > 0 && n <= maxKey(s.attached); n++ {
		if d := s.attached[n]; d != nil {
			fmt.Fprintf(&b, "%d 20 %d:%d / %s rw,relatime - ext4 /dev/%s rw\n", 30+n, fakePartMajor, n, d.mountPoint, d.part)
		}
	}
	return WriteFile(filepath.Join(s.root, mountInfoPath), []byte(b.String()), 0o444)
}

func maxKey(m map[int]*fakeDisk) int {
	top := 0
	for n := range m {
		top = max(top, n)
	}
	return top
}

func dataDir(b *bay) string { return b.Image + ".data" }

// mountDir stands for a mount: the directory kept beside the image becomes the
// mount point.
func mountDir(data, point string) error {
	if err := os.MkdirAll(data, 0o755); err != nil {
		return err
	}
	if err := os.Remove(point); err != nil && !errors.Is(err, os.ErrNotExist) {
		// Not empty: the last run ended while it was mounted.
		return keepMounted(data, point, err)
	}
	return os.Rename(data, point)
}

func keepMounted(data, point string, why error) error {
	if err := os.Remove(data); err != nil {
		return errors.Join(fmt.Errorf("mount %s: %w", point, why), err)
	}
	return nil
}

func unmountDir(point, data string) error {
	if err := os.Rename(point, data); err != nil {
		return fmt.Errorf("unmount %s: %w", point, err)
	}
	return os.Mkdir(point, 0o755)
}
