package cleaner

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"k8s.io/apimachinery/pkg/types"

	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local/wipe"
)

// Step of a cleaning. The record names the step that is under way.
type Step string

// Steps, in order. A raw partition has no Format and no Mount.
const (
	StepWipe   Step = "Wipe"
	StepFormat Step = "Format"
	StepMount  Step = "Mount"
	StepDelete Step = "Delete"
)

// Shape is what a file system gets back after its partition was wiped.
type Shape struct {
	UUID       string  `json:"uuid,omitempty"`
	Label      string  `json:"label,omitempty"`
	BlockSize  int     `json:"blockSize,omitempty"`
	InodeSize  int     `json:"inodeSize,omitempty"`
	Inodes     uint32  `json:"inodes,omitempty"`          // ext4
	Reserved   float64 `json:"reservedPercent,omitempty"` // ext4
	MountFlags uintptr `json:"mountFlags,omitempty"`      // MS_…, mount(2)
	MountData  string  `json:"mountData,omitempty"`       // options of the file system
}

// Record is the durable state of one cleaning, on the node's own disk. It is
// written before each step's effect.
type Record struct {
	Volume     string      `json:"volume"`
	UID        types.UID   `json:"uid"`
	Claim      types.UID   `json:"claim"`
	Created    int64       `json:"created,omitempty"` // of the volume, as Tenancy has it
	Disk       string      `json:"disk"`
	Partition  string      `json:"partition"`
	Bytes      int64       `json:"bytes"`
	Filesystem string      `json:"filesystem,omitempty"`
	MountPoint string      `json:"mountPoint,omitempty"`
	Method     wipe.Method `json:"method"`
	Step       Step        `json:"step"`
	Offset     int64       `json:"offset"` // what lies before is erased, and was read as zero
	Shape      Shape       `json:"shape"`
}

const (
	recordSuffix = ".cleaning"
	maxRecord    = 64 << 10
)

// belongs says whether r is the record of that very job.
func (r *Record) belongs(j Job) bool {
	return r.Volume == j.Volume && r.UID == j.UID && r.Claim == j.Claim && r.Disk == j.Disk && r.Partition == j.Partition &&
		r.Bytes == j.Bytes && r.Filesystem == j.Filesystem && r.MountPoint == j.MountPoint && r.Method == j.Method
}

// Records are the records of one node, in a directory that only root writes.
type Records struct{ Dir string }

func (s Records) path(partition string) string { return filepath.Join(s.Dir, partition+recordSuffix) }

// Load reads the record of a partition; nil when there is none. A record that
// cannot be read is an error: it may say that the partition was wiped.
func (s Records) Load(partition string) (*Record, error) {
	f, err := os.Open(s.path(partition))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record of partition %s: %w", partition, err)
	}
	defer func() { _ = f.Close() }() // read only
	var r Record
	if err := json.NewDecoder(io.LimitReader(f, maxRecord)).Decode(&r); err != nil {
		return nil, fmt.Errorf("read record of partition %s (remove %s to begin anew): %w", partition, s.path(partition), err)
	}
	return &r, nil
}

// Save writes a record durably.
func (s Records) Save(r *Record) error {
	if err := nodedisks.WriteDurably(s.path(r.Partition), r); err != nil {
		return fmt.Errorf("write record of partition %s: %w", r.Partition, err)
	}
	return nil
}

// Remove removes the record of a partition whose cleaning is over.
func (s Records) Remove(partition string) error {
	if err := os.Remove(s.path(partition)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of partition %s: %w", partition, err)
	}
	return nil
}
