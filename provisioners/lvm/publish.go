package lvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"holdfast.dev/provisioners/lvm/vg"
)

// PublishRequest is a volume to show at a path.
type PublishRequest struct {
	Handle   Handle
	Target   string
	Block    bool
	FS       string // asked for; empty for whatever it is
	Options  []string
	ReadOnly bool
}

// Publish mounts a volume that is ready. It never formats: a volume that does not
// mount is an error.
func (e *Engine) Publish(ctx context.Context, r PublishRequest) error {
	unlock, err := e.lock(r.Handle.LV)
	if err != nil {
		return err
	}
	defer unlock()
	_, lv, err := e.find(ctx, r.Handle)
	if err != nil {
		return err
	}
	v := e.volume(e.byUUID[r.Handle.Group], lv)
	have := lv.Tags.Get(vg.KeyFS)
	switch {
	case v.Phase() != vg.Ready || v.Kind() == KindSnapshot:
		return fmt.Errorf("publish volume %s: it is a %s in phase %s: %w", lv.Name, v.Kind(), v.Phase(), ErrRefused)
	case r.Block != (have == Block):
		return fmt.Errorf("publish volume %s: it holds %q, and block=%v is asked for (volumeMode of the claim): %w", lv.Name, have, r.Block, ErrInvalid)
	case !r.Block && r.FS != "" && r.FS != have:
		return fmt.Errorf("publish volume %s: it holds %s, %s is asked for: %w", lv.Name, have, r.FS, ErrInvalid)
	}
	if err := e.activate(ctx, v); err != nil {
		return err
	}
	m, same, err := e.mounts.At(r.Target, v.Device())
	if err != nil {
		return err
	}
	switch {
	case m != nil && !same:
		return fmt.Errorf("publish volume %s: something else is mounted at %s: %w", lv.Name, r.Target, ErrRefused)
	case m != nil && m.ReadOnly == r.ReadOnly:
		return nil
	case m != nil && r.ReadOnly: // the step below was cut off
		return e.readOnly(ctx, r.Target)
	case m != nil:
		return fmt.Errorf("publish volume %s: it is mounted read-only at %s: %w", lv.Name, r.Target, ErrExists)
	}
	return e.mount(ctx, v, r, have)
}

func (e *Engine) mount(ctx context.Context, v Volume, r PublishRequest, filesystem string) error {
	if err := makeTarget(r.Target, r.Block); err != nil {
		return fmt.Errorf("publish volume %s: %w", v.LV.Name, err)
	}
	args := []string{"-o", "bind", v.Device(), r.Target}
	if !r.Block {
		opts := r.Options
		if filesystem == XFS { // a copy has the UUID of its source, xfs(5)
			opts = append([]string{"nouuid"}, opts...)
		}
		args = []string{"-t", filesystem}
		if len(opts) > 0 {
			args = append(args, "-o", strings.Join(opts, ","))
		}
		args = append(args, v.Device(), r.Target)
	}
	if _, err := e.host.Run(ctx, e.deadlines.Mount, "mount", args...); err != nil {
		return fmt.Errorf("mount volume %s (the kernel's log says more): %w", v.LV.Name, err)
	}
	if !r.Block && v.LV.Tags.Get(vg.KeySource) != "" {
		// A copy may be larger than its source's file system.
		if err := e.growFS(ctx, v, r.Target); err != nil {
			return err
		}
	}
	if r.ReadOnly {
		return e.readOnly(ctx, r.Target)
	}
	return nil
}

// readOnly makes this one mount read-only and not the file system, which another pod of
// the node may write to.
func (e *Engine) readOnly(ctx context.Context, target string) error {
	if _, err := e.host.Run(ctx, e.deadlines.Mount, "mount", "-o", "remount,bind,ro", target); err != nil {
		return fmt.Errorf("make %s read-only: %w", target, err)
	}
	return nil
}

func makeTarget(target string, block bool) error {
	if !block {
		return os.MkdirAll(target, 0o750)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE, 0o660)
	if err != nil {
		return err
	}
	return f.Close()
}

// Unpublish takes the mounts at target away, and the directory or file when it is
// empty. It never forces and never unmounts lazily: the kernel says when it is done.
func (e *Engine) Unpublish(ctx context.Context, lv, target string) error {
	unlock, err := e.lock(lv)
	if err != nil {
		return err
	}
	defer unlock()
	for range 8 {
		m, _, err := e.mounts.At(target, "")
		if err != nil {
			return err
		}
		if m == nil {
			// Remove, not RemoveAll: what is in it is somebody's data.
			if err := os.Remove(target); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("unpublish volume %s: %w", lv, err)
			}
			return nil
		}
		if _, err := e.host.Run(ctx, e.deadlines.Mount, "umount", target); err != nil {
			return fmt.Errorf("unmount volume %s: %w", lv, err)
		}
	}
	return fmt.Errorf("unmount volume %s: %s is mounted again and again: %w", lv, target, ErrRefused)
}

// GrowFS makes the file system at a path as large as its volume.
func (e *Engine) GrowFS(ctx context.Context, h Handle, target string) (Volume, error) {
	unlock, err := e.lock(h.LV)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	v, err := e.mountedAt(ctx, h, target)
	if err != nil {
		return Volume{}, err
	}
	return v, e.growFS(ctx, v, target)
}

func (e *Engine) growFS(ctx context.Context, v Volume, target string) error {
	var err error
	switch v.LV.Tags.Get(vg.KeyFS) {
	case XFS:
		_, err = e.host.Run(ctx, e.deadlines.Mkfs, "xfs_growfs", target)
	case Ext4:
		_, err = e.host.Run(ctx, e.deadlines.Mkfs, "resize2fs", v.Device())
	}
	if err != nil {
		return fmt.Errorf("grow file system of volume %s: %w", v.LV.Name, err)
	}
	return nil
}

// mountedAt is the volume, when it is what is mounted there.
func (e *Engine) mountedAt(ctx context.Context, h Handle, target string) (Volume, error) {
	v, err := e.Volume(ctx, h)
	if err != nil {
		return Volume{}, err
	}
	there, err := e.host.Present(v.Device())
	if err != nil {
		return Volume{}, err
	}
	if there {
		m, same, err := e.mounts.At(target, v.Device())
		if err != nil {
			return Volume{}, err
		}
		if m != nil && same {
			return v, nil
		}
	}
	return Volume{}, fmt.Errorf("volume %s at %s: it is not mounted there: %w", h.LV, target, ErrNotFound)
}

// Stats is how full a published volume is and what is wrong with it, in words; empty
// when nothing is.
func (e *Engine) Stats(ctx context.Context, h Handle, target string) (Usage, string, error) {
	g, err := e.group(h)
	if err != nil {
		return Usage{}, "", err
	}
	// The state that was read last will do: a group that hangs must not hang this.
	s, _, groupErr := g.last()
	if s == nil && groupErr == nil {
		if s, groupErr = e.look(ctx, g, false); groupErr != nil {
			return Usage{}, "", groupErr
		}
	}
	var wrong []string
	if groupErr != nil {
		wrong = append(wrong, groupErr.Error())
	}
	device := "/dev/" + g.info.Name + "/" + h.LV
	if s != nil {
		lv := s.Find(h.LV)
		switch {
		case lv == nil:
			if _, _, err := e.find(ctx, h); err != nil {
				return Usage{}, "", err
			}
		case lv.Sick() != "":
			wrong = append(wrong, lv.Sick())
		}
		if lv != nil && lv.Pool != "" {
			if err := vg.PoolFull(s.Find(lv.Pool)); err != nil {
				wrong = append(wrong, err.Error())
			}
		}
	}
	m, same, err := e.mounts.At(target, device)
	if err != nil {
		return Usage{}, "", err
	}
	if m == nil || !same {
		return Usage{}, "", fmt.Errorf("volume %s at %s: it is not mounted there: %w", h.LV, target, ErrNotFound)
	}
	u, err := e.mounts.Usage(ctx, target)
	if err != nil {
		return Usage{}, "", err
	}
	return u, strings.Join(wrong, "; "), nil
}
