package node

import (
	"path"
	"sort"
	"strings"
)

// mount is a volume as one container sees it.
type mount struct {
	inside string // mountPath
	host   string // where it lies on this machine
}

// rewriter turns paths inside a container into paths on this machine: a
// process of the host sees no mounts, so the paths in its arguments and
// environment must lead to them.
type rewriter []mount

func newRewriter(mounts []mount) rewriter {
	r := append(rewriter(nil), mounts...)
	// The deepest mount hides those above it.
	sort.SliceStable(r, func(i, j int) bool { return len(r[i].inside) > len(r[j].inside) })
	return r
}

// value rewrites v when it is a path at or below a mount.
func (r rewriter) value(v string) string {
	if !path.IsAbs(v) {
		return v
	}
	at := path.Clean(v) // with .. it may be in another mount than it begins with
	for _, m := range r {
		if at == m.inside {
			return m.host
		}
		if below, ok := strings.CutPrefix(at, strings.TrimSuffix(m.inside, "/")+"/"); ok {
			return path.Join(m.host, below)
		}
	}
	return v
}

// arg rewrites an argument that is a path, or a flag whose value is one.
func (r rewriter) arg(v string) string {
	if flag, value, ok := strings.Cut(v, "="); ok && strings.HasPrefix(flag, "-") {
		return flag + "=" + r.value(value)
	}
	return r.value(v)
}
