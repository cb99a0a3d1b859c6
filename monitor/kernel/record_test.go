package kernel

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestParseRecord(t *testing.T) {
	type want struct {
		Level, Facility    int
		Sequence           int64
		Time               time.Duration
		Message, Sub, Devs string
		Rest               string
	}
	cases := map[string]struct {
		reason, in string
		want       want
		err        error
	}{
		"Plain": {"a printk", "3,1234,5000001,-;I/O error, dev loop0\n", want{3, 0, 1234, 5000001 * time.Microsecond, "I/O error, dev loop0", "", "", ""}, nil},
		"Dictionary": {"dev_printk names the device; it is no part of the message (NPD #1086)", "4,7,1,-;sd 6:0:0:0: [sda] Sense Key : Medium Error [current] \n SUBSYSTEM=scsi\n DEVICE=+scsi:6:0:0:0\n",
			want{4, 0, 7, time.Microsecond, "sd 6:0:0:0: [sda] Sense Key : Medium Error [current] ", "scsi", "+scsi:6:0:0:0", ""}, nil},
		"Several":    {"a pipe gives more than one", "6,1,2,-;a\n K=v\n6,2,3,-;b\n", want{6, 0, 1, 2 * time.Microsecond, "a", "", "", "6,2,3,-;b\n"}, nil},
		"Escape":     {"every unprintable byte is \\xNN", "6,1,2,-;a\\x0ab\\x5cx41\\xzz\\x4\n", want{6, 0, 1, 2 * time.Microsecond, "a\nb\\x41\\xzz\\x4", "", "", ""}, nil},
		"More":       {"fields are added after the flags, such as the caller", "30,1,2,c,caller=T1;x;y\n", want{6, 3, 1, 2 * time.Microsecond, "x;y", "", "", ""}, nil},
		"Cut":        {"the end has not come", "6,1,2,-;a", want{Rest: "6,1,2,-;a"}, ErrIncomplete},
		"CutDict":    {"nor has the dictionary's", "6,1,2,-;a\n DEV", want{Rest: "6,1,2,-;a\n DEV"}, ErrIncomplete},
		"NoHead":     {"a bad record is skipped, not the good one after it", "hello\n6,2,3,-;b\n", want{Rest: "6,2,3,-;b\n"}, ErrMalformed},
		"Negative":   {"numbers have no sign", "-6,1,2,-;a\n", want{}, ErrMalformed},
		"Overflow":   {"a number that no kernel writes", "6,99999999999999999999,2,-;a\n", want{}, ErrMalformed},
		"FewFields":  {"too few fields", "6,1;a\n", want{}, ErrMalformed},
		"Continuing": {"a stray continuation", " DEVICE=b8:0\n", want{}, ErrMalformed},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			rec, rest, err := ParseRecord([]byte(tc.in))
			got := want{rec.Level, rec.Facility, rec.Sequence, rec.Time, string(rec.Message), string(rec.Subsystem), string(rec.Device), string(rest)}
			if d := cmp.Diff(tc.want, got); d != "" || !errors.Is(err, tc.err) {
				t.Errorf("%v; %s; reason: %s", err, d, tc.reason)
			}
		})
	}
}

// escape writes msg as the kernel does, printk.c msg_add_ext_text.
func escape(msg []byte) string {
	var b strings.Builder
	for _, c := range msg {
		if c < ' ' || c >= 127 || c == '\\' {
			fmt.Fprintf(&b, "\\x%02x", c)
		} else {
			b.WriteByte(c)
		}
	}
	return b.String()
}

func FuzzRecord(f *testing.F) {
	for _, s := range []string{"6,1,2,-;a\n DEVICE=b8:0\n6,2,3,-;b\n", "6,1,2,-;\\x0", "\n\n", "6,1,2,c,caller=T1;\\x41\\xff\n", ";\n", "1,,2,-;"} {
		f.Add([]byte(s), uint16(7))
	}
	m := NewMatcher()
	f.Fuzz(func(t *testing.T, data []byte, seq uint16) {
		in := bytes.Clone(data)
		for len(in) > 0 {
			rec, rest, err := ParseRecord(in)
			if errors.Is(err, ErrIncomplete) {
				break
			}
			if len(rest) >= len(in) {
				t.Fatalf("no progress in %q", in)
			}
			if err == nil {
				if ev, _ := m.Match(&rec, time.Time{}); ev != nil && (len(ev.Evidence) > MaxEvidence || ev.Severity == "") {
					t.Errorf("event %+v", ev)
				}
			}
			in = rest
		}
		// What the kernel writes for any message is parsed back to it.
		line := fmt.Sprintf("3,%d,5,-;%s\n DEVICE=b8:0\n", seq, escape(data))
		rec, rest, err := ParseRecord([]byte(line + "6,1"))
		if err != nil || string(rest) != "6,1" || !bytes.Equal(rec.Message, data) || rec.Sequence != int64(seq) || string(rec.Device) != "b8:0" {
			t.Errorf("%q became %+v, rest %q, %v", line, rec, rest, err)
		}
	})
}
