//go:build root

package lvm

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/hostexec"
)

// TestRawDevice writes, zeroes and reads a loop device past the page cache. Its file is
// full of what an earlier owner left.
func TestRawDevice(t *testing.T) {
	const size = 4*transferBlock + 12<<10 // not a whole number of blocks
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, bytes.Repeat([]byte("old!"), size/4), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) string {
		t.Helper()
		out, err := hostexec.Run(context.Background(), time.Minute, hostexec.Command{Path: "losetup", Args: args, Stderr: io.Discard})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	dev := run("-f", "--show", image)
	t.Cleanup(func() { run("-d", dev) })
	w, err := openRaw(dev, unix.O_WRONLY|unix.O_EXCL)
	if err != nil {
		t.Fatal(err)
	}
	if w.Size() != size {
		t.Errorf("the size is %d, want %d", w.Size(), size)
	}
	if _, err := openRaw(dev, unix.O_WRONLY|unix.O_EXCL); err == nil {
		t.Error("it is opened alone twice")
	}
	want := make([]byte, size)
	part := bytes.Repeat([]byte("new."), transferBlock/4)
	copy(want[transferBlock:], part)
	last := want[4*transferBlock:]
	copy(last, part)
	for what, err := range map[string]error{
		"zero":           w.Zero(0, size),
		"write":          second(w.WriteAt(part, transferBlock)),
		"write the rest": second(w.WriteAt(last, 4*transferBlock)),
		"sync":           w.Sync(),
		"close":          w.Close(),
	} {
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	r, err := openRaw(dev, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, size)
	for at := 0; at < size; at += transferBlock {
		if _, err := r.ReadAt(got[at:min(at+transferBlock, size)], int64(at)); err != nil {
			t.Errorf("read at %d: %v", at, err)
		}
	}
	if err := r.Close(); err != nil || !bytes.Equal(got, want) {
		t.Errorf("what is read is not what was written: %v", err)
	}
}

func second(_ int, err error) error { return err }
