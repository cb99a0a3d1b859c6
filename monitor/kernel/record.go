// Package kernel reads the kernel's log and finds what speaks against a disk
// in it. It knows names that the kernel uses (sda, nvme0, ata3.00, 6:0:0:0)
// and no disks: monitor/inventory tells whose name it was at that time.
package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"time"
)

// Record is one record of /dev/kmsg (Documentation/ABI/testing/dev-kmsg). The
// byte slices point into the buffer that was parsed.
type Record struct {
	Level    int // syslog severity, 0 to 7
	Facility int // 0 is the kernel; anything else was written by a program
	Sequence int64
	Time     time.Duration // since boot, of the kernel's local clock
	Message  []byte        // without the dictionary
	// Subsystem and Device are the dictionary's SUBSYSTEM= and DEVICE=, as
	// dev_printk adds them; Device is b8:0, c10:1, n2 or +scsi:6:0:0:0.
	Subsystem, Device []byte
	// Old says that it was dealt with before a restart.
	Old bool
}

var (
	// ErrMalformed is a record that is not in the format. It has been skipped.
	ErrMalformed = errors.New("malformed kernel log record")
	// ErrIncomplete is a record whose end has not been read yet.
	ErrIncomplete = errors.New("incomplete kernel log record")
)

// ParseRecord takes the first record off b and returns what follows it. It
// resolves \xNN escapes in place, so b must not be used again. With
// ErrMalformed, rest begins after the bad record. With ErrIncomplete, rest is b.
func ParseRecord(b []byte) (rec Record, rest []byte, err error) {
	line, after, ok := bytes.Cut(b, newline)
	if !ok {
		return Record{}, b, ErrIncomplete
	}
	dict := after
	for len(after) > 0 && after[0] == ' ' {
		if _, after, ok = bytes.Cut(after, newline); !ok {
			return Record{}, b, ErrIncomplete
		}
	}
	dict = dict[:len(dict)-len(after)]
	head, msg, ok := bytes.Cut(line, []byte{';'})
	if !ok || !rec.parseHead(head) {
		return Record{}, after, fmt.Errorf("%w: %.80q", ErrMalformed, line)
	}
	rec.Message = unescape(msg)
	for len(dict) > 0 {
		var l []byte
		l, dict, _ = bytes.Cut(dict, newline)
		if v, ok := bytes.CutPrefix(l, []byte(" SUBSYSTEM=")); ok {
			rec.Subsystem = unescape(v)
		} else if v, ok := bytes.CutPrefix(l, []byte(" DEVICE=")); ok {
			rec.Device = unescape(v)
		}
	}
	return rec, after, nil
}

var newline = []byte{'\n'}

// parseHead reads "prefix,sequence,microseconds,flags[,more]".
func (r *Record) parseHead(head []byte) bool {
	var n [3]int64
	for i := range n {
		var ok bool
		if n[i], head, ok = number(head); !ok || len(head) == 0 || head[0] != ',' {
			return false
		}
		head = head[1:]
	}
	if n[2] > math.MaxInt64/int64(time.Microsecond) || n[0] > math.MaxInt32 {
		return false
	}
	r.Level, r.Facility = int(n[0]&7), int(n[0]>>3)
	r.Sequence, r.Time = n[1], time.Duration(n[2])*time.Microsecond
	return true
}

// number reads the digits that b begins with: one or more, of which 18 always fit.
func number(b []byte) (n int64, rest []byte, ok bool) {
	i := 0
	for ; i < len(b) && '0' <= b[i] && b[i] <= '9'; i++ {
		if i == 18 {
			return 0, b, false
		}
		n = n*10 + int64(b[i]-'0')
	}
	return n, b[i:], i > 0
}

// unescape resolves \xNN, which the kernel writes for every byte that is not
// printable ASCII and for the backslash (kernel/printk/printk.c append_char).
func unescape(b []byte) []byte {
	i := bytes.IndexByte(b, '\\')
	if i < 0 {
		return b
	}
	out := b[:i]
	for i < len(b) {
		if b[i] == '\\' && i+3 < len(b) && b[i+1] == 'x' {
			hi, ok1 := hexDigit(b[i+2])
			lo, ok2 := hexDigit(b[i+3])
			if ok1 && ok2 {
				out = append(out, hi<<4|lo)
				i += 4
				continue
			}
		}
		out = append(out, b[i])
		i++
	}
	return out
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case c >= '0' && c <= '9':
		return c - '0', true
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10, true
	case c >= 'A' && c <= 'F':
		return c - 'A' + 10, true
	}
	return 0, false
}
