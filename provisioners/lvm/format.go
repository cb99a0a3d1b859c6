package lvm

import (
	"context"
	"fmt"

	"holdfast.dev/internal/hostexec"
	"holdfast.dev/provisioners/lvm/vg"
)

// format makes the file system of a volume that lvcreate made right before in this
// very call.
func (e *Engine) format(ctx context.Context, g *group, r CreateRequest, name string) error {
	v, err := e.virgin(ctx, g, r, name)
	if err != nil {
		return err
	}
	program, args := r.Spec.mkfs(v.Device())
	if _, err := e.host.Run(ctx, e.deadlines.Mkfs, program, args...); err != nil {
		return fmt.Errorf("format volume %s: %w", name, err)
	}
	return nil
}

// virgin returns a volume that may be written to: lvcreate made it right before, and
// what is known of it is looked at all the same: its phase and request, opened by
// nobody, and certainly without a signature.
func (e *Engine) virgin(ctx context.Context, g *group, r CreateRequest, name string) (Volume, error) {
	s, _, _ := g.last()
	lv := s.Find(name)
	if lv == nil {
		return Volume{}, fmt.Errorf("write to volume %s: it vanished after it was made: %w", name, ErrUnavailable)
	}
	v := e.volume(g, lv)
	if phase, nonce := lv.Tags.Intent(); phase != vg.Creating || nonce != r.nonce() {
		return Volume{}, fmt.Errorf("write to volume %s: it is in phase %s of another request: %w", name, phase, ErrRefused)
	}
	if err := e.host.Exclusive(v.Device()); err != nil {
		return Volume{}, fmt.Errorf("write to volume %s: open %s alone: %w: %w", name, v.Device(), ErrInUse, err)
	}
	// blkid(8): 2 when nothing was found, 0 for a signature, 8 for several that contradict
	// each other, 4 for errors. A timeout has no exit code.
	out, err := e.host.Run(ctx, e.deadlines.Mount, "blkid", "--probe", v.Device())
	if code := hostexec.ExitCode(err); err == nil || code != 2 || len(out) > 0 {
		return Volume{}, fmt.Errorf("write to volume %s: blkid does not say that %s is empty (exit code %d, %q; it is left alone): %w: %w",
			name, v.Device(), max(code, 0), out, ErrRefused, orNone(err))
	}
	return v, nil
}

func orNone(err error) error {
	if err == nil {
		return ErrRefused
	}
	return err
}
