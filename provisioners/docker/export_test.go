package docker

import (
	"context"
	"log/slog"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/provisioners/lvm"
)

// NewProcOf is a Proc of process 1 where every device has this number.
func NewProcOf(root *hostfs.FS, major, minor uint32) *Proc {
	return &Proc{root: root, self: "1", number: func(string) (uint32, uint32, error) { return major, minor, nil }}
}

// RunOn is the daemon on a machine that is given.
func (o *Options) RunOn(ctx context.Context, groups []lvm.GroupInfo, host lvm.Host, mounts lvm.Mounts, ns Namespaces, boot string, log *slog.Logger) error {
	return o.run(ctx, machine{Groups: groups, Host: host, Mounts: mounts, Namespaces: ns, Boot: boot}, log)
}
