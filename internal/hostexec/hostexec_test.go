package hostexec_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"

	"holdfast.dev/internal/hostexec"
)

// TestMain lets the test binary be the program that the tests run.
func TestMain(m *testing.M) {
	switch os.Getenv("HOSTEXEC_TEST") {
	case "":
		os.Exit(m.Run())
	case "fail":
		_, _ = io.WriteString(os.Stderr, strings.Repeat("x", 5000)+"the reason")
		os.Exit(7)
	case "hang":
		_, _ = io.WriteString(os.Stdout, "up\n")
		time.Sleep(time.Minute)
	case "tell": // its number, and hang
		_, _ = io.WriteString(os.Stdout, strconv.Itoa(os.Getpid())+"\n")
		time.Sleep(time.Minute)
	case "runner":
		c := self("tell")
		c.Stdout, c.DiesWithCaller = os.Stdout, true
		_, _ = hostexec.Run(context.Background(), time.Minute, c)
	case "parent":
		p, err := hostexec.Start(self("hang"))
		if err != nil {
			os.Exit(3)
		}
		_, _ = io.WriteString(os.Stdout, strconv.Itoa(p.PID())+"\n")
		time.Sleep(time.Minute)
	case "detach":
		log, err := os.Create(os.Getenv("HOSTEXEC_LOG"))
		if err != nil {
			os.Exit(3)
		}
		p, err := hostexec.StartDetached(self("hang"), log)
		if err != nil {
			os.Exit(3)
		}
		_, _ = io.WriteString(os.Stdout, strconv.Itoa(p.PID())+"\n")
	}
}

func self(mode string) hostexec.Command {
	return hostexec.Command{Path: os.Args[0], Env: append(os.Environ(), "HOSTEXEC_TEST="+mode)}
}

func TestErrorCarriesExitCodeAndEndOfStderr(t *testing.T) {
	_, err := hostexec.Run(t.Context(), 10*time.Second, self("fail"))
	var e *hostexec.Error
	if !errors.As(err, &e) || e.ExitCode != 7 || !strings.HasSuffix(e.Stderr, "the reason") || len(e.Stderr) > 2048 {
		t.Fatalf("got %#v", err)
	}
}

func TestRunEndsAtItsDeadline(t *testing.T) {
	start := time.Now()
	_, err := hostexec.Run(t.Context(), 200*time.Millisecond, self("hang"))
	if err == nil || !strings.Contains(err.Error(), "no answer within 200ms") {
		t.Fatalf("got %v", err)
	}
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("it took %s", d)
	}
}

func TestMissingProgram(t *testing.T) {
	_, err := hostexec.Run(t.Context(), time.Second, hostexec.Command{Path: "/no/such/program"})
	if !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("got %v", err)
	}
}

func TestStopKillsWhatDoesNotEnd(t *testing.T) {
	p, err := hostexec.Start(self("hang"))
	if err != nil {
		t.Fatal(err)
	}
	p.Stop(0)
	if p.ExitCode() < 128 {
		t.Errorf("exit code %d, want that of a signal", p.ExitCode())
	}
}

// TestChildDiesWithItsParent: kill -9 of a parent must leave no process.
func TestChildDiesWithItsParent(t *testing.T) {
	for _, mode := range []string{"parent", "runner"} { // of Start and Run
		t.Run(mode, func(t *testing.T) { childDies(t, mode) })
	}
}

func childDies(t *testing.T, mode string) {
	r, w := io.Pipe()
	c := self(mode)
	c.Stdout = w
	p, err := hostexec.Start(c)
	if err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(r).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }() // the pipe must not block
	child, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	poll(t, "the child outlived its parent", func() (bool, error) { return syscall.Kill(child, 0) != nil || zombie(child), nil })
}

func TestDetachedOutlivesItsParent(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	c := self("detach")
	c.Env = append(c.Env, "HOSTEXEC_LOG="+log)
	out, err := hostexec.Run(t.Context(), 10*time.Second, c)
	if err != nil {
		t.Fatal(err)
	}
	child, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(child, syscall.SIGKILL) }) // the test's own, by its id
	// It does so long after its parent is gone.
	poll(t, "it writes nothing", func() (bool, error) {
		said, err := os.ReadFile(log)
		return err == nil && string(said) == "up\n", nil
	})
	if err := syscall.Kill(child, 0); err != nil || zombie(child) {
		t.Errorf("process %d has died with its parent (%v)", child, err)
	}
}

func poll(t *testing.T, otherwise string, ok wait.ConditionFunc) {
	t.Helper()
	if err := wait.PollUntilContextTimeout(t.Context(), 5*time.Millisecond, 5*time.Second, true, ok.WithContext()); err != nil {
		t.Fatalf("%s: %v", otherwise, err)
	}
}

// zombie is true for a process that is dead and not yet collected by init.
func zombie(pid int) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	return err == nil && strings.Contains(string(data), ") Z ")
}

func TestExitCode(t *testing.T) {
	_, failed := hostexec.Run(t.Context(), 10*time.Second, self("fail"))
	_, hung := hostexec.Run(t.Context(), time.Millisecond, self("hang"))
	for reason, tc := range map[string]struct {
		err  error
		want int
	}{
		"it ended by itself":    {fmt.Errorf("look: %w", failed), 7},
		"it was killed":         {hung, -1},
		"no program, no code":   {errors.New("other"), -1},
		"nothing is no failure": {nil, -1},
	} {
		if got := hostexec.ExitCode(tc.err); got != tc.want {
			t.Errorf("got %d, want %d; reason: %s", got, tc.want, reason)
		}
	}
}
