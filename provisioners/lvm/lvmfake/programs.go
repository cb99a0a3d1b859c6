package lvmfake

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// run does what a program does. The caller holds the lock.
func (h *Host) run(c Call) (string, error) {
	switch c.Program {
	case "lvm":
		return h.lvm(c.Args)
	case "mkfs.xfs", "mkfs.ext4":
		return h.mkfs(strings.TrimPrefix(c.Program, "mkfs."), c.Args)
	case "blkid":
		return h.blkid(c.Args)
	case "blkdiscard":
		return h.blkdiscard(c.Args)
	case "dd":
		return h.dd(c.Args)
	case "mount":
		return h.mount(c.Args)
	case "umount":
		return h.umount(c.Args)
	case "xfs_growfs", "resize2fs":
		return h.growfs(c.Program, c.Args)
	}
	return "", fmt.Errorf("%s: no such program", c.Program)
}

// options of LVM's commands that take a value, and those that take none.
var (
	valued = map[string]bool{"--config": true, "--devices": true, "-n": true, "--type": true, "--thinpool": true, "-V": true, "-L": true, "-i": true, "-I": true,
		"-W": true, "-Z": true, "--addtag": true, "--deltag": true, "-S": true, "-a": true, "-k": true, "-p": true, "--reportformat": true, "--units": true,
		"--configreport": true, "-o": true}
	plain = map[string]bool{"-y": true, "-K": true, "--nosuffix": true, "--binary": true}
)

type line struct {
	opt  map[string][]string
	args []string
}

func (l line) get(name string) string {
	if v := l.opt[name]; len(v) > 0 {
		return v[len(v)-1]
	}
	return ""
}

func parse(args []string) (line, error) {
	l := line{opt: map[string][]string{}}
	for i := 0; i < len(args); i++ {
		a := args[i]
		switch {
		case valued[a] && i+1 < len(args):
			l.opt[a] = append(l.opt[a], args[i+1])
			i++
		case plain[a]:
			l.opt[a] = append(l.opt[a], "y")
		case strings.HasPrefix(a, "-"):
			return l, exit(3, "invalid option -- %s", a)
		default:
			l.args = append(l.args, a)
		}
	}
	if l.get("--devices") == "" {
		return l, exit(3, "the driver must limit LVM to the devices of one group")
	}
	return l, nil
}

func (h *Host) lvm(args []string) (string, error) {
	l, err := parse(args[1:])
	if err != nil {
		return "", err
	}
	if len(l.args) != 1 && (args[0] != "lvextend" || len(l.args) == 0) {
		return "", exit(3, "want one operand, got %q", l.args)
	}
	name, lv, _ := strings.Cut(l.args[0], "/")
	g := h.groups[name]
	if g == nil {
		return "", exit(5, "Volume group %q not found", name)
	}
	switch args[0] {
	case "fullreport":
		return h.report(g)
	case "lvcreate":
		if lv != "" {
			return h.snapshot(g, lv, l)
		}
		return h.create(g, l)
	case "lvchange":
		return h.change(g, lv, l)
	case "lvextend":
		return h.extend(g, lv, l)
	case "lvremove":
		return h.remove(g, l)
	}
	return "", exit(3, "No such command %q", args[0])
}

func (g *Group) free() int64 {
	n := g.Extents
	for _, l := range g.LVs {
		if l.Pool == "" {
			n -= l.Size / g.ExtentSize
		}
	}
	return n
}

func (l *LV) attr() string {
	b := []byte("-wi-------")
	switch {
	case l.ThinPool:
		b = []byte("twi---tz--")
		if l.Unzeroed {
			b[7] = '-'
		}
	case l.Pool != "":
		b = []byte("Vwi---tz--")
	}
	if l.ReadOnly {
		b[1] = 'r'
	}
	if l.Active {
		b[4] = 'a'
	}
	if l.Open {
		b[5] = 'o'
	}
	return string(b)
}

func (h *Host) report(g *Group) (string, error) {
	n := func(v int64) string { return strconv.FormatInt(v, 10) }
	bit := func(v bool) string { return n(map[bool]int64{true: 1}[v]) }
	alloc := g.Extents - g.free()
	vg := map[string]string{"vg_name": g.Info.Name, "vg_uuid": g.Info.UUID, "vg_extent_size": n(g.ExtentSize), "vg_extent_count": n(g.Extents), "vg_free_count": n(g.free()),
		"vg_seqno": n(g.Seqno), "vg_missing_pv_count": bit(g.Missing), "vg_partial": bit(g.Missing), "vg_exported": "0", "pv_count": "1", "lv_count": n(int64(len(g.LVs)))}
	pv := map[string]string{"pv_name": "/dev/sdx", "pv_uuid": uuid("pv"+g.Info.Name, 1), "pv_missing": bit(g.Missing), "pv_pe_count": n(g.Extents), "pv_pe_alloc_count": n(alloc), "pv_allocatable": "1"}
	lvs := []map[string]string{}
	names := make([]string, 0, len(g.LVs))
	for name := range g.LVs {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		l := g.LVs[name]
		row := map[string]string{"lv_name": l.Name, "lv_uuid": l.UUID, "lv_attr": l.attr(), "lv_size": n(l.Size), "lv_tags": strings.Join(l.Tags, ","), "pool_lv": l.Pool,
			"origin": l.Origin, "data_percent": "", "metadata_percent": "", "lv_health_status": "", "lv_time": ""}
		if !l.Created.IsZero() {
			row["lv_time"] = l.Created.Format("2006-01-02 15:04:05 -0700")
		}
		if h.groups[g.Info.Name].Missing {
			row["lv_attr"] = row["lv_attr"][:8] + "p-"
		}
		if l.ThinPool {
			row["data_percent"], row["metadata_percent"] = fmt.Sprintf("%.2f", g.PoolData), fmt.Sprintf("%.2f", g.PoolMeta)
		} else if l.Pool != "" && l.Active {
			row["data_percent"] = "0.00"
		}
		lvs = append(lvs, row)
	}
	data, err := json.Marshal(map[string]any{"report": []any{map[string]any{"vg": []any{vg}, "pv": []any{pv}, "lv": lvs, "pvseg": []any{}, "seg": g.segments(names)}}})
	return string(data), err
}

func bytes(v string) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSuffix(v, "b"), 10, 64)
	if err != nil || n <= 0 || !strings.HasSuffix(v, "b") {
		return 0, exit(3, "Invalid argument for --size: %s", v)
	}
	return n, nil
}

var tag = regexp.MustCompile(`^[A-Za-z0-9_+./=!:&#][A-Za-z0-9_+.\-/=!:&#]*$`)

func (h *Host) create(g *Group, l line) (string, error) {
	name := l.get("-n")
	if g.LVs[name] != nil {
		return "", exit(5, "Logical Volume %q already exists in volume group %q", name, g.Info.Name)
	}
	for _, t := range l.opt["--addtag"] {
		if len(t) > 1024 || !tag.MatchString(t) {
			return "", exit(3, "Tag %s is invalid", t)
		}
	}
	g.Serial++
	lv := &LV{Name: name, UUID: uuid(g.Info.Name, g.Serial), Created: time.Now(), Tags: l.opt["--addtag"], Active: true}
	raw := l.get("-L")
	if l.get("--type") == "thin" {
		raw = l.get("-V")
		lv.Pool = l.get("--thinpool")
		if p := g.LVs[lv.Pool]; p == nil || !p.ThinPool {
			return "", exit(5, "Pool %s not found in Volume group %s.", lv.Pool, g.Info.Name)
		}
	}
	n, err := bytes(raw)
	if err != nil {
		return "", err
	}
	lv.Size = (n + g.ExtentSize - 1) / g.ExtentSize * g.ExtentSize
	if lv.Pool == "" {
		if g.Missing || lv.Size/g.ExtentSize > g.free() {
			return "", exit(5, "Volume group %q has insufficient free space (%d extents): %d required.", g.Info.Name, g.free(), lv.Size/g.ExtentSize)
		}
		if err := g.allocate(lv, lv.Size/g.ExtentSize, nil); err != nil {
			return "", err
		}
	}
	g.LVs[name] = lv
	g.Seqno++
	return fmt.Sprintf("  Logical volume \"%s\" created.\n", name), nil
}

func (h *Host) snapshot(g *Group, origin string, l line) (string, error) {
	src, name := g.LVs[origin], l.get("-n")
	switch {
	case src == nil:
		return "", exit(5, "Logical volume %s not found in volume group %s.", origin, g.Info.Name)
	case g.LVs[name] != nil:
		return "", exit(5, "Logical Volume %q already exists in volume group %q", name, g.Info.Name)
	case src.Pool == "" || l.get("--type") != "thin":
		return "", exit(5, "not a thin volume")
	}
	g.Serial++
	g.Seqno++
	g.LVs[name] = &LV{Name: name, UUID: uuid(g.Info.Name, g.Serial), Created: time.Now(), Tags: l.opt["--addtag"], Size: src.Size, Pool: src.Pool, Origin: origin, ReadOnly: l.get("-p") == "r",
		Active: l.get("-k") == "n", Skip: l.get("-k") != "n", FS: src.FS, Data: src.Data, Grown: src.Grown}
	return fmt.Sprintf("  Logical volume \"%s\" created.\n", name), nil
}

var conditions = regexp.MustCompile(`^vg_uuid="([^"]+)"((?: && lv_tags=\{"[^"]+"\})+)$`)
var tagCondition = regexp.MustCompile(`lv_tags=\{"([^"]+)"\}`)

// selected are the volumes that a selection matches.
func (g *Group) selected(s string) ([]*LV, error) {
	m := conditions.FindStringSubmatch(s)
	if m == nil {
		return nil, exit(3, "Selection syntax error at %q", s)
	}
	if m[1] != g.Info.UUID {
		return nil, nil
	}
	var all []*LV
	for _, l := range g.LVs {
		ok := true
		for _, t := range tagCondition.FindAllStringSubmatch(m[2], -1) {
			ok = ok && slices.Contains(l.Tags, t[1])
		}
		if ok {
			all = append(all, l)
		}
	}
	return all, nil
}

func (h *Host) change(g *Group, name string, l line) (string, error) {
	if name != "" {
		lv := g.LVs[name]
		if lv == nil {
			return "", exit(5, "Failed to find logical volume %q", g.Info.Name+"/"+name)
		}
		if l.get("-a") == "y" && (!lv.Skip || l.get("-K") != "") {
			lv.Active = true
		}
		return "", nil
	}
	sel, err := g.selected(l.get("-S"))
	if err != nil {
		return "", err
	}
	if g.Missing {
		return "", exit(5, "Cannot change VG %s while PVs are missing.", g.Info.Name)
	}
	out := ""
	for _, lv := range sel {
		lv.Tags = slices.DeleteFunc(slices.Clone(lv.Tags), func(t string) bool { return slices.Contains(l.opt["--deltag"], t) })
		lv.Tags = append(lv.Tags, l.opt["--addtag"]...)
		g.Seqno++
		out += fmt.Sprintf("  Logical volume %s/%s changed.\n", g.Info.Name, lv.Name)
	}
	return out, nil
}

func (h *Host) extend(g *Group, name string, l line) (string, error) {
	lv := g.LVs[name]
	if lv == nil {
		return "", exit(5, "Logical volume %s not found in volume group %s.", name, g.Info.Name)
	}
	n, err := bytes(l.get("-L"))
	if err != nil {
		return "", err
	}
	n = (n + g.ExtentSize - 1) / g.ExtentSize * g.ExtentSize
	switch {
	case n == lv.Size:
		return "", exit(5, "New size (%d extents) matches existing size", n/g.ExtentSize)
	case n < lv.Size:
		return "", exit(3, "New size given (%d extents) not larger than existing size", n/g.ExtentSize)
	case lv.Pool == "" && (n-lv.Size)/g.ExtentSize > g.free():
		return "", exit(5, "Insufficient free space: %d extents needed, but only %d available", (n-lv.Size)/g.ExtentSize, g.free())
	}
	if lv.Pool == "" {
		var where []Area
		for _, w := range l.args[1:] {
			a, err := parseArea(w)
			if err != nil {
				return "", err
			}
			where = append(where, a)
		}
		if err := g.allocate(lv, (n-lv.Size)/g.ExtentSize, where); err != nil {
			return "", err
		}
	}
	lv.Size = n
	g.Seqno++
	return fmt.Sprintf("  Size of logical volume changed.\n  Logical volume %s/%s successfully resized.\n", g.Info.Name, name), nil
}

func (h *Host) remove(g *Group, l line) (string, error) {
	sel, err := g.selected(l.get("-S"))
	if err != nil {
		return "", err
	}
	out := ""
	for _, lv := range sel {
		if lv.Open || lv.opened > 0 || h.mounted("/dev/"+g.Info.Name+"/"+lv.Name) {
			return out, exit(5, "Logical volume %s/%s in use.", g.Info.Name, lv.Name)
		}
		if lv.Pool == "" {
			g.freed(lv)
		}
		delete(g.LVs, lv.Name)
		g.Seqno++
		out += fmt.Sprintf("  Logical volume \"%s\" successfully removed.\n", lv.Name)
	}
	return out, nil
}

func (h *Host) mkfs(fs string, args []string) (string, error) {
	device := args[len(args)-1]
	if err := h.exclusive(device); err != nil {
		return "", exit(1, "%v", err)
	}
	_, l := h.volume(device)
	if l.FS != "" || l.Signature != "" {
		return "", exit(1, "%s appears to contain an existing filesystem (%s).", device, l.FS+l.Signature)
	}
	l.FS, l.Grown, l.Data = fs, l.Size, ""
	l.Formats++
	return "", nil
}

func (h *Host) blkid(args []string) (string, error) {
	_, l := h.volume(args[len(args)-1])
	switch {
	case l == nil || !l.Active:
		return "", exit(4, "no such device")
	case l.FS != "":
		return fmt.Sprintf("%s: TYPE=%q USAGE=\"filesystem\"\n", args[len(args)-1], l.FS), nil
	case l.Signature != "":
		return "", exit(8, "ambivalent")
	}
	return "", exit(2, "")
}

func (h *Host) blkdiscard(args []string) (string, error) {
	device := args[len(args)-1]
	if err := h.exclusive(device); err != nil {
		return "", exit(1, "%v", err)
	}
	_, l := h.volume(device)
	if l.ReadOnly {
		return "", exit(1, "read-only")
	}
	if i := slices.Index(args, "-o"); i < 0 || args[i+1] == "0" { // what is written is in front
		l.FS, l.Data, l.Signature = "", "", ""
	}
	if slices.Contains(args, "-z") {
		from, err1 := strconv.ParseInt(args[slices.Index(args, "-o")+1], 10, 64)
		n, err2 := strconv.ParseInt(args[slices.Index(args, "-l")+1], 10, 64)
		if err1 != nil || err2 != nil {
			return "", exit(1, "invalid number in %q", args)
		}
		l.overwrite(from, n)
	}
	return "", nil
}

func (h *Host) dd(args []string) (string, error) {
	opt := map[string]string{}
	for _, a := range args {
		k, v, _ := strings.Cut(a, "=")
		opt[k] = v
	}
	_, src := h.volume(opt["if"])
	_, dst := h.volume(opt["of"])
	if src == nil || dst == nil || !src.Active || !dst.Active || h.mounted(opt["of"]) || opt["skip"] != opt["seek"] {
		return "", exit(1, "cannot copy %q", args)
	}
	n := map[string]int64{}
	for _, k := range []string{"bs", "count", "skip"} {
		var err error
		if n[k], err = strconv.ParseInt(opt[k], 10, 64); err != nil {
			return "", exit(1, "invalid number %q", opt[k])
		}
	}
	dst.FS, dst.Data = src.FS, "part of "+src.Data
	if (n["skip"]+n["count"])*n["bs"] >= src.Size {
		dst.Data, dst.Grown = src.Data, src.Grown
	}
	dst.overwrite(n["skip"]*n["bs"], min(n["count"]*n["bs"], src.Size-n["skip"]*n["bs"]))
	return "", nil
}

func (h *Host) mount(args []string) (string, error) {
	m := mount{target: args[len(args)-1]}
	opts := ""
	for i, a := range args {
		if a == "-o" {
			opts = args[i+1]
		}
		if a == "-t" {
			m.fs = args[i+1]
		}
	}
	has := func(o string) bool { return slices.Contains(strings.Split(opts, ","), o) }
	if has("remount") {
		for i := range h.mounts {
			if h.mounts[i].target == m.target {
				h.mounts[i].readOnly = has("ro")
			}
		}
		return "", nil
	}
	m.device = args[len(args)-2]
	_, l := h.volume(m.device)
	if l == nil || !l.Active {
		return "", exit(32, "special device %s does not exist.", m.device)
	}
	if has("bind") {
		m.fs = "devtmpfs"
	} else if l.FS != m.fs {
		return "", exit(32, "wrong fs type, bad superblock on %s", m.device)
	}
	h.mounts = append(h.mounts, m)
	return "", nil
}

func (h *Host) umount(args []string) (string, error) {
	target := args[len(args)-1]
	for i := len(h.mounts) - 1; i >= 0; i-- {
		if h.mounts[i].target == target {
			h.mounts = slices.Delete(h.mounts, i, i+1)
			return "", nil
		}
	}
	return "", exit(32, "%s: not mounted.", target)
}

func (h *Host) growfs(program string, args []string) (string, error) {
	last := args[len(args)-1]
	for _, m := range h.mounts {
		if program == "xfs_growfs" && m.target == last || program == "resize2fs" && m.device == last {
			_, l := h.volume(m.device)
			l.Grown = l.Size
			return "", nil
		}
	}
	return "", exit(1, "%s is not a mounted file system", last)
}
