// Package hostfs is a view of a host's files that cannot be left: every path
// is resolved below one root, symbolic links included. Components read the
// host's /sys, /proc, /dev and /etc/holdfast through it, so that the same code
// runs on a node ("/"), in a pod ("/host") and on a recorded tree in a test.
package hostfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// MaxRead is the most that ReadFile reads, in bytes.
const MaxRead = 4 << 20

// FS is a host's file system below a root. It is safe for concurrent use.
type FS struct {
	root *os.Root
}

// Open opens the view below dir.
func Open(dir string) (*FS, error) {
	r, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open host root: %w", err)
	}
	return &FS{root: r}, nil
}

// Close closes the view.
func (f *FS) Close() error { return f.root.Close() }

// Path is where name lies for other programs; it is not confined.
func (f *FS) Path(name string) string { return path.Join(f.root.Name(), name) }

// Open opens name for reading. An absolute symbolic link below the root is
// taken relative to the root, as a chroot would.
func (f *FS) Open(name string) (*os.File, error) {
	return f.OpenFile(name, os.O_RDONLY)
}

// OpenFile opens name with the given flags.
func (f *FS) OpenFile(name string, flag int) (*os.File, error) {
	p, err := f.Resolve(name)
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
	p, err := f.Resolve(name)
	if err != nil {
		return nil, err
	}
	entries, err := fs.ReadDir(f.root.FS(), rel(p))
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

// Lstat describes name itself. Its parents are resolved.
func (f *FS) Lstat(name string) (fs.FileInfo, error) {
	dir, err := f.Resolve(path.Dir(clean(name)))
	if err != nil {
		return nil, err
	}
	return f.root.Lstat(rel(path.Join(dir, path.Base(clean(name)))))
}

// Resolve follows every symbolic link in name below the root and returns the
// absolute path within the root. ".." never leaves the root. A missing last
// element is an error that errors.Is fs.ErrNotExist.
func (f *FS) Resolve(name string) (string, error) {
	const maxLinks = 40 // as the kernel, path_resolution(7)
	links := 0
	done, todo := "/", strings.Split(strings.Trim(clean(name), "/"), "/")
	for len(todo) > 0 {
		el := todo[0]
		todo = todo[1:]
		switch el {
		case "", ".":
			continue
		case "..":
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, el)
		info, err := f.root.Lstat(rel(next))
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "resolve", Path: name, Err: errors.New("too many symbolic links")}
		}
		target, err := f.root.Readlink(rel(next))
		if err != nil {
			return "", err
		}
		if path.IsAbs(target) {
			done = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return done, nil
}

func clean(name string) string { return path.Clean("/" + name) }

func rel(abs string) string {
	if abs == "/" {
		return "."
	}
	return strings.TrimPrefix(abs, "/")
}
