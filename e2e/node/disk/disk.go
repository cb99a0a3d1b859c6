// Package disk gives a simulated node its disks and breaks them on demand. As
// root they are loop devices: real block devices with a real partition, file
// system and sysfs directory, whose faults the kernel itself reports. Else they
// are image files behind a recorded /sys tree of the same shape, and faults are
// records in a FIFO that stands for /dev/kmsg.
package disk

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"

	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostfs"
)

// Mode says what kind of disks a node has.
type Mode string

// Modes.
const (
	ModeLoop      Mode = "loop"
	ModeSimulated Mode = "simulated"
)

// State of a disk in its slot.
type State string

// States.
const (
	StatePresent State = "present"
	StateFailed  State = "failed"  // in its slot, and cannot be read
	StateRemoved State = "removed" // not in its slot; its contents are kept
)

// ErrUnknown is returned for a disk name that the node does not have.
var ErrUnknown = errors.New("no such disk")

// ErrState is returned when a disk is in no state for what was asked.
var ErrState = errors.New("disk is not in a state for this")

// Config says which disks a node has.
type Config struct {
	// Root is the node's root directory: absolute and without symbolic links.
	Root string
	// Count disks of Size bytes each.
	Count int
	Size  int64
	// StorageClass and Group go into disks.yaml.
	StorageClass string
	Group        string
	// Simulate takes plain files even as root.
	Simulate bool
}

// Disk is one disk as it is now.
type Disk struct {
	// Name is what the fault API calls the place of the disk: disk1, disk2, ….
	// It stays when the disk is replaced.
	Name string `json:"name"`
	// ID is the disk id; a replacement has another one.
	ID            string `json:"id"`
	Slot          string `json:"slot"`
	State         State  `json:"state"`
	Device        string `json:"device,omitempty"` // kernel name; empty while removed
	Image         string `json:"image"`            // backing file
	PartitionUUID string `json:"partitionUUID"`
	MountPoint    string `json:"mountPoint"` // as the node's pods know it
	Generation    int    `json:"generation"` // 1, and one more with each replacement
}

// Fault is a read error that was brought about.
type Fault struct {
	Disk   string `json:"disk"`
	ID     string `json:"id"`
	Device string `json:"device"`
	Sector uint64 `json:"sector"`
	// Time is when the read that the kernel logged came back with its error.
	Time time.Time `json:"time"`
	// Record is the kernel's own line, empty where /dev/kmsg cannot be read.
	Record string `json:"record,omitempty"`
	// Reads is how many reads it took: the kernel logs at most 10 such lines in
	// 5 seconds on the whole machine (include/linux/ratelimit_types.h).
	Reads int `json:"reads"`
}

// backend makes an image file a disk of the node.
type backend interface {
	// attach makes b's image a block device, formats it on first use, and mounts it.
	attach(ctx context.Context, b *bay) error
	// detach takes it away, whoever uses it.
	detach(b *bay) error
	// readError reads from b's emptied image until the kernel has logged the error.
	readError(ctx context.Context, b *bay) (Fault, error)
	// settle writes what the file system still holds in memory to the image.
	settle(b *bay) error
	close() error
}

// bay is a slot and the disk in it.
type bay struct {
	mu sync.Mutex

	Disk
	formatted bool

	dev any // the backend's own
}

// Set is the disks of one node. It is safe for concurrent use.
type Set struct {
	cfg  Config
	mode Mode
	log  *slog.Logger
	be   backend
	bays []*bay

	mu sync.Mutex // guards the files written from all bays
}

// Open brings up the node's disks: new ones on the first start, the same ones
// again on the next. Close takes them down and keeps the images.
func Open(ctx context.Context, cfg Config, log *slog.Logger) (_ *Set, err error) {
	s := &Set{cfg: cfg, mode: ModeLoop, log: log}
	if cfg.Simulate || os.Geteuid() != 0 {
		s.mode = ModeSimulated
	}
	if err := os.MkdirAll(s.imageDir(), 0o755); err != nil {
		return nil, fmt.Errorf("create image directory: %w", err)
	}
	if s.mode == ModeLoop {
		s.be, err = newLoopBackend(cfg.Root, log)
	} else {
		s.be, err = newSimulated(cfg.Root)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	if err := s.load(); err != nil {
		return nil, err
	}
	for _, b := range s.bays {
		if b.State == StateRemoved || b.State == StateFailed {
			continue
		}
		if err := s.plug(ctx, b); err != nil {
			return nil, err
		}
	}
	return s, s.publish()
}

// Mode is how the disks are made.
func (s *Set) Mode() Mode { return s.mode }

// Close detaches every disk.
func (s *Set) Close() error {
	var errs []error
	for _, b := range s.bays {
		b.mu.Lock()
		if b.dev != nil {
			errs = append(errs, s.be.detach(b))
		}
		b.mu.Unlock()
	}
	return errors.Join(append(errs, s.be.close())...)
}

// List is every disk in the order of its slots.
func (s *Set) List() []Disk {
	out := make([]Disk, len(s.bays))
	for i, b := range s.bays {
		b.mu.Lock()
		out[i] = b.Disk
		b.mu.Unlock()
	}
	return out
}

func (s *Set) imageDir() string { return filepath.Join(s.cfg.Root, "disks") }

func (s *Set) imagePath(name string, generation int) string {
	if generation > 1 {
		name = fmt.Sprintf("%s-%d", name, generation)
	}
	return filepath.Join(s.imageDir(), name+".img")
}

// plug attaches b, creating its image on first use, and learns its disk id.
func (s *Set) plug(ctx context.Context, b *bay) error {
	if _, err := os.Stat(b.Image); errors.Is(err, os.ErrNotExist) {
		if err := createImage(b.Image, s.cfg.Size, b.PartitionUUID); err != nil {
			return fmt.Errorf("make disk %s: %w", b.Name, err)
		}
		b.formatted = false
	}
	if err := s.be.attach(ctx, b); err != nil {
		return fmt.Errorf("attach disk %s: %w", b.Name, err)
	}
	fs, err := hostfs.Open(s.cfg.Root)
	if err != nil {
		return err
	}
	defer func() { _ = fs.Close() }() // read only
	b.ID, _, err = diskid.FromSysfs(fs, b.Device)
	if err != nil {
		return fmt.Errorf("attach disk %s: %w", b.Name, err)
	}
	b.State, b.formatted = StatePresent, true
	return nil
}

func (s *Set) unplug(b *bay) error {
	err := s.be.detach(b)
	b.Device = ""
	if err != nil {
		return fmt.Errorf("detach disk %s: %w", b.Name, err)
	}
	return nil
}

func newPartitionUUID() string { return string(uuid.NewUUID()) }
