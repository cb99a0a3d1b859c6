//go:build root

package cleaner

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/hostexec"
	"holdfast.dev/provisioners/local/wipe"
)

// run runs a child cleaner on the n-th disk and returns how many boundaries it has passed.
func (r *rig) run(t *testing.T, n int, method wipe.Method, killAt int) (boundaries int, err error) {
	t.Helper()
	tmp := t.TempDir()
	spec, err := json.Marshal(childSpec{
		Root: r.root, State: r.state, Deleted: filepath.Join(r.root, fmt.Sprintf("deleted-%d", n)), File: r.file, Disk: n, Method: method,
		KillAt: killAt, Count: filepath.Join(tmp, "count"),
	})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	_, err = hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: self, Env: append(os.Environ(), childEnv+"="+string(spec))})
	if err != nil {
		return 0, err
	}
	data, err := os.ReadFile(filepath.Join(tmp, "count"))
	if err != nil {
		t.Fatal(err)
	}
	boundaries, err = strconv.Atoi(string(data))
	return boundaries, err
}

// release makes the volume of the n-th disk stand again, released.
func (r *rig) release(t *testing.T, n int) {
	t.Helper()
	if err := os.Remove(filepath.Join(r.root, fmt.Sprintf("deleted-%d", n))); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
}

// TestNoByteIsLeft looks for a tenant's bytes on the raw devices, after real
// cleanings of a real file system and of a raw partition.
func TestNoByteIsLeft(t *testing.T) {
	for _, method := range []wipe.Method{wipe.Discard, wipe.Zero} {
		t.Run(string(method), func(t *testing.T) {
			r := newRig(t)
			uuid := fsUUID(t, r.bytes(t, 0))
			r.soil(t, 0)
			r.soil(t, 1) // a tenant that stays
			r.soil(t, 2)
			for _, n := range []int{0, 2} {
				if before := bytes.Count(r.bytes(t, n), canary); before < 1000 {
					t.Fatalf("disk %d: only %d canaries before", n, before)
				}
			}
			neighbour := sha256.Sum256(r.bytes(t, 1))
			for _, n := range []int{0, 2} {
				if _, err := r.run(t, n, method, 0); err != nil {
					t.Fatal(err)
				}
				if left := bytes.Count(r.bytes(t, n), canary[:10]); left > 0 {
					t.Errorf("disk %d: %d canaries are left", n, left)
				}
			}
			if !r.mounted(t, 0) {
				t.Error("the file system is not mounted and empty")
			}
			if got := fsUUID(t, r.bytes(t, 0)); got != uuid {
				t.Errorf("the file system's UUID is %s, was %s", got, uuid)
			}
			raw := r.bytes(t, 2)
			if !r.certified(2) || len(bytes.Trim(raw[:len(raw)-1<<20], "\x00")) > 0 {
				t.Error("the raw partition is not certified, or not zero")
			}
			if sha256.Sum256(r.bytes(t, 1)) != neighbour {
				t.Error("another disk has changed")
			}
		})
	}
}

// TestKill sends SIGKILL to a cleaner at each boundary of each of its effects on real
// devices, and runs another to the end.
func TestKill(t *testing.T) {
	r := newRig(t)
	r.soil(t, 1)
	neighbour := sha256.Sum256(r.bytes(t, 1))
	for _, n := range []int{0, 2} {
		r.soil(t, n)
		all, err := r.run(t, n, wipe.Discard, 0)
		if err != nil || all < 8 {
			t.Fatalf("disk %d: %d boundaries, %v", n, all, err)
		}
		for kill := 1; kill <= all; kill++ {
			r.release(t, n)
			if err := os.RemoveAll(r.state); err != nil { // the certificate was used
				t.Fatal(err)
			}
			if err := os.Mkdir(r.state, 0o755); err != nil {
				t.Fatal(err)
			}
			r.soil(t, n)
			var e *hostexec.Error
			if _, err := r.run(t, n, wipe.Discard, kill); !errors.As(err, &e) || e.ExitCode != -1 {
				t.Fatalf("disk %d: not killed at %d: %v", n, kill, err)
			}
			offered := n == 0 && r.mounted(t, n) || n == 2 && r.certified(n)
			if offered && bytes.Contains(r.bytes(t, n), canary[:10]) {
				t.Errorf("disk %d, killed at %d: looks clean and is not", n, kill)
			}
			if _, err := r.run(t, n, wipe.Discard, 0); err != nil {
				t.Fatalf("disk %d, killed at %d: %v", n, kill, err)
			}
			if bytes.Contains(r.bytes(t, n), canary[:10]) {
				t.Errorf("disk %d, killed at %d: a canary is left", n, kill)
			}
			if n == 0 && !r.mounted(t, n) || n == 2 && !r.certified(n) {
				t.Errorf("disk %d, killed at %d: not offered in the end", n, kill)
			}
		}
		t.Logf("disk %d: killed at %d boundaries", n, all)
	}
	if sha256.Sum256(r.bytes(t, 1)) != neighbour {
		t.Error("another disk has changed")
	}
}

// The kernel refuses what somebody has, whatever was seen before.
func TestKernelRefuses(t *testing.T) {
	r := newRig(t)
	r.soil(t, 0)
	r.soil(t, 2)
	d := r.file.Disks[0]
	s, err := r.Sight(t.Context(), d, d.Partitions[0])
	if err != nil {
		t.Fatal(err)
	}
	j := Job{Device: s.Device.Name, Number: s.Device.Number, Filesystem: "ext4", MountPoint: d.Partitions[0].MountPoint}
	if _, err := r.Open(t.Context(), j); !errors.Is(err, wipe.ErrBusy) {
		t.Errorf("a mounted partition was opened: %v", err)
	}
	if err := r.Format(t.Context(), j, Shape{}); !errors.Is(err, wipe.ErrBusy) {
		t.Errorf("a mounted partition was formatted: %v", err)
	}
	open, err := os.Open(filepath.Join(r.root, j.MountPoint, "lost+found"))
	if err != nil {
		t.Fatal(err)
	}
	var no *Refusal
	if err := r.Unmount(t.Context(), j); !errors.As(err, &no) || no.Reason != ReasonInUse {
		t.Errorf("unmounted below an open file: %v", err)
	}
	if err := open.Close(); err != nil {
		t.Fatal(err)
	}
	j.Number = r.deviceNumber(t, 2) // the name leads to another device than was judged
	if _, err := r.Open(t.Context(), j); err == nil {
		t.Error("another device was opened")
	}
	if !bytes.Contains(r.bytes(t, 0), canary) || !bytes.Contains(r.bytes(t, 2), canary) {
		t.Error("data is gone")
	}

	raw := r.file.Disks[2]
	rs, err := r.Sight(t.Context(), raw, raw.Partitions[0])
	if err != nil {
		t.Fatal(err)
	}
	dev, err := r.Open(t.Context(), Job{Device: rs.Device.Name, Number: rs.Device.Number})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = dev.Close() }()
	err = wipe.Run(t.Context(), dev, wipe.Plan{Method: wipe.SecureDiscard, Chunk: 1 << 20}, func(int64) error { return nil })
	if !errors.Is(err, wipe.ErrUnsupported) {
		t.Errorf("a loop device has no secure discard: %v", err)
	}
	if _, err := r.Open(t.Context(), Job{Device: rs.Device.Name, Number: rs.Device.Number}); !errors.Is(err, wipe.ErrBusy) {
		t.Errorf("opened twice: %v", err)
	}
}

func (r *rig) deviceNumber(t *testing.T, n int) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(r.device(n), &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
}

// What the provisioner sees of real file systems: a new one is clean, a used one is not,
// not even when its files were deleted from lost+found again.
func TestPristine(t *testing.T) {
	r := newRig(t)
	point := r.file.Disks[0].Partitions[0].MountPoint
	dir := filepath.Join(r.root, point)
	expect := func(clean bool, why string) {
		t.Helper()
		if residue, err := r.host.Pristine(point); err != nil || (residue == "") != clean {
			t.Errorf("%s: residue %q, %v", why, residue, err)
		}
	}
	expect(true, "new")
	if err := unix.Setxattr(dir, "user.note", []byte("x"), 0); err != nil {
		t.Fatal(err)
	}
	expect(false, "an attribute of the root")
	if err := unix.Removexattr(dir, "user.note"); err != nil {
		t.Fatal(err)
	}
	expect(true, "without it")
	time.Sleep(1100 * time.Millisecond) // mke2fs writes whole seconds
	hidden := filepath.Join(dir, "lost+found", "hidden")
	if err := os.WriteFile(hidden, canary, 0o600); err != nil {
		t.Fatal(err)
	}
	expect(false, "a file in lost+found, which the provisioner may not read")
	if err := os.Remove(hidden); err != nil {
		t.Fatal(err)
	}
	expect(false, "it was deleted again")
}
