package lvm

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Cgroups sets limits in a cgroup v2 hierarchy: io.max of the pod's own group, for the
// device of the volume (Documentation/admin-guide/cgroup-v2.rst, "IO").
type Cgroups struct{ root string }

// NewCgroups checks that root is a cgroup v2 hierarchy with the io controller.
func NewCgroups(root string) (*Cgroups, error) {
	data, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		return nil, fmt.Errorf("find cgroup v2: %w", err)
	}
	for _, c := range strings.Fields(string(data)) {
		if c == "io" {
			return &Cgroups{root: root}, nil
		}
	}
	return nil, fmt.Errorf("cgroup v2 at %s has no io controller", root)
}

// Set is QoS'.
func (c *Cgroups) Set(pod, device string, l Limits) error {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return fmt.Errorf("look at %s: %w", device, err)
	}
	dir, err := c.find(pod)
	if err != nil {
		return err
	}
	line := fmt.Sprintf("%d:%d %s", unix.Major(st.Rdev), unix.Minor(st.Rdev), l.ioMax())
	if err := os.WriteFile(filepath.Join(dir, "io.max"), []byte(line+"\n"), 0); err != nil {
		return fmt.Errorf("write io.max of pod %s: %w", pod, err)
	}
	return nil
}

// ioMax is the limits as io.max takes them.
func (l Limits) ioMax() string {
	n := func(v int64) string {
		if v == 0 {
			return "max"
		}
		return fmt.Sprint(v)
	}
	return "rbps=" + n(l.ReadBPS) + " wbps=" + n(l.WriteBPS) + " riops=" + n(l.ReadIOPS) + " wiops=" + n(l.WriteIOPS)
}

// find is the group of a pod below kubepods, of the systemd driver
// (kubepods-burstable-pod<uid with _>.slice) or of cgroupfs (pod<uid>),
// pkg/kubelet/cm/pod_container_manager_linux.go.
func (c *Cgroups) find(pod string) (string, error) {
	if strings.ContainsAny(pod, "/*?[\\") {
		return "", fmt.Errorf("pod UID %q is none", pod)
	}
	systemd := "pod" + strings.ReplaceAll(pod, "-", "_") + ".slice"
	for _, p := range []string{"kubepods.slice/*" + systemd, "kubepods.slice/*/*" + systemd, "kubepods/pod" + pod, "kubepods/*/pod" + pod} {
		found, err := filepath.Glob(filepath.Join(c.root, p))
		if err != nil {
			return "", err
		}
		if len(found) > 0 {
			return found[0], nil
		}
	}
	return "", fmt.Errorf("cgroup of pod %s: %w", pod, fs.ErrNotExist)
}
