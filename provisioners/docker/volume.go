package docker

import (
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"holdfast.dev/provisioners/lvm"
)

// Options of a volume, as docker volume create -o has them.
const (
	optSize        = "size"
	optKind        = "kind"
	optFS          = "fsType"
	optPool        = "pool"
	optGroup       = "vg"
	optMkfs        = "mkfsOptions"
	optWipe        = "wipe"
	optOvercommit  = "overcommit"
	optStripes     = "stripes"
	optStripeSize  = "stripeSize"
	optPlacement   = "placement"
	csiFS          = "csi.storage.k8s.io/fstype"
	csiType        = "type"
	maxName        = 128
	invalidName    = `give 2 to 128 letters, digits and "_.-", the first a letter or digit`
	remedyOfVolume = "docker volume create -d holdfast -o size=10Gi NAME"
)

// params are the options that are parameters of a StorageClass too, by the names that
// these have there.
var params = map[string]string{
	optKind: csiType, optPool: "pool", optMkfs: "mkfsOptions", optWipe: "wipe", optOvercommit: "overcommit",
	optStripes: "stripes", optStripeSize: "stripeSize", optPlacement: "placement",
}

// hangsOn names the option that makes a default meaningless when a request gives it.
var hangsOn = map[string]string{optStripes: optKind, optStripeSize: optKind, optOvercommit: optKind, optWipe: optKind, optMkfs: optFS, optPool: optGroup, optGroup: optPool}

// volumeName is what Docker itself allows for names of its own driver
// (volume/validate.go, names.RestrictedNamePattern).
var volumeName = regexp.MustCompile(`^[a-zA-Z0-9][a-zA-Z0-9_.-]+$`)

// checkName refuses names that no volume of ours has.
func checkName(name string) error {
	if len(name) > maxName || !volumeName.MatchString(name) {
		return fmt.Errorf("volume name %q: %s: %w", name, invalidName, lvm.ErrInvalid)
	}
	return nil
}

// optionError names option, value and remedy.
func optionError(name, value, remedy string) error {
	return fmt.Errorf("option %s=%q: %s: %w", name, value, remedy, lvm.ErrInvalid)
}

// known are the names of all options.
func known() []string {
	return slices.Sorted(slices.Values(append(slices.Collect(maps.Keys(params)), optSize, optFS, optGroup)))
}

// Defaults are options for requests that do not give them.
type Defaults map[string]string

// Set takes OPTION=VALUE, as a flag.
func (d Defaults) Set(s string) error {
	k, v, ok := strings.Cut(s, "=")
	if !ok || !slices.Contains(known(), k) {
		return fmt.Errorf("give OPTION=VALUE with one of the options %s", strings.Join(known(), ", "))
	}
	d[k] = v
	return nil
}

func (d Defaults) String() string {
	var all []string
	for _, k := range slices.Sorted(maps.Keys(d)) {
		all = append(all, k+"="+d[k])
	}
	return strings.Join(all, " ")
}

// merged are the options of a request and the defaults that go with them.
func (d Defaults) merged(given map[string]string) map[string]string {
	all := maps.Clone(given)
	if all == nil {
		all = map[string]string{}
	}
	for k, v := range d {
		if _, there := given[k]; there {
			continue
		}
		if _, there := given[hangsOn[k]]; there {
			continue
		}
		all[k] = v
	}
	return all
}

// parseVolume makes the engine's request of Docker's. It looks at nothing but the
// groups that disks.yaml lists.
func parseVolume(name string, given map[string]string, d Defaults, groups []lvm.GroupInfo) (lvm.CreateRequest, error) {
	if err := checkName(name); err != nil {
		return lvm.CreateRequest{}, err
	}
	for _, k := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(known(), k) {
			return lvm.CreateRequest{}, optionError(k, given[k], "unknown; known are "+strings.Join(known(), ", "))
		}
	}
	opts := d.merged(given)
	r := lvm.CreateRequest{Kind: lvm.KindDocker, Name: name}
	if err := place(opts, groups, &r); err != nil {
		return lvm.CreateRequest{}, err
	}
	asked := map[string]string{}
	for k, v := range opts {
		if p, ok := params[k]; ok {
			asked[p] = v
		}
	}
	if fs, ok := opts[optFS]; ok && fs != lvm.XFS && fs != lvm.Ext4 {
		return lvm.CreateRequest{}, optionError(optFS, fs, "not installed; give xfs or ext4")
	}
	var err error
	if r.Spec, err = lvm.ParseSpec(asked, opts[optFS]); err != nil {
		return lvm.CreateRequest{}, inDockersWords(err)
	}
	r.Size, err = parseSize(opts, r.Spec.FS)
	return r, err
}

// place finds the volume group that vg names, and the pool where there is but one.
func place(opts map[string]string, groups []lvm.GroupInfo, r *lvm.CreateRequest) error {
	var pools []string
	for _, g := range groups {
		pools = append(pools, g.Pool)
	}
	pools = slices.Compact(slices.Sorted(slices.Values(pools)))
	if want, ok := opts[optGroup]; ok {
		i := slices.IndexFunc(groups, func(g lvm.GroupInfo) bool { return g.Name == want })
		if i < 0 {
			var names []string
			for _, g := range groups {
				names = append(names, g.Name)
			}
			return optionError(optGroup, want, "this host has the volume groups "+orNone(names)+" (/etc/holdfast/disks.yaml lists them)")
		}
		if p, ok := opts[optPool]; ok && p != groups[i].Pool {
			return optionError(optPool, p, fmt.Sprintf("volume group %s is of pool %s; give one of the two", want, groups[i].Pool))
		}
		opts[optPool], r.Group = groups[i].Pool, groups[i].UUID
	}
	want, ok := opts[optPool]
	switch {
	case !ok && len(pools) == 1:
		opts[optPool] = pools[0]
	case !ok:
		return optionError(optPool, "", "it is missing, and there is more than one or none; this host has the pools "+orNone(pools))
	case !slices.Contains(pools, want):
		return optionError(optPool, want, "this host has the pools "+orNone(pools)+" (/etc/holdfast/disks.yaml lists them)")
	}
	return nil
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "(none)"
	}
	return strings.Join(names, ", ")
}

// inDockersWords gives a parameter's error the name that the option has here.
func inDockersWords(err error) error {
	var p *lvm.ParameterError
	if !errors.As(err, &p) {
		return err
	}
	name := p.Name
	for option, parameter := range params {
		if parameter == p.Name {
			name = option
		}
	}
	if name == csiFS {
		name = optFS
	}
	return optionError(name, p.Value, strings.NewReplacer("type thin", "kind thin", "type striped", "kind striped").Replace(p.Remedy))
}

// parseSize reads a quantity of bytes.
func parseSize(opts map[string]string, fs string) (int64, error) {
	v, ok := opts[optSize]
	if !ok {
		return 0, optionError(optSize, "", "it is missing; give bytes such as 10Gi or 500M ("+remedyOfVolume+"), or start the plugin with --default size=10Gi")
	}
	q, err := resource.ParseQuantity(v)
	n := q.Value()
	switch floor := lvm.MinSize(fs); {
	case err != nil:
		return 0, optionError(optSize, v, "no quantity; give bytes such as 10Gi or 500M")
	case q.Sign() <= 0 || q.CmpInt64(lvm.MaxSize) > 0:
		return 0, optionError(optSize, v, fmt.Sprintf("give from 1 to %d bytes", int64(lvm.MaxSize)))
	case n < floor:
		return 0, optionError(optSize, v, fmt.Sprintf("the file system %s needs %d bytes at least", fs, floor))
	}
	return n, nil
}
