package nodeprep_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostexec"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/internal/output"
	"holdfast.dev/provisioners/local/wipe"
	"holdfast.dev/provisioners/nodeprep"
)

const mib = 1 << 20

// world is a host made of files: disks are byte regions, and the programs are
// models that read and write those bytes. It survives power cuts, of which one
// can happen at any boundary: before and after each program, in the middle of
// its writes, before and after each file.
type world struct {
	t    testing.TB
	dir  string
	fs   *hostfs.FS
	mu   sync.Mutex
	vgs  map[string]*fakeVG // what LVM's metadata on the disks says
	imm  map[string]bool
	used map[string][]byte // partition file to what a pod wrote there

	nodes map[uint64]nodeprep.Node // what the kernel says of a device, by its file's inode
	seq   uint64                   // of the disk that came last

	left    int      // boundaries until the power cut; negative for none
	passed  int      // boundaries so far
	effects []string // programs that change disks
	lie     func(tool string, args []string) (out []byte, err error, lied bool)
	seed    uint64
	// before is called when a program is about to open its device, onSave when a file was written.
	before func(c hostexec.Command)
	onSave func()
}

type fakeVG struct {
	uuid  string
	tags  []string
	pvs   []string // PV UUIDs
	pools []string
}

// cut is the power cut.
type cut struct{}

func newWorld(t testing.TB) *world {
	t.Helper()
	// In memory where that can be: thousands of files are made durable.
	base := "/dev/shm"
	if info, err := os.Stat(base); err != nil || !info.IsDir() {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "nodeprep-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, dir: dir, vgs: map[string]*fakeVG{}, imm: map[string]bool{}, used: map[string][]byte{}, left: -1, nodes: map[uint64]nodeprep.Node{}}
	for _, d := range []string{"sys/block", "sys/devices", "sys/dev/block", "dev", "proc/1", "proc/sys/kernel", "run/systemd/system"} {
		w.must(os.MkdirAll(filepath.Join(w.dir, d), 0o755))
	}
	w.write("proc/sys/kernel/osrelease", "6.1.0-1")
	w.write("proc/swaps", "Filename Type Size Used Priority\n")
	w.write("proc/1/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
	w.fs, err = hostfs.Open(w.dir)
	w.must(err)
	t.Cleanup(func() { _ = w.fs.Close() })
	w.add("sda", 96*mib)
	w.kernelPart("sda", 1, mib, 64*mib) // where the host lives
	return w
}

// weaken takes away what names the drive: its id is then the place that it is in.
func (w *world) weaken(dev string) { w.must(os.Remove(w.path("sys/block/" + dev + "/device/wwid"))) }

func (w *world) must(err error) {
	if err != nil {
		w.t.Helper()
		w.t.Fatal(err)
	}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, data string) {
	w.must(os.MkdirAll(filepath.Dir(w.path(name)), 0o755))
	w.must(os.WriteFile(w.path(name), []byte(data), 0o644))
}

func (w *world) read(name string) string {
	data, err := os.ReadFile(w.path(name))
	w.must(err)
	return strings.TrimSpace(string(data))
}

// add plugs in a blank disk. Its id is wwn-<dev>.
func (w *world) add(dev string, size int64) {
	d := "sys/block/" + dev + "/"
	w.write(d+"size", strconv.FormatInt(size/512, 10))
	w.write(d+"ro", "0")
	w.write(d+"dev", fmt.Sprintf("8:%d", 16*(dev[2]-'a')))
	w.write(d+"queue/rotational", "0")
	w.write(d+"queue/logical_block_size", "512")
	w.write(d+"device/wwid", "wwn-"+dev)
	w.must(os.MkdirAll(w.path(d+"holders"), 0o755))
	w.seq++
	w.write(d+"diskseq", strconv.FormatUint(w.seq, 10))
	w.file(dev, size, w.read(d+"dev"), w.seq)
}

// file makes the file of a device.
func (w *world) file(dev string, size int64, number string, seq uint64) {
	w.write("dev/"+dev, "")
	w.must(os.Truncate(w.path("dev/"+dev), size))
	info, err := os.Stat(w.path("dev/" + dev))
	w.must(err)
	w.nodes[info.Sys().(*syscall.Stat_t).Ino] = nodeprep.Node{Number: number, Seq: seq}
}

// Stat is what the kernel says of an open device.
func (w *world) Stat(x *os.File) (nodeprep.Node, error) {
	info, err := x.Stat()
	if err != nil {
		return nodeprep.Node{}, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	n, ok := w.nodes[info.Sys().(*syscall.Stat_t).Ino]
	if !ok {
		return n, fmt.Errorf("%s is no device", x.Name())
	}
	n.Size = info.Size()
	return n, nil
}

// exchange gives each of two disks the kernel's name of the other, as when both
// were away for a moment. Their numbers go with the names.
func (w *world) exchange(a, b string) {
	rename := func(from, to string) {
		for _, pattern := range []string{"sys/block/" + from + "/" + from + "[0-9]*", "dev/" + from + "*", "sys/block/" + from} {
			found, err := filepath.Glob(w.path(pattern))
			w.must(err)
			for _, name := range found {
				w.must(os.Rename(name, filepath.Join(filepath.Dir(name), to+strings.TrimPrefix(filepath.Base(name), from))))
			}
		}
	}
	rename(a, "moving")
	rename(b, a)
	rename("moving", b)
	number := w.read("sys/block/" + a + "/dev")
	w.write("sys/block/"+a+"/dev", w.read("sys/block/"+b+"/dev"))
	w.write("sys/block/"+b+"/dev", number)
}

// pull takes a disk out.
func (w *world) pull(dev string) {
	w.must(os.RemoveAll(w.path("sys/block/" + dev)))
	w.must(os.Rename(w.path("dev/"+dev), w.path("dev/pulled-"+dev)))
}

// plug puts a pulled disk back with its data: the kernel counts it, and its
// partitions, anew.
func (w *world) plug(dev string, size int64) {
	w.must(os.Rename(w.path("dev/pulled-"+dev), w.path("dev/old")))
	w.add(dev, size)
	w.must(os.Rename(w.path("dev/old"), w.path("dev/"+dev)))
	files, err := filepath.Glob(w.path("dev/" + dev + "*"))
	w.must(err)
	for _, f := range files {
		info, err := os.Stat(f)
		w.must(err)
		ino := info.Sys().(*syscall.Stat_t).Ino
		n := w.nodes[ino]
		n.Seq = w.seq
		w.nodes[ino] = n
	}
}

func (w *world) kernelPart(dev string, n int, start, size int64) {
	name := dev + strconv.Itoa(n)
	d := "sys/block/" + dev + "/" + name + "/"
	w.write(d+"partition", strconv.Itoa(n))
	w.write(d+"start", strconv.FormatInt(start/512, 10))
	w.write(d+"size", strconv.FormatInt(size/512, 10))
	number := fmt.Sprintf("8:%d", 16*(dev[2]-'a')+byte(n))
	w.write(d+"dev", number)
	w.must(os.MkdirAll(w.path(d+"holders"), 0o755))
	if _, err := os.Lstat(w.path("sys/dev/block/" + number)); err != nil {
		w.must(os.Symlink("../../block/"+dev+"/"+name, w.path("sys/dev/block/"+number)))
	}
	if _, err := os.Stat(w.path("dev/" + name)); err != nil {
		seq, err := strconv.ParseUint(w.read("sys/block/"+dev+"/diskseq"), 10, 64)
		w.must(err)
		w.file(name, size, number, seq)
		w.move(dev, start, name, 0, size)
	}
}

// move copies what is not zero: the bytes of a partition are those of its disk,
// and while the kernel knows the partition they are kept in its file.
func (w *world) move(from string, at int64, to string, dest, n int64) {
	src, err := os.Open(w.path("dev/" + from))
	w.must(err)
	defer func() { _ = src.Close() }() // the test is over then
	dst, err := os.OpenFile(w.path("dev/"+to), os.O_RDWR, 0)
	w.must(err)
	defer func() { _ = dst.Close() }() // the test is over then
	a, b := make([]byte, mib), make([]byte, mib)
	for i := int64(0); i < n; i += mib {
		m := min(mib, n-i)
		_, e1 := src.ReadAt(a[:m], at+i)
		_, e2 := dst.ReadAt(b[:m], dest+i)
		w.must(errors.Join(e1, e2))
		if !bytes.Equal(a[:m], b[:m]) {
			_, err := dst.WriteAt(a[:m], dest+i)
			w.must(err)
		}
	}
}

// boot is what a power cut leaves: no mount but the root, and the partitions that are on the disks.
func (w *world) boot() {
	w.write("proc/1/mountinfo", "22 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
	for _, dev := range w.disks() {
		w.reread(dev)
	}
}

func (w *world) disks() []string {
	entries, err := os.ReadDir(w.path("sys/block"))
	w.must(err)
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "sd") && e.Name() != "sda" {
			out = append(out, e.Name())
		}
	}
	return out
}

// reread makes the kernel's partitions those of the primary table.
func (w *world) reread(dev string) {
	x, err := os.Open(w.path("dev/" + dev))
	w.must(err)
	defer func() { _ = x.Close() }() // the test is over then
	b := make([]byte, 64*512)
	_, err = x.ReadAt(b, 0)
	w.must(err)
	parts := map[string]bool{}
	if string(b[512:520]) == "EFI PART" && b[510] == 0x55 {
		for i := range 128 {
			e := b[1024+i*128 : 1024+(i+1)*128]
			if binary.LittleEndian.Uint64(e[32:]) != 0 {
				start, last := int64(binary.LittleEndian.Uint64(e[32:])), int64(binary.LittleEndian.Uint64(e[40:]))
				w.kernelPart(dev, i+1, start*512, (last-start+1)*512)
				parts[dev+strconv.Itoa(i+1)] = true
			}
		}
	}
	entries, err := os.ReadDir(w.path("sys/block/" + dev))
	w.must(err)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), dev) && !parts[e.Name()] {
			d := "sys/block/" + dev + "/" + e.Name() + "/"
			start, _ := strconv.ParseInt(w.read(d+"start"), 10, 64)
			size, _ := strconv.ParseInt(w.read(d+"size"), 10, 64)
			w.move(e.Name(), 0, dev, start*512, size*512)
			w.must(os.Remove(w.path("dev/" + e.Name())))
			w.must(os.RemoveAll(w.path("sys/block/" + dev + "/" + e.Name())))
		}
	}
}

// boundary is a place where the power may fail.
func (w *world) boundary() {
	w.passed++
	if w.left == 0 {
		panic(cut{})
	}
	w.left--
}

// put writes bytes of a device; the power may fail before and after.
func (w *world) put(dev string, at int64, b []byte) {
	w.boundary()
	x, err := os.OpenFile(w.path("dev/"+dev), os.O_WRONLY, 0)
	w.must(err)
	_, err = x.WriteAt(b, at)
	w.must(errors.Join(err, x.Close()))
}

func (w *world) get(dev string, at int64, n int) []byte {
	x, err := os.Open(w.path("dev/" + dev))
	w.must(err)
	defer func() { _ = x.Close() }() // the test is over then
	b := make([]byte, n)
	_, err = x.ReadAt(b, at)
	w.must(err)
	return b
}

// The five ways to write a file, each with the power failing around it.

func (w *world) WriteFile(name string, data []byte, perm fs.FileMode) error {
	w.boundary()
	defer w.boundary()
	w.must(os.WriteFile(w.path(name+".tmp"), data, perm)) // hostfs, but for the time that fsync takes
	if w.onSave != nil {
		defer w.onSave()
	}
	return os.Rename(w.path(name+".tmp"), w.path(name))
}

func (w *world) MkdirAll(name string, perm fs.FileMode) error {
	w.boundary()
	return w.fs.MkdirAll(name, perm)
}

func (w *world) Symlink(target, name string) error {
	w.boundary()
	defer w.boundary()
	return w.fs.Symlink(target, name)
}

func (w *world) Remove(name string) error {
	w.boundary()
	return w.fs.Remove(name)
}

func (w *world) Immutable(dir string) (bool, error) { return w.imm[dir], nil }

func (w *world) SetImmutable(dir string) error {
	w.boundary()
	w.imm[dir] = true
	return nil
}

// prepare runs node-prepare. cutAfter is how many boundaries pass before the
// power fails; negative for never.
func (w *world) prepare(f *v1alpha1.NodeFlavor, o nodeprep.Options, cutAfter int, say ...func(*nodeprep.Said)) (out string, err error, wasCut bool) {
	w.t.Helper()
	w.left = cutAfter
	said := &nodeprep.Said{Flavor: f}
	for _, s := range say {
		s(said)
	}
	store, err := nodeprep.OpenStore(w.fs, w)
	if err != nil {
		return "", err, false
	}
	defer func() { _ = store.Close() }() // the test is over then
	var b strings.Builder
	defer func() {
		if r := recover(); r != nil {
			if _, is := r.(cut); !is {
				panic(r)
			}
			w.left, wasCut = -1, true
			w.boot()
		}
	}()
	if o.Output == "" {
		o.Output = output.Table
	}
	p := &nodeprep.Preparer{
		Host: &nodeprep.Host{FS: w.fs, Exec: w.Exec, Flags: w, Stat: w.Stat}, Files: w, Store: store, Programs: w.fs,
		NewUUID: uuid.NewString, UnitsOnly: o.UnitsOnly, Progress: io.Discard,
		Raw: func(x *os.File) (wipe.Device, error) { return fileDevice{x}, nil },
	}
	err = p.Run(w.t.Context(), o, said, &b)
	w.left = -1
	return b.String(), err, false
}

// fileDevice is a raw partition that discards nothing: what must be zero is written.
type fileDevice struct{ *os.File }

func (d fileDevice) Size() int64 {
	info, err := d.Stat()
	if err != nil {
		return 0
	}
	return info.Size()
}

func (d fileDevice) Erase(how wipe.Method, off, n int64) error {
	if how == wipe.Discard {
		return wipe.ErrUnsupported
	}
	_, err := d.WriteAt(make([]byte, n), off)
	return err
}

// sums are those of all devices, holes left out.
func (w *world) sums(devs ...string) map[string]string {
	out := map[string]string{}
	for _, dev := range devs {
		x, err := os.Open(w.path("dev/" + dev))
		if errors.Is(err, os.ErrNotExist) {
			continue // a partition that is not there now
		}
		w.must(err)
		h := sha256.New()
		for at := int64(0); ; {
			start, err := unix.Seek(int(x.Fd()), at, unix.SEEK_DATA)
			if err != nil {
				break
			}
			end, err := unix.Seek(int(x.Fd()), start, unix.SEEK_HOLE)
			w.must(err)
			b := make([]byte, end-start)
			_, err = x.ReadAt(b, start)
			w.must(err)
			if len(bytes.Trim(b, "\x00")) > 0 {
				fmt.Fprintf(h, "%d", start)
				h.Write(b)
			}
			at = end
		}
		w.must(x.Close())
		out[dev] = fmt.Sprintf("%x", h.Sum(nil))
	}
	return out
}

// intact checks that what pods wrote is there.
func (w *world) intact() {
	w.t.Helper()
	for name, data := range w.used {
		if got := w.get(name, 2*mib, len(data)); !bytes.Equal(got, data) {
			w.t.Errorf("what a pod wrote to %s is lost", name)
		}
	}
}

func (w *world) listed() *nodedisks.File {
	w.t.Helper()
	data, err := os.ReadFile(w.path(nodedisks.Path))
	w.must(err)
	f, err := nodedisks.Parse(nodedisks.Path, data)
	w.must(err)
	return f
}
