package nodeprep_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/internal/hostexec"
	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
	"holdfast.dev/internal/output"
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

	left    int      // boundaries until the power cut; negative for none
	passed  int      // boundaries so far
	effects []string // programs that change disks
	lie     func(tool string, args []string) (out []byte, err error, lied bool)
	seed    uint64
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
	w := &world{t: t, dir: dir, vgs: map[string]*fakeVG{}, imm: map[string]bool{}, used: map[string][]byte{}, left: -1}
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
	w.file("dev/"+dev, size)
}

func (w *world) file(name string, size int64) {
	w.write(name, "")
	w.must(os.Truncate(w.path(name), size))
}

// pull takes a disk out.
func (w *world) pull(dev string) {
	w.must(os.RemoveAll(w.path("sys/block/" + dev)))
	w.must(os.Rename(w.path("dev/"+dev), w.path("dev/pulled-"+dev)))
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
		w.file("dev/"+name, size)
		w.move(dev, start, name, 0, size)
	}
}

// move copies what is not zero: the bytes of a partition are those of its disk,
// and while the kernel knows the partition they are kept in its file.
func (w *world) move(from string, at int64, to string, dest, n int64) {
	src, err := os.Open(w.path("dev/" + from))
	w.must(err)
	defer src.Close()
	dst, err := os.OpenFile(w.path("dev/"+to), os.O_RDWR, 0)
	w.must(err)
	defer dst.Close()
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
	defer x.Close()
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
	defer x.Close()
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

func fails(code int, text string) error {
	return &hostexec.Error{Name: "fake", ExitCode: code, Stderr: text, Err: errors.New("exit status " + strconv.Itoa(code))}
}

// Exec runs a model of a program. Those that only look may run side by side.
func (w *world) Exec(_ context.Context, _ time.Duration, c hostexec.Command) ([]byte, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.lie != nil {
		if out, err, lied := w.lie(c.Path, c.Args); lied {
			return out, err
		}
	}
	dev := filepath.Base(c.Args[len(c.Args)-1])
	switch c.Path {
	case "blkid":
		return w.blkid(dev)
	case "lsblk":
		info, err := os.Stat(w.path("dev/" + dev))
		if err != nil {
			return nil, fails(32, "not a block device")
		}
		return fmt.Appendf(nil, `{"blockdevices":[{"name":%q,"size":%d,"fstype":null,"pttype":null}]}`, dev, info.Size()), nil
	case "e2fsck":
		if string(w.get(dev, 8192, 5)) == "WHOLE" {
			return nil, nil
		}
		return nil, fails(4, "errors left")
	case "mkfs.xfs":
		return []byte("mkfs.xfs version 5.10.0"), nil
	case "wipefs":
		if c.Args[0] == "--no-act" {
			return w.signatures(dev)
		}
	}
	w.boundary()
	defer w.boundary()
	if c.Path != "systemctl" && !slices.Contains([]string{"pvs", "vgs", "lvs"}, c.Args[0]) {
		w.effects = append(w.effects, strings.Join(append([]string{c.Path}, c.Args...), " "))
	}
	switch c.Path {
	case "wipefs":
		w.put(dev, 0, make([]byte, 32<<10))
		info, err := os.Stat(w.path("dev/" + dev))
		w.must(err)
		w.put(dev, info.Size()-32<<10, make([]byte, 32<<10))
		if len(dev) == 3 {
			w.reread(dev)
		}
		return nil, nil
	case "sfdisk":
		script, err := io.ReadAll(c.Stdin)
		w.must(err)
		return nil, w.sfdisk(dev, string(script))
	case "partx":
		w.reread(dev)
		return nil, nil
	case "mkfs.ext4":
		return nil, w.mkfs(dev, c.Args)
	case "systemctl":
		if c.Args[0] == "start" {
			return nil, w.start(c.Args[1])
		}
		return nil, nil
	case "lvm":
		return w.lvm(c.Args)
	}
	return nil, fails(127, "no such program: "+c.Path)
}

// kind is what is on a device: the bytes decide.
func (w *world) kind(dev string) (kind, id string) {
	b := w.get(dev, 0, 4096)
	switch {
	case binary.LittleEndian.Uint16(b[1024+56:]) == 0xef53:
		u, err := uuid.FromBytes(b[1024+104 : 1024+120])
		w.must(err)
		return "ext4", u.String()
	case string(b[512:520]) == "LABELONE":
		return "LVM2_member", string(b[544:582])
	case string(b[512:520]) == "EFI PART":
		return "gpt", "whatever"
	}
	return "", ""
}

func (w *world) blkid(dev string) ([]byte, error) {
	kind, id := w.kind(dev)
	switch {
	case kind == "" && len(dev) > 3:
		return []byte("PART_ENTRY_UUID=x\n"), nil
	case kind == "":
		return nil, fails(2, "")
	case kind == "gpt":
		return fmt.Appendf(nil, "PTTYPE=gpt\nPTUUID=%s\n", id), nil
	}
	return fmt.Appendf(nil, "UUID=%s\nTYPE=%s\n", id, kind), nil
}

func (w *world) signatures(dev string) ([]byte, error) {
	kind, id := w.kind(dev)
	if kind == "" {
		return []byte(`{"signatures": []}`), nil
	}
	return fmt.Appendf(nil, `{"signatures": [{"type": %q, "uuid": %q}]}`, kind, id), nil
}

var (
	labelRE = regexp.MustCompile(`label-id: (\S+)`)
	partRE  = regexp.MustCompile(`start=(\d+), size=(\d+), type=(\S+), uuid=(\S+),`)
)

// sfdisk writes a table in the order of libfdisk's gpt_write_disklabel, of
// which the power may fail between any two writes, and in the middle of the entries.
func (w *world) sfdisk(dev, script string) error {
	info, err := os.Stat(w.path("dev/" + dev))
	w.must(err)
	sectors := uint64(info.Size() / 512)
	entries := make([]byte, 128*128)
	for i, m := range partRE.FindAllStringSubmatch(script, -1) {
		e := entries[i*128:]
		start, _ := strconv.ParseUint(m[1], 10, 64)
		size, _ := strconv.ParseUint(m[2], 10, 64)
		copy(e, mixed(w, m[3]))
		copy(e[16:], mixed(w, m[4]))
		binary.LittleEndian.PutUint64(e[32:], start)
		binary.LittleEndian.PutUint64(e[40:], start+size-1)
	}
	header := func(at, other, table uint64) []byte {
		h := make([]byte, 512)
		copy(h, "EFI PART\x00\x00\x01\x00")
		binary.LittleEndian.PutUint32(h[12:], 92)
		binary.LittleEndian.PutUint64(h[24:], at)
		binary.LittleEndian.PutUint64(h[32:], other)
		copy(h[56:], mixed(w, labelRE.FindStringSubmatch(script)[1]))
		binary.LittleEndian.PutUint64(h[72:], table)
		binary.LittleEndian.PutUint32(h[80:], 128)
		binary.LittleEndian.PutUint32(h[84:], 128)
		binary.LittleEndian.PutUint32(h[88:], crc32.ChecksumIEEE(entries))
		binary.LittleEndian.PutUint32(h[16:], crc32.ChecksumIEEE(h[:92]))
		return h
	}
	end := int64(sectors-33) * 512
	w.put(dev, end, entries[:128])
	w.put(dev, end, entries)
	w.put(dev, int64(sectors-1)*512, header(sectors-1, 1, sectors-33))
	w.put(dev, 1024, entries)
	w.put(dev, 512, header(1, sectors-1, 2))
	mbr := make([]byte, 512)
	mbr[446+4], mbr[446+8], mbr[510], mbr[511] = 0xee, 1, 0x55, 0xaa
	w.put(dev, 0, mbr)
	w.reread(dev)
	return nil
}

// mixed is a GUID with its first three fields little-endian.
func mixed(w *world, s string) []byte {
	u, err := uuid.Parse(s)
	w.must(err)
	b := u[:]
	slices.Reverse(b[0:4])
	slices.Reverse(b[4:6])
	slices.Reverse(b[6:8])
	return b
}

// mkfs writes tables, then the superblock, then what makes it whole: a power cut
// leaves data of no known kind, or a file system that its checker faults.
func (w *world) mkfs(dev string, args []string) error {
	if _, used := w.used[dev]; used {
		w.t.Errorf("mkfs on %s, which a pod has used", dev)
	}
	u, err := uuid.Parse(args[slices.Index(args, "-U")+1])
	w.must(err)
	w.put(dev, 512<<10, bytes.Repeat([]byte{7}, 4096))
	sb := make([]byte, 1024)
	binary.LittleEndian.PutUint16(sb[56:], 0xef53)
	copy(sb[104:], u[:])
	w.put(dev, 1024, sb)
	w.put(dev, 8192, []byte("WHOLE"))
	return nil
}

// start mounts a file system, and a pod begins to write to it at once.
func (w *world) start(unit string) error {
	text := w.read("etc/systemd/system/" + unit)
	get := func(key string) string {
		return regexp.MustCompile(`(?m)^` + key + `=(.*)$`).FindStringSubmatch(text)[1]
	}
	want := filepath.Base(get("What"))
	for _, dev := range w.disks() {
		parts, err := filepath.Glob(w.path("sys/block/" + dev + "/" + dev + "*"))
		w.must(err)
		for _, p := range parts {
			name := filepath.Base(p)
			if _, id := w.kind(name); id != want {
				continue
			}
			if string(w.get(name, 8192, 5)) != "WHOLE" {
				w.t.Errorf("%s is mounted and is not whole", name)
			}
			number := w.read("sys/block/" + dev + "/" + name + "/dev")
			table := w.read("proc/1/mountinfo")
			w.write("proc/1/mountinfo", fmt.Sprintf("%s\n%d 22 %s / %s rw - ext4 /dev/%s rw\n", table, 100+w.passed, number, get("Where"), name))
			if w.used[name] == nil { // the kernel counts the mount; a pod writes
				w.seed++
				data := make([]byte, 64)
				binary.LittleEndian.PutUint64(data, rand.New(rand.NewPCG(w.seed, 1)).Uint64())
				w.used[name] = data
				x, err := os.OpenFile(w.path("dev/"+name), os.O_WRONLY, 0)
				w.must(err)
				_, e1 := x.WriteAt([]byte{1, 0}, 1024+52)
				_, e2 := x.WriteAt(data, 2*mib)
				w.must(errors.Join(e1, e2, x.Close()))
			}
			return nil
		}
	}
	return fails(1, "timed out waiting for the device")
}

func (w *world) lvm(args []string) ([]byte, error) {
	last := args[len(args)-1]
	pv := func(dev string) string {
		if kind, id := w.kind(dev); kind == "LVM2_member" {
			return id
		}
		return ""
	}
	var devs []string
	for _, m := range regexp.MustCompile(`a\|\^(\S+?)\$\|`).FindAllStringSubmatch(args[2], -1) {
		devs = append(devs, filepath.Base(m[1]))
	}
	switch args[0] {
	case "pvcreate":
		dev := filepath.Base(last)
		w.put(dev, 4096, []byte("metadata"))
		label := append(append([]byte("LABELONE"), make([]byte, 24)...), args[slices.Index(args, "--uuid")+1]...)
		w.put(dev, 512, label)
		return nil, nil
	case "vgcreate", "vgextend":
		i := slices.IndexFunc(args, func(a string) bool { return strings.HasPrefix(a, "hf-") })
		vg := w.vgs[args[i]]
		if (vg != nil) == (args[0] == "vgcreate") {
			return nil, fails(5, "exists, or does not")
		}
		if vg == nil {
			vg = &fakeVG{uuid: fmt.Sprintf("AAAAAA-bbbb-cccc-dddd-eeee-ffff-%06d", len(w.vgs))}
		}
		for j, a := range args {
			if a == "--addtag" {
				vg.tags = append(vg.tags, args[j+1])
			}
		}
		for _, d := range args[i+1:] {
			vg.pvs = append(vg.pvs, pv(filepath.Base(d)))
		}
		w.vgs[args[i]] = vg
		return nil, nil
	case "lvcreate":
		w.vgs[last].pools = append(w.vgs[last].pools, args[slices.Index(args, "--name")+1])
		return nil, nil
	}
	rows := map[string][]map[string]string{"pv": {}, "vg": {}, "lv": {}}
	for _, dev := range devs {
		id := pv(dev)
		if id == "" {
			continue
		}
		row := map[string]string{"pv_uuid": id, "pv_name": "/dev/" + dev, "vg_name": "", "vg_uuid": ""}
		for name, vg := range w.vgs {
			if slices.Contains(vg.pvs, id) {
				row["vg_name"], row["vg_uuid"] = name, vg.uuid
				if !slices.ContainsFunc(rows["vg"], func(r map[string]string) bool { return r["vg_name"] == name }) {
					rows["vg"] = append(rows["vg"], map[string]string{"vg_name": name, "vg_uuid": vg.uuid, "vg_tags": strings.Join(vg.tags, ","), "vg_missing_pv_count": "0"})
					for _, p := range vg.pools {
						rows["lv"] = append(rows["lv"], map[string]string{"lv_name": p, "vg_name": name, "lv_layout": "thin,pool"})
					}
				}
			}
		}
		rows["pv"] = append(rows["pv"], row)
	}
	kind := map[string]string{"pvs": "pv", "vgs": "vg", "lvs": "lv"}[args[0]]
	out, err := json.Marshal(map[string]any{"report": []any{map[string]any{kind: rows[kind]}}})
	return out, err
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
	defer store.Close()
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
		Host: &nodeprep.Host{FS: w.fs, Exec: w.Exec, Flags: w}, Files: w, Store: store, Programs: w.fs,
		NewUUID: uuid.NewString, UnitsOnly: o.UnitsOnly, Progress: io.Discard,
	}
	err = p.Run(w.t.Context(), o, said, &b)
	w.left = -1
	return b.String(), err, false
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
