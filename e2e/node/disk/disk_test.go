package disk

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/internal/diskid"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

func openTest(t *testing.T, cfg Config) *Set {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if cfg.Root == "" {
		cfg.Root = root
	}
	cfg.Count, cfg.Size, cfg.StorageClass, cfg.Group = 2, 64<<20, "local-ssd", "data"
	s, err := Open(t.Context(), cfg, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func closeTest(t *testing.T, s *Set) {
	t.Helper()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

func prepared(t *testing.T, root string) *nodedisks.File {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, nodedisks.Path))
	if err != nil {
		t.Fatal(err)
	}
	f, err := nodedisks.Parse("disks.yaml", data)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// identity follows the path that every component follows from a mount point to
// a disk: mount table, device number, partition, parent, disk id.
func identity(t *testing.T, root, point string) string {
	t.Helper()
	fs, err := hostfs.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer fs.Close() //nolint:errcheck // read only
	table, err := fs.ReadString("/proc/1/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.SplitSeq(table, "\n") {
		f := strings.Fields(line)
		if f[4] != point {
			continue
		}
		dir, err := fs.Resolve("/sys/dev/block/" + f[2])
		if err != nil {
			t.Fatal(err)
		}
		if n, err := fs.ReadString(filepath.Join(dir, "partition")); err != nil || n != "1" {
			t.Errorf("%s: partition %q, %v", dir, n, err)
		}
		id, weak, err := diskid.FromSysfs(fs, filepath.Base(filepath.Dir(dir)))
		if err != nil || !weak {
			t.Errorf("id of %s: weak %t, %v", dir, weak, err)
		}
		return id
	}
	return ""
}

func testIdentity(t *testing.T, s *Set) {
	t.Helper()
	root := s.cfg.Root
	file := prepared(t, root)
	if len(file.Disks) != 2 {
		t.Fatalf("disks.yaml has %d disks, want 2", len(file.Disks))
	}
	for i, d := range s.List() {
		if d.ID != file.Disks[i].ID || d.Slot != file.Disks[i].Slot {
			t.Errorf("disk %s is %s in disks.yaml", d.ID, file.Disks[i].ID)
		}
		if got := identity(t, root, d.MountPoint); got != d.ID {
			t.Errorf("%s is mounted from disk %q, want %q", d.MountPoint, got, d.ID)
		}
		link, err := os.Readlink(filepath.Join(root, "dev/disk/by-partuuid", d.PartitionUUID))
		if err != nil || filepath.Base(link) != d.Device+"p1" {
			t.Errorf("by-partuuid link of %s leads to %q, %v", d.Name, link, err)
		}
	}
}

func testPull(t *testing.T, s *Set) {
	t.Helper()
	ctx, root := t.Context(), s.cfg.Root
	before := s.List()[0]
	note := filepath.Join(root, before.MountPoint, "note")
	if err := os.WriteFile(note, []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("disk1"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"sys/block/" + before.Device, "dev/" + before.Device, "dev/disk/by-partuuid/" + before.PartitionUUID, before.MountPoint + "/note"} {
		if _, err := os.Lstat(filepath.Join(root, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", name, err)
		}
	}
	if id := identity(t, root, before.MountPoint); id != "" {
		t.Errorf("pulled disk %s is still mounted", id)
	}
	if got := prepared(t, root).Disks[0].ID; got != before.ID {
		t.Errorf("disks.yaml names %q, want the pulled disk %q", got, before.ID)
	}
	if err := s.Remove("disk1"); !errors.Is(err, ErrState) {
		t.Errorf("pulling a pulled disk: %v, want ErrState", err)
	}
	if err := s.Reinsert(ctx, "disk1"); err != nil {
		t.Fatal(err)
	}
	after := s.List()[0]
	after.Device = before.Device // the kernel may have given it another
	if diff := cmp.Diff(before, after); diff != "" {
		t.Errorf("reinserted disk is another (-before +after):\n%s", diff)
	}
	if data, err := os.ReadFile(note); string(data) != "kept" {
		t.Errorf("contents after reinsertion: %q, %v", data, err)
	}
}

func testFail(t *testing.T, s *Set) Fault {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	root, before := s.cfg.Root, s.List()[1]
	note := filepath.Join(root, before.MountPoint, "note")
	if err := os.WriteFile(note, []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := s.Fail(ctx, "disk2")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(f.Record, ";I/O error, dev "+before.Device+", sector ") {
		t.Errorf("kernel log record %q is no I/O error of %s", f.Record, before.Device)
	}
	if since := time.Since(f.Time); since < 0 || since > 10*time.Second {
		t.Errorf("time of the read is %s ago", since)
	}
	again, err := s.ReadError(ctx, "disk2")
	if err != nil || again.Record == f.Record {
		t.Errorf("second read: record %q, %v", again.Record, err)
	}
	if _, err := s.Fail(ctx, "disk2"); !errors.Is(err, ErrState) {
		t.Errorf("failing a failed disk: %v, want ErrState", err)
	}
	if err := s.Restore(ctx, "disk2"); err != nil {
		t.Fatal(err)
	}
	if got := identity(t, root, before.MountPoint); got != before.ID {
		t.Errorf("restored disk is %q, want %q", got, before.ID)
	}
	if data, err := os.ReadFile(note); string(data) != "kept" {
		t.Errorf("contents after restore: %q, %v", data, err)
	}
	return f
}

func testReplace(t *testing.T, s *Set) {
	t.Helper()
	ctx, root, before := t.Context(), s.cfg.Root, s.List()
	if _, err := s.Fail(ctx, "disk1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("disk1"); err != nil {
		t.Fatal(err)
	}
	if err := s.Reinsert(ctx, "disk1"); !errors.Is(err, ErrState) {
		t.Errorf("reinserting a failed disk: %v, want ErrState", err)
	}
	if err := s.Replace(ctx, "disk1"); err != nil {
		t.Fatal(err)
	}
	after := s.List()
	if after[0].ID == before[0].ID || after[0].PartitionUUID == before[0].PartitionUUID || after[0].Slot != before[0].Slot {
		t.Errorf("replacement %+v of %+v", after[0], before[0])
	}
	if diff := cmp.Diff(before[1], after[1]); diff != "" {
		t.Errorf("the other disk changed (-before +after):\n%s", diff)
	}
	testIdentity(t, s)
	if got := identity(t, root, before[0].MountPoint); got != "" {
		t.Errorf("the old partition is still mounted from %s", got)
	}
}

func TestSimulated(t *testing.T) {
	s := openTest(t, Config{Simulate: true})
	if s.Mode() != ModeSimulated {
		t.Errorf("mode %s", s.Mode())
	}
	testIdentity(t, s)
	testPull(t, s)
	testFail(t, s)
	testReplace(t, s)
	want := s.List()
	closeTest(t, s)

	again := openTest(t, Config{Simulate: true, Root: s.cfg.Root})
	defer closeTest(t, again)
	if diff := cmp.Diff(want, again.List()); diff != "" {
		t.Errorf("the next start has other disks (-want +got):\n%s", diff)
	}
	testIdentity(t, again)
}

func TestSimulatedAfterKill(t *testing.T) {
	s := openTest(t, Config{Simulate: true})
	note := filepath.Join(s.cfg.Root, s.List()[0].MountPoint, "note")
	if err := os.WriteFile(note, []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	// The first set is dropped as kill -9 drops it.
	if err := s.be.close(); err != nil {
		t.Fatal(err)
	}
	again := openTest(t, Config{Simulate: true, Root: s.cfg.Root})
	defer closeTest(t, again)
	testIdentity(t, again)
	if data, err := os.ReadFile(note); string(data) != "kept" {
		t.Errorf("contents after restart: %q, %v", data, err)
	}
}

func TestKernelLogBatch(t *testing.T) {
	s := openTest(t, Config{Simulate: true})
	defer closeTest(t, s)
	if _, err := s.Fail(t.Context(), "disk1"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.ReadError(t.Context(), "disk1"); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(s.cfg.Root, "dev/kmsg"), os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() //nolint:errcheck // read only
	buf := make([]byte, 8<<10)
	n, err := log.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(buf[:n])), "\n")
	if len(lines) != 2 || !strings.HasPrefix(lines[0], "3,0,") || !strings.HasPrefix(lines[1], "3,1,") {
		t.Errorf("records %q, want numbers 0 and 1", lines)
	}
}

func TestUnknownDisk(t *testing.T) {
	s := openTest(t, Config{Simulate: true})
	defer closeTest(t, s)
	if err := s.Remove("disk9"); !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "disk1 to disk2") {
		t.Errorf("got %v, want ErrUnknown that names the disks", err)
	}
}

func TestRebase(t *testing.T) {
	const table = `22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /tmp/n rw - tmpfs tmpfs rw
41 22 259:3 / /srv/a\040b/mnt/x rw,relatime - ext4 /dev/loop3p1 rw
42 22 259:4 / /srv/a\040bc rw - ext4 /dev/loop4p1 rw
`
	cases := map[string]struct{ reason, root, want string }{
		"Below":  {"a mount below the root loses its prefix, a neighbour's is not shown", "/srv/a b", "22 1 254:0 /srv/a\\040b / rw,relatime - ext4 /dev/vda rw\n41 22 259:3 / /mnt/x rw,relatime - ext4 /dev/loop3p1 rw\n"},
		"Holder": {"the root lies on the longest mount that holds it", "/tmp/n/1", "30 22 0:40 /1 / rw - tmpfs tmpfs rw\n"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := rebase([]byte(table), tc.root)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, string(got)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}
