package hostfs

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// The kernel resolves below a root by itself since Linux 5.6: openat2(2) with
// RESOLVE_IN_ROOT, in one call. os.Root has to open each parent of each element anew, which
// was some 300 calls for one attribute of a disk in sysfs. It does the work where the kernel
// does not: an older one, or a filter of system calls that does not know openat2.

// kernelRoot is the root for kernelOpen, or nil when the kernel cannot.
func kernelRoot(r *os.Root) *os.File {
	dir, err := r.Open(".")
	if err != nil {
		return nil
	}
	f := &FS{dir: dir}
	if _, sure, err := f.kernelResolve("/"); err != nil || !sure {
		_ = dir.Close() // read only: nothing is lost
		return nil
	}
	return dir
}

// kernelOpen is OpenFile by openat2.
func (f *FS) kernelOpen(name string, flag int) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flag | unix.O_CLOEXEC | unix.O_LARGEFILE), //nolint:gosec // flags are positive
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	for tries := 0; ; tries++ {
		fd, err := unix.Openat2(int(f.dir.Fd()), rel(clean(name)), &how) //nolint:gosec // a descriptor is an int
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), clean(name)), nil //nolint:gosec // a descriptor is positive
		case errors.Is(err, unix.EINTR):
		case errors.Is(err, unix.EAGAIN) && tries < 100: // something was renamed or mounted while ".." was resolved, openat2(2)
		default:
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// kernelResolve is Resolve by the kernel's own name for what it has opened. It is not
// sure when that name is not one below the root's, or may be that of something deleted.
func (f *FS) kernelResolve(name string) (resolved string, sure bool, err error) {
	at, err := f.kernelOpen(name, unix.O_PATH)
	if err != nil {
		return "", true, err
	}
	defer func() { _ = at.Close() }() // a path only: nothing is lost
	place, err := nameOf(at)
	if err != nil {
		return "", false, nil
	}
	root, err := nameOf(f.dir)
	if err != nil {
		return "", false, nil
	}
	below, ok := strings.CutPrefix(place, strings.TrimSuffix(root, "/"))
	if !ok || below != "" && below[0] != '/' || strings.HasSuffix(place, " (deleted)") {
		return "", false, nil
	}
	return clean(below), true, nil
}

func nameOf(f *os.File) (string, error) {
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd()))) //nolint:gosec // a descriptor is an int
}

// walk is Resolve element by element.
func (f *FS) walk(name string) (string, error) {
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
			if len(todo) > 0 && !info.IsDir() {
				return "", &fs.PathError{Op: "resolve", Path: name, Err: unix.ENOTDIR}
			}
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
