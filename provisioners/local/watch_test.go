package local

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

func mkfifo(t *testing.T, name string) {
	t.Helper()
	if err := unix.Mkfifo(name, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestHostWatchWakes(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"etc", "dev/disk", "proc/1"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	put(t, filepath.Join(dir, mountTable), "")
	f, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	woken := make(chan struct{}, 100)
	h, err := newHostWatch(f, func() { woken <- struct{}{} }, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go h.run(ctx)
	ensure := func() {
		if err := h.ensure(ctx); err != nil {
			t.Fatal(err)
		}
	}
	ensure()

	steps := []struct {
		reason string
		do     func()
	}{
		{"the mount table is replaced", func() { put(t, filepath.Join(dir, mountTable), "x") }},
		{"node preparation makes its directory", func() { _ = os.Mkdir(filepath.Join(dir, "etc/holdfast"), 0o755) }},
		{"and writes disks.yaml", func() { ensure(); put(t, filepath.Join(dir, nodedisks.Path), "x") }},
		{"which is replaced later", func() { put(t, filepath.Join(dir, nodedisks.Path), "y") }},
		{"udev makes the first link", func() { _ = os.Mkdir(filepath.Join(dir, byPartUUID), 0o755) }},
		{"and another one", func() { ensure(); _ = os.Symlink("../../sda1", filepath.Join(dir, byPartUUID, uuidA)) }},
	}
	for _, s := range steps {
		s.do()
		select {
		case <-woken:
		case <-time.After(10 * time.Second):
			t.Fatalf("not woken: %s", s.reason)
		}
		quiet(woken)
	}
	put(t, filepath.Join(dir, "etc/passwd"), "x")
	put(t, filepath.Join(dir, "proc/1/comm"), "x")
	put(t, filepath.Join(dir, nodedisks.Path), "z") // events are in order: this one comes last
	<-woken
	select {
	case <-woken: // the create of disks.yaml may be two events
	default:
	}
	if len(woken) > 0 {
		t.Error("woken by another file")
	}
}

// quiet drops the wake-ups that belong to one change.
func quiet(woken <-chan struct{}) {
	for {
		select {
		case <-woken:
		case <-time.After(50 * time.Millisecond):
			return
		}
	}
}

// The kernel reports a change of the mount table once to each open file; the
// first poll after an open reports none, so a wake-up here would be a busy loop.
func TestRealMountTable(t *testing.T) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	stop, stopped, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = stop.Close() }()
	table, err := reopen(f)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(table) }()
	wakes := 0
	done := make(chan error, 1)
	go func() { done <- pollMounts(table, stop, func() { wakes++ }) }()
	select {
	case err := <-done:
		t.Fatalf("ended by itself: %v", err)
	case <-time.After(100 * time.Millisecond):
	}
	if err := stopped.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if wakes > 50 {
		t.Errorf("%d wake-ups in 100 ms", wakes)
	}
}
