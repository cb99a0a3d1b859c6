package nodeprep

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"holdfast.dev/api/v1alpha1"
)

// Least sizes of partitions, in bytes: mkfs.xfs has refused less than 300 MB
// since xfsprogs 5.19; ext4 with its journal needs a few MiB.
const (
	leastRaw  = mebibyte
	leastExt4 = 16 * mebibyte
	leastXFS  = 300 * mebibyte
)

// Extent is a place on a disk, in bytes.
type Extent struct{ Start, Size int64 }

// Extents places the partitions of a layout on a disk of that size. They are
// aligned to a MiB; the first and the last MiB of the disk are the partition
// table's.
func Extents(parts []v1alpha1.PartitionLayout, size int64) ([]Extent, error) {
	usable := size/mebibyte - 2 // MiB
	var sizes []int64
	var fixed, flexible int64
	for _, p := range parts {
		n := int64(0)
		if p.Size != nil {
			n = p.Size.Value() / mebibyte
		}
		for range max(1, p.Count) {
			sizes = append(sizes, n)
			if n > 0 {
				fixed += n
			} else {
				flexible++
			}
		}
	}
	if fixed > usable {
		return nil, fmt.Errorf("its partitions need %d MiB and the disk has %d (make them smaller, or raise minSize)", fixed, usable)
	}
	var out []Extent
	next := int64(1)
	i := 0
	for _, p := range parts {
		least := map[v1alpha1.Filesystem]int64{"": leastRaw, v1alpha1.FilesystemExt4: leastExt4, v1alpha1.FilesystemXFS: leastXFS}[p.Filesystem]
		for range max(1, p.Count) {
			n := sizes[i]
			if n == 0 {
				n = (usable - fixed) / flexible
			}
			if n*mebibyte < least {
				return nil, fmt.Errorf("partition %d would have %d MiB, %s needs %d (make fewer or larger ones, or raise minSize)", i+1, n, kind(p.Filesystem), least/mebibyte)
			}
			out = append(out, Extent{next * mebibyte, n * mebibyte})
			next += n
			i++
		}
	}
	return out, nil
}

func kind(f v1alpha1.Filesystem) string {
	if f == "" {
		return "a raw one"
	}
	return string(f)
}

// ParseFlavor reads a NodeFlavor from a file and checks it.
func ParseFlavor(name string, data []byte) (*v1alpha1.NodeFlavor, error) {
	var f v1alpha1.NodeFlavor
	text, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, fmt.Errorf("read flavor %s: %w", name, err)
	}
	strict, err := kjson.UnmarshalStrict(text, &f) // with cases, as the API server
	if err := errors.Join(append(strict, err)...); err != nil {
		return nil, fmt.Errorf("read flavor %s: %w", name, err)
	}
	if f.APIVersion != v1alpha1.GroupVersion.String() || f.Kind != "NodeFlavor" {
		return nil, fmt.Errorf("read flavor %s: it is %q %q, not %s NodeFlavor", name, f.APIVersion, f.Kind, v1alpha1.GroupVersion)
	}
	if err := CheckFlavor(&f); err != nil {
		return nil, fmt.Errorf("read flavor %s: %w", name, err)
	}
	return &f, nil
}

var (
	groupRE = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	// One -x, or -xvalue; or the value of the option before.
	mkfsFlagRE  = regexp.MustCompile(`^-[a-zA-Z]$`)
	mkfsValueRE = regexp.MustCompile(`^[a-z0-9_^][a-zA-Z0-9_^=,.+-]{0,127}$`)
	mountRE     = regexp.MustCompile(`^[a-z0-9_.-]+(=[a-zA-Z0-9_.:-]+)?$`)
)

// mkfsFlags are the options of mkfs that take a value and change nothing but
// the file system's own form: mke2fs(8), mkfs.xfs(8). Those that name files or
// devices, set the UUID or force are not among them.
var mkfsFlags = map[v1alpha1.Filesystem]string{
	v1alpha1.FilesystemExt4: "bCgGiImNOETJ",
	v1alpha1.FilesystemXFS:  "bdilmnrs",
}

// CheckFlavor checks what node preparation relies on. The API server checks
// part of it; a file was checked by nobody. An error names the field and what to do.
func CheckFlavor(f *v1alpha1.NodeFlavor) error {
	if len(f.Spec.Disks) == 0 {
		return errors.New("spec.disks: it is empty (list the groups of disks)")
	}
	var errs []error
	seen := map[string]bool{}
	for i := range f.Spec.Disks {
		g := &f.Spec.Disks[i]
		at := fmt.Sprintf("spec.disks[%d]", i)
		if !groupRE.MatchString(g.Name) || len(g.Name) > 63 {
			errs = append(errs, fmt.Errorf("%s.name: %q is no name (use up to 63 of a-z, 0-9 and '-')", at, g.Name))
		}
		if seen[g.Name] {
			errs = append(errs, fmt.Errorf("%s.name: %q is there twice (rename one)", at, g.Name))
		}
		seen[g.Name] = true
		if g.Count < 1 || g.Count > 256 {
			errs = append(errs, fmt.Errorf("%s.count: %d is not 1 to 256", at, g.Count))
		}
		if !slices.Contains([]v1alpha1.Media{"", v1alpha1.MediaNVMe, v1alpha1.MediaSSD, v1alpha1.MediaHDD, v1alpha1.MediaVirtual}, g.Media) {
			errs = append(errs, fmt.Errorf("%s.media: %q is not nvme, ssd, hdd or virtual", at, g.Media))
		}
		if g.MinSize != nil && g.MinSize.Value() < 0 {
			errs = append(errs, fmt.Errorf("%s.minSize: %s is negative", at, g.MinSize))
		}
		errs = append(errs, checkLayout(at, g)...)
	}
	return errors.Join(errs...)
}

func checkLayout(at string, g *v1alpha1.FlavorDisks) []error {
	l := g.Layout
	at += ".layout"
	switch g.Role {
	case v1alpha1.RoleSystem, v1alpha1.RoleStatic, v1alpha1.RoleLVM, v1alpha1.RoleRaw:
	default:
		return []error{fmt.Errorf("%s.role: %q is not system, static, lvm or raw", strings.TrimSuffix(at, ".layout"), g.Role)}
	}
	if l == nil {
		return nil
	}
	if g.Role == v1alpha1.RoleSystem {
		return []error{fmt.Errorf("%s: disks of the role system are never laid out (remove the layout)", at)}
	}
	if (len(l.Partitions) > 0) == (l.VolumeGroup != nil) {
		return []error{fmt.Errorf("%s: has partitions and a volumeGroup, or neither (keep one of them)", at)}
	}
	if (l.VolumeGroup != nil) != (g.Role == v1alpha1.RoleLVM) {
		return []error{fmt.Errorf("%s: role %s does not go with it (lvm has a volumeGroup, static and raw have partitions)", at, g.Role)}
	}
	var errs []error
	if vg := l.VolumeGroup; vg != nil {
		if vg.Spread != "" && vg.Spread != v1alpha1.SpreadAll && vg.Spread != v1alpha1.SpreadPerDisk {
			errs = append(errs, fmt.Errorf("%s.volumeGroup.spread: %q is not All or PerDisk", at, vg.Spread))
		}
		if vg.ThinPoolPercent < 0 || vg.ThinPoolPercent > 95 {
			errs = append(errs, fmt.Errorf("%s.volumeGroup.thinPoolPercent: %d is not 0 to 95", at, vg.ThinPoolPercent))
		}
		if len(g.Name) > 32 { // the device mapper's names end at 127, with each '-' doubled
			errs = append(errs, fmt.Errorf("%s.volumeGroup: the group's name has %d characters, its volume group's takes 32 (shorten it)", at, len(g.Name)))
		}
	}
	n := int32(0)
	for i := range l.Partitions {
		n += max(1, l.Partitions[i].Count)
		errs = append(errs, checkPartition(fmt.Sprintf("%s.partitions[%d]", at, i), &l.Partitions[i])...)
	}
	if n > gptEntries {
		errs = append(errs, fmt.Errorf("%s.partitions: %d are more than the %d of a partition table (make fewer)", at, n, gptEntries))
	}
	if len(errs) == 0 && g.MinSize != nil && len(l.Partitions) > 0 {
		if _, err := Extents(l.Partitions, g.MinSize.Value()); err != nil {
			errs = append(errs, fmt.Errorf("%s.partitions: on a disk of minSize %s: %w", at, g.MinSize, err))
		}
	}
	return errs
}

func checkPartition(at string, p *v1alpha1.PartitionLayout) []error {
	var errs []error
	fail := func(format string, args ...any) { errs = append(errs, fmt.Errorf(at+"."+format, args...)) }
	if p.Count < 0 || p.Count > 32 {
		fail("count: %d is not 1 to 32", p.Count)
	}
	if p.Size != nil && p.Size.Value() < mebibyte {
		fail("size: %s is less than 1Mi (leave it out for an equal share)", p.Size)
	}
	if e := validation.IsDNS1123Subdomain(p.StorageClass); len(e) > 0 {
		fail("storageClass: %q: %s", p.StorageClass, e[0])
	}
	if p.Filesystem == "" {
		if len(p.MkfsOptions)+len(p.MountOptions) > 0 {
			fail("filesystem: it is empty, and there are options for one (name ext4 or xfs, or remove mkfsOptions and mountOptions)")
		}
		return errs
	}
	flags, ok := mkfsFlags[p.Filesystem]
	if !ok {
		fail("filesystem: %q is not ext4 or xfs", p.Filesystem)
		return errs
	}
	if len(p.MkfsOptions) > 16 || len(p.MountOptions) > 16 {
		fail("mkfsOptions: there are more than 16 of them, or of mountOptions")
	}
	for i := 0; i < len(p.MkfsOptions); i += 2 {
		o := p.MkfsOptions[i]
		if !mkfsFlagRE.MatchString(o) || !strings.Contains(flags, o[1:]) {
			fail("mkfsOptions[%d]: %q is not one of -%s (each with its value as the next entry; UUID, label and force are not yours to set)", i, o, strings.Join(strings.Split(flags, ""), " -"))
			break
		}
		if i+1 == len(p.MkfsOptions) {
			fail("mkfsOptions[%d]: %q has no value (add it as the next entry)", i, o)
			break
		}
		if v := p.MkfsOptions[i+1]; !mkfsValueRE.MatchString(v) || names(v) {
			fail("mkfsOptions[%d]: %q is no value (no path, no device, no UUID; letters, digits and _ ^ = , . + -)", i+1, v)
		}
	}
	for i, o := range p.MountOptions {
		if !mountRE.MatchString(o) || strings.HasPrefix(o, "x-") || o == "bind" || o == "rbind" || o == "remount" || o == "ro" || strings.HasPrefix(o, "logdev") || strings.HasPrefix(o, "rtdev") {
			fail("mountOptions[%d]: %q is not allowed (one option of mount(8), without bind, remount, ro, x-… or further devices)", i, o)
		}
	}
	return errs
}

// names says whether a value of mkfs names a file or device, or sets what is
// recorded beforehand: mkfs.xfs -d name= and file, -l and -r …dev=, -m uuid=;
// mke2fs -J device=, -E offset=.
func names(v string) bool {
	for o := range strings.SplitSeq(v, ",") {
		key, _, _ := strings.Cut(o, "=")
		switch key {
		case "name", "file", "logdev", "rtdev", "uuid", "device", "offset", "root_owner", "test_fs", "options":
			return true
		}
	}
	return false
}

func spread(vg *v1alpha1.VolumeGroupLayout) v1alpha1.VolumeGroupSpread {
	if vg.Spread == "" {
		return v1alpha1.SpreadPerDisk
	}
	return vg.Spread
}
