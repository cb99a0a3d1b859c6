package nodeprep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/internal/bounded"
)

const (
	mkfsTimeout  = 30 * time.Minute // a large disk that discards slowly
	tableTimeout = 2 * time.Minute
)

// settle waits until udev has dealt with what was changed; its database, which
// lsblk reads, is behind until then.
func (p *Preparer) settle(ctx context.Context) error {
	if !p.Udev {
		return nil
	}
	if _, err := p.Host.run(ctx, time.Minute, "", "udevadm", "settle", "--timeout=50"); err != nil {
		return fmt.Errorf("wait for udev: %w", err)
	}
	return nil
}

// wipe takes away what a token gave up: signatures first, from the inside out,
// then the first and last MiB of every place that is looked at when a disk is
// taken for blank. wipefs opens the device exclusively and so refuses one in use.
func (p *Preparer) wipe(ctx context.Context, f *Found, places []Extent) error {
	for i := range f.Content.Partitions {
		part := &f.Content.Partitions[i]
		d, err := p.Host.holdPartition(f.hold, part)
		if err != nil {
			return fmt.Errorf("wipe %s: %w", part.Name, err)
		}
		err = p.Host.change(ctx, d, tableTimeout, "", "wipefs", "--all")
		d.close() // or the kernel could not let go of the partition
		if err != nil {
			return fmt.Errorf("wipe %s: %w", part.Name, err)
		}
	}
	if err := p.Host.change(ctx, f.hold, tableTimeout, "", "wipefs", "--all"); err != nil {
		return fmt.Errorf("wipe %s: %w", f.Device, err)
	}
	for _, part := range f.Content.Partitions {
		places = append(places, Extent{part.Start, part.Size})
	}
	places = append(places, Extent{0, f.Size})
	if err := p.Host.zero(ctx, f.hold, places); err != nil {
		return fmt.Errorf("wipe %s: %w", f.Device, err)
	}
	left, err := p.Host.partitions(f.Device)
	if err == nil && len(left) > 0 { // a kernel that could not read the empty table again
		err = p.Host.change(ctx, f.hold, tableTimeout, "", "partx", "--delete")
	}
	return err
}

// zero writes zeroes over the first and last MiB of each place, with the device
// opened exclusively. A disk that hangs is left behind.
func (h *Host) zero(ctx context.Context, d *held, places []Extent) error {
	if err := h.same(d); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, tableTimeout, fmt.Errorf("no answer within %s: %w", tableTimeout, context.DeadlineExceeded))
	defer cancel()
	_, err := bounded.Call(ctx, func() (none struct{}, _ error) {
		x, err := d.exclusive(os.O_WRONLY)
		if err != nil {
			return none, err
		}
		buf := make([]byte, mebibyte)
		for _, e := range places {
			n := min(mebibyte, e.Size)
			for _, at := range []int64{e.Start, e.Start + e.Size - n} {
				if err == nil && at >= 0 && at+n <= d.node.Size {
					_, err = x.WriteAt(buf[:n], at)
				}
			}
		}
		return none, errors.Join(err, x.Sync(), x.Close())
	})
	return err
}

// partition writes the recorded partition table, and tells the kernel of it
// where that has not read it itself.
func (p *Preparer) partition(ctx context.Context, f *Found, r *Record) error {
	t := r.Table
	if f.Content.GPT.compare(t) != whole {
		var b strings.Builder
		fmt.Fprintf(&b, "label: gpt\nlabel-id: %s\nunit: sectors\n\n", t.GUID)
		for _, part := range t.Partitions {
			fmt.Fprintf(&b, "start=%d, size=%d, type=%s, uuid=%s, name=\"holdfast-%s\"\n",
				part.Start/f.SectorSize, part.Size/f.SectorSize, typeLinux, part.UUID, r.Group)
		}
		if err := p.Host.change(ctx, f.hold, tableTimeout, b.String(), "sfdisk", "--wipe", "never", "--wipe-partitions", "never"); err != nil {
			return fmt.Errorf("partition %s: %w", f.Device, err)
		}
	}
	known, err := p.Host.partitions(f.Device)
	if err != nil {
		return err
	}
	c := Content{Partitions: known}
	for _, part := range t.Partitions {
		if c.partition(part.Start, part.Size) == nil {
			if err := p.Host.change(ctx, f.hold, tableTimeout, "", "partx", "--update"); err != nil {
				return fmt.Errorf("tell the kernel of the partitions of %s: %w", f.Device, err)
			}
			return nil
		}
	}
	return nil
}

// format makes a file system with the recorded UUID. Without force, mkfs.xfs
// itself refuses a device on which it finds something.
func (p *Preparer) format(ctx context.Context, f *Found, t *TablePartition, force bool) error {
	part := f.Content.partition(t.Start, t.Size)
	if part == nil {
		return fmt.Errorf("format %s: the kernel does not know the partition any more", f.Device)
	}
	var name string
	var args []string
	switch t.Filesystem {
	case "ext4":
		name, args = "mkfs.ext4", []string{"-q", "-U", t.FSUUID}
		if force {
			args = append(args, "-F")
		}
	case "xfs":
		name, args = "mkfs.xfs", []string{"-q", "-m", "uuid=" + t.FSUUID}
		if force {
			args = append(args, "-f")
		}
		older, err := p.xfsConfig(ctx, t.MkfsOptions)
		if err != nil {
			return err
		}
		args = append(args, older...)
	default:
		return fmt.Errorf("format %s: %q cannot be made", part.Name, t.Filesystem)
	}
	if err := p.Host.same(f.hold); err != nil {
		return fmt.Errorf("format %s: %w", part.Name, err)
	}
	d, err := p.Host.holdPartition(f.hold, part)
	if err != nil {
		return fmt.Errorf("format %s: %w", part.Name, err)
	}
	defer d.close()
	if err := p.Host.change(ctx, d, mkfsTimeout, "", name, append(args, t.MkfsOptions...)...); err != nil {
		return fmt.Errorf("format %s: %w", part.Name, err)
	}
	return nil
}

const xfsConfigs = "/usr/share/xfsprogs/mkfs"

// xfsConfig makes a mkfs.xfs that is newer than the kernel make what the kernel
// can mount: the newest of its own configuration files for kernels not newer
// than this one (topolvm issues 257 and 283 are what happens otherwise). Who
// gives options has chosen features, and mkfs.xfs takes none twice.
func (p *Preparer) xfsConfig(ctx context.Context, options []string) ([]string, error) {
	if len(options) > 0 {
		return nil, nil
	}
	out, err := p.Host.run(ctx, toolTimeout, "", "mkfs.xfs", "-V")
	if err != nil {
		return nil, fmt.Errorf("ask mkfs.xfs for its version: %w", err)
	}
	kernel, err := p.Host.FS.ReadString("/proc/sys/kernel/osrelease")
	if err != nil {
		return nil, fmt.Errorf("read the kernel's version: %w", err)
	}
	names, err := p.Programs.ReadDir(xfsConfigs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list mkfs.xfs's configurations: %w", err)
	}
	file, err := xfsConfigFor(string(out), kernel, names)
	if err != nil || file == "" {
		return nil, err
	}
	return []string{"-c", "options=" + xfsConfigs + "/" + file}, nil
}

var versionRE = regexp.MustCompile(`(\d+)\.(\d+)`)

func version(s string) (v [2]int, ok bool) {
	m := versionRE.FindStringSubmatch(s)
	if m == nil {
		return v, false
	}
	v[0], _ = strconv.Atoi(m[1]) // digits
	v[1], _ = strconv.Atoi(m[2])
	return v, true
}

// xfsConfigFor picks the configuration file, none when mkfs.xfs is not newer.
func xfsConfigFor(mkfs, kernel string, files []string) (string, error) {
	tool, ok1 := version(mkfs)
	k, ok2 := version(kernel)
	if !ok1 || !ok2 {
		return "", fmt.Errorf("compare mkfs.xfs %q with kernel %q: they tell no version", strings.TrimSpace(mkfs), kernel)
	}
	if slices.Compare(tool[:], k[:]) <= 0 {
		return "", nil
	}
	best, name := [2]int{}, ""
	for _, f := range files {
		v, ok := version(f)
		if ok && strings.HasPrefix(f, "lts_") && strings.HasSuffix(f, ".conf") && slices.Compare(v[:], k[:]) <= 0 && slices.Compare(v[:], best[:]) > 0 {
			best, name = v, f
		}
	}
	if name == "" {
		return "", fmt.Errorf("mkfs.xfs %d.%d is newer than kernel %d.%d, which may not mount what it makes, and has no configuration for it in %s (give mkfsOptions that the kernel knows, or use an older xfsprogs)",
			tool[0], tool[1], k[0], k[1], xfsConfigs)
	}
	return name, nil
}

// pvcreate makes a physical volume. LVM opens the device exclusively, by the name
// that its own scan gives it: while the disk is held, no other disk gets that name.
func (p *Preparer) pvcreate(ctx context.Context, f *Found, r *Record) error {
	if err := p.Host.free(f.hold); err != nil {
		return fmt.Errorf("make a physical volume of %s: %w", f.Device, err)
	}
	_, err := p.Host.lvm(ctx, []string{f.Device}, "pvcreate", "--yes", "--norestorefile", "--uuid", r.PV.UUID, p.Host.node(f.Device))
	if err == nil {
		err = p.Host.same(f.hold)
	}
	if err != nil {
		return fmt.Errorf("make a physical volume of %s: %w", f.Device, err)
	}
	return nil
}

// changeVG has one effect on a volume group. devs are the devices of all its
// disks, which are held, fresh those to take in.
func (p *Preparer) changeVG(ctx context.Context, name string, v *VolumeGroup, effect VGEffect, disks []Found, devs, fresh []string) error {
	for i := range disks {
		if err := p.Host.same(disks[i].hold); err != nil {
			return fmt.Errorf("%s %s: %w", effect, name, err)
		}
	}
	var nodes []string
	for _, d := range fresh {
		nodes = append(nodes, p.Host.node(d))
	}
	var args []string
	switch effect {
	case VGCreate:
		args = []string{"--yes"}
		for _, t := range v.tags() {
			args = append(args, "--addtag", t)
		}
		args = append(append(args, name), nodes...)
	case VGExtend:
		args = append([]string{"--yes", name}, nodes...)
	case VGPool:
		args = []string{"--yes", "--type", "thin-pool", "--zero", "y", "--extents", fmt.Sprintf("%d%%VG", v.Percent), "--name", v.ThinPool, name}
	}
	if _, err := p.Host.lvm(ctx, devs, string(effect), args...); err != nil {
		return fmt.Errorf("%s %s: %w", effect, name, err)
	}
	return nil
}
