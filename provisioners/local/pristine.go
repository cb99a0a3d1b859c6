package local

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

const lostFound = "lost+found"

// Pristine says what speaks against a mounted file system being as mkfs left it;
// empty when nothing does. It reads the names in the root and nothing of files.
func (h *Host) Pristine(point string) (residue string, err error) {
	dir, err := h.fs.Open(point)
	if errors.Is(err, fs.ErrPermission) {
		return "its root cannot be read: somebody has changed its mode", nil
	}
	if err != nil {
		return "", fmt.Errorf("look into %s: %w", point, err)
	}
	defer func() { _ = dir.Close() }() // read only
	names, err := dir.Readdirnames(3)
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("look into %s: %w", point, err)
	}
	found := false
	for _, name := range names {
		if name != lostFound {
			return fmt.Sprintf("it is not empty: there is %q", name), nil
		}
		found = true
	}
	if attr, err := foreignAttribute(dir); err != nil || attr != "" {
		return attr, err
	}
	if found {
		return h.untouched(path.Join(point, lostFound))
	}
	return "", nil
}

// foreignAttribute names an extended attribute of dir that a tenant may have set.
func foreignAttribute(dir *os.File) (string, error) {
	buf := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Flistxattr(int(dir.Fd()), buf)
	if errors.Is(err, unix.EOPNOTSUPP) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("list attributes of %s: %w", dir.Name(), err)
	}
	for name := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "system.posix_acl") {
			return "its root has the attribute " + name, nil
		}
	}
	return "", nil
}

// untouched looks at a lost+found, which only root may read: mke2fs gives it the
// same time of birth, change and content, and any entry put there or taken
// away changes the latter two (lib/ext2fs/mkdir.c, write_new_inode).
func (h *Host) untouched(dir string) (residue string, err error) {
	real, err := h.fs.Resolve(dir)
	if err != nil {
		return "", fmt.Errorf("look at %s: %w", dir, err)
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, h.fs.Path(real), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st); err != nil {
		return "", fmt.Errorf("look at %s: %w", dir, err)
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return lostFound + " is no directory", nil
	case st.Mask&unix.STATX_BTIME == 0:
		return "the file system does not tell when " + lostFound + " was made", nil
	case st.Nlink != 2 || st.Btime.Sec != st.Mtime.Sec || st.Btime.Sec != st.Ctime.Sec:
		return lostFound + " was used", nil
	}
	return "", nil
}
