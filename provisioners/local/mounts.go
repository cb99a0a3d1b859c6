package local

import (
	"fmt"
	"path"
	"strings"

	"holdfast.dev/internal/mounttable"
)

// Mount is one mount of the host.
type Mount struct {
	ID, Parent int
	Device     string // major:minor
	Root       string // the directory of the file system that is mounted
	Point      string
	Filesystem string
	ReadOnly   bool // the mount, or the file system after an error
}

// Mounts is the host's mount table. The zero value has no mount.
type Mounts struct {
	mounts  []Mount
	known   map[int]bool     // mount ids
	at      map[string][]int // mount point to indices
	devices map[string][]int // device to indices
	nodes   map[string][]int // name of a device whose node is mounted somewhere, to indices
}

// ParseMounts reads a table in the format of /proc/pid/mountinfo (proc(5)).
func ParseMounts(data []byte) (Mounts, error) {
	infos, err := mounttable.Parse(data)
	if err != nil {
		return Mounts{}, err
	}
	m := Mounts{known: make(map[int]bool, len(infos)), at: make(map[string][]int, len(infos)), devices: map[string][]int{}, nodes: map[string][]int{}}
	for i, in := range infos {
		if m.known[in.ID] {
			return Mounts{}, fmt.Errorf("parse mount table: mount %d is there twice", in.ID)
		}
		m.known[in.ID] = true
		mnt := Mount{
			ID: in.ID, Parent: in.Parent, Device: mounttable.Number(in),
			Root: in.Root, Point: in.Mountpoint, Filesystem: in.FSType,
			ReadOnly: mounttable.ReadOnly(in),
		}
		m.mounts = append(m.mounts, mnt)
		m.at[mnt.Point] = append(m.at[mnt.Point], i)
		m.devices[mnt.Device] = append(m.devices[mnt.Device], i)
		if name, ok := mounttable.Node(in); ok {
			m.nodes[name] = append(m.nodes[name], i)
		}
	}
	return m, nil
}

// At is the mount that a process sees at the clean absolute path p: the topmost
// of several, and none when a mount above p hides it. Nil means that p is not a
// mount point.
func (m Mounts) At(p string) (*Mount, error) {
	var cur *Mount
	for _, prefix := range prefixes(p) {
		for {
			child, err := m.child(cur, prefix)
			if err != nil {
				return nil, err
			}
			if child == nil {
				break
			}
			cur = child // ids are unique and each mount has one parent, so this ends
		}
	}
	if cur == nil || cur.Point != p {
		return nil, nil
	}
	return cur, nil
}

// child is the mount at point whose parent is cur. What has an unknown parent
// belongs to the root, which the table may lack.
func (m Mounts) child(cur *Mount, point string) (*Mount, error) {
	var found *Mount
	for _, i := range m.at[point] {
		c := &m.mounts[i]
		top := c.Parent == c.ID || !m.known[c.Parent]
		switch {
		case cur != nil && c.ID == cur.ID:
			continue
		case cur != nil && c.Parent == cur.ID && !top:
		case top && (cur == nil || cur.Point == "/" && point != "/"):
		default:
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("find mount at %s: mounts %d and %d are both on top", point, found.ID, c.ID)
		}
		found = c
	}
	return found, nil
}

// Of are the mount points of a device, hidden ones too.
func (m Mounts) Of(device string) []string {
	var points []string
	for _, i := range m.devices[device] {
		points = append(points, m.mounts[i].Point)
	}
	return points
}

// NodesOf are the places where a device's node itself is mounted, by the device's
// name: that is how a pod gets a raw volume, and the kernel knows no other mount
// of the device then.
func (m Mounts) NodesOf(name string) []string {
	var points []string
	for _, i := range m.nodes[name] {
		points = append(points, m.mounts[i].Point)
	}
	return points
}

// prefixes of "/a/b" are "/", "/a" and "/a/b".
func prefixes(p string) []string {
	all := []string{"/"}
	cur := "/"
	for el := range strings.SplitSeq(strings.Trim(p, "/"), "/") {
		if el != "" {
			cur = path.Join(cur, el)
			all = append(all, cur)
		}
	}
	return all
}
