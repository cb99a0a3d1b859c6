package nodeprep_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"

	"holdfast.dev/internal/hostexec"
)

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
	if w.before != nil { // a program may be slow to begin
		w.before(c)
	}
	dev := filepath.Base(c.Args[len(c.Args)-1])
	if len(c.Files) > 0 {
		target, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", c.Files[0].Fd()))
		w.must(err)
		dev = filepath.Base(target)
	}
	switch c.Path {
	case "blkid":
		return w.blkid(dev)
	case "lsblk":
		info, err := os.Stat(w.path("dev/" + dev))
		if err != nil {
			return nil, fails(32, "not a block device")
		}
		table := "null"
		if found, _ := filepath.Glob(w.path("sys/block/*/" + dev + "/partition")); len(found) > 0 {
			table = `"gpt"` // as udev has it: a partition is in one
		}
		return fmt.Appendf(nil, `{"blockdevices":[{"name":%q,"size":%d,"fstype":null,"pttype":%s}]}`, dev, info.Size(), table), nil
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
		w.put(dev, 4096, []byte("sum! LVM2 x[5A%r0N*>\x01"))
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
