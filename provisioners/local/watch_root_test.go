//go:build root

package local

import (
	"os"
	"runtime"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A table that Go's runtime has in its epoll never woke: the runtime took each change.
func TestKernelWakesOnMount(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with its mount namespace
	if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open("/proc/thread-self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	table, err := reopen(f)
	if err != nil {
		t.Fatal(err)
	}
	stop, stopped, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	woken, done := make(chan struct{}, 100), make(chan error, 1)
	go func() { done <- pollMounts(table, stop, func() { woken <- struct{}{} }) }()
	dir := t.TempDir()
	for range 5 {
		quiet(woken)
		if err := unix.Mount("test", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		select {
		case <-woken:
		case <-time.After(5 * time.Second):
			t.Fatal("not woken by a mount")
		}
		quiet(woken)
		if err := unix.Unmount(dir, 0); err != nil {
			t.Fatal(err)
		}
		select {
		case <-woken:
		case <-time.After(5 * time.Second):
			t.Fatal("not woken by an unmount")
		}
	}
	if err := stopped.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
