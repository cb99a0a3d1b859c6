package lvm

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"holdfast.dev/provisioners/lvm/vg"
)

var setID = regexp.MustCompile(`^group-[0-9a-f]{50}$`)

// setIDOf is the id of the group snapshot of that name.
func setIDOf(name string) string {
	sum := sha256.Sum256([]byte(name))
	return "group-" + hex.EncodeToString(sum[:25])
}

// SnapshotGroup makes snapshots of several thin volumes that are of one moment, all of them
// or none. The moment is one in which nothing uses the volumes: LVM suspends one volume
// at a time, so that those in use would be of different moments. The volumes' locks are
// kept meanwhile, so that none of them is published.
//
// All are in phase creating until all are there, and only then become ready. While none is
// ready an attempt that was cut off is undone and made anew: the volumes may have been
// in use since. When one is, all were there, and the others become ready too.
func (e *Engine) SnapshotGroup(ctx context.Context, name string, sources []Handle, overcommit float64) (id string, _ []Volume, _ error) {
	sources = slices.Clone(sources)
	slices.SortFunc(sources, func(a, b Handle) int { return strings.Compare(a.String(), b.String()) })
	sources = slices.Compact(sources)
	id = setIDOf(name)
	keys := []string{id}
	for _, h := range sources {
		keys = append(keys, h.LV)
	}
	slices.Sort(keys) // volumes of several groups may have one name
	keys = slices.Compact(keys)
	unlock, err := e.lockAll(keys)
	if err != nil {
		return "", nil, err
	}
	defer unlock()
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %q", name, sources))
	nonce := hex.EncodeToString(sum[:8])
	have, err := e.Members(ctx, id)
	if err != nil {
		return "", nil, err
	}
	made, err := e.resumeGroup(ctx, name, nonce, have, len(sources))
	if err != nil {
		return "", nil, err
	}
	if !made {
		if err := e.makeGroup(ctx, CreateRequest{Kind: KindSnapshot, Name: name, Spec: Spec{Thin: true, Overcommit: overcommit}, set: id, setNonce: nonce}, sources); err != nil {
			return "", nil, fmt.Errorf("group snapshot %s: %w", name, err)
		}
		if have, err = e.Members(ctx, id); err != nil {
			return "", nil, err
		}
	}
	for _, v := range have {
		if err := e.mark(ctx, e.byUUID[v.Info.UUID], v.LV.Name, idTagOf(&v.LV), vg.Ready); err != nil {
			return "", nil, fmt.Errorf("group snapshot %s: %w", name, err)
		}
	}
	have, err = e.Members(ctx, id)
	return id, have, err
}

// resumeGroup decides about members that are there already: made says whether all were.
func (e *Engine) resumeGroup(ctx context.Context, name, nonce string, have []Volume, want int) (made bool, _ error) {
	ready, deleting := 0, false
	for _, v := range have {
		phase, n := v.LV.Tags.Intent()
		if n != nonce {
			return false, fmt.Errorf("group snapshot %s was made of other volumes: %w", name, ErrExists)
		}
		if phase == vg.Ready {
			ready++
		}
		deleting = deleting || phase == vg.Deleting
	}
	switch {
	case ready > 0 && !deleting && len(have) == want:
		return true, nil
	case ready > 0 && !deleting:
		return false, fmt.Errorf("group snapshot %s has %d snapshots of %d volumes (delete it): %w", name, len(have), want, ErrRefused)
	}
	for _, v := range have {
		if err := e.remove(ctx, e.byUUID[v.Info.UUID], v.LV); err != nil {
			return false, err
		}
	}
	return false, nil
}

// makeGroup makes the members, in phase creating. What it made it takes away again when it
// cannot make all; what it cannot take away nobody sees, and the next attempt finds.
func (e *Engine) makeGroup(ctx context.Context, r CreateRequest, sources []Handle) error {
	quiet := func() ([]Volume, error) {
		var all []Volume
		for _, h := range sources {
			g, lv, err := e.find(ctx, h)
			if err != nil {
				return nil, err
			}
			v := e.volume(g, lv)
			if v.Phase() != vg.Ready || !lv.Thin() || v.Kind() == KindSnapshot {
				return nil, fmt.Errorf("volume %s: only thin volumes that are ready have snapshots (class parameter type: thin): %w", h.LV, ErrInvalid)
			}
			if err := e.unused(ctx, v); err != nil {
				return nil, fmt.Errorf("volume %s: snapshots of volumes in use would be of different moments (stop what uses them, or take single ones): %w", h.LV, err)
			}
			all = append(all, v)
		}
		return all, nil
	}
	all, err := quiet()
	if err != nil {
		return err
	}
	var made []Volume
	for _, v := range all {
		one, h := r, v.Handle
		one.Source, one.Spec.FS = &h, v.LV.Tags.Get(vg.KeyFS)
		if one.Spec.Overcommit == 0 {
			one.Spec.Overcommit = v.LV.Overcommit()
		}
		m, err := e.copyThin(ctx, e.byUUID[h.Group], one, lvName(KindSnapshot, r.Name+"/"+h.String()), v.LV, true)
		if err != nil {
			return errors.Join(err, e.undo(ctx, made))
		}
		made = append(made, m)
	}
	if _, err := quiet(); err != nil { // somebody may have used one by other ways than this driver
		return errors.Join(err, e.undo(ctx, made))
	}
	return nil
}

func (e *Engine) undo(ctx context.Context, made []Volume) error {
	var errs []error
	for _, v := range made {
		errs = append(errs, e.remove(ctx, e.byUUID[v.Info.UUID], v.LV))
	}
	return errors.Join(errs...)
}

// Members are the snapshots of a group snapshot, in whatever phase they are. A volume group
// that cannot be read may have some.
func (e *Engine) Members(ctx context.Context, id string) ([]Volume, error) {
	all, err := e.Volumes(ctx)
	if err != nil {
		return nil, fmt.Errorf("look for group snapshot %s: %w", id, err)
	}
	return slices.DeleteFunc(all, func(v Volume) bool { return v.Kind() != KindSnapshot || v.LV.Tags.Get(vg.KeySet) != id }), nil
}

// DeleteGroup removes all snapshots of a group snapshot.
func (e *Engine) DeleteGroup(ctx context.Context, id string) error {
	unlock, err := e.lockAll([]string{id})
	if err != nil {
		return err
	}
	defer unlock()
	have, err := e.Members(ctx, id)
	if err != nil {
		return err
	}
	// All are to go before the first one goes: what is left of a group snapshot must not look
	// like one.
	for _, v := range have {
		if why := held(v.Info, e.quarantine(ctx)); why != "" {
			return fmt.Errorf("delete group snapshot %s: %s: its data are evidence and may be wanted: %w", id, why, ErrHeld)
		}
	}
	for _, v := range have {
		if err := e.mark(ctx, e.byUUID[v.Info.UUID], v.LV.Name, idTagOf(&v.LV), vg.Deleting); err != nil {
			return fmt.Errorf("delete group snapshot %s: %w", id, err)
		}
	}
	for _, v := range have {
		if err := e.Delete(ctx, v.Handle); err != nil {
			return err
		}
	}
	return nil
}

// lockAll takes several locks, or none.
func (e *Engine) lockAll(keys []string) (unlock func(), _ error) {
	var held []func()
	unlock = func() {
		for _, f := range held {
			f()
		}
	}
	for _, k := range keys {
		f, err := e.lock(k)
		if err != nil {
			unlock()
			return nil, err
		}
		held = append(held, f)
	}
	return unlock, nil
}
