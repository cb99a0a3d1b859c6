//go:build root

package lvm

import (
	"bytes"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"holdfast.dev/internal/hostexec"
	"holdfast.dev/provisioners/lvm/vg"
)

// loop is a loop device with that content.
func loop(t *testing.T, content []byte) string {
	t.Helper()
	image := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(image, content, 0o600); err != nil {
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
	return dev
}

// read is all that a device holds.
func read(t *testing.T, dev string) []byte {
	t.Helper()
	r, err := openRaw(dev, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, r.Size())
	for at := 0; at < len(got); at += transferBlock {
		if _, err := r.ReadAt(got[at:min(at+transferBlock, len(got))], int64(at)); err != nil {
			t.Errorf("read at %d: %v", at, err)
		}
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	return got
}

// TestRawDevice writes, zeroes and reads a device past the page cache, which is full of
// what an earlier owner left.
func TestRawDevice(t *testing.T) {
	const size = 4*transferBlock + 12<<10 // not a whole number of blocks
	dev := loop(t, bytes.Repeat([]byte("old!"), size/4))
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
	check := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("zero", w.Zero(0, size))
	_, err = w.WriteAt(part, transferBlock)
	check("write", err)
	_, err = w.WriteAt(last, 4*transferBlock)
	check("write the rest", err)
	check("sync", w.Sync())
	check("close", w.Close())
	if !bytes.Equal(read(t, dev), want) {
		t.Error("what is read is not what was written")
	}
}

// rawHost has devices and no device mapper.
type rawHost struct{ *NodeHost }

func (rawHost) Open(name string, write bool) (RawDevice, error) {
	if write {
		return openRaw(name, unix.O_WRONLY|unix.O_EXCL)
	}
	return openRaw(name, unix.O_RDONLY)
}

// TestTransferBetweenDevices sends a device to one that others have used, over TLS.
func TestTransferBetweenDevices(t *testing.T) {
	const size = 140<<20 + 12<<10 // runs of zeroes of more than one frame
	content := make([]byte, size)
	for _, at := range []int{0, 5<<20 + 512, 6 << 20, 130 << 20, size - 512} {
		if _, err := rand.Read(content[at:min(at+1500<<10, size)]); err != nil {
			t.Fatal(err)
		}
	}
	from, to := loop(t, content), loop(t, bytes.Repeat([]byte("old!"), size/4))
	e := NewEngine(EngineOptions{Node: "n", Host: rawHost{}, Deadlines: DefaultDeadlines(), Log: slog.New(slog.DiscardHandler)})
	tr, err := NewTransfers(e, nil, "", slog.New(slog.DiscardHandler), nil)
	if err != nil {
		t.Fatal(err)
	}
	v := Volume{LV: vg.LV{Size: size, Tags: vg.Tags{vg.Tag(vg.KeyFS, Block)}}}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		d, err := e.open(r.Context(), from, false, func() {})
		if err != nil {
			t.Error(err)
			return
		}
		if err := tr.send(r.Context(), w, v, d); err != nil {
			t.Error(err)
		}
		if err := d.close(); err != nil {
			t.Error(err)
		}
	}))
	srv.StartTLS()
	defer srv.Close()
	in, err := tr.request(t.Context(), "n", srv.Listener.Addr().String(), fingerprint(srv.Certificate().Raw), &corev1.PersistentVolumeClaim{}, Handle{})
	if err != nil {
		t.Fatal(err)
	}
	defer in.close()
	in.progress = func(int64) {}
	d, err := e.open(t.Context(), to, true, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.write(t.Context(), d, v, in); err != nil {
		t.Error(err)
	}
	if err := d.close(); err != nil {
		t.Error(err)
	}
	if !bytes.Equal(read(t, to), content) {
		t.Error("the copy is not what its source is")
	}
}
