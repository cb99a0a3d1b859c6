package nodeprep

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A weak id names a place and not a drive: whatever is put there has it. So
// nothing is done to such a disk on the word of a record alone. It is blank only
// when every byte of it was read as zero; and until there is a partition table or an
// LVM label of our own on it, whose UUIDs no other drive has, it must be of the
// recorded size and have, between its first and last MiB, exactly what it had when
// the record was made.

const (
	wholeChunk = 4 * mebibyte
	slowest    = 10 * mebibyte // bytes a second; a disk that is slower is given up
	tellEvery  = 10 * time.Second
)

// wholeRead is what a disk has between its first and last MiB.
type wholeRead struct {
	sum string // SHA-256 of what is not zero; empty for nothing
	at  string // where the first byte that is not zero is
}

// wholeTime is how long a disk of that size may take to be read.
func wholeTime(size int64) time.Duration { return time.Duration(size/slowest+1) * time.Second }

// needsWhole says that nothing less than all of a weak disk decides about it.
func (c *Content) needsWhole(r *Record) bool {
	switch {
	case !c.Weak || c.System || len(c.Used) > 0:
		return false
	case r == nil:
		return c.looksBlank(false) == ""
	case r.Table != nil && r.Table.Phase == Made, r.PV != nil && r.PV.Phase == Made, r.Table == nil && r.PV == nil:
		return false
	}
	return !r.marked(c) && (r.begun() || c.looksBlank(true) == "")
}

// marked says that the disk carries what only this record's making has left.
func (r *Record) marked(c *Content) bool {
	if r.Table != nil {
		return c.GPT.compare(r.Table) == whole
	}
	for _, s := range c.Signatures {
		if r.PV != nil && s.Type == "LVM2_member" && s.UUID == r.PV.UUID {
			return true
		}
	}
	return false
}

// stranger says why a disk with a weak id is not the recorded one, or nothing.
func (r *Record) stranger(c *Content) string {
	over := r.Table == nil && r.PV == nil || r.Table != nil && r.Table.Phase == Made || r.PV != nil && r.PV.Phase == Made
	if !c.Weak || over || r.marked(c) {
		return ""
	}
	const what = "its id names a place and not a drive, and this may be another one than was begun: "
	switch {
	case c.Size != r.Size:
		return what + fmt.Sprintf("it has %d bytes, not %d", c.Size, r.Size)
	case !c.Whole:
		return what + "it was not read whole"
	case c.Between != r.Between && c.BetweenAt != "":
		return what + "it has data that was not there, the first " + c.BetweenAt
	case c.Between != r.Between:
		return what + "what it had is not there"
	}
	return ""
}

// whole reads all of a disk but its first and last MiB, which are looked at anyway.
func (h *Host) whole(ctx context.Context, d *held) (*wholeRead, error) {
	if d.whole != nil {
		return d.whole, nil
	}
	r := &wholeRead{}
	sum := sha256.New()
	buf := make([]byte, wholeChunk)
	end := d.node.Size - mebibyte
	told := time.Now()
	for at := mebibyte; at < end; at += wholeChunk {
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read all of %s, got to byte %d of %d: %w", d.name, at, end, err)
		}
		b := buf[:min(wholeChunk, end-at)]
		b[0] = 1 // a read that leaves the buffer as it was must not pass
		if _, err := d.file.ReadAt(b, at); err != nil {
			return nil, fmt.Errorf("read %s at byte %d: %w", d.name, at, err)
		}
		if nonZero(b) >= 0 {
			r.at = firstData(r.at, b, at)
			fmt.Fprintf(sum, "%d:", at)
			sum.Write(b)
		}
		_ = unix.Fadvise(int(d.file.Fd()), at, int64(len(b)), unix.FADV_DONTNEED) // only the page cache is spared
		if now := time.Now(); now.Sub(told) >= tellEvery {
			told = now
			h.tell("disk %s (%s): its id names a place, not a drive: all of it is read: %d %%", d.id, d.name, at*100/end)
		}
	}
	if r.at != "" {
		r.sum = hex.EncodeToString(sum.Sum(nil))
	}
	d.whole = r
	return r, nil
}

// tell reports to a person; disks are read side by side.
func (h *Host) tell(format string, args ...any) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.Progress != nil {
		fmt.Fprintf(h.Progress, format+"\n", args...)
	}
}

// pvHeader is what pvcreate writes first, at byte 4096: the header of a metadata area
// (lib/format_text/layout.h, struct mda_header: a checksum, then FMTT_MAGIC). The label
// in the second sector follows, lib/label/label.c.
var pvHeader = []byte(" LVM2 x[5A%r0N*>")

const (
	pvHeaderAt   = 4096
	pvHeaderSize = 512
)

// halfPV says that the first and last MiB have nothing but what a pvcreate that was ended
// before its label has left.
func halfPV(head, tail []byte) bool {
	h := head[pvHeaderAt : pvHeaderAt+pvHeaderSize]
	return nonZero(head[:pvHeaderAt]) < 0 && nonZero(head[pvHeaderAt+pvHeaderSize:]) < 0 && nonZero(tail) < 0 &&
		(nonZero(h) < 0 || bytes.Equal(h[4:4+len(pvHeader)], pvHeader))
}
