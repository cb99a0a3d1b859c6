package docker

import (
	"context"
	"errors"
	"fmt"

	"github.com/docker/go-plugins-helpers/volume"

	"holdfast.dev/provisioners/lvm"
)

// state is what is known of a volume's mount, by who holds its lock.
type state struct {
	rec     Record
	mounted bool
}

// settle reads who holds a volume and where it is mounted. Who has the volume's
// lock is alone with it: a holder that is not told of belongs to a call that ended
// in an error, or with its process, and is dropped. device is empty when the
// volume group need not be asked.
func (d *Driver) settle(lv, device string) (state, error) {
	m, same, err := d.Mounts.At(d.target(lv), device)
	if err != nil {
		return state{}, err
	}
	if m != nil && device != "" && !same {
		return state{}, fmt.Errorf("something else is mounted at %s (unmount it): %w", d.target(lv), lvm.ErrRefused)
	}
	s := state{mounted: m != nil, rec: Record{LV: lv, Boot: d.Boot}}
	rec, err := d.Records.Load(lv)
	switch {
	case err != nil && !errors.Is(err, ErrDamaged):
		return state{}, err
	case rec != nil && rec.Boot == d.Boot:
		s.rec = *rec
	case m != nil: // mounted, and nobody knows for whom
		s.rec.Holders = []Holder{{ID: lost, Told: true}}
		if err := d.Records.Save(s.rec); err != nil {
			return state{}, err
		}
	}
	var held []Holder
	for _, h := range s.rec.Holders {
		if h.Told {
			held = append(held, h)
		}
	}
	s.rec.Holders = held
	return s, nil
}

// settleVolume is settle for a volume that is known. One without a device is not
// mounted.
func (d *Driver) settleVolume(v lvm.Volume) (state, error) {
	device := v.Device()
	there, err := d.Present(device)
	if err != nil {
		return state{}, fmt.Errorf("look at %s: %w", device, err)
	}
	if !there {
		device = ""
	}
	s, err := d.settle(v.LV.Name, device)
	if err == nil && !there && s.mounted {
		err = fmt.Errorf("something else is mounted at %s, for %s is not there (unmount it): %w", d.target(v.LV.Name), v.Device(), lvm.ErrRefused)
	}
	return s, err
}

// Mount is volume.Driver's.
func (d *Driver) Mount(r *volume.MountRequest) (*volume.MountResponse, error) {
	out := &volume.MountResponse{}
	err := d.call("Mount", r.Name, func(ctx context.Context) error {
		var err error
		if out.Mountpoint, err = d.mount(ctx, r.Name, r.ID); err != nil {
			return fmt.Errorf("mount volume %s: %w", r.Name, err)
		}
		return nil
	})
	return out, err
}

func (d *Driver) mount(ctx context.Context, name, id string) (string, error) {
	if id == "" || id == lost {
		return "", fmt.Errorf("id %q: give the ID that Docker unmounts with: %w", id, lvm.ErrInvalid)
	}
	if err := checkName(name); err != nil {
		return "", err
	}
	unlock, err := d.locks.lock(ctx, lvm.KindDocker.LV(name))
	if err != nil {
		return "", err
	}
	defer unlock()
	v, err := d.ready(ctx, name)
	if err != nil {
		return "", err
	}
	s, err := d.settleVolume(v)
	if err != nil {
		return "", err
	}
	lv, before := v.LV.Name, s.rec.find(id) >= 0
	if !before { // one that is told of stays so, whatever happens now
		s.rec.Holders = append(s.rec.Holders, Holder{ID: id})
		if err := d.Records.Save(s.rec); err != nil {
			return "", err
		}
	}
	err = d.publish(ctx, v)
	if err == nil && !before {
		s.rec.Holders[s.rec.find(id)].Told = true
		err = d.Records.Save(s.rec)
	}
	if err != nil {
		if !before {
			s.rec.drop(id)
			if undo := d.release(context.WithoutCancel(ctx), s.rec); undo != nil {
				d.Log.Info("mount is not undone yet", "volume", name, "error", undo)
			}
		}
		return "", err
	}
	d.tell(lv, id)
	return d.target(lv), nil
}

// publish mounts a volume and looks whether it is so. An answer that comes when Docker
// waits no longer is none.
func (d *Driver) publish(ctx context.Context, v lvm.Volume) error {
	target := d.target(v.LV.Name)
	if err := d.Engine.Publish(ctx, lvm.PublishRequest{Handle: v.Handle, Target: target}); err != nil {
		return err
	}
	m, same, err := d.Mounts.At(target, v.Device())
	switch {
	case err != nil:
		return err
	case m == nil || !same:
		return fmt.Errorf("mount ended well, and nothing is mounted at %s: %w", target, lvm.ErrUnavailable)
	case ctx.Err() != nil:
		return fmt.Errorf("it took too long: %w: %w", lvm.ErrUnavailable, ctx.Err())
	}
	return nil
}

// release writes who holds a volume still. When that is nobody, the volume is unmounted
// and then has no record.
func (d *Driver) release(ctx context.Context, rec Record) error {
	if err := d.Records.Save(rec); err != nil {
		return err
	}
	if len(rec.Holders) > 0 {
		return nil
	}
	// It needs no group: that a group hangs is no reason to keep its mount.
	if err := d.Engine.Unpublish(ctx, rec.LV, d.target(rec.LV)); err != nil {
		return err
	}
	return d.Records.Delete(rec.LV)
}

// Unmount is volume.Driver's. An ID that does not hold the volume is no error: Docker
// repeats what it heard no answer to.
func (d *Driver) Unmount(r *volume.UnmountRequest) error {
	return d.call("Unmount", r.Name, func(ctx context.Context) error {
		if err := d.unmount(ctx, r.Name, r.ID); err != nil {
			return fmt.Errorf("unmount volume %s: %w", r.Name, err)
		}
		return nil
	})
}

func (d *Driver) unmount(ctx context.Context, name, id string) error {
	if err := checkName(name); err != nil {
		return err
	}
	if id == lost {
		return fmt.Errorf("id %q is none of Docker's: %w", id, lvm.ErrInvalid)
	}
	lv := lvm.KindDocker.LV(name)
	unlock, err := d.locks.lock(ctx, lv)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := d.settle(lv, "")
	if err != nil {
		return err
	}
	s.rec.drop(id)
	d.untell(lv, id)
	if !s.mounted && len(s.rec.Holders) == 0 {
		return d.Records.Delete(lv)
	}
	return d.release(ctx, s.rec)
}

// tell notes that this process told Docker of a holder.
func (d *Driver) tell(lv, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.told[lv] == nil {
		d.told[lv] = map[string]bool{}
	}
	d.told[lv][id] = true
}

func (d *Driver) untell(lv, id string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.told[lv], id)
	if len(d.told[lv]) == 0 {
		delete(d.told, lv)
	}
}

// toldOf says whether this process told Docker of a holder.
func (d *Driver) toldOf(lv, id string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.told[lv][id]
}
