package nodeprep

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path"
	"time"

	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local/wipe"
)

// RawDevice is the block device that x has open.
func RawDevice(x *os.File) (wipe.Device, error) {
	d, err := wipe.Of(x)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// certify reads a raw partition to its last byte, and writes its certificate when all is
// zero. Where the disk was given up with a token it is zeroed first: its old data may
// lie anywhere. Elsewhere nothing is written: what the samples of a blank disk have not
// shown is somebody's, and the partition stays without a certificate.
//
// The disk is not in disks.yaml yet, so nobody was offered the partition; that is why a
// certificate can be written without asking for volumes, and why this is done once only.
func (p *Preparer) certify(ctx context.Context, in *Input, f *Found, r *Record, i int) error {
	t := &r.Table.Partitions[i]
	part := f.Content.partition(t.Start, t.Size)
	if part == nil {
		return fmt.Errorf("certify partition %d: the kernel does not know it any more", i+1)
	}
	if err := p.Host.same(f.hold); err != nil {
		return fmt.Errorf("certify %s: %w", part.Name, err)
	}
	d, err := p.Host.holdPartition(f.hold, part)
	if err != nil {
		return fmt.Errorf("certify %s: %w", part.Name, err)
	}
	defer d.close()
	x, err := d.exclusive(os.O_RDWR)
	if err != nil {
		return fmt.Errorf("certify %s: %w", part.Name, err)
	}
	defer func() { _ = x.Close() }() // what was written is flushed chunk by chunk
	fresh(x)
	dev, err := p.Raw(x)
	if err != nil {
		return fmt.Errorf("certify %s: %w", part.Name, err)
	}
	clean, err := p.zeroes(ctx, in, dev, fmt.Sprintf("disk %s (%s): raw partition %d", f.ID, part.Name, i+1), t, r.Emptied)
	if err != nil {
		return fmt.Errorf("certify %s: %w (run again: it goes on where it was)", part.Name, err)
	}
	if clean {
		c := nodedisks.Certificate{ID: p.NewUUID(), Disk: f.ID, Partition: t.UUID, Bytes: t.Size, By: "node-preparation", Time: time.Now().UTC()}
		data, err := json.Marshal(c)
		if err == nil {
			err = p.Files.MkdirAll(nodedisks.CertificateDir, 0o755)
		}
		if err == nil {
			err = p.Files.WriteFile(path.Join(nodedisks.CertificateDir, nodedisks.CertificateName(t.UUID)), append(data, '\n'), 0o644)
		}
		if err != nil {
			return fmt.Errorf("write certificate of %s: %w", part.Name, err)
		}
	} else {
		p.tell("disk %s: raw partition %d has data that its samples did not show: it gets no certificate, and is left as it is", f.ID, i+1)
	}
	t.Phase, t.Zero = Made, 0
	return p.Store.Save(in.State)
}

// zeroes makes sure, or finds out, that a raw partition is zero, and saves how far it is.
func (p *Preparer) zeroes(ctx context.Context, in *Input, dev wipe.Device, what string, t *TablePartition, write bool) (bool, error) {
	limit := 2 * wholeTime(t.Size)
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type result struct {
		clean bool
		err   error
	}
	upTo, done := make(chan int64), make(chan result, 1)
	plan := wipe.Plan{Method: wipe.Discard, From: t.Zero, Chunk: wholeChunk}
	step := func(n int64) error {
		select {
		case upTo <- n:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	go func() {
		if write {
			err := wipe.Run(ctx, dev, plan, step)
			done <- result{err == nil, err}
			return
		}
		clean, err := wipe.Verify(ctx, dev, plan, step)
		done <- result{clean, err}
	}()
	verb := map[bool]string{true: "zeroed and read back", false: "read"}[write]
	p.tell("%s: all of it is %s", what, verb)
	saved := time.Now()
	for {
		select {
		case n := <-upTo:
			if now := time.Now(); n < t.Size && now.Sub(saved) >= tellEvery {
				saved, t.Zero = now, n
				p.tell("%s: %d %% %s", what, n*100/t.Size, verb)
				if err := p.Store.Save(in.State); err != nil {
					return false, err
				}
			}
		case r := <-done:
			return r.clean, r.err
		case <-ctx.Done(): // a disk that hangs is left behind
			return false, fmt.Errorf("no end within %s: %w", limit, ctx.Err())
		}
	}
}
