// Package datadir owns the directories that clusters keep their data in. A
// directory is ours when it holds the marker file; it is in use while somebody
// holds the lock on that file. A kernel releases the lock (flock(2)) however
// its holder ends, so a marked directory without a lock is left over and is
// removed by whoever comes next. Nothing without the marker is ever removed.
package datadir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
	"time"
)

// Marker is the file that makes a directory ours; it carries the lock.
const Marker = "holdfast-cluster.lock"

// magic begins every marker file, so that a file of the same name is not taken for one.
const magic = "holdfast-cluster data directory\n"

// Dir is a locked data directory.
type Dir struct {
	path   string
	parent string
	lock   *os.File
}

// DefaultParent is the directory below tmp that holds this user's data
// directories when no other is given.
func DefaultParent(tmp string, uid int) string {
	return filepath.Join(tmp, "holdfast-cluster-"+strconv.Itoa(uid))
}

// Create removes what earlier clusters left in parent, and makes and locks a
// new directory there, its name beginning with prefix. Parent is made if it is
// not there. The paths of what was removed are returned.
func Create(ctx context.Context, parent, prefix string) (*Dir, []string, error) {
	parent, err := filepath.Abs(parent)
	if err != nil {
		return nil, nil, fmt.Errorf("make data directory: %w", err)
	}
	unlock, err := lockParent(ctx, parent)
	if err != nil {
		return nil, nil, fmt.Errorf("make data directory in %q: %w", parent, err)
	}
	defer unlock()
	removed, err := removeStale(parent)
	if err != nil {
		return nil, removed, fmt.Errorf("remove left-over data directories: %w", err)
	}
	path, err := os.MkdirTemp(parent, prefix+"-")
	if err != nil {
		return nil, removed, fmt.Errorf("make data directory: %w", err)
	}
	lock, err := mark(path)
	if err != nil {
		return nil, removed, fmt.Errorf("mark data directory %q: %w", path, errors.Join(err, os.RemoveAll(path)))
	}
	return &Dir{path: path, parent: parent, lock: lock}, removed, nil
}

// Path is the absolute path of the directory.
func (d *Dir) Path() string { return d.path }

// Remove removes the directory with all that is in it, and its parent too if
// it is empty then.
func (d *Dir) Remove(ctx context.Context) error {
	unlock, err := lockParent(ctx, d.parent)
	if err != nil {
		return fmt.Errorf("remove data directory %q: %w", d.path, err)
	}
	defer unlock()
	if err := removeMarked(d.path); err != nil {
		return fmt.Errorf("remove data directory: %w", err)
	}
	// Not empty, or not ours to remove: it stays.
	_ = os.Remove(d.parent)
	return d.lock.Close()
}

// Keep gives up the directory and its lock: without the marker nobody removes
// it, however its user ends.
func (d *Dir) Keep() error {
	if err := os.Remove(filepath.Join(d.path, Marker)); err != nil {
		return fmt.Errorf("keep data directory: %w", err)
	}
	return d.lock.Close()
}

// RemoveStale removes the data directories in parent that nobody holds, and
// returns their paths. A parent that does not exist holds none.
func RemoveStale(ctx context.Context, parent string) ([]string, error) {
	if _, err := os.Stat(parent); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	unlock, err := lockParent(ctx, parent)
	if err != nil {
		return nil, fmt.Errorf("remove left-over data directories: %w", err)
	}
	defer unlock()
	removed, err := removeStale(parent)
	if err != nil {
		return removed, fmt.Errorf("remove left-over data directories: %w", err)
	}
	_ = os.Remove(parent)
	return removed, nil
}

func removeStale(parent string) ([]string, error) {
	entries, err := os.ReadDir(parent)
	if err != nil {
		return nil, err
	}
	var removed []string
	for _, e := range entries {
		path := filepath.Join(parent, e.Name())
		if !e.IsDir() || !isStale(path) {
			continue
		}
		if err := removeMarked(path); err != nil {
			return removed, err
		}
		removed = append(removed, path)
	}
	return removed, nil
}

// isStale reports whether path carries our marker and nobody holds its lock.
// The caller holds the lock of the parent, so no new holder can come up.
func isStale(path string) bool {
	f, err := os.OpenFile(filepath.Join(path, Marker), os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, len(magic))
	if n, _ := f.Read(head); n != len(magic) || !bytes.Equal(head, []byte(magic)) {
		return false
	}
	return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil
}

// removeMarked removes the marker last: what an interrupted removal leaves is
// still ours.
func removeMarked(path string) error {
	entries, err := os.ReadDir(path)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Name() == Marker {
			continue
		}
		if err := os.RemoveAll(filepath.Join(path, e.Name())); err != nil {
			return err
		}
	}
	return os.RemoveAll(path)
}

// Held reports whether somebody holds the lock of a data directory: its user lives.
func Held(path string) (bool, error) {
	f, err := os.OpenFile(filepath.Join(path, Marker), os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at data directory: %w", err)
	}
	defer func() { _ = f.Close() }() // read only
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return true, nil
	}
	return false, err
}

func mark(path string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(path, Marker), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if _, err := f.WriteString(magic + "pid " + strconv.Itoa(os.Getpid()) + "\n"); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// lockParent locks the directory itself, so that no lock file stays behind.
// A parent that its last user removed meanwhile is made again.
func lockParent(ctx context.Context, parent string) (unlock func(), err error) {
	for {
		if err := os.MkdirAll(parent, 0o700); errors.Is(err, os.ErrExist) {
			// Somebody made it first, and it was gone again when MkdirAll looked what it is.
			if info, serr := os.Lstat(parent); serr == nil && !info.IsDir() {
				return nil, err
			}
			if err := ctx.Err(); err != nil {
				return nil, err
			}
			continue
		} else if err != nil {
			return nil, err
		}
		f, err := os.Open(parent)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if err := errors.Join(checkOwner(f), Lock(ctx, f)); err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if same(f, parent) {
			return func() { _ = f.Close() }, nil
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// Lock waits for the exclusive lock on a file or directory until ctx ends;
// flock(2) itself knows no deadline. Closing the file releases it.
func Lock(ctx context.Context, f *os.File) error {
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil || !errors.Is(err, syscall.EWOULDBLOCK) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("lock: %w", ctx.Err())
		case <-tick.C:
		}
	}
}

func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// checkOwner refuses a parent in which somebody else could exchange our
// directories: its owner must be this user or root.
func checkOwner(f *os.File) error {
	fi, err := f.Stat()
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || (st.Uid != 0 && int(st.Uid) != os.Getuid()) {
		return fmt.Errorf("owned by another user; give a directory of your own")
	}
	return nil
}
