package docker

import (
	"errors"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"holdfast.dev/internal/daemon"
)

// Options of the daemon.
type Options struct {
	daemon.Options
	Socket   string
	StateDir string // records: who holds which volume
	MountDir string // volumes are mounted below it
	Closed   string // disk ids that take no new volume
	Defaults Defaults
	Refresh  time.Duration
}

// BindFlags registers the options' flags with their defaults.
func (o *Options) BindFlags(fs *flag.FlagSet) {
	o.Options.BindFlags(fs, "127.0.0.1:9816")
	o.Defaults = Defaults{}
	fs.StringVar(&o.Socket, "socket", "/run/docker/plugins/holdfast.sock", "unix socket; its name without .sock is the name of the driver (docker volume create -d)")
	fs.StringVar(&o.StateDir, "state-dir", "/run/holdfast/docker-volume", "who holds which volume; on a tmpfs, for it ends with the mounts")
	fs.StringVar(&o.MountDir, "mount-dir", "/var/lib/holdfast/docker-volume", "volumes are mounted below it")
	fs.StringVar(&o.Closed, "closed-disks", "", "ids of disks, with commas between, whose volume groups take no new volume")
	fs.Var(o.Defaults, "default", "OPTION=VALUE for volumes that are created without this option; may be given more than once")
	fs.DurationVar(&o.Refresh, "refresh", 30*time.Second, "how often one volume group is read while nothing changes, and what an earlier call began is ended")
}

// Validate checks the options.
func (o *Options) Validate() error {
	if !filepath.IsAbs(o.Socket) || len(o.Socket) > 107 || !strings.HasSuffix(o.Socket, ".sock") {
		return fmt.Errorf("check --socket: %q is not an absolute path of at most 107 bytes (unix(7)) that ends with .sock", o.Socket)
	}
	for flag, dir := range map[string]string{"--state-dir": o.StateDir, "--mount-dir": o.MountDir} {
		if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir || dir == "/" {
			return fmt.Errorf("check %s: %q is not an absolute path in its shortest form", flag, dir)
		}
	}
	if o.StateDir == o.MountDir {
		return errors.New("check --mount-dir: it is the state directory (give another one)")
	}
	if o.Refresh < time.Second {
		return fmt.Errorf("check --refresh: %s is less than 1s", o.Refresh)
	}
	return nil
}

// closed are the disks that take no new volume.
func (o *Options) closed() map[string]string {
	q := map[string]string{}
	for _, d := range slices.DeleteFunc(strings.Split(o.Closed, ","), func(d string) bool { return d == "" }) {
		q[d] = "named by --closed-disks"
	}
	return q
}
