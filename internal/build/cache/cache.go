// Package cache keeps directories that take minutes to build. A directory is
// named by what it is made of, and is whole or not there. When one of another
// version is built, the old ones go, but for those that somebody uses.
package cache

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// lockInterval is how often a lock is tried: flock(2) itself knows no deadline.
const lockInterval = 100 * time.Millisecond

// Default is the directory of caches: $HOLDFAST_CACHE, or one in the user's
// cache directory.
func Default() (string, error) {
	if dir := os.Getenv("HOLDFAST_CACHE"); dir != "" {
		return dir, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache directory: %w (set HOLDFAST_CACHE)", err)
	}
	return filepath.Join(dir, "holdfast"), nil
}

// Entry is a directory of a cache that is in use until Close: no build of
// another version removes it. It must not be written to.
type Entry struct {
	Dir string
	// Took is how long it took to build; 0 when it was there.
	Took time.Duration

	use *os.File
}

// Close gives the entry up. The kernel does it when the process ends.
func (e *Entry) Close() error { return e.use.Close() }

// Ensure returns the directory name-key of a cache. When it is not there, build
// fills a directory that gets this name, and directories of the same name with
// other keys are removed. Several processes may call it at once.
func Ensure(ctx context.Context, cache, name, key string, build func(ctx context.Context, tmp string) error) (_ *Entry, err error) {
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, fmt.Errorf("make cache: %w", err)
	}
	unlock, err := lock(ctx, cache)
	if err != nil {
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	defer unlock()
	e := &Entry{Dir: filepath.Join(cache, name+"-"+key)}
	if _, err := os.Stat(e.Dir); errors.Is(err, fs.ErrNotExist) {
		began := time.Now()
		if err := fill(ctx, cache, name, e.Dir, build); err != nil {
			return nil, fmt.Errorf("build %s: %w", name, err)
		}
		e.Took = time.Since(began)
	} else if err != nil {
		return nil, fmt.Errorf("find %s: %w", name, err)
	}
	if e.use, err = os.Open(e.Dir); err != nil {
		return nil, fmt.Errorf("use %s: %w", name, err)
	}
	if err := syscall.Flock(int(e.use.Fd()), syscall.LOCK_SH); err != nil {
		return nil, fmt.Errorf("use %s: %w", name, errors.Join(err, e.use.Close()))
	}
	return e, nil
}

// fill builds in a directory beside dir, which it then renames. The caller
// holds the cache's lock, so whatever else is being built was left by a process
// that was killed.
func fill(ctx context.Context, cache, name, dir string, build func(context.Context, string) error) (err error) {
	tmp, err := os.MkdirTemp(cache, "building-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	if err := build(ctx, tmp); err != nil {
		return err
	}
	entries, err := os.ReadDir(cache)
	if err != nil {
		return err
	}
	for _, e := range entries {
		path := filepath.Join(cache, e.Name())
		if path == tmp || !strings.HasPrefix(e.Name(), name+"-") && !strings.HasPrefix(e.Name(), "building-") {
			continue
		}
		if err := removeUnused(path); err != nil {
			return err
		}
	}
	return os.Rename(tmp, dir)
}

// removeUnused removes a directory that nobody uses. The caller holds the
// cache's lock, so nobody begins to.
func removeUnused(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil
	}
	return errors.Join(err, os.RemoveAll(dir))
}

// lock waits for the lock of a cache until ctx ends.
func lock(ctx context.Context, cache string) (unlock func(), err error) {
	f, err := os.Open(cache)
	if err != nil {
		return nil, err
	}
	tick := time.NewTicker(lockInterval)
	defer tick.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(err, f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(ctx.Err(), f.Close())
		case <-tick.C:
		}
	}
}
