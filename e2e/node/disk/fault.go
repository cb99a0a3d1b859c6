package disk

import (
	"context"
	"fmt"
	"os"
)

// Fail makes a disk unreadable and reads from it, so that the kernel reports
// the error. Its contents are set aside for Restore.
func (s *Set) Fail(ctx context.Context, name string) (f Fault, err error) {
	err = s.with(name, func(b *bay) error {
		if b.State != StatePresent {
			return fmt.Errorf("fail disk %s, which is %s: %w", name, b.State, ErrState)
		}
		if err := s.be.settle(b); err != nil {
			return err
		}
		if err := copySparse(b.Image, savedPath(b)); err != nil {
			return fmt.Errorf("set the contents of disk %s aside: %w", name, err)
		}
		b.State = StateFailed
		f, err = s.be.readError(ctx, b)
		return err
	})
	return f, err
}

// ReadError reads once more from a failed disk.
func (s *Set) ReadError(ctx context.Context, name string) (f Fault, err error) {
	err = s.with(name, func(b *bay) error {
		if b.State != StateFailed || b.dev == nil {
			return fmt.Errorf("read from disk %s, which is %s: %w", name, b.State, ErrState)
		}
		f, err = s.be.readError(ctx, b)
		return err
	})
	return f, err
}

// Restore makes a failed disk whole again, with its contents.
func (s *Set) Restore(ctx context.Context, name string) error {
	return s.with(name, func(b *bay) error {
		if b.State != StateFailed {
			return fmt.Errorf("restore disk %s, which is %s: %w", name, b.State, ErrState)
		}
		if err := s.unplug(b); err != nil {
			return err
		}
		if err := os.Rename(savedPath(b), b.Image); err != nil {
			return fmt.Errorf("restore disk %s: %w", name, err)
		}
		return s.plug(ctx, b)
	})
}

// Remove pulls a disk out of its slot.
func (s *Set) Remove(name string) error {
	return s.with(name, func(b *bay) error {
		if b.State == StateRemoved {
			return fmt.Errorf("remove disk %s, which is %s: %w", name, b.State, ErrState)
		}
		if err := s.unplug(b); err != nil {
			return err
		}
		b.State = StateRemoved
		return nil
	})
}

// Reinsert puts a pulled disk back: the same disk with the same contents.
func (s *Set) Reinsert(ctx context.Context, name string) error {
	return s.with(name, func(b *bay) error {
		if b.State != StateRemoved {
			return fmt.Errorf("reinsert disk %s, which is %s: %w", name, b.State, ErrState)
		}
		if _, err := os.Stat(savedPath(b)); err == nil {
			return fmt.Errorf("reinsert disk %s, which had failed before it was pulled (replace it): %w", name, ErrState)
		}
		return s.plug(ctx, b)
	})
}

// Replace puts a new disk into the slot, partitioned, formatted and mounted,
// and rewrites disks.yaml as node preparation does. What was in the slot is gone.
func (s *Set) Replace(ctx context.Context, name string) error {
	return s.with(name, func(b *bay) error {
		if err := s.unplug(b); err != nil {
			return err
		}
		old, generation := []string{b.Image, savedPath(b), dataDir(b)}, b.Generation+1
		b.Generation, b.PartitionUUID = generation, newPartitionUUID()
		b.Image, b.MountPoint = s.imagePath(b.Name, generation), mountPoint(b.PartitionUUID)
		if err := s.plug(ctx, b); err != nil {
			return err
		}
		for _, name := range old {
			if err := os.RemoveAll(name); err != nil {
				return fmt.Errorf("throw away the old disk: %w", err)
			}
		}
		return nil
	})
}

// with runs do on one disk and publishes the node's files after it.
func (s *Set) with(name string, do func(*bay) error) error {
	for _, b := range s.bays {
		if b.Name != name {
			continue
		}
		b.mu.Lock()
		err := do(b)
		b.mu.Unlock()
		if perr := s.publish(); err == nil {
			err = perr
		}
		return err
	}
	return fmt.Errorf("%w: %s (this node has disk1 to disk%d)", ErrUnknown, name, len(s.bays))
}

func savedPath(b *bay) string { return b.Image + ".saved" }

func mountPoint(partitionUUID string) string { return "/mnt/holdfast/" + partitionUUID }
