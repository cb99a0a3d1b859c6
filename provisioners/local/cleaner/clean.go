package cleaner

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/util/uuid"

	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local/wipe"
)

// Disk is how a cleaning reaches a partition.
type Disk interface {
	// Shape reads what the file system must get back; zero when there is none to be recognized.
	Shape(ctx context.Context, j Job) (Shape, error)
	// Open opens the partition exclusively. The error is wipe.ErrBusy while anything has it.
	Open(ctx context.Context, j Job) (Opened, error)
}

// Opened is a partition that nobody else has.
type Opened interface {
	wipe.Device
	Close() error
}

// Filesystem is how a cleaning reaches a file system.
type Filesystem interface {
	// Unmount unmounts the partition from its mount point.
	Unmount(ctx context.Context, j Job) error
	// Format makes the file system.
	Format(ctx context.Context, j Job, s Shape) error
	// Mount mounts it at its mount point, unless it is mounted there, and errs unless it is pristine.
	Mount(ctx context.Context, j Job, s Shape) error
}

// Volume is how a cleaning reaches the volume's object.
type Volume interface {
	// Check reads everything anew and judges again.
	Check(ctx context.Context, volume string) (Job, error)
	// Delete deletes the volume as it was when it was judged: of this UID and this
	// resource version.
	Delete(ctx context.Context, j Job) error
}

// Cleaning cleans one partition. Every method of what it reaches may be the last
// thing that this process does.
type Cleaning struct {
	Records    Records
	Histories  Histories
	Disk       Disk
	Filesystem Filesystem
	Volume     Volume
	Chunk      int64
	Rate       int64
	// SaveEvery is how often the offset is written to the record.
	SaveEvery time.Duration
	// Progress is told how far the wipe is.
	Progress func(j Job, step Step, done int64)
	Now      func() time.Time
}

// Run cleans the partition of a volume, from the step where an earlier run of the same job
// has ended. The error is a *Refusal when the volume may not be cleaned now.
func (c *Cleaning) Run(ctx context.Context, volume string) error {
	j, err := c.Volume.Check(ctx, volume)
	if err != nil {
		return err
	}
	r, err := c.begin(ctx, j)
	if err != nil {
		return err
	}
	wiped := false // by this process, which has not let go of the job since
	for {
		c.Progress(j, r.Step, r.Offset)
		var next Step
		switch r.Step {
		case StepWipe:
			next = StepDelete
			if j.Filesystem != "" {
				next = StepFormat
			}
			err = c.wipe(ctx, j, r)
		case StepFormat:
			next = StepMount
			err = c.Filesystem.Format(ctx, j, r.Shape)
		case StepMount:
			next = StepDelete
			err = c.Filesystem.Mount(ctx, j, r.Shape)
		case StepDelete:
			return c.end(ctx, j, wiped)
		default:
			return fmt.Errorf("record of partition %s: unknown step %q", j.Partition, r.Step)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", r.Step, err)
		}
		r.Step = next
		if err := c.Records.Save(r); err != nil {
			return err
		}
		wiped = true
	}
}

// begin finds the record of the job, or makes it. What a file system must get back
// survives in the record of an earlier job of the same partition: a wiped
// partition tells nothing.
func (c *Cleaning) begin(ctx context.Context, j Job) (*Record, error) {
	r, err := c.Records.Load(j.Partition)
	if err != nil {
		return nil, err
	}
	if r != nil && r.belongs(j) {
		return r, nil
	}
	if r != nil && r.Step == StepDelete { // its volume may have been deleted, and the end not noted
		if err := c.Histories.NoteCleaned(r.Partition, Tenancy{Volume: r.UID, Claim: r.Claim, Created: r.Created, Time: c.Now().UTC()}); err != nil {
			return nil, err
		}
	}
	fresh := &Record{
		Volume: j.Volume, UID: j.UID, Claim: j.Claim, Created: j.Created, Disk: j.Disk, Partition: j.Partition, Bytes: j.Bytes,
		Filesystem: j.Filesystem, MountPoint: j.MountPoint, Method: j.Method, Step: StepWipe,
	}
	if j.Filesystem != "" {
		if fresh.Shape, err = c.Disk.Shape(ctx, j); err != nil {
			return nil, err
		}
		if fresh.Shape == (Shape{}) && r != nil && r.Disk == j.Disk && r.Filesystem == j.Filesystem {
			fresh.Shape = r.Shape
		}
	}
	// A certificate of earlier times must not outlive the use of the volume.
	if err := nodedisks.RevokeCertificate(c.Records.Dir, j.Partition); err != nil {
		return nil, err
	}
	return fresh, c.Records.Save(fresh)
}

// wipe leaves zeros on the whole partition.
func (c *Cleaning) wipe(ctx context.Context, j Job, r *Record) error {
	if j.Mounted {
		if r.Offset > 0 { // somebody has put a file system there since
			r.Offset = 0
			if err := c.Records.Save(r); err != nil {
				return err
			}
		}
		if err := c.Filesystem.Unmount(ctx, j); err != nil {
			return err
		}
	}
	dev, err := c.Disk.Open(ctx, j)
	if err != nil {
		return err
	}
	err = c.erase(ctx, j, r, dev)
	if cerr := dev.Close(); err == nil {
		err = cerr
	}
	return err
}

func (c *Cleaning) erase(ctx context.Context, j Job, r *Record, dev Opened) error {
	if dev.Size() != j.Bytes {
		return fmt.Errorf("the device has %d bytes, the partition %d", dev.Size(), j.Bytes)
	}
	// The device is open and ours: what it is cannot change any more. What was
	// judged must still be so, and be about this device.
	again, err := c.Volume.Check(ctx, j.Volume)
	if err != nil {
		return err
	}
	again.Version, again.Mounted = j.Version, j.Mounted
	if again != j {
		return errors.New("the facts have changed since they were judged; it is judged again")
	}
	saved := c.Now()
	return wipe.Run(ctx, dev, wipe.Plan{Method: j.Method, From: r.Offset, Chunk: c.Chunk, Rate: c.Rate}, func(upTo int64) error {
		c.Progress(j, StepWipe, upTo)
		if now := c.Now(); upTo < j.Bytes && now.Sub(saved) >= c.SaveEvery {
			saved = now
			r.Offset = upTo
			return c.Records.Save(r)
		}
		return nil
	})
}

// end deletes the volume, which is what makes the partition offered again. A raw
// partition is certified by the process that has wiped it and has seen its volume deleted as
// it was judged, and by no other; see Prover for the rest. A later process cannot know
// whether this is the first time that it deletes this volume, or the cluster was set back
// and somebody has had the partition meanwhile. From then on the volume is noted: should it
// come back, nothing is cleaned for it.
func (c *Cleaning) end(ctx context.Context, j Job, wiped bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	// The volume's going is a change that ends cleanings, but not this one.
	ctx = context.WithoutCancel(ctx)
	if err := c.Volume.Delete(ctx, j); err != nil {
		return err
	}
	if err := c.Histories.NoteCleaned(j.Partition, Tenancy{Volume: j.UID, Claim: j.Claim, Created: j.Created, Time: c.Now().UTC()}); err != nil {
		return err
	}
	if j.Filesystem == "" && wiped {
		if err := nodedisks.WriteCertificate(c.Records.Dir, certificate(j.Disk, j.Partition, j.Bytes, c.Now())); err != nil {
			return err
		}
	}
	return c.Records.Remove(j.Partition)
}

func certificate(disk, partition string, bytes int64, now time.Time) nodedisks.Certificate {
	return nodedisks.Certificate{ID: string(uuid.NewUUID()), Disk: disk, Partition: partition, Bytes: bytes, By: component, Time: now.UTC()}
}
