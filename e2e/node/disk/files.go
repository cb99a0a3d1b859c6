package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.yaml.in/yaml/v3"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/atomicfile"
	"holdfast.dev/internal/nodedisks"
)

// record is what outlives the runner: <root>/disks/bays.json.
type record struct {
	Disk
	Formatted bool `json:"formatted"`
}

func (s *Set) recordPath() string { return filepath.Join(s.imageDir(), "bays.json") }

// load takes up the disks of an earlier run and adds those that are not there yet.
func (s *Set) load() error {
	var records []record
	data, err := os.ReadFile(s.recordPath())
	if err == nil {
		if err := json.Unmarshal(data, &records); err != nil {
			return fmt.Errorf("read %s: %w", s.recordPath(), err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	for _, r := range records {
		b := &bay{Disk: r.Disk, formatted: r.Formatted}
		b.Device = ""
		s.bays = append(s.bays, b)
	}
	for n := len(s.bays) + 1; n <= s.cfg.Count; n++ {
		name, partition := fmt.Sprintf("disk%d", n), newPartitionUUID()
		s.bays = append(s.bays, &bay{Disk: Disk{
			Name: name, Slot: fmt.Sprintf("slot-%d", n), Generation: 1,
			State: StatePresent, Image: s.imagePath(name, 1),
			PartitionUUID: partition, MountPoint: mountPoint(partition),
		}})
	}
	return nil
}

// publish writes bays.json and the node's disks.yaml. A disk that was pulled
// or that failed stays in disks.yaml: the node must have it.
func (s *Set) publish() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	records := make([]record, len(s.bays))
	file := nodedisks.File{APIVersion: v1alpha1.GroupVersion.String(), Kind: "NodeDisks"}
	for i, b := range s.bays {
		b.mu.Lock()
		records[i] = record{Disk: b.Disk, Formatted: b.formatted}
		b.mu.Unlock()
		d := records[i].Disk
		if d.ID == "" {
			continue // never seen yet
		}
		file.Disks = append(file.Disks, nodedisks.Disk{
			ID: d.ID, Group: s.cfg.Group, Role: v1alpha1.RoleStatic, Media: v1alpha1.MediaVirtual, Slot: d.Slot,
			Partitions: []nodedisks.Partition{{
				UUID: d.PartitionUUID, Filesystem: "ext4", MountPoint: d.MountPoint, StorageClass: s.cfg.StorageClass,
			}},
		})
	}
	data, err := json.MarshalIndent(records, "", "  ")
	if err != nil {
		return err
	}
	if err := WriteFile(s.recordPath(), data, 0o644); err != nil {
		return err
	}
	data, err = yaml.Marshal(file)
	if err != nil {
		return err
	}
	if _, err := nodedisks.Parse(nodedisks.Path, data); err != nil {
		return fmt.Errorf("check the new disks.yaml: %w", err)
	}
	return WriteFile(filepath.Join(s.cfg.Root, nodedisks.Path), data, 0o644)
}

// WriteFile writes a file whole or not at all: readers see the old or the new
// content. It makes the directories above.
func WriteFile(name string, data []byte, mode os.FileMode) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := atomicfile.Replace(name, data, mode); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
