package lvm

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"holdfast.dev/provisioners/lvm/vg"
)

// Expand makes a volume at least so large, and returns it as it is then. Its file
// system is another step, on the node that has it mounted.
func (e *Engine) Expand(ctx context.Context, h Handle, size, limit int64) (Volume, error) {
	unlock, err := e.lock(h.LV)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	g, lv, err := e.find(ctx, h)
	if err != nil {
		return Volume{}, err
	}
	v := e.volume(g, lv)
	if v.Phase() != vg.Ready || v.Kind() == KindSnapshot {
		return Volume{}, fmt.Errorf("expand volume %s: it is a %s in phase %s: %w", h.LV, v.Kind(), v.Phase(), ErrRefused)
	}
	s, _, _ := g.last()
	if to := s.RoundUp(size, stripes(lv)); limit > 0 && to > limit {
		return Volume{}, fmt.Errorf("expand volume %s: size %d is %d in extents of %d bytes, more than the limit %d: %w", h.LV, size, to, s.ExtentSize, limit, ErrOutOfRange)
	}
	// A thin volume takes room of its pool only; others get new extents of the disks.
	if !lv.Thin() && lv.Size < s.RoundUp(size, stripes(lv)) {
		if why := g.closed(e.quarantine(ctx)); why != "" {
			return Volume{}, fmt.Errorf("expand volume %s: %w: %s", h.LV, vg.ErrNoRoom, why)
		}
	}
	if !lv.Thin() && lv.Tags.Get(vg.KeyFS) == Block {
		err = e.growRaw(ctx, g, h.LV, size)
	} else {
		err = e.grow(ctx, g, h.LV, size)
	}
	if err != nil {
		return Volume{}, err
	}
	return e.Volume(ctx, h)
}

func stripes(lv *vg.LV) int64 {
	n, err := strconv.ParseInt(lv.Tags.Get(vg.KeyStripes), 10, 64)
	if err != nil {
		return 1
	}
	return n
}

// grow runs lvextend when the volume is smaller than size.
func (e *Engine) grow(ctx context.Context, g *group, name string, size int64) error {
	err := e.alter(ctx, g, func(s *vg.Group) (*change, error) {
		lv := s.Find(name)
		if lv == nil || !lv.Tags.Ours() {
			return nil, fmt.Errorf("it is not the volume it was: %w", ErrRefused)
		}
		if err := s.Complete(); err != nil {
			return nil, err
		}
		to := s.RoundUp(size, stripes(lv))
		more := to - lv.Size
		if more <= 0 {
			return nil, nil
		}
		if err := room(s, lv, more); err != nil {
			return nil, err
		}
		return &change{lv: name, args: []string{"lvextend", "-y", "-L", strconv.FormatInt(to, 10) + "b", s.Name + "/" + name},
			names: s.Name + "/" + name + " successfully resized",
			apply: func(s *vg.Group) {
				lv := s.Find(name)
				lv.Size = to
				if lv.Pool == "" {
					take(s, more/s.ExtentSize, stripes(lv))
				}
			},
			done: func(s *vg.Group) bool { l := s.Find(name); return l != nil && l.Size >= to }}, nil
	})
	if err != nil {
		return fmt.Errorf("expand volume %s: %w", name, err)
	}
	return nil
}

// room is nil when a volume can have so many more bytes.
func room(s *vg.Group, lv *vg.LV, more int64) error {
	if lv.Pool != "" {
		return s.Promise(lv.Pool, lv.Overcommit(), more)
	}
	if free := s.FreeStriped(stripes(lv)); free < more {
		return fmt.Errorf("%w: %d more bytes are wanted, %s has %d", vg.ErrNoRoom, more, s.Name, free)
	}
	return nil
}

// activate makes the device node of a volume when it has none, as after a restart of
// a node whose rules activate nothing, or of a snapshot.
func (e *Engine) activate(ctx context.Context, v Volume) error {
	there, err := e.host.Present(v.Device())
	if err != nil || there {
		return err
	}
	g := e.byUUID[v.Info.UUID]
	if err := g.acquire(ctx); err != nil {
		return err
	}
	defer g.release()
	if _, err := e.lvm(context.WithoutCancel(ctx), g, e.deadlines.Change, "lvchange", "-a", "y", "-K", v.Info.Name+"/"+v.LV.Name); err != nil {
		return fmt.Errorf("activate volume %s: %w", v.LV.Name, err)
	}
	if there, err = e.host.Present(v.Device()); err == nil && !there {
		err = fmt.Errorf("activate volume %s: %s is not there afterwards: %w", v.LV.Name, v.Device(), ErrUnavailable)
	}
	return err
}

// Snapshot makes a read-only snapshot of a thin volume, in one command.
func (e *Engine) Snapshot(ctx context.Context, source Handle, r CreateRequest) (Volume, error) {
	name := lvName(KindSnapshot, r.Name)
	unlock, err := e.lock(name)
	if err != nil {
		return Volume{}, err
	}
	defer unlock()
	r.Kind, r.Source = KindSnapshot, &source
	e.settle(ctx)
	for _, g := range e.groups { // of whatever source: a name is taken once
		s, fresh, _ := g.last()
		if !fresh && g.info.UUID == source.Group {
			return Volume{}, fmt.Errorf("snapshot %s: volume group %s: %w", r.Name, g.info.Name, ErrUnavailable)
		}
		if s == nil {
			continue
		}
		if lv := s.Find(name); lv != nil {
			have := e.volume(g, lv)
			if !lv.Tags.Ours() || have.Kind() != KindSnapshot || lv.Tags.Get(vg.KeyPV) != r.Name {
				return Volume{}, fmt.Errorf("snapshot %s: volume %s/%s has its name and is another one by its tags (rename or remove it): %w", r.Name, g.info.Name, name, ErrRefused)
			}
			if lv.Tags.Get(vg.KeySource) != source.LV || g.info.UUID != source.Group {
				return Volume{}, fmt.Errorf("snapshot %s is of volume %s: %w", r.Name, lv.Tags.Get(vg.KeySource), ErrExists)
			}
			if have.Phase() != vg.Ready {
				return Volume{}, fmt.Errorf("snapshot %s is in phase %s: %w", r.Name, have.Phase(), ErrBusy)
			}
			return have, nil
		}
	}
	g, lv, err := e.find(ctx, source)
	if err != nil {
		return Volume{}, err
	}
	if v := e.volume(g, lv); v.Phase() != vg.Ready || !lv.Thin() || v.Kind() == KindSnapshot {
		return Volume{}, fmt.Errorf("snapshot of %s: only thin volumes that are ready have snapshots (class parameter type: thin): %w", source.LV, ErrInvalid)
	}
	r.Spec.FS, r.Spec.Thin = lv.Tags.Get(vg.KeyFS), true
	if r.Spec.Overcommit == 0 { // the snapshot's class does not say
		r.Spec.Overcommit = lv.Overcommit()
	}
	return e.copyThin(ctx, g, r, name, *lv, true)
}

// clone makes a writable thin copy: one command, three when it is to be larger.
func (e *Engine) clone(ctx context.Context, g *group, r CreateRequest, name string) (Volume, error) {
	_, src, err := e.find(ctx, *r.Source)
	if err != nil {
		return Volume{}, err
	}
	v, err := e.copyThin(ctx, g, r, name, *src, false)
	if err != nil || v.Phase() == vg.Ready {
		return v, err
	}
	err = e.grow(ctx, g, name, r.Size)
	if err == nil {
		err = e.mark(ctx, g, name, idTagOf(&v.LV), vg.Ready)
	}
	if err != nil {
		if !errors.Is(err, vg.ErrNoRoom) {
			return Volume{}, err
		}
		// Another node may be asked next: nothing of it may stay here.
		if gone := e.remove(ctx, g, v.LV); gone != nil {
			return Volume{}, fmt.Errorf("copy of %s has no room to grow (%s) and cannot be removed: %w: %w", src.Name, err.Error(), ErrUnavailable, gone)
		}
		return Volume{}, err
	}
	s, _, _ := g.last()
	return e.volume(g, s.Find(name)), nil
}

// copyThin makes a thin snapshot of a thin volume, lvmthin(7). The kernel freezes a
// mounted file system meanwhile (dm_suspend), so that the copy needs no repair.
// Of a thin volume, lvcreate --snapshot makes the same, and wants the kernel to have
// the target of thick snapshots before it looks at the volume (lib/snapshot/snapshot.c,
// _snap_target_present): few nodes have loaded that, and a container has no modprobe.
func (e *Engine) copyThin(ctx context.Context, g *group, r CreateRequest, name string, src vg.LV, readOnly bool) (Volume, error) {
	phase := vg.Ready
	if r.set != "" || r.Size > src.Size || r.Kind == KindTransfer { // until all members are there, until it has its size, for ever
		phase = vg.Creating
	}
	tags := e.tags(r, phase)
	err := e.alter(ctx, g, func(s *vg.Group) (*change, error) {
		now := s.Find(src.Name)
		if now == nil || now.Tags.Get(vg.KeyID) != src.Tags.Get(vg.KeyID) {
			return nil, fmt.Errorf("its source is not what it was: %w", ErrRefused)
		}
		if phase, _ := now.Tags.Intent(); phase != vg.Ready { // nobody has its lock: it may be wiped already
			return nil, fmt.Errorf("its source is in phase %s: %w", phase, ErrBusy)
		}
		if s.Find(name) != nil {
			return nil, fmt.Errorf("it appeared meanwhile: %w", ErrBusy)
		}
		if err := s.Complete(); err != nil {
			return nil, err
		}
		if err := s.Promise(src.Pool, r.Spec.Overcommit, src.Size); err != nil {
			return nil, err
		}
		lv := vg.LV{Name: name, Size: src.Size, Tags: tags, Attr: "Vwi-a-t---", Pool: src.Pool, Origin: src.Name,
			DataPercent: vg.Unknown, MetadataPercent: vg.Unknown, Created: e.now().Unix()}
		args := []string{"lvcreate", "-y", "--type", "thin", "-n", name}
		if readOnly { // and not active: nothing reads a snapshot but lvcreate
			args = append(args, "-p", "r", "-k", "y")
			lv.Attr = "Vri---t--k"
		} else {
			args = append(args, "-k", "n", "-a", "y")
		}
		return &change{lv: name, args: append(addTags(args, tags), s.Name+"/"+src.Name), names: `"` + name + `" created`,
			apply: func(s *vg.Group) { s.LVs = append(s.LVs, lv) },
			done:  func(s *vg.Group) bool { l := s.Find(name); return l != nil && l.Tags.Has(tags[0]) }}, nil
	})
	if err != nil {
		return Volume{}, fmt.Errorf("copy volume %s to %s: %w", src.Name, name, err)
	}
	s, _, _ := g.last()
	return e.volume(g, s.Find(name)), nil
}
