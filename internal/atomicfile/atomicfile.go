// Package atomicfile replaces whole files: at every time a reader, and whoever
// comes after the writer was killed, sees the old content or the new, never a part.
// After a power cut that is so for [Write] alone. What lies below another root, on a
// node, is internal/hostfs's to write.
package atomicfile

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// Write replaces name's content, durably: when it returns nil, the new content
// outlives a power cut; until then one of the two does, whole. The mode is perm whatever
// the umask is. A crash may leave a file .NAME-NUMBER beside it.
func Write(name string, data []byte, perm fs.FileMode) error {
	err := ReplaceFunc(name, perm, func(f *os.File) error {
		if _, err := f.Write(data); err != nil {
			return err
		}
		return f.Sync()
	})
	if err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// Replace is Write for what need not outlive a power cut: it waits for no disk.
// After one the file may be old, new, empty, cut off or gone: the name can reach the
// disk before the content does. It is for what can be made anew, and whose reader
// notices when it is not whole.
func Replace(name string, data []byte, perm fs.FileMode) error {
	return ReplaceFunc(name, perm, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
}

// ReplaceFunc is Replace with content that fill writes. Nothing changes when
// fill returns an error.
func ReplaceFunc(name string, perm fs.FileMode, fill func(*os.File) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+"-*")
	if err != nil {
		return err
	}
	err = f.Chmod(perm)
	if err == nil {
		err = fill(f)
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// Remove removes name, durably. That it is not there is no error.
func Remove(name string) error {
	if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return syncDir(filepath.Dir(name))
}

// syncDir makes a directory's entries durable, fsync(2).
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
