package server

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"go.etcd.io/etcd/server/v3/embed"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"golang.org/x/sys/unix"
)

// walSegmentBytes replaces etcd's 64 MB, two of which are allocated at once:
// a directory in a memory file system would pay for them in full.
const walSegmentBytes = 4 << 20

// etcd is an embedded etcd that listens on a socket in its directory.
type etcd struct {
	*embed.Etcd
	// dir keeps the endpoint's path valid. A bare descriptor: an os.File closes
	// itself when nothing refers to it any more, while clients that connect
	// later (one for each CustomResourceDefinition) still go by the path.
	dir int
}

// startEtcd starts etcd and waits until it serves.
func startEtcd(ctx context.Context, dir, log string, fsync bool) (*etcd, error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make directory of etcd: %w", err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open directory of etcd %s: %w", dir, err)
	}
	e := &etcd{dir: fd}
	wal.SegmentSizeBytes = walSegmentBytes
	c := embed.NewConfig()
	c.Dir = filepath.Join(dir, "data")
	c.Logger, c.LogLevel, c.LogOutputs = "zap", "warn", []string{log}
	c.UnsafeNoFsync = !fsync
	c.ListenClientUrls = []url.URL{{Scheme: "unix", Path: e.socket()}}
	// A cluster of one has nobody to listen to, and elects itself after up to
	// two election timeouts: short ones save half a second.
	c.ListenPeerUrls = nil
	c.TickMs, c.ElectionMs = 20, 100
	c.QuotaBackendBytes = 2 << 30
	// Zero, the library's default, logs every single request.
	c.WarningUnaryRequestDuration = time.Second
	c.WarningApplyDuration = time.Second
	if e.Etcd, err = embed.StartEtcd(c); err != nil {
		return nil, fmt.Errorf("start etcd: %w", errors.Join(err, unix.Close(fd)))
	}
	select {
	case <-e.Server.ReadyNotify():
		return e, nil
	case err = <-e.Err():
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	e.close()
	return nil, fmt.Errorf("start etcd: %w", err)
}

// socket reaches the socket through the open directory: a path of that kind is
// short enough for sun_path (108 bytes, unix(7)) however deep the directory is.
func (e *etcd) socket() string {
	return "/proc/self/fd/" + strconv.Itoa(e.dir) + "/client.sock"
}

func (e *etcd) endpoint() string { return "unix://" + e.socket() }

// close ends an etcd that is of no use.
func (e *etcd) close() {
	e.Server.HardStop()
	_ = unix.Close(e.dir) // a directory: nothing is lost
}
