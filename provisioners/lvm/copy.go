package lvm

import (
	"context"
	"fmt"
	"strconv"

	"holdfast.dev/provisioners/lvm/vg"
)

const (
	copyBlock = 4 << 20
	copyStep  = wipeStep / copyBlock // blocks that one command copies
)

// source looks at what a new volume is to begin as. A thin copy of a thin volume is a
// matter of its pool. Every other copy goes byte by byte, into whatever group has
// room, and needs a source that nothing writes to: a snapshot, or a volume that is
// not in use and is locked until the copy has ended.
func (e *Engine) source(ctx context.Context, r *CreateRequest) (thin bool, unlock func(), _ error) {
	_, src, err := e.find(ctx, *r.Source)
	if err != nil {
		return false, nil, err
	}
	if src.Thin() && r.Spec.Thin {
		return true, func() {}, r.takes(src.Size, src.Tags.Get(vg.KeyFS))
	}
	v, unlock, err := e.take(ctx, *r.Source)
	if err != nil {
		return false, nil, err
	}
	if err = r.takes(v.LV.Size, v.LV.Tags.Get(vg.KeyFS)); err == nil {
		err = e.quiet(ctx, v)
	}
	if err != nil {
		unlock()
		return false, nil, err
	}
	r.copied = v.LV.Size
	return false, unlock, nil
}

// take locks a volume that is ready. It is looked up when it is locked: before that it may
// be deleted, wiped in part, or grow.
func (e *Engine) take(ctx context.Context, h Handle) (_ Volume, unlock func(), _ error) {
	unlock, err := e.lock(h.LV)
	if err != nil {
		return Volume{}, nil, err
	}
	v, err := e.Volume(ctx, h)
	if err == nil && v.Phase() != vg.Ready {
		err = fmt.Errorf("copy of %s: it is in phase %s: %w", h.LV, v.Phase(), ErrBusy)
	}
	if err != nil {
		unlock()
		return Volume{}, nil, err
	}
	return v, unlock, nil
}

// quiet makes the device of a volume that is to be read from its front to its end, and is
// nil when nothing writes to it. The caller has its lock.
func (e *Engine) quiet(ctx context.Context, v Volume) error {
	if err := e.activate(ctx, v); err != nil || v.Kind() == KindSnapshot {
		return err
	}
	if err := e.unused(ctx, v); err != nil {
		return fmt.Errorf("copy of %s byte by byte (stop what uses it, or copy a snapshot of it): %w", v.LV.Name, err)
	}
	return nil
}

// takes is nil when the volume can begin as a copy of that size and file system.
func (r *CreateRequest) takes(size int64, fs string) error {
	switch {
	case fs != r.Spec.FS:
		return fmt.Errorf("copy of %s: it holds %s, %s is asked for: %w", r.Source.LV, fs, r.Spec.FS, ErrInvalid)
	case r.Limit > 0 && size > r.Limit:
		return fmt.Errorf("copy of %s: it has %d bytes, more than the limit %d: %w", r.Source.LV, size, r.Limit, ErrOutOfRange)
	}
	return nil
}

// fill copies the source's bytes into a volume that lvcreate made right before in this
// very call.
func (e *Engine) fill(ctx context.Context, g *group, r CreateRequest, name string) error {
	v, err := e.virgin(ctx, g, r, name)
	if err != nil {
		return err
	}
	srcGroup, err := e.group(*r.Source)
	if err != nil {
		return err
	}
	from := Volume{Info: srcGroup.info, LV: vg.LV{Name: r.Source.LV}}
	conv := "nocreat,fsync"
	if r.Spec.Thin { // what is not written reads as zeroes
		conv += ",sparse"
	}
	for at := int64(0); at*copyBlock < r.copied; at += copyStep {
		args := []string{"if=" + from.Device(), "of=" + v.Device(), "bs=" + strconv.Itoa(copyBlock), "count=" + strconv.Itoa(copyStep),
			"skip=" + strconv.FormatInt(at, 10), "seek=" + strconv.FormatInt(at, 10), "iflag=direct", "oflag=direct", "conv=" + conv, "status=none"}
		if _, err := e.host.Run(ctx, e.deadlines.Wipe, "dd", args...); err != nil {
			return fmt.Errorf("copy %s to %s: %w", r.Source.LV, name, err)
		}
	}
	if r.Spec.FS != Block || r.Spec.Thin {
		return nil
	}
	return e.zeroFrom(ctx, v, r.copied)
}

// zero makes a new raw volume read as zeroes: the extents that it got may have been
// anybody's, and nothing but the pool's own classes says that they were wiped.
func (e *Engine) zero(ctx context.Context, g *group, r CreateRequest, name string) error {
	v, err := e.virgin(ctx, g, r, name)
	if err != nil {
		return err
	}
	return e.zeroFrom(ctx, v, 0)
}

// zeroFrom zeroes a volume from a byte on (BLKZEROOUT).
func (e *Engine) zeroFrom(ctx context.Context, v Volume, at int64) error {
	for ; at < v.LV.Size; at += wipeStep {
		if _, err := e.host.Run(ctx, e.deadlines.Wipe, "blkdiscard", "-z", "-o", strconv.FormatInt(at, 10), "-l", strconv.FormatInt(min(wipeStep, v.LV.Size-at), 10), v.Device()); err != nil {
			return fmt.Errorf("zero volume %s: %w", v.LV.Name, err)
		}
	}
	return nil
}
