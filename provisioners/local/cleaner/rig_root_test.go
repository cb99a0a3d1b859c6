//go:build root

package cleaner

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"
	"golang.org/x/sys/unix"

	"holdfast.dev/e2e/node/disk"
	"holdfast.dev/e2e/wait"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/provisioners/local"
	"holdfast.dev/provisioners/local/wipe"
)

// childEnv makes the test binary a cleaner that kills itself: see child.
const childEnv = "HOLDFAST_TEST_CLEANER"

func enter() error {
	if err := disk.EnterNamespace(); err != nil {
		return err
	}
	if spec := os.Getenv(childEnv); spec != "" {
		if err := child(spec); err != nil {
			return err
		}
		os.Exit(0)
	}
	return nil
}

// rig is a node with real loop devices: the first two disks with ext4, the third raw.
type rig struct {
	root  string
	set   *disk.Set
	file  *nodedisks.File
	state string
	*Machine
	host *local.Host
}

func newRig(t *testing.T) *rig {
	t.Helper()
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	set, err := disk.Open(t.Context(), disk.Config{Root: root, Count: 3, Size: 64 << 20, StorageClass: "local-ssd", Group: "data"}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	})
	if set.Mode() != disk.ModeLoop {
		t.Fatalf("disks are %s", set.Mode())
	}
	r := &rig{root: root, set: set, state: filepath.Join(root, nodedisks.CertificateDir)}
	for _, dir := range []string{r.state, filepath.Join(root, local.OfferedDir)} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(filepath.Join(root, nodedisks.Path))
	if err != nil {
		t.Fatal(err)
	}
	if r.file, err = nodedisks.Parse("disks.yaml", data); err != nil {
		t.Fatal(err)
	}
	raw := &r.file.Disks[2].Partitions[0]
	if err := unix.Unmount(filepath.Join(root, raw.MountPoint), 0); err != nil {
		t.Fatal(err)
	}
	raw.Filesystem, raw.MountPoint, raw.StorageClass = "", "", "local-raw"
	if data, err = yaml.Marshal(r.file); err != nil {
		t.Fatal(err)
	}
	if err := disk.WriteFile(filepath.Join(root, nodedisks.Path), data, 0o644); err != nil {
		t.Fatal(err)
	}
	r.open(t)
	return r
}

func (r *rig) open(t *testing.T) {
	t.Helper()
	var err error
	if r.Machine, r.host, err = machine(r.root); err != nil {
		t.Fatal(err)
	}
	await(t, func() bool { // the table follows the kernel's
		m, err := r.host.Mounts(t.Context())
		if err != nil {
			return false
		}
		at, err := m.At(r.file.Disks[0].Partitions[0].MountPoint)
		return err == nil && at != nil
	})
}

func machine(root string) (*Machine, *local.Host, error) {
	f, err := hostfs.Open(root)
	if err != nil {
		return nil, nil, err
	}
	h := local.NewHost(f, 10*time.Second)
	return NewMachine(f, h), h, nil
}

func await(t *testing.T, ok func() bool) {
	t.Helper()
	wait.For(t, 20*time.Second, "what the test waits for", ok)
}

// device is the block device of the n-th disk's partition.
func (r *rig) device(n int) string {
	return filepath.Join(r.root, "dev", r.set.List()[n].Device+"p1")
}

// bytes reads a whole partition from the image behind it: what is on the disk.
func (r *rig) bytes(t *testing.T, n int) []byte {
	t.Helper()
	unix.Sync()
	data, err := os.ReadFile(r.set.List()[n].Image)
	if err != nil {
		t.Fatal(err)
	}
	return data[1<<20:] // the partition begins there; the backup table at the end is of the disk
}

// soil leaves a tenant's traces on the n-th disk: in files, their names, links and
// attributes; a raw one is filled.
func (r *rig) soil(t *testing.T, n int) {
	t.Helper()
	p := r.file.Disks[n].Partitions[0]
	if p.Filesystem == "" {
		f, err := os.OpenFile(r.device(n), os.O_WRONLY|unix.O_DSYNC, 0)
		if err != nil {
			t.Fatal(err)
		}
		size, err := f.Seek(0, io.SeekEnd)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(bytes.Repeat(append(canary, '\n'), int(size)/(len(canary)+1)), 0); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		return
	}
	dir := filepath.Join(r.root, p.MountPoint)
	for i := range 40 {
		name := filepath.Join(dir, fmt.Sprintf("%s-%d", canary, i))
		if err := os.WriteFile(name, bytes.Repeat(canary, 5000), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Setxattr(name, "user.note", canary, 0); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(string(canary), name+".link"); err != nil {
			t.Fatal(err)
		}
	}
	unix.Sync()
}

// fixed stands for the API server in a child: the volume of one job, and a file
// that says that it was deleted.
type fixed struct {
	m       *Machine
	file    *nodedisks.File
	disk    int
	deleted string
	method  wipe.Method
}

func (f *fixed) Check(ctx context.Context, volume string) (Job, error) {
	d := f.file.Disks[f.disk]
	p := d.Partitions[0]
	s, err := f.m.Sight(ctx, d, p)
	if no := (Facts{Sight: s, SightErr: err}).sight(d, p); no != nil {
		return Job{}, no
	}
	if _, err := os.Stat(f.deleted); err == nil {
		return Job{}, refuse(ReasonNotReleased, "the volume is gone")
	}
	return Job{
		Volume: volume, UID: "u", Claim: "c", Version: "1", Disk: d.ID, Partition: p.UUID, Device: s.Device.Name, Number: s.Device.Number,
		Bytes: s.Device.Bytes, Filesystem: p.Filesystem, MountPoint: p.MountPoint, Mounted: len(s.Points) > 0, Method: f.method,
	}, nil
}

func (f *fixed) Delete(context.Context, Job) error { return os.WriteFile(f.deleted, nil, 0o600) }

// childSpec is what a child does.
type childSpec struct {
	Root, State, Deleted string
	File                 *nodedisks.File
	Disk                 int
	Method               wipe.Method
	KillAt               int // the boundary at which it sends itself SIGKILL; 0 for never
	Count                string
}

// boundaries counts effects and kills at one of them.
type boundaries struct {
	*Machine
	fixed
	spec childSpec
	n    int
}

func (b *boundaries) at() {
	if b.n++; b.n == b.spec.KillAt {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (b *boundaries) do(f func() error) error {
	b.at()
	err := f()
	b.at()
	return err
}

func (b *boundaries) Unmount(ctx context.Context, j Job) error {
	return b.do(func() error { return b.Machine.Unmount(ctx, j) })
}

func (b *boundaries) Format(ctx context.Context, j Job, s Shape) error {
	return b.do(func() error { return b.Machine.Format(ctx, j, s) })
}

func (b *boundaries) Mount(ctx context.Context, j Job, s Shape) error {
	return b.do(func() error { return b.Machine.Mount(ctx, j, s) })
}

func (b *boundaries) Delete(ctx context.Context, j Job) error {
	return b.do(func() error { return b.fixed.Delete(ctx, j) })
}

func (b *boundaries) Open(ctx context.Context, j Job) (Opened, error) {
	d, err := b.Machine.Open(ctx, j)
	return &boundedDevice{d, b}, err
}

type boundedDevice struct {
	Opened
	b *boundaries
}

func (d *boundedDevice) Erase(how wipe.Method, off, n int64) error {
	return d.b.do(func() error { return d.Opened.Erase(how, off, n) })
}

// child is a cleaner of its own process.
func child(text string) error {
	var spec childSpec
	if err := json.Unmarshal([]byte(text), &spec); err != nil {
		return err
	}
	m, _, err := machine(spec.Root)
	if err != nil {
		return err
	}
	b := &boundaries{Machine: m, spec: spec, fixed: fixed{m, spec.File, spec.Disk, spec.Deleted, spec.Method}}
	c := &Cleaning{
		Records: Records{spec.State}, Histories: Histories{spec.State}, Disk: b, Filesystem: b, Volume: b, Chunk: 16 << 20, Now: time.Now, Progress: func(Job, Step, int64) {},
	}
	d := spec.File.Disks[spec.Disk]
	err = c.Run(context.Background(), local.VolumeName(d.ID, d.Partitions[0].UUID))
	_, bare := os.Stat(filepath.Join(spec.State, nodedisks.CertificateName(d.Partitions[0].UUID)))
	// Whoever has not wiped it itself certifies no raw partition: it is read whole, then.
	if _, gone := os.Stat(spec.Deleted); bare != nil && gone == nil && d.Partitions[0].Filesystem == "" {
		absent := func(context.Context, string) error { return nil }
		p := Prover{Dir: spec.State, Looker: m, Disk: m, Absent: absent, Chunk: 16 << 20, Now: time.Now}
		_, err = p.Run(context.Background(), d, d.Partitions[0])
	} else if gone == nil {
		err = nil
	}
	if err != nil {
		return err
	}
	return os.WriteFile(spec.Count, []byte(fmt.Sprint(b.n)), 0o600)
}

// mounted says whether the n-th disk's file system is mounted and empty.
func (r *rig) mounted(t *testing.T, n int) bool {
	t.Helper()
	p := r.file.Disks[n].Partitions[0]
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(r.root, p.MountPoint), &st); err != nil {
		t.Fatal(err)
	}
	var dev unix.Stat_t
	if err := unix.Stat(r.device(n), &dev); err != nil {
		t.Fatal(err)
	}
	residue, err := r.host.Pristine(p.MountPoint)
	return err == nil && residue == "" && st.Dev == dev.Rdev
}

func (r *rig) certified(n int) bool {
	_, err := os.Stat(filepath.Join(r.state, nodedisks.CertificateName(r.file.Disks[n].Partitions[0].UUID)))
	return err == nil
}

func fsUUID(t *testing.T, data []byte) string {
	t.Helper()
	s := shape("ext4", data)
	if s.UUID == "" || strings.Trim(s.UUID, "0-") == "" {
		t.Fatal("no ext4 superblock")
	}
	return s.UUID
}
