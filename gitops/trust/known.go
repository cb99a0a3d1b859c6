package trust

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// known are authorities as they were read last. Each request looks at all of them, and
// to parse a certificate and to try its key took a fifth of a hub's time. A file is read
// anew when anything that the kernel tells of it is another; which files there are is
// looked at each time. So what is retired, replaced or changed holds from the next
// request on, as it does without.
type known struct {
	mu     sync.Mutex
	byPath map[string]knownFile
}

type knownFile struct {
	is        stamp
	authority authority
}

// stamp changes whenever a file's content does: another file in its place has another
// inode, and no program can set the time of the last change (ctime, inode(7)).
type stamp struct {
	dev, ino     uint64
	size         int64
	mtime, ctime syscall.Timespec
}

func stampOf(fi os.FileInfo) (stamp, bool) {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, false
	}
	return stamp{st.Dev, st.Ino, st.Size, st.Mtim, st.Ctim}, true
}

// settled is how old a change must be before it can be told from the next one: times of
// files go by the kernel's tick, of some file systems by whole seconds. Git has the same
// rule for its index (racy-git in its documentation).
const settled = 3 * time.Second

func (k *known) read(path string) (authority, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.byPath == nil {
		k.byPath = map[string]knownFile{}
	}
	if was, ok := k.byPath[path]; ok {
		if fi, err := os.Stat(path); err == nil {
			if is, ok := stampOf(fi); ok && is == was.is {
				return was.authority, nil
			}
		}
		delete(k.byPath, path)
	}
	f, err := os.Open(path)
	if err != nil {
		return authority{}, err
	}
	fi, err := f.Stat()
	var data []byte
	if err == nil {
		data, err = io.ReadAll(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return authority{}, err
	}
	a, err := parseAuthority(path, data)
	if err != nil {
		return authority{}, err
	}
	if is, ok := stampOf(fi); ok && time.Since(time.Unix(is.ctime.Unix())) > settled {
		k.byPath[path] = knownFile{is, a}
	}
	return a, nil
}
