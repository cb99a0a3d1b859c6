package docker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"strconv"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/mounttable"
)

// Proc are the mount namespaces of the host, by the tables of its processes below root.
type Proc struct {
	root *hostfs.FS
	self string // number of this process
	// number is the device number of a node.
	number func(device string) (major, minor uint32, err error)
}

// NewProc reads below root.
func NewProc(root *hostfs.FS) *Proc {
	return &Proc{root: root, self: strconv.Itoa(os.Getpid()), number: numberOf}
}

func numberOf(device string) (major, minor uint32, err error) {
	var st unix.Stat_t
	err = unix.Stat(device, &st)
	if errors.Is(err, unix.ENOENT) {
		return 0, 0, nil
	}
	if err != nil {
		return 0, 0, fmt.Errorf("look at %s: %w", device, err)
	}
	return unix.Major(st.Rdev), unix.Minor(st.Rdev), nil
}

// Users is Namespaces'. A namespace that gets the host's mounts and unmounts from it
// (mount_namespaces(7), shared:N and master:N) is no user: the mount goes there when
// it goes here. A process that ends meanwhile is none either. A device that is not there
// has none. The host's mounts are those of this process; Docker could not use them else.
func (p *Proc) Users(ctx context.Context, device, target string) ([]string, error) {
	major, minor, err := p.number(device)
	if err != nil || major == 0 {
		return nil, err
	}
	of := func(m *mountinfo.Info) bool { return uint32(m.Major) == major && uint32(m.Minor) == minor }
	own, err := mounttable.Read(p.root, p.self)
	if err != nil {
		return nil, err
	}
	var users []string
	ours, peers := map[int]bool{}, mounttable.Peers{} // mounts by their ids, which namespaces do not share
	for _, m := range own {
		if !of(m) {
			continue
		}
		ours[m.ID] = true
		if m.Mountpoint != target {
			users = append(users, "a mount of the host at "+m.Mountpoint)
		} else {
			peers.Add(m)
		}
	}
	pids, err := p.root.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	seen := map[string]bool{}
	for _, pid := range pids {
		if _, err := strconv.Atoi(pid); err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		// A process may keep its namespace to itself and not its mounts: it is looked at, then.
		ns, err := os.Readlink(p.root.Path(path.Join("/proc", pid, "ns/mnt")))
		if mounttable.Gone(err) || err == nil && seen[ns] {
			continue
		}
		table, err := mounttable.Read(p.root, pid)
		if mounttable.Gone(err) {
			continue // another process of the namespace may still be met
		}
		if err != nil {
			return nil, err
		}
		seen[ns] = true
		for _, m := range table {
			if of(m) && !ours[m.ID] && !peers.Follow(m, target) {
				comm, _ := p.root.ReadString(path.Join("/proc", pid, "comm")) // only for people
				users = append(users, fmt.Sprintf("process %s (%s) at %s", pid, comm, m.Mountpoint))
			}
		}
	}
	return users, nil
}
