package kernel

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"sync/atomic"
	"time"

	"holdfast.dev/internal/hostexec"
)

// Journal is the kernel log as systemd-journald has kept it: for hosts whose
// /dev/kmsg cannot be opened. It follows journalctl, run with the host's root as its
// own. It gives records as /dev/kmsg does.
//
// Their numbers are the microseconds since boot at which they were logged,
// times 1000, and counted up within a microsecond: journald does not keep the
// kernel's numbers. A gap says nothing, then; what the kernel overwrote before
// journald read it, journald says itself (journald-kmsg.c, "Missed N kernel
// messages"), and Missed counts it. What journald has deleted of this boot is not
// counted. A record comes when journald has written it, later than from /dev/kmsg.
type Journal struct {
	process *hostexec.Process
	f       *os.File // its output
	stopped atomic.Bool

	raw    []byte // read, and not taken apart
	out    []byte // taken apart, and not handed on
	last   int64  // number of the last record
	missed atomic.Int64
	idled  bool
}

// journalctl is the program, looked for below the host's root.
const journalctl = "/usr/bin/journalctl"

// OpenJournal starts to follow the journal of this boot, from its beginning. root
// is the host's root directory.
func OpenJournal(root string) (*Journal, error) { return openJournal(root, journalctl) }

func openJournal(root, program string) (*Journal, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("open journal: %w", err)
	}
	c := hostexec.Command{
		Path: program, Dir: "/", Env: []string{"LC_ALL=C", "PATH=/usr/bin:/bin"}, Stdout: w,
		// What journald itself says has the transport "driver".
		Args: []string{"--boot", "--follow", "--no-tail", "--quiet", "--no-pager", "--output=json", "_TRANSPORT=kernel", "+", "_TRANSPORT=driver"},
	}
	if root != "/" {
		c.Root = root
	}
	p, err := hostexec.Start(c)
	_ = w.Close() // the process has its own
	if err != nil {
		_ = r.Close() // the first error counts
		return nil, fmt.Errorf("open journal: %w", err)
	}
	return &Journal{process: p, f: r}, nil
}

// Replays implements Source.
func (j *Journal) Replays() bool { return true }

// Missed is how many records journald has not read in time since the last call.
func (j *Journal) Missed() int64 { return j.missed.Swap(0) }

// Read implements Source.
func (j *Journal) Read(p []byte, idle func()) (int, error) {
	// pause is for how long nothing comes when everything has been read: journalctl
	// may be slower than its reader.
	const pause = 100 * time.Millisecond
	buf := make([]byte, 64<<10)
	for len(j.out) == 0 {
		var until time.Time
		if !j.idled {
			until = time.Now().Add(pause)
		}
		if err := j.f.SetReadDeadline(until); err != nil {
			return 0, err
		}
		if j.stopped.Load() { // after the deadline was set, which Stop's would have been replaced by
			return 0, os.ErrClosed
		}
		n, err := j.f.Read(buf)
		switch {
		case n > 0:
			j.idled = false
			j.take(buf[:n])
		case errors.Is(err, os.ErrDeadlineExceeded) && !j.stopped.Load():
			j.idled = true
			idle()
		case errors.Is(err, io.EOF):
			return 0, fmt.Errorf("follow journal: %w", j.ended())
		case err != nil:
			return 0, fmt.Errorf("follow journal: %w", err)
		}
	}
	// Whole records: the reader takes any part of one, but n must not be cut for a small p.
	n := copy(p, j.out)
	j.out = j.out[n:]
	return n, nil
}

// ended is why journalctl has closed its output.
func (j *Journal) ended() error {
	j.process.Stop(time.Second)
	if err := j.process.Err(); err != nil {
		return err
	}
	return io.ErrUnexpectedEOF
}

// Stop ends a Read that waits, and every later one.
func (j *Journal) Stop() {
	j.stopped.Store(true)
	_ = j.f.SetReadDeadline(time.Unix(1, 0)) // the only errors are of a closed file
}

// Close ends journalctl.
func (j *Journal) Close() error {
	err := j.f.Close()
	j.process.Stop(0)
	return err
}

// mostRaw bounds an entry, as journald does (DATA_SIZE_MAX is far more than a record of the kernel has).
const mostRaw = 1 << 20

func (j *Journal) take(data []byte) {
	j.raw = append(j.raw, data...)
	for {
		line, rest, ok := bytes.Cut(j.raw, newline)
		if !ok {
			break
		}
		j.entry(line)
		j.raw = rest
	}
	if len(j.raw) > mostRaw {
		j.raw = nil // its end will not be an entry, and is counted as malformed
	}
	j.raw = bytes.Clone(j.raw)
}

// field is a journal's field in JSON: a string, or numbers when it is no UTF-8, or
// several of these (systemd.io/JOURNAL_EXPORT_FORMATS).
type field []byte

// UnmarshalJSON implements json.Unmarshaler.
func (f *field) UnmarshalJSON(data []byte) error {
	var s string
	var numbers []uint8
	var several []field
	var ints []int
	switch {
	case json.Unmarshal(data, &s) == nil:
		*f = field(s)
	case json.Unmarshal(data, &ints) == nil:
		for _, n := range ints {
			if n < 0 || n > 255 {
				return fmt.Errorf("%d is no byte", n)
			}
			numbers = append(numbers, uint8(n))
		}
		*f = numbers
	case json.Unmarshal(data, &several) == nil && len(several) > 0:
		*f = several[0]
	default:
		return fmt.Errorf("%.40q is no field of a journal", data)
	}
	return nil
}

// entry turns an entry into a record as /dev/kmsg has it. One that cannot be read
// becomes a malformed record, which the reader counts.
func (j *Journal) entry(line []byte) {
	var e struct {
		Transport field `json:"_TRANSPORT"`
		Message   field `json:"MESSAGE"`
		Priority  field `json:"PRIORITY"`
		Facility  field `json:"SYSLOG_FACILITY"`
		Micros    field `json:"_SOURCE_MONOTONIC_TIMESTAMP"`
		Device    field `json:"_KERNEL_DEVICE"`
		Subsystem field `json:"_KERNEL_SUBSYSTEM"`
	}
	if err := json.Unmarshal(line, &e); err != nil {
		j.out = append(j.out, "malformed entry of the journal\n"...)
		return
	}
	if string(e.Transport) != "kernel" {
		j.driver(e.Message)
		return
	}
	priority, rest1, ok1 := number(e.Priority)
	facility, rest2, ok2 := number(e.Facility)
	micros, rest3, ok3 := number(e.Micros)
	if !ok1 || !ok2 || !ok3 || len(rest1)+len(rest2)+len(rest3) > 0 || priority > 7 || facility > 1<<20 || micros > 1<<52 {
		j.out = append(j.out, "malformed entry of the journal\n"...)
		return
	}
	j.last = max(j.last+1, 1000*micros)
	j.out = fmt.Appendf(j.out, "%d,%d,%d,-;", facility<<3|priority, j.last, micros)
	j.out = escaped(j.out, e.Message)
	j.out = append(j.out, '\n')
	for _, d := range []struct {
		key   string
		value field
	}{{"SUBSYSTEM", e.Subsystem}, {"DEVICE", e.Device}} {
		if len(d.value) > 0 {
			j.out = append(append(append(j.out, ' '), d.key...), '=')
			j.out = append(escaped(j.out, d.value), '\n')
		}
	}
}

// driver takes in what journald says of itself.
func (j *Journal) driver(msg []byte) {
	rest, ok := bytes.CutPrefix(msg, []byte("Missed "))
	count, rest, _ := bytes.Cut(rest, []byte(" "))
	if n, err := strconv.ParseInt(string(count), 10, 64); ok && err == nil && n > 0 && bytes.HasPrefix(rest, []byte("kernel message")) {
		j.missed.Add(n)
	}
}

// escaped writes as the kernel does what is not printable ASCII, and the backslash.
func escaped(to, text []byte) []byte {
	for _, c := range text {
		if c < ' ' || c > '~' || c == '\\' {
			to = fmt.Appendf(to, `\x%02x`, c)
		} else {
			to = append(to, c)
		}
	}
	return to
}
