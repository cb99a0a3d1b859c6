// Package image builds the system image of lab machines, a Debian 12, and keeps
// it in a cache. It is built anew only when what it is made of changes: the
// list of packages, the files that are added, or the script itself.
package image

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"holdfast.dev/internal/build/cache"
	"holdfast.dev/internal/hostexec"
)

//go:embed build.sh packages.txt all:overlay
var source embed.FS

// buildTimeout is for a slow mirror; two minutes are usual.
const buildTimeout = 30 * time.Minute

// Image is a system image in use. Its files are never written to: machines run
// on overlays.
type Image struct {
	Root   string // ext4 file system, raw
	Kernel string // unpacked, for the PVH entry
	Initrd string
	// Entry of the cache; Close it when no machine starts from the image any more.
	*cache.Entry
}

// Ensure returns the image from the cache directory, and builds it first when
// it is not there. Progress goes to log. Several processes may call it at once.
func Ensure(ctx context.Context, dir string, log io.Writer) (Image, error) {
	key, err := key(source)
	if err != nil {
		return Image{}, fmt.Errorf("find system image: %w", err)
	}
	e, err := cache.Ensure(ctx, dir, "image", key, func(ctx context.Context, tmp string) error { return build(ctx, tmp, log) })
	if err != nil {
		return Image{}, fmt.Errorf("system image: %w", err)
	}
	return Image{Root: filepath.Join(e.Dir, "root.img"), Kernel: filepath.Join(e.Dir, "vmlinux"), Initrd: filepath.Join(e.Dir, "initrd.img"), Entry: e}, nil
}

func build(ctx context.Context, tmp string, log io.Writer) error {
	if _, err := hostexec.LookPath("mmdebstrap"); err != nil {
		return fmt.Errorf("%w (apt-get install mmdebstrap)", err)
	}
	src := filepath.Join(tmp, "source")
	if err := os.CopyFS(src, source); err != nil {
		return err
	}
	_, err := hostexec.Run(ctx, buildTimeout, hostexec.Command{Path: "bash", Stdout: log, Stderr: log,
		Args: []string{filepath.Join(src, "build.sh"), filepath.Join(src, "packages.txt"), filepath.Join(src, "overlay"), tmp}})
	if err != nil {
		return err
	}
	return os.RemoveAll(src)
}

// key names what the image is made of.
func key(source fs.FS) (string, error) {
	h := sha256.New()
	err := fs.WalkDir(source, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := fs.ReadFile(source, p)
		fmt.Fprintf(h, "%s %d\n%s", p, len(data), data)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:16], err
}
