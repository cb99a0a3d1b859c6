package main

import (
	"errors"
	"os"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// Two children end and one signal says so, as signals of the same number are one while they wait.
func TestReapsAllChildrenUntilTerminated(t *testing.T) {
	for range 2 {
		pid, err := syscall.ForkExec("/bin/true", []string{"true"}, nil)
		if err != nil {
			t.Fatal(err)
		}
		awaitZombie(t, pid)
	}
	signals := make(chan os.Signal, 3)
	signals <- syscall.SIGCHLD
	signals <- syscall.SIGTERM
	wait(signals) // returns although the channel stays open
	if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); !errors.Is(err, syscall.ECHILD) {
		t.Errorf("wait4 = %d, %v; want that no child is left", pid, err)
	}
}

// awaitZombie waits until a child has ended, and leaves it to be reaped: waitid(2) with WNOWAIT.
func awaitZombie(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		t.Fatal(err)
	}
}
