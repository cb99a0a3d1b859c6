package smart

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"holdfast.dev/internal/hostexec"
)

// Smartctl asks drives through the host's smartctl. It is no more than a fallback:
// each question starts a program, and what smartctl makes of an answer is believed.
type Smartctl struct {
	// Root is the host's root directory; it is the program's own.
	Root string
	// Program is where smartctl lies below Root; empty is /usr/sbin/smartctl.
	Program string
	// DB is what vendors mean by attributes; it may be nil.
	DB *DriveDB
}

// mostOutput is the most that smartctl may print. What it says of a disk with full
// logs is some 60 KiB.
const mostOutput = 1 << 20

// Ask reads one drive; device is the disk's own file, such as /dev/sda. When ctx ends
// the program is killed, and Ask returns when it is gone: a Reader around it starts no
// second one for the same disk before.
func (s *Smartctl) Ask(ctx context.Context, a *Adapter, device string) (*Report, error) {
	if a.Device != "" {
		device = a.Device
	}
	program := s.Program
	if program == "" {
		program = "/usr/sbin/smartctl"
	}
	out := &capped{full: make(chan struct{})}
	c := hostexec.Command{
		Path: program, Dir: "/", Env: []string{"LC_ALL=C", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"}, Stdout: out,
		Args: []string{"--json=c", "--info", "--health", "--attributes", "--log=xerror,error", "--log=xselftest,selftest", "--log=background", "--device=" + a.Type, device},
	}
	if s.Root != "" && s.Root != "/" {
		c.Root = s.Root
	}
	p, err := hostexec.Start(c)
	if err != nil {
		return nil, fmt.Errorf("%w (install smartmontools on the node, or take the disk out of smartctl:)", err)
	}
	select {
	case <-p.Done():
	case <-out.full:
		p.Stop(0)
		return nil, fmt.Errorf("smartctl prints more than %d bytes", mostOutput)
	case <-ctx.Done():
		p.Stop(0)
		return nil, fmt.Errorf("%w: smartctl: %w", ErrNoAnswer, ctx.Err())
	}
	if out.isFull() {
		return nil, fmt.Errorf("smartctl prints more than %d bytes", mostOutput)
	}
	code, err := 0, p.Err()
	if err != nil {
		code = hostexec.ExitCode(err)
	}
	switch {
	case code < 0:
		return nil, fmt.Errorf("smartctl did not end by itself: %w", err)
	case len(out.data) == 0: // it prints JSON whatever it finds
		return nil, fmt.Errorf("smartctl says nothing, exit code %d: %w", code, errors.Join(errors.New("no output"), err))
	}
	return parseSmartctl(out.data, code, device, a, s.DB)
}

// capped takes so much and no more.
type capped struct {
	data []byte
	full chan struct{} // closed when there was more
}

var errFull = errors.New("too much output")

func (b *capped) Write(p []byte) (int, error) {
	if b.isFull() {
		return 0, errFull
	}
	if len(b.data)+len(p) > mostOutput {
		close(b.full)
		return 0, errFull
	}
	b.data = append(b.data, p...)
	return len(p), nil
}

func (b *capped) isFull() bool {
	select {
	case <-b.full:
		return true
	default:
		return false
	}
}

// Bits of smartctl's exit code (smartctl(8), EXIT STATUS). The others are findings
// about the drive, which the JSON has too.
const (
	exitUsage   = 1 << 0
	exitOpen    = 1 << 1 // or the drive does not identify itself
	exitCommand = 1 << 2 // a command failed, or a checksum is wrong
)

// refusalOf is the error of an answer with these bits, in smartctl's own words.
func (d *smartctlJSON) refusalOf(code int) error {
	var said []string
	for _, m := range d.Smartctl.Messages {
		said = append(said, m.String)
	}
	text := strings.Join(said, "; ")
	if text == "" {
		text = "no reason given"
	}
	const most = 400
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	switch {
	case code&exitUsage != 0:
		return fmt.Errorf("smartctl does not take its arguments: %s", text)
	case code&exitOpen != 0:
		return fmt.Errorf("smartctl cannot ask the drive: %s", text)
	}
	return nil
}
