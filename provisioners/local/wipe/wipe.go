// Package wipe leaves nothing but zeros on a block device, and reads that it is
// so. It knows nothing of Kubernetes and decides nothing: whoever calls it has
// opened the device exclusively and knows why.
//
// Linux does not promise that a discarded block reads as zeros
// (block/blk-lib.c; queue/discard_zeroes_data is always 0 since 4.12), and a
// device may ignore a discard. So every chunk is read back after it was erased,
// past the page cache; what a discard has left is overwritten, and read again.
package wipe

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Method says how a device is erased.
type Method string

// Methods. Each ends with zeros that were read back. There is no crypto-erase: the
// partitions that are offered have no LUKS header of ours whose key could be
// thrown away, and a tenant's own is not ours to trust.
const (
	Discard       Method = "discard"        // BLKDISCARD, and zeros where that left something
	Zero          Method = "zero"           // BLKZEROOUT, or plain writes of zeros
	SecureDiscard Method = "secure-discard" // BLKSECDISCARD, the copies that the device keeps too; an error where it cannot
)

// Methods are all methods.
func Methods() []Method { return []Method{Discard, Zero, SecureDiscard} }

// Errors of Run.
var (
	// ErrNotZero means that the device reads something else than zeros where zeros were written.
	ErrNotZero = errors.New("the device does not read back the zeros that were written")
	// ErrUnsupported means that the device cannot do what the method asks.
	ErrUnsupported = errors.New("the device does not support it")
)

// Device is what is erased. Its ReadAt reads from the device and not from memory.
type Device interface {
	Size() int64 // in bytes
	// Erase erases n bytes at off. The error is ErrUnsupported when the device cannot.
	Erase(how Method, off, n int64) error
	ReadAt(p []byte, off int64) (int, error)
	Sync() error
}

// Plan says what to do.
type Plan struct {
	Method Method
	From   int64 // where to go on, a multiple of Chunk; what lies before was read as zero
	Chunk  int64 // bytes at once, a power of two of at least 4096
	Rate   int64 // bytes per second that are written or read, discards not counted; 0 is no limit
}

// Run erases dev and reads it back, chunk by chunk, and flushes it. done is told after each
// chunk how far all is zero, and ends the run with its error. An interrupted run
// goes on at what done was last told.
func Run(ctx context.Context, dev Device, p Plan, done func(upTo int64) error) error {
	return each(ctx, dev, p, done, func(buf []byte, off int64) (int64, error) {
		n := int64(len(buf))
		if err := dev.Erase(p.Method, off, n); errors.Is(err, ErrUnsupported) && p.Method == Discard {
			err = dev.Erase(Zero, off, n)
			if err != nil {
				return 0, fmt.Errorf("write zeros at %d: %w", off, err)
			}
		} else if err != nil {
			return 0, fmt.Errorf("%s at %d: %w", p.Method, off, err)
		}
		moved := n // the reading; discards move nothing
		if p.Method == Zero {
			moved += n
		}
		clean, err := zero(dev, buf, off)
		if err != nil || clean {
			return moved, err
		}
		if p.Method == Zero {
			return moved, fmt.Errorf("read at %d: %w", off, ErrNotZero)
		}
		if err := dev.Erase(Zero, off, n); err != nil {
			return moved, fmt.Errorf("write zeros at %d: %w", off, err)
		}
		if clean, err = zero(dev, buf, off); err == nil && !clean {
			err = fmt.Errorf("read at %d: %w", off, ErrNotZero)
		}
		return moved + 2*n, err
	})
}

// Verify reads the device from p.From on and says whether every byte of it is zero. It
// writes nothing. done is told as by Run.
func Verify(ctx context.Context, dev Device, p Plan, done func(upTo int64) error) (bool, error) {
	err := each(ctx, dev, p, done, func(buf []byte, off int64) (int64, error) {
		clean, err := zero(dev, buf, off)
		if err == nil && !clean {
			err = ErrNotZero
		}
		return int64(len(buf)), err
	})
	if errors.Is(err, ErrNotZero) {
		return false, nil
	}
	return err == nil, err
}

// each calls step for each chunk, as fast as the plan allows.
func each(ctx context.Context, dev Device, p Plan, done func(int64) error, step func(buf []byte, off int64) (int64, error)) error {
	if p.Chunk < 4096 || p.Chunk&(p.Chunk-1) != 0 || p.From < 0 || p.From%p.Chunk != 0 {
		return fmt.Errorf("check plan: chunk %d, from %d", p.Chunk, p.From)
	}
	buf, free, err := aligned(int(p.Chunk))
	if err != nil {
		return err
	}
	defer free()
	pace := pacer{rate: p.Rate}
	for off := p.From; off < dev.Size(); off += p.Chunk {
		if err := ctx.Err(); err != nil {
			return err
		}
		moved, err := step(buf[:min(p.Chunk, dev.Size()-off)], off)
		if err != nil {
			return err
		}
		if err := dev.Sync(); err != nil { // what is told as done must be so after a power cut
			return fmt.Errorf("flush at %d: %w", off, err)
		}
		if err := done(min(off+p.Chunk, dev.Size())); err != nil {
			return err
		}
		if err := pace.wait(ctx, moved); err != nil {
			return err
		}
	}
	return nil
}

func zero(dev Device, buf []byte, off int64) (bool, error) {
	buf[0] = 1 // a read that leaves the buffer as it was must not pass
	if n, err := dev.ReadAt(buf, off); n < len(buf) {
		return false, fmt.Errorf("read %d bytes at %d, got %d: %w", len(buf), off, n, err)
	}
	return allZero(buf), nil
}

// pacer keeps to a rate: it waits as long as the bytes moved should have taken.
type pacer struct {
	rate int64
	next time.Time
}

func (p *pacer) wait(ctx context.Context, n int64) error {
	if p.rate <= 0 {
		return nil
	}
	now := time.Now()
	if p.next.Before(now) {
		p.next = now
	}
	p.next = p.next.Add(time.Duration(float64(n) / float64(p.rate) * float64(time.Second)))
	t := time.NewTimer(time.Until(p.next) - 10*time.Millisecond) // short debts are paid together
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
