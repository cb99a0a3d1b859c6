package docker

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"

	"github.com/docker/go-plugins-helpers/volume"
	"golang.org/x/sys/unix"
)

// Serve answers Docker on a unix socket until ctx ends. ready, when not nil, is called
// once it listens. The name of the socket's file without .sock is the driver's.
func Serve(ctx context.Context, socket string, d volume.Driver, ready func()) error {
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		return fmt.Errorf("make directory of socket: %w", err)
	}
	st, err := os.Lstat(socket)
	switch {
	case err == nil && st.Mode().Type() != fs.ModeSocket:
		return fmt.Errorf("listen on %s: it is there and no socket (remove it)", socket)
	case err == nil:
		err = os.Remove(socket) // of an earlier process: Alone says that there is no other
	case errors.Is(err, fs.ErrNotExist):
		err = nil
	}
	if err != nil {
		return fmt.Errorf("remove old socket: %w", err)
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("listen on %s: %w", socket, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() }) // it takes the file along
	defer stop()
	if err := os.Chmod(socket, 0o600); err != nil { // dockerd is root
		return fmt.Errorf("close socket to others: %w", err)
	}
	if ready != nil {
		ready()
	}
	if err := volume.NewHandler(d).Serve(l); err != nil && ctx.Err() == nil {
		return fmt.Errorf("serve the volume plugin API: %w", err)
	}
	return nil
}

// Alone takes the lock of a state directory until the process ends: two plugins with
// the same records would unmount each other's volumes.
func Alone(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: another holdfast-docker-volume runs (systemctl status holdfast-docker-volume): %w", dir, err), f.Close())
	}
	return func() { _ = f.Close() }, nil // which gives the lock back
}
