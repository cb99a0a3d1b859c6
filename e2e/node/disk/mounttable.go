package disk

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// mountTable keeps <root>/proc/1/mountinfo what the kernel's own would be if
// root were the root directory.
type mountTable struct {
	root string
	log  *slog.Logger
	mu   sync.Mutex
	wake *os.File // closed to stop
	done chan struct{}
}

// watchMounts writes the table, and again whenever the kernel's changes.
func watchMounts(root string, log *slog.Logger) (*mountTable, error) {
	quit, wake, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	m := &mountTable{root: root, log: log, wake: wake, done: make(chan struct{})}
	// A bare descriptor, unknown to Go's runtime: a change is reported to one
	// poll of each open file, and the runtime's own epoll would take it. Opened
	// before the first write, so that no change falls in between.
	table, err := unix.Open("/proc/self/mountinfo", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, errors.Join(err, quit.Close(), wake.Close())
	}
	if err := m.write(); err != nil {
		return nil, errors.Join(err, unix.Close(table), quit.Close(), wake.Close())
	}
	go m.watch(table, quit)
	return m, nil
}

// watch polls as proc(5) says of /proc/pid/mounts: a change is POLLERR and POLLPRI.
func (m *mountTable) watch(table int, quit *os.File) {
	defer close(m.done)
	defer func() { _ = errors.Join(unix.Close(table), quit.Close()) }() // read only
	for {
		fds := []unix.PollFd{{Fd: int32(table), Events: unix.POLLPRI}, {Fd: int32(quit.Fd())}}
		n, err := unix.Poll(fds, -1)
		if fds[1].Revents != 0 {
			return // the other end is closed
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			m.log.Info("mount table is no longer watched", "error", err)
			return
		}
		if n > 0 {
			if err := m.write(); err != nil {
				m.log.Info("mount table not written", "error", err)
			}
		}
	}
}

func (m *mountTable) stop() {
	_ = m.wake.Close() // the watcher sees POLLHUP
	<-m.done
}

func (m *mountTable) write() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	out, err := rebase(data, m.root)
	if err != nil {
		return err
	}
	return WriteFile(filepath.Join(m.root, mountInfoPath), out, 0o444)
}

const mountInfoPath = "proc/1/mountinfo"

// rebase turns a mount table (proc_pid_mountinfo(5)) into that of root: mounts
// below it lose the prefix, and the mount that root itself lies on becomes /.
func rebase(table []byte, root string) ([]byte, error) {
	prefix := escapeMount(root)
	var below bytes.Buffer
	var base []string
	sc := bufio.NewScanner(bytes.NewReader(table))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		f := strings.Split(sc.Text(), " ")
		if len(f) < 10 {
			return nil, fmt.Errorf("mount table line %q is too short", sc.Text())
		}
		point := f[4]
		switch {
		case point != prefix && within(point, prefix):
			f[4] = strings.TrimPrefix(point, prefix)
			below.WriteString(strings.Join(f, " ") + "\n")
		case within(prefix, point) && (base == nil || len(point) >= len(base[4])):
			base = f // a later mount on the same point hides the earlier
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("read mount table: %w", err)
	}
	if base == nil {
		return nil, fmt.Errorf("no mount holds %s", root)
	}
	base[3] = path.Join(base[3], strings.TrimPrefix(prefix, base[4]))
	base[4] = "/"
	return append([]byte(strings.Join(base, " ")+"\n"), below.Bytes()...), nil
}

func within(p, dir string) bool {
	return p == dir || dir == "/" || strings.HasPrefix(p, dir+"/")
}

// escapeMount writes a path as the kernel does in mount tables (fs/proc_namespace.c mangle).
func escapeMount(p string) string {
	return strings.NewReplacer(" ", `\040`, "\t", `\011`, "\n", `\012`, `\`, `\134`, "#", `\043`).Replace(p)
}
