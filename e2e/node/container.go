package node

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"holdfast.dev/internal/hostexec"
)

// container runs one container of a pod, again and again as its policy says.
type container struct {
	pod   *pod
	spec  *corev1.Container // guarded by pod.mu
	state containerState    // guarded by pod.mu

	mu      sync.Mutex
	process *hostexec.Process
	grace   time.Duration // of this process, when it is ended for itself
	ending  chan struct{} // closed when it is to be ended for itself
}

// Exit codes and reasons as container runtimes report them.
const (
	exitStartError = 128
	exitKilled     = 137
	messageSize    = 2048 // as TerminationMessageFallbackToLogsOnError
)

// newContainer takes up what an earlier run of the node reported: its process
// has died with that. An init container starts over, as what it made is gone.
func newContainer(p *pod, spec *corev1.Container, old []corev1.ContainerStatus, init bool) *container {
	c := &container{pod: p, spec: spec, state: containerState{name: spec.Name, image: spec.Image, state: waiting("ContainerCreating", "")}}
	for _, o := range old {
		if o.Name != spec.Name || o.ContainerID == "" {
			continue
		}
		c.state.restartCount, c.state.id, c.state.last = o.RestartCount, o.ContainerID, o.LastTerminationState
		switch {
		case init:
		case o.State.Terminated != nil:
			c.state.state = o.State
		case o.State.Running != nil:
			c.state.state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: exitKilled, Reason: "ContainerStatusUnknown", Message: "the node was restarted",
				StartedAt: o.State.Running.StartedAt, FinishedAt: metav1.Now(), ContainerID: o.ContainerID,
			}}
		}
	}
	return c
}

func waiting(reason, message string) corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}}
}

// supervise runs the container until its policy is satisfied or ctx ends. The
// result is whether it ended well.
func (c *container) supervise(ctx context.Context, init bool) bool {
	var pause backoff
	if t := c.terminated(); t != nil && !c.again(t.ExitCode, init) {
		return t.ExitCode == 0 // it had ended before the node was restarted
	}
	for ctx.Err() == nil {
		start := time.Now()
		err := c.runOnce(ctx)
		if ctx.Err() != nil {
			break
		}
		if t := c.terminated(); err == nil && t != nil {
			if !c.again(t.ExitCode, init) {
				return t.ExitCode == 0
			}
		}
		d := pause.after(time.Since(start))
		c.wait(err, d)
		select {
		case <-ctx.Done():
		case <-time.After(d):
		}
	}
	c.pod.set(func() { c.state.ready = false })
	return false
}

// again is whether the restart policy wants another start.
func (c *container) again(exitCode int32, init bool) bool {
	switch c.pod.policy {
	case corev1.RestartPolicyNever:
		return false
	case corev1.RestartPolicyOnFailure:
		return exitCode != 0
	}
	return !init || exitCode != 0
}

func (c *container) terminated() *corev1.ContainerStateTerminated {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.state.state.Terminated
}

// wait reports the pause before the next start.
func (c *container) wait(err error, d time.Duration) {
	c.pod.set(func() {
		if c.state.state.Terminated != nil {
			c.state.last = c.state.state
		}
		reason, message := "CrashLoopBackOff", fmt.Sprintf("back-off %s restarting failed container=%s", d, c.state.name)
		var prep *prepareError
		if errors.As(err, &prep) {
			reason, message = prep.reason, prep.Error()
		}
		c.state.state, c.state.ready, c.state.started = waiting(reason, message), false, false
	})
	if err != nil {
		c.pod.host.events.Event(c.pod.object(), corev1.EventTypeWarning, "Failed", err.Error())
		return
	}
	c.pod.host.events.Eventf(c.pod.object(), corev1.EventTypeWarning, "BackOff", "Back-off restarting failed container %s", c.state.name)
}

// runOnce starts the container's process and waits for its end. An error means
// that it could not be prepared; a start that failed is an end with code 128.
func (c *container) runOnce(ctx context.Context) error {
	c.pod.mu.Lock()
	spec, restart := c.spec.DeepCopy(), c.state.id != ""
	n := c.state.restartCount
	c.pod.mu.Unlock()
	if restart {
		n++
	}
	l, err := c.prepare(ctx, spec)
	if err != nil {
		return err
	}
	log, name, err := c.openLog(n)
	if err != nil {
		return &prepareError{reason: "CreateContainerError", err: err}
	}
	defer func() { _ = log.Close() }() // each write went to the kernel
	l.command.Stdout, l.command.Stderr = log, log
	id := "holdfast://" + randomID()
	ending := make(chan struct{})
	proc, err := start(l.command)
	started := metav1.Now()
	if err != nil {
		c.pod.set(func() {
			c.begin(spec, id, l.image.id, n, name)
			c.state.state = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{
				ExitCode: exitStartError, Reason: "StartError", Message: err.Error(), StartedAt: started, FinishedAt: started, ContainerID: id,
			}}
		})
		return nil
	}
	c.mu.Lock()
	c.process, c.ending, c.grace = proc, ending, 0
	c.mu.Unlock()
	c.pod.set(func() {
		c.begin(spec, id, l.image.id, n, name)
		c.state.pid = proc.PID()
		c.state.started = spec.StartupProbe == nil
		c.state.ready = spec.StartupProbe == nil && spec.ReadinessProbe == nil
		c.state.state = corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: started}}
	})
	c.pod.host.events.Eventf(c.pod.object(), corev1.EventTypeNormal, "Started", "Started container %s", spec.Name)
	c.attend(ctx, spec, l, proc, ending)
	c.mu.Lock()
	c.process = nil
	c.mu.Unlock()
	c.finish(proc, id, started)
	return nil
}

// begin records a new instance; the pod's lock is held.
func (c *container) begin(spec *corev1.Container, id, imageID string, n int32, log string) {
	if c.state.state.Terminated != nil {
		c.state.last = c.state.state
	}
	c.state.image, c.state.imageID, c.state.id = spec.Image, imageID, id
	c.state.restartCount, c.state.log = n, log
	c.state.ready, c.state.started = false, false
}

// attend watches over a running process: its probes, its end, and what ends it.
func (c *container) attend(ctx context.Context, spec *corev1.Container, l *launch, proc *hostexec.Process, ending chan struct{}) {
	watch, cancel := context.WithCancel(ctx)
	var probes sync.WaitGroup
	probes.Go(func() { c.probe(watch, spec, l) })
	defer probes.Wait()
	defer cancel()
	var grace time.Duration
	select {
	case <-proc.Done():
		return
	case <-ctx.Done():
		grace = time.Duration(c.pod.deadline.Load()) * time.Second
	case <-ending:
		grace = c.grace
	}
	cancel()
	c.pod.set(func() { c.state.ready = false })
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		proc.Stop(grace)
	}()
	select {
	case <-stopped:
	case <-c.pod.hurry:
		killGroup(proc.PID())
		<-stopped
	}
}

// finish records the end of a process.
func (c *container) finish(proc *hostexec.Process, id string, started metav1.Time) {
	killGroup(proc.PID()) // what it left behind ends with it, as in a container
	t := &corev1.ContainerStateTerminated{
		ExitCode: int32(proc.ExitCode()), Reason: "Completed", StartedAt: started, FinishedAt: metav1.Now(), ContainerID: id,
	}
	if t.ExitCode != 0 {
		t.Reason = "Error"
	}
	if t.ExitCode > exitStartError {
		t.Signal = t.ExitCode - exitStartError
	}
	var failed *hostexec.Error
	if errors.As(proc.Err(), &failed) {
		t.Message = tail(failed.Stderr, messageSize)
	}
	c.pod.set(func() {
		c.state.state = corev1.ContainerState{Terminated: t}
		c.state.ready, c.state.started, c.state.pid = false, false, 0
	})
}

// end ends the running process with the pod's grace, for a reason of its own.
func (c *container) end(why string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return
	}
	select {
	case <-c.ending:
		return
	default:
	}
	c.pod.host.events.Eventf(c.pod.object(), corev1.EventTypeNormal, "Killing", "Container %s is ended: %s", c.state.name, why)
	c.grace = time.Duration(gracePeriod(c.pod.object())) * time.Second
	close(c.ending)
}

// kill sends SIGKILL to the process group and returns the process id, or 0.
func (c *container) kill() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.process == nil {
		return 0
	}
	select {
	case <-c.process.Done():
		return 0
	default:
	}
	killGroup(c.process.PID())
	return c.process.PID()
}

// start starts a process. A program that was just copied is busy as long as
// some child that is being forked has its file open for writing (golang/go#22315).
func start(cmd hostexec.Command) (*hostexec.Process, error) {
	for tries := 0; ; tries++ {
		p, err := hostexec.Start(cmd)
		if !errors.Is(err, syscall.ETXTBSY) || tries == 20 {
			return p, err
		}
		time.Sleep(5 * time.Millisecond) // the fork of another goroutine cannot be waited for
	}
}

func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) } // ESRCH: it is gone

func (c *container) openLog(n int32) (*os.File, string, error) {
	dir := filepath.Join(c.pod.logDir, c.state.name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, "", err
	}
	name := filepath.Join(dir, fmt.Sprintf("%d.log", n))
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o644)
	return f, name, err
}

func randomID() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b) // never fails, crypto/rand
	return hex.EncodeToString(b)
}

// tail is the last limit bytes of s, from the start of a line.
func tail(s string, limit int) string {
	b := bytes.TrimSpace([]byte(s))
	if len(b) <= limit {
		return string(b)
	}
	b = b[len(b)-limit:]
	if _, rest, ok := bytes.Cut(b, []byte("\n")); ok {
		b = rest
	}
	return string(bytes.ToValidUTF8(b, nil))
}
