package lvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"

	"holdfast.dev/provisioners/lvm/vg"
)

// wipeStep is how much is wiped by one command, so that a wipe that is given up goes
// on where it was.
const wipeStep = 4 << 30

// wipes remembers how far each volume is wiped, by its id tag. It is lost with the
// process: then the wipe begins anew.
type wipes struct {
	mu   sync.Mutex
	done map[string]int64
}

func (w *wipes) get(id string) int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.done[id]
}

func (w *wipes) set(id string, n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.done == nil {
		w.done = map[string]int64{}
	}
	if w.done[id] = n; n == 0 {
		delete(w.done, id)
	}
}

// Delete removes a volume or snapshot. One that is certainly not there is deleted
// already.
func (e *Engine) Delete(ctx context.Context, h Handle) error {
	unlock, err := e.lock(h.LV)
	if err != nil {
		return err
	}
	defer unlock()
	g, lv, err := e.find(ctx, h)
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return e.remove(ctx, g, *lv)
}

// remove takes a volume away that carries our tags: the intent is on disk first,
// then what was in it is wiped, and the volume itself goes last. The caller has
// its lock.
func (e *Engine) remove(ctx context.Context, g *group, lv vg.LV) error {
	v := e.volume(g, &lv)
	if err := e.unused(ctx, v); err != nil {
		return fmt.Errorf("delete volume %s: %w", lv.Name, err)
	}
	// What was never published is nobody's data.
	if v.Phase() != vg.Creating {
		if why := held(g.info, e.quarantine(ctx)); why != "" {
			return fmt.Errorf("delete volume %s: %s: its data are evidence and may be wanted (it is deleted when the quarantine ends; a disk that is replaced takes it along): %w", lv.Name, why, ErrHeld)
		}
	}
	if err := e.dropTail(ctx, g, lv.Name); err != nil {
		return fmt.Errorf("delete volume %s: %w", lv.Name, err)
	}
	idTag := idTagOf(&lv)
	if err := e.mark(ctx, g, lv.Name, idTag, vg.Deleting); err != nil {
		return fmt.Errorf("delete volume %s: %w", lv.Name, err)
	}
	// Before it is ready nobody has written to it but mkfs, or what copies its source.
	if v.Phase() != vg.Creating || lv.Tags.Get(vg.KeySource) != "" {
		if err := e.wipe(ctx, v, idTag); err != nil {
			return fmt.Errorf("wipe volume %s: %w", lv.Name, err)
		}
	}
	err := e.alter(ctx, g, func(s *vg.Group) (*change, error) {
		now := s.Find(lv.Name)
		if now == nil {
			return nil, s.Complete()
		}
		phase, nonce := now.Tags.Intent()
		if !now.Tags.Has(idTag) || phase != vg.Deleting {
			return nil, fmt.Errorf("it is not the volume that was to be deleted: %w", ErrRefused)
		}
		return &change{
			lv:    lv.Name,
			args:  []string{"lvremove", "-y", "-S", selection(g.info.UUID, idTag, vg.IntentTag(vg.Deleting, nonce)), g.info.Name},
			names: `"` + lv.Name + `" successfully removed`,
			apply: func(s *vg.Group) { free(s, lv.Name) },
			done:  func(s *vg.Group) bool { return s.Find(lv.Name) == nil && s.Complete() == nil },
		}, nil
	})
	if err != nil {
		return fmt.Errorf("delete volume %s: %w", lv.Name, err)
	}
	e.wipes.set(idTag, 0)
	return nil
}

// free takes a volume out of what was read. On several physical volumes only the
// next report knows where the room is; it is counted where it certainly can be.
func free(s *vg.Group, name string) {
	i := slices.IndexFunc(s.LVs, func(l vg.LV) bool { return l.Name == name })
	lv := s.LVs[i]
	s.LVs = slices.Delete(s.LVs, i, i+1)
	if lv.Pool != "" {
		return
	}
	n := lv.Size / s.ExtentSize
	s.FreeExtents += n
	for i := range s.PVs {
		back := min(n, s.PVs[i].Allocated)
		s.PVs[i].Allocated -= back
		n -= back
	}
}

// unused is nil when nothing on this host has the volume mounted or open.
func (e *Engine) unused(ctx context.Context, v Volume) error {
	there, err := e.host.Present(v.Device())
	if err != nil {
		return fmt.Errorf("look at %s: %w", v.Device(), err)
	}
	if !there { // not active; should it be in use by another name, lvremove refuses
		return nil
	}
	mounts, err := e.mounts.Of(v.Device())
	if err != nil {
		return fmt.Errorf("look for mounts of %s: %w", v.Device(), err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("it is mounted at %s: %w", mounts[0].Target, ErrInUse)
	}
	if err := e.host.Exclusive(v.Device()); err != nil {
		return fmt.Errorf("open %s alone: %w: %w", v.Device(), ErrInUse, err)
	}
	return nil
}

// wipe makes the data of a volume unreadable, as its class says. blkdiscard opens the
// device exclusively, by itself.
func (e *Engine) wipe(ctx context.Context, v Volume, idTag string) error {
	how := v.LV.Tags.Get(vg.KeyWipe)
	if how == "" || how == WipeNone || v.Kind() == KindSnapshot {
		return nil
	}
	if err := e.activate(ctx, v); err != nil {
		return err
	}
	return e.erase(ctx, v, how, idTag)
}

// erase zeroes or discards a whole volume, and goes on where this process was when it
// was given up.
func (e *Engine) erase(ctx context.Context, v Volume, how, idTag string) error {
	for at := e.wipes.get(idTag); at < v.LV.Size; at += wipeStep {
		args := []string{"-o", strconv.FormatInt(at, 10), "-l", strconv.FormatInt(min(wipeStep, v.LV.Size-at), 10), v.Device()}
		if how == WipeZero {
			args = append([]string{"-z"}, args...)
		}
		if _, err := e.host.Run(ctx, e.deadlines.Wipe, "blkdiscard", args...); err != nil {
			return err
		}
		e.wipes.set(idTag, at+wipeStep)
	}
	return nil
}

// idTagOf is the tag that makes a volume of ours this one and no other.
func idTagOf(lv *vg.LV) string { return vg.Tag(vg.KeyID, lv.Tags.Get(vg.KeyID)) }
