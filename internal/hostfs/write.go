package hostfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
)

// WriteFile replaces name by data, whole or not at all: when it returns nil,
// the new content outlives a power cut; until then the old one does.
func (f *FS) WriteFile(name string, data []byte, perm fs.FileMode) (err error) {
	dir, err := f.Resolve(path.Dir(clean(name)))
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	final := rel(path.Join(dir, path.Base(clean(name))))
	temp := final + ".new"
	if err := f.root.Remove(temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("write %s: %w", name, err)
	}
	fd, err := f.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	_, werr := fd.Write(data)
	if werr == nil {
		werr = fd.Chmod(perm) // whatever the umask is
	}
	if werr == nil {
		werr = fd.Sync()
	}
	if err := errors.Join(werr, fd.Close()); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	if err := f.root.Rename(temp, final); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return f.syncDir(dir)
}

// MkdirAll makes the directory name and those above it, durably. What is there
// already keeps its mode.
func (f *FS) MkdirAll(name string, perm fs.FileMode) error {
	done := "/"
	for el := range strings.SplitSeq(strings.Trim(clean(name), "/"), "/") {
		next, err := f.Resolve(path.Join(done, el))
		if errors.Is(err, fs.ErrNotExist) {
			next = path.Join(done, el)
			if err := f.root.Mkdir(rel(next), perm); err != nil {
				return fmt.Errorf("make directory %s: %w", name, err)
			}
			err = f.syncDir(done)
		}
		if err != nil {
			return fmt.Errorf("make directory %s: %w", name, err)
		}
		done = next
	}
	return nil
}

// Symlink makes name a symbolic link to target, durably. A link that is there
// already and has that target is left as it is.
func (f *FS) Symlink(target, name string) error {
	dir, err := f.Resolve(path.Dir(clean(name)))
	if err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	link := rel(path.Join(dir, path.Base(clean(name))))
	if have, err := f.root.Readlink(link); err == nil && have == target {
		return nil
	}
	if err := f.root.Symlink(target, link); err != nil {
		return fmt.Errorf("link %s: %w", name, err)
	}
	return f.syncDir(dir)
}

// Remove removes the file or link name, durably. That it is not there is no error.
func (f *FS) Remove(name string) error {
	dir, err := f.Resolve(path.Dir(clean(name)))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	err = f.root.Remove(rel(path.Join(dir, path.Base(clean(name)))))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return f.syncDir(dir)
}

// syncDir makes the entries of a resolved directory durable, fsync(2).
func (f *FS) syncDir(dir string) error {
	fd, err := f.root.Open(rel(dir))
	if err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	if err := errors.Join(fd.Sync(), fd.Close()); err != nil {
		return fmt.Errorf("sync directory %s: %w", dir, err)
	}
	return nil
}
