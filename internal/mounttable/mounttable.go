// Package mounttable reads mount tables, /proc/pid/mountinfo (proc(5)).
package mounttable

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"holdfast.dev/internal/hostfs"
)

// Read is the table of a process of the host; that of process 1 is the host's. The error
// is fs.ErrNotExist or ESRCH when there is no such process any more.
func Read(host *hostfs.FS, pid string) ([]*mountinfo.Info, error) {
	data, err := host.ReadFile(path.Join("/proc", pid, "mountinfo"))
	if err != nil {
		return nil, fmt.Errorf("read mount table of process %s: %w", pid, err)
	}
	return Parse(data)
}

// Parse reads what such a file holds.
func Parse(data []byte) ([]*mountinfo.Info, error) {
	infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(data), nil)
	if err != nil {
		return nil, fmt.Errorf("parse mount table: %w", err)
	}
	return infos, nil
}

// Number is the device, as major:minor.
func Number(in *mountinfo.Info) string { return strconv.Itoa(in.Major) + ":" + strconv.Itoa(in.Minor) }

// systemPoints are the mount points that make a disk the host's own. A volume
// of a pod is mounted deeper, below /var/lib/kubelet/pods.
var systemPoints = []string{
	"/", "/boot", "/boot/efi", "/efi", "/usr", "/etc", "/home", "/opt", "/root", "/tmp", "/var", "/var/lib", "/var/log", "/var/tmp",
	"/var/lib/containerd", "/var/lib/docker", "/var/lib/kubelet", "/var/lib/etcd", "/var/lib/holdfast",
}

// System says whether the host itself lives on what is mounted at point.
func System(point string) bool { return slices.Contains(systemPoints, point) }

// ReadOnly says whether the mount is read-only, or the file system after an error.
func ReadOnly(in *mountinfo.Info) bool {
	ro := func(options string) bool { return slices.Contains(strings.Split(options, ","), "ro") }
	return ro(in.Options) || ro(in.VFSOptions)
}

// Node is the device whose node a mount shows, a part of a devtmpfs: that is how a pod
// gets a raw volume, and the kernel knows no other mount of the device then.
func Node(in *mountinfo.Info) (name string, ok bool) {
	if in.FSType != "devtmpfs" || in.Root == "/" {
		return "", false
	}
	return path.Base(in.Root), true
}

// Gone says whether an error of reading about a process means that it has ended.
func Gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }

// Peers are the peer groups that a mount shares what happens to it with.
type Peers map[string]bool

// Add adds the group of a shared mount.
func (p Peers) Add(in *mountinfo.Info) {
	if g, ok := peer(in, "shared:"); ok {
		p[g] = true
	}
}

// Follow says whether a mount of another namespace ends with those at point that were
// added, mount_namespaces(7): it is one of the group or gets its mounts and unmounts. A
// container that has the same device at a path of its own does not.
func (p Peers) Follow(in *mountinfo.Info, point string) bool {
	if !strings.HasSuffix(in.Mountpoint, point) {
		return false
	}
	for _, kind := range []string{"shared:", "master:"} {
		if g, ok := peer(in, kind); ok && p[g] {
			return true
		}
	}
	return false
}

// peer is the peer group in the optional fields of a mount, proc(5).
func peer(in *mountinfo.Info, kind string) (string, bool) {
	for field := range strings.FieldsSeq(in.Optional) {
		if g, ok := strings.CutPrefix(field, kind); ok {
			return g, true
		}
	}
	return "", false
}
