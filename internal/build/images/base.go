package images

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"holdfast.dev/internal/hostexec"
)

var (
	//go:embed build.sh
	buildScript []byte
	//go:embed packages.txt
	packagesFile []byte
)

// buildTimeout is for a slow mirror; half a minute is usual.
const buildTimeout = 15 * time.Minute

// DefaultCache is the directory that bases are kept in, $HOLDFAST_CACHE or one
// in the user's cache directory.
func DefaultCache() (string, error) {
	if dir := os.Getenv("HOLDFAST_CACHE"); dir != "" {
		return filepath.Join(dir, "images"), nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache directory: %w (set HOLDFAST_CACHE)", err)
	}
	return filepath.Join(dir, "holdfast", "images"), nil
}

// EnsureBase returns the path of a base's archive from the cache directory, and
// builds it first when it is not there. Progress goes to log. Several processes
// may call it at once.
func EnsureBase(ctx context.Context, cache, name string, log io.Writer) (string, error) {
	install, remove, err := packages(packagesFile, name)
	if err != nil {
		return "", fmt.Errorf("find base %s: %w", name, err)
	}
	dir := filepath.Join(cache, name+"-"+baseKey(install, remove))
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", fmt.Errorf("make cache of bases: %w", err)
	}
	lock, err := os.Open(cache)
	if err != nil {
		return "", fmt.Errorf("lock cache of bases: %w", err)
	}
	defer func() { _ = lock.Close() }() // read only
	if err := flock(ctx, lock); err != nil {
		return "", fmt.Errorf("lock cache of bases: %w", err)
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		err = buildBase(ctx, cache, dir, name, install, remove, log)
		if err != nil {
			return "", fmt.Errorf("build base %s: %w", name, err)
		}
	} else if err != nil {
		return "", fmt.Errorf("find base %s: %w", name, err)
	}
	return filepath.Join(dir, "base.tar"), nil
}

// buildBase builds in a directory beside dir, which it then renames: what is in
// the cache is whole. The caller holds the cache's lock.
func buildBase(ctx context.Context, cache, dir, name string, install, remove []string, log io.Writer) (err error) {
	if _, err := hostexec.LookPath("mmdebstrap"); err != nil {
		return fmt.Errorf("%w (apt-get install mmdebstrap)", err)
	}
	for _, pattern := range []string{name + "-*", "building-*"} { // of other versions, or left by a build that was killed
		old, err := filepath.Glob(filepath.Join(cache, pattern))
		if err != nil {
			return err
		}
		for _, path := range old {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	tmp, err := os.MkdirTemp(cache, "building-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(tmp))
		}
	}()
	script := filepath.Join(tmp, "build.sh")
	if err := os.WriteFile(script, buildScript, 0o644); err != nil {
		return err
	}
	if _, err := hostexec.Run(ctx, buildTimeout, hostexec.Command{Path: "bash", Stdout: log, Stderr: log,
		Args: []string{script, strings.Join(install, ","), strings.Join(remove, ","), tmp}}); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// packages are the packages to install and to remove of one section of a list.
func packages(list []byte, section string) (install, remove []string, err error) {
	var current string
	var found bool
	for line := range strings.Lines(string(list)) {
		line, _, _ = strings.Cut(line, "#")
		line = strings.TrimSpace(line)
		if name, ok := strings.CutPrefix(line, "["); ok {
			current = strings.TrimSuffix(name, "]")
			found = found || current == section
			continue
		}
		if line == "" || current != section {
			continue
		}
		if name, ok := strings.CutPrefix(line, "-"); ok {
			remove = append(remove, name)
		} else {
			install = append(install, line)
		}
	}
	if !found {
		return nil, nil, fmt.Errorf("packages.txt has no section [%s]", section)
	}
	return install, remove, nil
}

// baseKey names what a base is made of.
func baseKey(install, remove []string) string {
	h := sha256.New()
	fmt.Fprintf(h, "%q %q %s", install, remove, buildScript)
	return hex.EncodeToString(h.Sum(nil))[:16]
}

// flock waits for the exclusive lock until ctx ends; flock(2) itself knows no deadline.
func flock(ctx context.Context, f *os.File) error {
	t := time.NewTicker(100 * time.Millisecond)
	defer t.Stop()
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}
