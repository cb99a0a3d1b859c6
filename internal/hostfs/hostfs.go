// Package hostfs is a view of a host's files that cannot be left: every path
// is resolved below one root, symbolic links included. Components read the
// host's /sys, /proc, /dev and /etc/holdfast through it, so that the same code
// runs on a node ("/"), in a pod ("/host") and on a recorded tree in a test.
package hostfs

import (
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// MaxRead is the most that ReadFile reads, in bytes.
const MaxRead = 4 << 20

// FS is a host's file system below a root. It is safe for concurrent use.
type FS struct {
	root *os.Root
	// dir is the root for the kernel to resolve below; nil where it does not.
	dir *os.File
}

// Open opens the view below dir.
func Open(dir string) (*FS, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open host root: %w", err)
	}
	return &FS{root: r, dir: kernelRoot(r)}, nil
}

// Close closes the view.
func (f *FS) Close() error {
	if f.dir != nil {
		_ = f.dir.Close() // a path only: nothing is lost
	}
	return f.root.Close()
}

// Path is where name lies for other programs; it is not confined.
func (f *FS) Path(name string) string { return path.Join(f.root.Name(), name) }

// Open opens name for reading. An absolute symbolic link below the root is
// taken relative to the root, as a chroot would.
func (f *FS) Open(name string) (*os.File, error) {
	return f.OpenFile(name, os.O_RDONLY)
}

// OpenFile opens name with the given flags.
func (f *FS) OpenFile(name string, flag int) (*os.File, error) {
	if f.dir != nil {
		return f.kernelOpen(name, flag)
	}
	p, err := f.walk(name)
	if err != nil {
		return nil, err
	}
	return f.root.OpenFile(rel(p), flag, 0)
}

// ReadFile reads name whole, up to MaxRead bytes; more is an error.
func (f *FS) ReadFile(name string) ([]byte, error) {
	fd, err := f.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = fd.Close() }() // read only: nothing is lost
	data, err := io.ReadAll(io.LimitReader(fd, MaxRead+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > MaxRead {
		return nil, fmt.Errorf("read %s: more than %d bytes", name, MaxRead)
	}
	return data, nil
}

// ReadString reads a one-line attribute, such as those of sysfs, trimmed.
func (f *FS) ReadString(name string) (string, error) {
	data, err := f.ReadFile(name)
	return string(bytes.TrimSpace(data)), err
}

// ReadDir lists the names in a directory, sorted.
func (f *FS) ReadDir(name string) ([]string, error) {
	dir, err := f.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // read only: nothing is lost
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	slices.Sort(names)
	return names, nil
}

// Lstat describes name itself. Its parents are resolved.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	if f.dir != nil {
		at, err := f.kernelOpen(name, unix.O_PATH|unix.O_NOFOLLOW)
		if err != nil {
			return nil, err
		}
		defer func() { _ = at.Close() }() // a path only: nothing is lost
		return at.Stat()
	}
	dir, err := f.walk(path.Dir(clean(name)))
	if err != nil {
		return nil, err
	}
	return f.root.Lstat(rel(path.Join(dir, path.Base(clean(name)))))
}

// Resolve follows every symbolic link in name below the root and returns the
// absolute path within the root. ".." never leaves the root. A missing last
// element is an error that errors.Is fs.ErrNotExist.
func (f *FS) Resolve(name string) (string, error) {
	if f.dir != nil {
		if p, sure, err := f.kernelResolve(name); sure {
			return p, err
		}
	}
	return f.walk(name)
}

func clean(name string) string { return path.Clean("/" + name) }

func rel(abs string) string {
	if abs == "/" {
		return "."
	}
	return strings.TrimPrefix(abs, "/")
}
