package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path"

	"github.com/fsnotify/fsnotify"
	"golang.org/x/sys/unix"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

// watched are the directories whose changes matter. A file is replaced by a
// rename, which only its directory sees; a parent is there for a directory that
// does not exist yet.
func watched() []string {
	dir := path.Dir(nodedisks.Path)
	return []string{path.Dir(dir), dir, path.Dir(byPartUUID), byPartUUID, nodedisks.CertificateDir, OfferedDir}
}

// hostWatch calls wake when something that Look reads may have changed. It only
// ever wakes: what it misses is found by the next resync.
type hostWatch struct {
	fs     *hostfs.FS
	wake   func()
	log    *slog.Logger
	dirs   *fsnotify.Watcher
	mounts bool // the mount table is watched
}

func newHostWatch(f *hostfs.FS, wake func(), log *slog.Logger) (*hostWatch, error) {
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return nil, fmt.Errorf("watch directories: %w", err)
	}
	return &hostWatch{fs: f, wake: wake, log: log, dirs: w}, nil
}

// ensure watches what is there now and is not watched yet.
func (h *hostWatch) ensure(ctx context.Context) error {
	var errs []error
	for _, dir := range watched() {
		if err := h.add(dir); err != nil {
			errs = append(errs, err)
		}
	}
	if !h.mounts {
		if err := h.watchMounts(ctx); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// add is idempotent: inotify knows a directory that is watched already.
func (h *hostWatch) add(dir string) error {
	real, err := h.fs.Resolve(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = h.dirs.Add(h.fs.Path(real))
	}
	if err != nil {
		return fmt.Errorf("watch %s: %w", dir, err)
	}
	return nil
}

// run forwards directory events until ctx ends.
func (h *hostWatch) run(ctx context.Context) {
	defer func() { _ = h.dirs.Close() }() // nothing to be done about it
	for {
		select {
		case <-ctx.Done():
			return
		case ev, ok := <-h.dirs.Events:
			if !ok {
				return
			}
			if h.matters(ev) {
				h.wake()
			}
		case err, ok := <-h.dirs.Errors:
			if !ok {
				return
			}
			h.log.Info("watching directories", "error", err) // an overflow: look again
			h.wake()
		}
	}
}

// matters drops what happens to other files of the parents and of /proc/1.
func (h *hostWatch) matters(ev fsnotify.Event) bool {
	dir, name := path.Dir(ev.Name), path.Base(ev.Name)
	for _, parent := range []string{nodedisks.Path, path.Dir(nodedisks.Path), byPartUUID, mountTable} {
		if dir == h.fs.Path(path.Dir(parent)) {
			return name == path.Base(parent)
		}
	}
	return true
}

// watchMounts polls a real mount table, which tells changes by POLLPRI
// (fs/proc_namespace.c mounts_poll), and watches the directory of a recorded one.
func (h *hostWatch) watchMounts(ctx context.Context) error {
	f, err := h.fs.Open(mountTable)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("watch mount table: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("watch mount table: %w", err)
	}
	if st.Type != unix.PROC_SUPER_MAGIC {
		err := h.add(path.Dir(mountTable))
		h.mounts = err == nil
		return err
	}
	table, err := reopen(f)
	if err != nil {
		return fmt.Errorf("watch mount table: %w", err)
	}
	stop, stopped, err := os.Pipe()
	if err != nil {
		return errors.Join(fmt.Errorf("watch mount table: %w", err), unix.Close(table))
	}
	context.AfterFunc(ctx, func() { _ = stopped.Close() }) // ends the poll below
	h.mounts = true
	go func() {
		defer func() { _, _ = unix.Close(table), stop.Close() }() // read only
		if err := pollMounts(table, stop, h.wake); err != nil {
			h.log.Info("watching the mount table ended, changes are seen at the next resync", "error", err)
		}
	}()
	return nil
}

// reopen opens f again, unknown to Go's runtime: a change is reported to one
// poll of each open file, and the runtime's own epoll would take it.
func reopen(f *os.File) (fd int, err error) {
	return unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), unix.O_RDONLY|unix.O_CLOEXEC, 0)
}

// pollMounts calls wake at every change of the mount table until stop is closed.
func pollMounts(table int, stop *os.File, wake func()) error {
	fds := []unix.PollFd{{Fd: int32(table), Events: unix.POLLPRI}, {Fd: int32(stop.Fd()), Events: unix.POLLIN}}
	for {
		if _, err := unix.Poll(fds, -1); errors.Is(err, unix.EINTR) {
			continue
		} else if err != nil {
			return fmt.Errorf("poll mount table: %w", err)
		}
		if fds[1].Revents != 0 {
			return nil
		}
		if fds[0].Revents&unix.POLLNVAL != 0 {
			return errors.New("poll mount table: not a file")
		}
		wake()
	}
}
