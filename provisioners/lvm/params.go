package lvm

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"holdfast.dev/provisioners/lvm/vg"
)

// File systems. Block is a raw volume.
const (
	XFS   = "xfs"
	Ext4  = "ext4"
	Block = "block"
)

// What is done with the data of a volume that is deleted.
const (
	WipeZero    = "zero"    // zeroes, by the drive itself where it can (BLKZEROOUT)
	WipeDiscard = "discard" // BLKDISCARD: most drives read zeroes then, none promises to
	WipeNone    = "none"
)

// Spec is what a StorageClass says of its volumes.
type Spec struct {
	Pool       string
	Thin       bool
	Overcommit float64 // promised bytes of a thin pool per byte of it
	Stripes    int64   // 1 for a linear volume
	StripeSize int64   // bytes
	FS         string
	Mkfs       []string // options of mkfs
	Wipe       string
	Spread     bool
}

func (s Spec) want(size int64) vg.Want {
	return vg.Want{Pool: s.Pool, Size: size, Thin: s.Thin, Overcommit: s.Overcommit, Stripes: s.Stripes, Spread: s.Spread}
}

// mkfs is the command that makes the file system. No option forces it: a program that
// finds something on the device ends with an error.
func (s Spec) mkfs(device string) (program string, args []string) {
	args = slices.Clone(s.Mkfs)
	if s.FS == XFS {
		return "mkfs.xfs", append(append([]string{"-q", "-K"}, args...), device)
	}
	return "mkfs.ext4", append(append([]string{"-q", "-E", "nodiscard"}, args...), device)
}

// ParameterError is a parameter that cannot be, and what to give instead. It is ErrInvalid.
type ParameterError struct{ Name, Value, Remedy string }

func (e *ParameterError) Error() string {
	return fmt.Sprintf("parameter %s=%q: %s: %v", e.Name, e.Value, e.Remedy, ErrInvalid)
}

// Unwrap is ErrInvalid.
func (e *ParameterError) Unwrap() error { return ErrInvalid }

// fieldError names field, value and remedy.
func fieldError(field, value, remedy string) error {
	return &ParameterError{Name: field, Value: value, Remedy: remedy}
}

const minStripe, maxStripe = 4 << 10, 64 << 20

var (
	poolName  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?$`)
	mkfsValue = regexp.MustCompile(`^[A-Za-z0-9_=,.+^:][A-Za-z0-9_=,.+^:-]*$`)
	// Values of xfs that name a file or another device, mkfs.xfs(8).
	mkfsElsewhere = regexp.MustCompile(`(^|,)(file|name|logdev|rtdev)\b`)
	// mkfsFlags are those that take a value and reach nothing but the device itself, by
	// mke2fs(8) and mkfs.xfs(8). Not among them: -d of ext4, which copies files, -p
	// of xfs, which reads one, -S, and what forces or skips.
	mkfsFlags = map[string][]string{
		Ext4: {"-b", "-i", "-I", "-m", "-N", "-O", "-E", "-L", "-C", "-T", "-g", "-G"},
		XFS:  {"-b", "-d", "-i", "-l", "-m", "-n", "-s", "-L"},
	}
)

// mkfsRemedy says what is wrong with options of mkfs; empty when nothing is.
func mkfsRemedy(fs string, options []string) string {
	if fs == Block {
		return "" // one class may serve both modes; nothing is made then
	}
	for i, o := range options {
		switch {
		case i%2 == 0 && !slices.Contains(mkfsFlags[fs], o):
			return fmt.Sprintf("mkfs.%s gets pairs of a flag and its value, of the flags %s; %q is none (no paths, and nothing that forces: mkfs must stop when it finds data)",
				fs, strings.Join(mkfsFlags[fs], " "), o)
		case i%2 == 1 && !mkfsValue.MatchString(o):
			return fmt.Sprintf("the value %q has other characters than letters, digits and _=,.+^:-, or begins with '-' (no paths, no quotes)", o)
		case i%2 == 1 && mkfsElsewhere.MatchString(o):
			return fmt.Sprintf("the value %q names a file or another device", o)
		}
	}
	if len(options)%2 == 1 {
		return fmt.Sprintf("the flag %s has no value", options[len(options)-1])
	}
	return ""
}

// keyOvercommit is a parameter of storage classes and of snapshot classes.
const keyOvercommit = "overcommit"

// keys that the standard external-provisioner adds with --extra-create-metadata.
const (
	keyPVCName      = "csi.storage.k8s.io/pvc/name"
	keyPVCNamespace = "csi.storage.k8s.io/pvc/namespace"
	keyPVName       = "csi.storage.k8s.io/pv/name"
)

// setters are the known parameters of a StorageClass.
func setters() map[string]func(s *Spec, v string) string {
	return map[string]func(s *Spec, v string) string{
		"pool": func(s *Spec, v string) string {
			s.Pool = v
			return unless(poolName.MatchString(v), "give the name of a disk group of the NodeFlavor")
		},
		"type": func(s *Spec, v string) string {
			s.Thin = v == "thin"
			if v == "striped" && s.Stripes < 2 {
				s.Stripes = 2
			}
			return unless(v == "thin" || v == "linear" || v == "striped", "give linear, striped or thin")
		},
		"stripes": func(s *Spec, v string) string {
			n, err := strconv.ParseInt(v, 10, 64)
			s.Stripes = n
			return unless(err == nil && n >= 2 && n <= 128, "give a number from 2 to 128, and type striped")
		},
		"stripeSize": func(s *Spec, v string) string {
			q, err := resource.ParseQuantity(v)
			s.StripeSize = q.Value()
			return unless(err == nil && s.StripeSize >= minStripe && s.StripeSize <= maxStripe && s.StripeSize&(s.StripeSize-1) == 0, "give a power of two from 4Ki to 64Mi")
		},
		"mkfsOptions": func(s *Spec, v string) string {
			s.Mkfs = strings.Fields(v)
			return mkfsRemedy(s.FS, s.Mkfs)
		},
		"wipe": func(s *Spec, v string) string {
			s.Wipe = v
			return unless(v == WipeZero || v == WipeDiscard || v == WipeNone, "give zero, discard or none")
		},
		keyOvercommit: func(s *Spec, v string) string {
			f, err := strconv.ParseFloat(v, 64)
			s.Overcommit = f
			return unless(err == nil && f >= 1 && f <= 100, "give a factor from 1 to 100, and type thin")
		},
		"placement": func(s *Spec, v string) string {
			s.Spread = v == "spread"
			return unless(v == "spread" || v == "pack", "give pack (the group with least room that is enough) or spread (with most)")
		},
	}
}

func unless(ok bool, remedy string) string {
	if ok {
		return ""
	}
	return remedy
}

// sidecarKeys is the prefix of parameters that Kubernetes' own sidecars take for themselves:
// CreateVolume does not get them, GetCapacity does (external-provisioner pkg/capacity/capacity.go).
const sidecarKeys = "csi.storage.k8s.io/"

// classSpec reads the parameters of a StorageClass as its object has them, with the file
// system among them. fs is that of a volume's capability, and goes before it; empty for none.
func classSpec(params map[string]string, fs string) (Spec, error) {
	own := maps.Clone(params)
	delete(own, keyFSType)
	return ParseSpec(own, cmp.Or(fs, params[keyFSType]))
}

// ParseSpec reads the parameters of a StorageClass. fs is the file system of the
// volume's capability: xfs (also when it is empty), ext4, or block.
func ParseSpec(params map[string]string, fs string) (Spec, error) {
	s := Spec{Overcommit: 1, Stripes: 1, StripeSize: 64 << 10, FS: fs}
	if s.FS == "" {
		s.FS = XFS
	}
	known := setters()
	for _, k := range slices.Sorted(maps.Keys(params)) {
		v := params[k]
		if k == keyPVCName || k == keyPVCNamespace || k == keyPVName {
			continue
		}
		set := known[k]
		if set == nil {
			return Spec{}, fieldError(k, v, "unknown; known are "+strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		}
		if remedy := set(&s, v); remedy != "" {
			return Spec{}, fieldError(k, v, remedy)
		}
	}
	_, wipe := params["wipe"]
	_, overcommit := params["overcommit"]
	_, size := params["stripeSize"]
	switch {
	case s.Pool == "":
		return Spec{}, fieldError("pool", "", "it is missing; give the name of a disk group of the NodeFlavor")
	case s.FS != XFS && s.FS != Ext4 && s.FS != Block:
		return Spec{}, fieldError("csi.storage.k8s.io/fstype", fs, "not installed; give xfs or ext4")
	case s.FS == Block && len(s.Mkfs) > 0 && params["mkfsOptions"] != "":
		s.Mkfs = nil // one class may serve both modes
	}
	switch {
	case s.Stripes > 1 && params["type"] != "striped":
		return Spec{}, fieldError("stripes", params["stripes"], "only with type striped")
	case size && params["type"] != "striped":
		return Spec{}, fieldError("stripeSize", params["stripeSize"], "only with type striped")
	case overcommit && !s.Thin:
		return Spec{}, fieldError("overcommit", params["overcommit"], "only with type thin")
	case s.Thin && s.Wipe == WipeZero:
		return Spec{}, fieldError("wipe", WipeZero, "a thin pool zeroes what it hands out; give discard or none")
	case !wipe && s.Thin:
		s.Wipe = WipeNone // the pool zeroes each new chunk, and lvremove discards
	case !wipe:
		s.Wipe = WipeZero
	}
	return s, nil
}
