package lvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"holdfast.dev/provisioners/lvm/vg"
)

// The extents that a raw thick volume grows by may have been anybody's, and a pod that
// has the volume open reads them as soon as they belong to it. So they are a volume of
// their own first, its tail: that is zeroed while nobody else knows of it, and then
// removed, and the volume grows onto these very extents and no others.
//
// The tail, with its tags, is the intent. After a kill it is zeroed anew, or made anew
// when it was removed already; the volume itself changes in the last step only.

// tailName is the name of a volume's tail.
func tailName(name string) string { return KindTail.prefix() + name[len("hf"):] }

// growRaw makes a raw thick volume at least so large.
func (e *Engine) growRaw(ctx context.Context, g *group, name string, size int64) error {
	tail, more, err := e.makeTail(ctx, g, name, size)
	if err == nil && more > 0 {
		if err = e.zeroTail(ctx, g, tail); err == nil {
			err = e.joinTail(ctx, g, name, tail)
		}
	}
	if err != nil {
		return fmt.Errorf("expand volume %s: %w", name, err)
	}
	return nil
}

// makeTail makes the tail that a volume needs, or finds the one of an earlier attempt.
// more is 0 when the volume is as large as it is to be.
func (e *Engine) makeTail(ctx context.Context, g *group, name string, size int64) (_ vg.LV, more int64, _ error) {
	s, err := e.look(ctx, g, false)
	if err != nil {
		return vg.LV{}, 0, err
	}
	lv := s.Find(name)
	if lv == nil || !lv.Tags.Ours() {
		return vg.LV{}, 0, fmt.Errorf("it is not the volume it was: %w", ErrRefused)
	}
	more = s.RoundUp(size, stripes(lv)) - lv.Size
	have, err := e.tail(g, s, name)
	if err != nil {
		return vg.LV{}, 0, err
	}
	if have != nil && have.Size == more && e.volume(g, have).Phase() == vg.Creating {
		return *have, more, e.activate(ctx, e.volume(g, have))
	}
	if err := e.dropTail(ctx, g, name); err != nil || more <= 0 {
		return vg.LV{}, 0, err
	}
	r := CreateRequest{Kind: KindTail, Name: tailName(name), Size: more, Spec: Spec{Pool: g.info.Pool, Stripes: stripes(lv), FS: Block},
		Source: &Handle{Group: g.info.UUID, LV: name}}
	tags := e.tags(r, vg.Creating)
	err = e.alter(ctx, g, func(s *vg.Group) (*change, error) {
		switch room := s.FreeStriped(r.Spec.Stripes); {
		case s.Complete() != nil:
			return nil, s.Complete()
		case s.Find(r.Name) != nil:
			return nil, fmt.Errorf("volume %s appeared meanwhile: %w", r.Name, ErrBusy)
		case room < more:
			return nil, fmt.Errorf("%w: %d more bytes are wanted, %s has %d", vg.ErrNoRoom, more, s.Name, room)
		}
		args := []string{"lvcreate", "-y", "-n", r.Name, "-W", "y", "-Z", "y", "-L", strconv.FormatInt(more, 10) + "b", "--type", "linear"}
		if r.Spec.Stripes > 1 {
			args = append(args[:len(args)-1], "striped", "-i", strconv.FormatInt(r.Spec.Stripes, 10))
		}
		made := vg.LV{Name: r.Name, Size: more, Tags: tags, Attr: "-wi-a-----", DataPercent: vg.Unknown, MetadataPercent: vg.Unknown, Created: e.now().Unix()}
		return &change{lv: r.Name, args: append(addTags(args, tags), g.info.Name), names: `"` + r.Name + `" created`,
			apply: func(s *vg.Group) { allocate(s, made, r.Spec.Stripes) },
			done:  func(s *vg.Group) bool { l := s.Find(r.Name); return l != nil && l.Tags.Has(tags[0]) }}, nil
	})
	if err != nil {
		return vg.LV{}, 0, err
	}
	s, _, _ = g.last()
	if have = s.Find(r.Name); have == nil {
		return vg.LV{}, 0, fmt.Errorf("volume %s vanished after it was made: %w", r.Name, ErrUnavailable)
	}
	return *have, more, nil
}

// zeroTail makes a tail read as zeroes. Nobody opens a tail; that is looked at all the same.
func (e *Engine) zeroTail(ctx context.Context, g *group, tail vg.LV) error {
	v := e.volume(g, &tail)
	if err := e.host.Exclusive(v.Device()); err != nil {
		return fmt.Errorf("zero %s: open %s alone: %w: %w", tail.Name, v.Device(), ErrInUse, err)
	}
	if err := e.erase(ctx, v, WipeZero, idTagOf(&tail)); err != nil {
		return fmt.Errorf("zero %s: %w", tail.Name, err)
	}
	return nil
}

// joinTail removes a tail that was zeroed and makes the volume larger by its extents. The
// group's turn is kept in between, so that this driver gives them to nobody else, and
// lvextend, which is told which ones to take, fails if somebody else did.
func (e *Engine) joinTail(ctx context.Context, g *group, name string, tail vg.LV) error {
	if err := g.acquire(ctx); err != nil {
		return err
	}
	defer g.release()
	s, err := e.report(ctx, g) // where the tail lies is in a report only
	if err != nil {
		return err
	}
	now, lv := s.Find(tail.Name), s.Find(name)
	idTag := idTagOf(&tail)
	if now == nil || !now.Tags.Has(idTag) || now.Size != tail.Size || lv == nil || !lv.Tags.Ours() {
		return fmt.Errorf("it or its tail %s is not what it was: %w", tail.Name, ErrRefused)
	}
	areas, to := slices.Clone(now.Areas), lv.Size+now.Size
	if len(areas) == 0 {
		return fmt.Errorf("LVM does not tell where %s lies: %w", tail.Name, ErrUnavailable)
	}
	phase, nonce := now.Tags.Intent()
	if phase != vg.Creating {
		return fmt.Errorf("its tail %s is in phase %s: %w", tail.Name, phase, ErrBusy)
	}
	if err := e.alterHeld(ctx, g, func(*vg.Group) (*change, error) {
		return &change{lv: tail.Name, args: []string{"lvremove", "-y", "-S", selection(g.info.UUID, idTag, vg.IntentTag(vg.Creating, nonce)), g.info.Name},
			names: `"` + tail.Name + `" successfully removed`,
			apply: func(s *vg.Group) { free(s, tail.Name) },
			done:  func(s *vg.Group) bool { return s.Find(tail.Name) == nil && s.Complete() == nil }}, nil
	}); err != nil {
		return err
	}
	e.wipes.set(idTag, 0)
	return e.alterHeld(ctx, g, func(s *vg.Group) (*change, error) {
		if l := s.Find(name); l == nil || l.Size != lv.Size || l.UUID != lv.UUID {
			return nil, fmt.Errorf("it is not the volume it was: %w", ErrRefused)
		}
		args := append([]string{"lvextend", "-y", "-L", strconv.FormatInt(to, 10) + "b", s.Name + "/" + name}, areas...)
		return &change{lv: name, args: args, names: s.Name + "/" + name + " successfully resized",
			apply: func(s *vg.Group) {
				l := s.Find(name)
				l.Size = to
				take(s, tail.Size/s.ExtentSize, stripes(l))
			},
			done: func(s *vg.Group) bool { l := s.Find(name); return l != nil && l.Size >= to }}, nil
	})
}

// dropTail removes the tail that an attempt to grow a volume left behind.
func (e *Engine) dropTail(ctx context.Context, g *group, name string) error {
	s, _, _ := g.last()
	if s == nil {
		return errors.New("its volume group was not read yet")
	}
	t, err := e.tail(g, s, name)
	if err != nil || t == nil {
		return err
	}
	return e.remove(ctx, g, *t)
}

// tail is the tail of a volume, or nil. What has its name and is not one by its tags is
// neither zeroed nor removed.
func (e *Engine) tail(g *group, s *vg.Group, name string) (*vg.LV, error) {
	t := s.Find(tailName(name))
	if t != nil && (!t.Tags.Ours() || e.volume(g, t).Kind() != KindTail || t.Tags.Get(vg.KeySource) != name) {
		return nil, fmt.Errorf("volume %s/%s has the name of its tail and lacks the tags (rename or remove it): %w", g.info.Name, t.Name, ErrRefused)
	}
	return t, nil
}
