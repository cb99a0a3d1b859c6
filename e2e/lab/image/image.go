// Package image builds the system image of lab machines, a Debian 12, and keeps
// it in a cache. It is built anew only when what it is made of changes: the
// list of packages, the files that are added, or the script itself.
package image

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"holdfast.dev/e2e/cluster/datadir"
	"holdfast.dev/internal/hostexec"
)

//go:embed build.sh packages.txt all:overlay
var source embed.FS

// buildTimeout is for a slow mirror; two minutes are usual.
const buildTimeout = 30 * time.Minute

// Image is a system image. Its files are never written to: machines run on overlays.
type Image struct {
	Root   string // ext4 file system, raw
	Kernel string // unpacked, for the PVH entry
	Initrd string
	// Took is how long it took to build; 0 when it was in the cache.
	Took time.Duration
}

// DefaultCache is the directory that images are kept in, $HOLDFAST_CACHE or one
// in the user's cache directory.
func DefaultCache() (string, error) {
	if dir := os.Getenv("HOLDFAST_CACHE"); dir != "" {
		return filepath.Join(dir, "lab"), nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a cache directory: %w (set HOLDFAST_CACHE)", err)
	}
	return filepath.Join(dir, "holdfast", "lab"), nil
}

// Ensure returns the image from the cache directory, and builds it first when
// it is not there. Progress goes to log. Several processes may call it at once.
func Ensure(ctx context.Context, cache string, log io.Writer) (Image, error) {
	key, err := key()
	if err != nil {
		return Image{}, fmt.Errorf("find image: %w", err)
	}
	dir := filepath.Join(cache, "image-"+key)
	img := Image{Root: filepath.Join(dir, "root.img"), Kernel: filepath.Join(dir, "vmlinux"), Initrd: filepath.Join(dir, "initrd.img")}
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return Image{}, fmt.Errorf("make image cache: %w", err)
	}
	lock, err := os.Open(cache)
	if err != nil {
		return Image{}, fmt.Errorf("lock image cache: %w", err)
	}
	defer func() { _ = lock.Close() }() // read only
	if err := datadir.Lock(ctx, lock); err != nil {
		return Image{}, fmt.Errorf("lock image cache: %w", err)
	}
	if _, err := os.Stat(dir); err == nil {
		return img, nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return Image{}, fmt.Errorf("find image: %w", err)
	}
	began := time.Now()
	if err := build(ctx, cache, dir, log); err != nil {
		return Image{}, fmt.Errorf("build image: %w", err)
	}
	img.Took = time.Since(began)
	return img, nil
}

// build builds the image in a directory beside dir, which it then renames:
// what is in the cache is whole.
func build(ctx context.Context, cache, dir string, log io.Writer) (err error) {
	if _, err := hostexec.LookPath("mmdebstrap"); err != nil {
		return fmt.Errorf("%w (apt-get install mmdebstrap)", err)
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
	src := filepath.Join(tmp, "source")
	if err := os.CopyFS(src, source); err != nil {
		return err
	}
	_, err = hostexec.Run(ctx, buildTimeout, hostexec.Command{Path: "bash", Stdout: log, Stderr: log,
		Args: []string{filepath.Join(src, "build.sh"), filepath.Join(src, "packages.txt"), filepath.Join(src, "overlay"), tmp}})
	if err != nil {
		return err
	}
	if err := os.RemoveAll(src); err != nil {
		return err
	}
	if err := removeOld(cache, tmp); err != nil {
		return err
	}
	return os.Rename(tmp, dir)
}

// removeOld removes images of other versions and what builds that were killed
// left, but for keep: each is more than a gigabyte. The caller holds the cache's
// lock. A lab that runs on an old image loses it at its machines' next start.
func removeOld(cache, keep string) error {
	for _, pattern := range []string{"image-*", "building-*"} {
		old, err := filepath.Glob(filepath.Join(cache, pattern))
		if err != nil {
			return err
		}
		for _, dir := range old {
			if dir == keep {
				continue
			}
			if err := os.RemoveAll(dir); err != nil {
				return err
			}
		}
	}
	return nil
}

// key names what the image is made of.
func key() (string, error) {
	h := sha256.New()
	err := fs.WalkDir(source, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := source.ReadFile(p)
		fmt.Fprintf(h, "%s %d\n%s", p, len(data), data)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:16], err
}
