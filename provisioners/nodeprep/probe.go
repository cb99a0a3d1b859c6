package nodeprep

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/bounded"
	"holdfast.dev/internal/mounttable"
	"holdfast.dev/internal/superblock"
)

const (
	samples    = 256
	sampleSize = 4096
	// checkTimeout is how long a checker may take: it reads all of a new file system's metadata.
	checkTimeout = 12 * time.Minute
)

// content reads everything that decides about a disk. Whatever fails is in Err.
func (h *Host) content(ctx context.Context, f *Found, used *users, state *State, extents []Extent) Content {
	rec, limit := state.Disks[f.ID], readTimeout
	if rec != nil && !rec.done() && rec.begun() {
		limit = checkTimeout // a file system may have to be checked
	}
	if f.Weak && (rec == nil || !rec.done()) {
		limit += wholeTime(f.Size)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	type result struct {
		Content
		hold *held
	}
	x := *f // the goroutine's own: it may be left behind
	r, err := bounded.Call(ctx, func() (result, error) {
		c := Content{Weak: x.Weak, Size: x.Size}
		if err := h.read(ctx, &x, used, rec, extents, &c); err != nil {
			c.Err = err.Error()
		}
		return result{c, x.hold}, nil
	})
	if err != nil { // a disk that hangs costs a goroutine, and delays no other
		return Content{Err: fmt.Sprintf("read %s: no answer within %s", f.Device, limit)}
	}
	f.hold = r.hold
	return r.Content
}

func (h *Host) read(ctx context.Context, f *Found, used *users, rec *Record, extents []Extent, c *Content) error {
	system, err := h.uses(f.Device, used, c)
	if err != nil || system {
		return err // nothing more is asked of the host's own
	}
	if f.hold == nil {
		if f.hold, err = h.hold(f.Device, f.ID, f.Size); err != nil {
			f.hold = nil
			return err
		}
	}
	c.kept = f.hold.given
	look, err := h.look(ctx, f.hold, false)
	if err != nil {
		return err
	}
	c.Signatures = look.signatures
	if err := h.bytes(f, rec, extents, c); err != nil {
		return err
	}
	for i := range c.Partitions {
		if err := h.partition(ctx, f.hold, &c.Partitions[i], rec, c); err != nil {
			return err
		}
	}
	if c.needsWhole(rec) {
		all, err := h.whole(ctx, f.hold)
		if err != nil {
			return err
		}
		c.Whole, c.Between, c.BetweenAt = true, all.sum, all.at
	}
	return h.same(f.hold)
}

// uses reads from sysfs which partitions a disk has and who uses it, and says whether it is the host's own.
func (h *Host) uses(dev string, used *users, c *Content) (system bool, err error) {
	text, points, err := h.of(used, path.Join(sysBlock, dev), 8)
	if err != nil {
		return false, err
	}
	if c.Partitions, err = h.partitions(dev); err != nil {
		return false, err
	}
	c.Used = text
	for i := range c.Partitions {
		p := &c.Partitions[i]
		t, pts, err := h.of(used, path.Join(sysBlock, dev, p.Name), 8)
		if err != nil {
			return false, err
		}
		p.Used = t
		c.Used, points = append(c.Used, t...), append(points, pts...)
	}
	c.System = slices.ContainsFunc(points, func(p string) bool { return p == "swap" || mounttable.System(p) })
	return c.System, nil
}

// bytes reads the disk itself, and asks the kernel whether it is in use, whatever
// mount table and sysfs say.
func (h *Host) bytes(f *Found, rec *Record, extents []Extent, c *Content) error {
	x := f.hold.file
	alone, err := f.hold.exclusive(os.O_RDONLY)
	switch {
	case err == nil:
		_ = alone.Close() // read only
	case !errors.Is(err, unix.EBUSY):
		return fmt.Errorf("open %s: %w", f.Device, err)
	case len(c.Used) == 0:
		c.Used = append(c.Used, f.Device+" is claimed by something in the kernel")
	}
	fresh(x)
	sum := sha256.New()
	head, err := readAt(x, sum, 0, mebibyte)
	if err != nil {
		return err
	}
	tail, err := readAt(x, sum, f.Size-mebibyte, mebibyte)
	if err != nil {
		return err
	}
	c.GPT = ReadGPT(head, tail, f.Size, f.SectorSize)
	c.HalfPV = halfPV(head, tail)
	c.Edges = firstData(c.Edges, head, 0)
	c.Edges = firstData(c.Edges, tail, f.Size-mebibyte)
	defer func() { c.Sum = hex.EncodeToString(sum.Sum(nil)) }()
	if rec != nil && rec.begun() {
		return nil // its places were proven before it was begun
	}
	for _, e := range extents {
		for _, at := range []int64{e.Start, e.Start + e.Size - mebibyte} {
			b, err := readAt(x, sum, at, mebibyte)
			if err != nil {
				return err
			}
			c.Edges = firstData(c.Edges, b, at)
		}
	}
	for i := range int64(samples) {
		at := (f.Size - sampleSize) / samples * i / sampleSize * sampleSize
		b, err := readAt(x, sum, at, sampleSize)
		if err != nil {
			return err
		}
		c.Middle = firstData(c.Middle, b, at)
	}
	return nil
}

// fresh makes the next read one of the disk and not of what the kernel remembers
// of it. A regular file, and a process without the right, do not have that.
func fresh(x *os.File) { _ = unix.IoctlSetInt(int(x.Fd()), unix.BLKFLSBUF, 0) }

func readAt(x *os.File, sum hash.Hash, at, n int64) ([]byte, error) {
	b := make([]byte, n)
	if at < 0 {
		return nil, fmt.Errorf("read %s: it is smaller than a MiB", x.Name())
	}
	if _, err := x.ReadAt(b, at); err != nil {
		return nil, fmt.Errorf("read %s at byte %d: %w", x.Name(), at, err)
	}
	if sum != nil && nonZero(b) >= 0 {
		fmt.Fprintf(sum, "%d:", at)
		sum.Write(b)
	}
	return b, nil
}

func firstData(have string, b []byte, at int64) string {
	if have != "" {
		return have
	}
	if i := nonZero(b); i >= 0 {
		return fmt.Sprintf("at byte %d", at+int64(i))
	}
	return ""
}

// partition reads one partition: what the tools say, and its superblock itself.
// They must agree.
func (h *Host) partition(ctx context.Context, disk *held, p *Partition, rec *Record, c *Content) error {
	d, err := h.holdPartition(disk, p)
	if err != nil {
		return err
	}
	defer d.close()
	look, err := h.look(ctx, d, true)
	if err != nil {
		return err
	}
	c.Signatures = append(c.Signatures, look.signatures...)
	p.Type, p.UUID = look.fsType, look.fsUUID
	if p.Size < mebibyte {
		return nil
	}
	x := d.file
	fresh(x)
	head, err := readAt(x, nil, 0, mebibyte)
	if err != nil {
		return err
	}
	tail, err := readAt(x, nil, p.Size-mebibyte, mebibyte)
	if err != nil {
		return err
	}
	p.Edges = firstData(firstData("", head, 0), tail, p.Size-mebibyte)
	sb := superblock.Parse(head)
	want := rec.making(p)
	if want != nil && p.Type == "" && len(look.signatures) == 0 && sb.Kind == string(want.Filesystem) && sb.UUID == want.FSUUID && len(p.Used) == 0 {
		p.Type, p.UUID, p.Unused = sb.Kind, sb.UUID, sb.Unused // our own, too damaged for the tools
		return nil
	}
	if (sb.Kind != "" || p.Type == "ext4" || p.Type == "xfs") && (sb.Kind != p.Type || sb.UUID != p.UUID) {
		if sb.Kind != "ext4" || p.Type != "ext2" && p.Type != "ext3" { // one magic for all three
			return fmt.Errorf("read %s: blkid says %q %s, its superblock %q %s", p.Name, p.Type, p.UUID, sb.Kind, sb.UUID)
		}
	}
	if p.Type == "" && len(look.signatures) > 0 {
		return fmt.Errorf("read %s: blkid finds nothing, and others find %s", p.Name, look.signatures[0].Type)
	}
	if want == nil || p.Type != string(want.Filesystem) || p.UUID != want.FSUUID || len(p.Used) > 0 {
		return nil
	}
	p.Unused = sb.Unused
	p.Whole, err = h.check(ctx, p.Type, d)
	return err
}

// making is the record of a partition whose file system was begun.
func (r *Record) making(p *Partition) *TablePartition {
	if r == nil || r.Table == nil {
		return nil
	}
	for i := range r.Table.Partitions {
		if t := &r.Table.Partitions[i]; t.Start == p.Start && t.Size == p.Size && t.Phase == Begun {
			return t
		}
	}
	return nil
}

// mountWait is how long mounting may take: a journal may have to be replayed.
const mountWait = 2 * time.Minute
