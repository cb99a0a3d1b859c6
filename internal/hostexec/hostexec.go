// Package hostexec runs programs of the host. It is the only importer of
// os/exec in Holdfast: every command here has a deadline or a parent that it
// dies with, an argument list and never a shell, and an error that carries the
// exit code and the end of stderr.
package hostexec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// killWait is how long a killed process may take to be gone.
const killWait = 3 * time.Second

// Error is a command that ran and failed, or could not be run.
type Error struct {
	Name     string // program, without its arguments: they may carry paths of users
	ExitCode int    // -1 when it did not exit by itself
	Stderr   string // at most the last 2 KiB
	Err      error
}

func (e *Error) Error() string {
	msg := fmt.Sprintf("run %s: %v", e.Name, e.Err)
	if s := strings.TrimSpace(e.Stderr); s != "" {
		msg += ": " + s
	}
	return msg
}

func (e *Error) Unwrap() error { return e.Err }

// ExitStatus is the exit code, as os/exec and x/crypto/ssh name it.
func (e *Error) ExitStatus() int { return e.ExitCode }

// ExitCode is the exit code of a program that err tells of, and -1 when it tells of none
// that ended by itself.
func ExitCode(err error) int {
	var e interface{ ExitStatus() int }
	if errors.As(err, &e) {
		return e.ExitStatus()
	}
	return -1
}

// Command is a program to run.
type Command struct {
	Path string // program name or path
	Args []string
	// Root, when set, is the directory that is the program's root; Path and Dir are
	// below it. It needs root.
	Root  string
	Dir   string
	Env   []string // nil inherits the environment
	Stdin io.Reader
	// Stdout receives standard output; nil collects it into the result of Run.
	Stdout io.Writer
	// Stderr receives standard error as well as the error's tail. It is written beside
	// Stdout, at the same time: one writer for both must bear that.
	Stderr io.Writer
	// Files are inherited as descriptors 3, 4, ….
	Files []*os.File
	// Unshare holds CLONE_NEW… flags; they need root.
	Unshare uintptr
	// Credential, when set, is the user that the program runs as; it needs root.
	Credential *syscall.Credential
	// DiesWithCaller has the kernel kill the program when the process that runs it dies,
	// however that dies (PR_SET_PDEATHSIG, prctl(2)); what it started itself only loses its
	// parent. Not for what must not be cut off in the middle. Start sets it.
	DiesWithCaller bool
}

// Run runs the command to its end or until timeout, whichever is first, and
// returns its standard output. On timeout the whole process group is killed. The
// deadline dies with the caller, and the program only if it says so.
func Run(ctx context.Context, timeout time.Duration, c Command) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var out bytes.Buffer
	tail := &tailBuffer{limit: 2 << 10}
	cmd := build(c, tail)
	if c.Stdout == nil {
		cmd.Stdout = &out
	}
	// A grandchild that keeps a pipe open must not hold Wait for ever.
	cmd.WaitDelay = time.Second
	var err, ended error
	done := make(chan struct{})
	if err := launch(cmd, func(err error) { ended = err; close(done) }); err != nil {
		return nil, &Error{Name: c.Path, ExitCode: -1, Err: err}
	}
	select {
	case <-done:
		err = ended
	case <-ctx.Done():
		killGroup(cmd.Process.Pid)
		select {
		case <-done:
		case <-time.After(killWait):
			// Not even SIGKILL ends a process that waits for a hung disk: leave
			// it, and whoever waits for it, behind.
			return nil, &Error{Name: c.Path, ExitCode: -1, Err: fmt.Errorf("no answer within %s, and it cannot be killed: %w", timeout, ctx.Err())}
		}
		err = ctx.Err()
		if errors.Is(err, context.DeadlineExceeded) {
			err = fmt.Errorf("no answer within %s: %w", timeout, err)
		}
	}
	if err != nil {
		return out.Bytes(), &Error{Name: c.Path, ExitCode: cmd.ProcessState.ExitCode(), Stderr: tail.String(), Err: err}
	}
	return out.Bytes(), nil
}

// Process is a program that runs beside its caller.
type Process struct {
	cmd  *exec.Cmd
	name string
	tail *tailBuffer
	done chan struct{}
	err  error
}

// Start starts the command. It is killed when its parent dies, however that
// dies (PR_SET_PDEATHSIG, prctl(2)); it leads a process group of its own.
func Start(c Command) (*Process, error) {
	p := &Process{name: c.Path, tail: &tailBuffer{limit: 2 << 10}, done: make(chan struct{})}
	c.DiesWithCaller = true
	p.cmd = build(c, p.tail)
	p.cmd.WaitDelay = time.Second
	if err := launch(p.cmd, func(err error) { p.err = err; close(p.done) }); err != nil {
		return nil, &Error{Name: c.Path, ExitCode: -1, Err: err}
	}
	return p, nil
}

// launch starts the command and tells how it ended. The death signal comes when the
// thread that forked ends, and not the process (prctl(2), golang/go#27505): the
// goroutine keeps its thread, which waits in the kernel anyway, until the child is gone.
func launch(cmd *exec.Cmd, ended func(error)) error {
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			ended(cmd.Wait())
		}
	}()
	return <-started
}

// StartDetached starts a command that outlives its caller: nothing kills it
// when its parent dies, and it has a session of its own, which no Ctrl-C
// reaches. All that it writes goes to log.
func StartDetached(c Command, log *os.File) (*Process, error) {
	p := &Process{name: c.Path, tail: &tailBuffer{limit: 2 << 10}, done: make(chan struct{})}
	p.cmd = build(c, p.tail)
	// Files themselves, not pipes: their reader would end with the caller.
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.SysProcAttr = log, log, &syscall.SysProcAttr{Setsid: true}
	if err := p.cmd.Start(); err != nil {
		return nil, &Error{Name: c.Path, ExitCode: -1, Err: err}
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// PID is the process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is how the process ended: nil for exit code 0. Call it after Done.
func (p *Process) Err() error {
	if p.err == nil {
		return nil
	}
	return &Error{Name: p.name, ExitCode: p.cmd.ProcessState.ExitCode(), Stderr: p.tail.String(), Err: p.err}
}

// ExitCode is the exit code, or 128 plus the signal's number as shells have it. Call it after Done.
func (p *Process) ExitCode() int {
	if ws, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		return 128 + int(ws.Signal())
	}
	return p.cmd.ProcessState.ExitCode()
}

// Signal sends a signal to the process alone.
func (p *Process) Signal(sig syscall.Signal) error {
	select {
	case <-p.done:
		return nil // its number may belong to somebody else by now
	default:
		return p.cmd.Process.Signal(sig)
	}
}

// Stop asks the process to end and kills its group when grace is over. It
// returns when the process is gone.
func (p *Process) Stop(grace time.Duration) {
	if err := p.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		grace = 0
	}
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-p.done:
	case <-t.C:
		killGroup(p.PID())
		<-p.done
	}
}

func build(c Command, tail *tailBuffer) *exec.Cmd {
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Dir, cmd.Env, cmd.Stdin, cmd.Stdout, cmd.ExtraFiles = c.Dir, c.Env, c.Stdin, c.Stdout, c.Files
	cmd.Stderr = tail
	if c.Stderr != nil {
		cmd.Stderr = io.MultiWriter(tail, c.Stderr)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: c.Unshare, Credential: c.Credential, Chroot: c.Root}
	if c.DiesWithCaller {
		cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	}
	return cmd
}

func killGroup(pid int) {
	// ESRCH means that it is gone already, which is what is wanted.
	_ = syscall.Kill(-pid, syscall.SIGKILL)
}

// LookPath finds a program as exec.LookPath does.
func LookPath(name string) (string, error) { return exec.LookPath(name) }

// tailBuffer keeps the last limit bytes written to it.
type tailBuffer struct {
	limit int
	buf   []byte
}

func (t *tailBuffer) Write(p []byte) (int, error) {
	t.buf = append(t.buf, p...)
	if n := len(t.buf) - t.limit; n > 0 {
		t.buf = append(t.buf[:0], t.buf[n:]...)
	}
	return len(p), nil
}

func (t *tailBuffer) String() string { return string(t.buf) }
