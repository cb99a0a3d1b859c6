package docker

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/docker/go-plugins-helpers/volume"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/vg"
)

// Remove is volume.Driver's. Wiping may take longer than Docker waits: it goes on
// when this has answered with an error that says so.
func (d *Driver) Remove(r *volume.RemoveRequest) error {
	return d.call("Remove", r.Name, func(ctx context.Context) error {
		if err := checkName(r.Name); err != nil {
			return fmt.Errorf("remove volume: %w", err)
		}
		unlock, err := d.locks.lock(ctx, lvm.KindDocker.LV(r.Name))
		if err != nil {
			return fmt.Errorf("remove volume %s: %w", r.Name, err)
		}
		done := make(chan error, 1)
		go func() {
			err := d.remove(d.ctx, r.Name)
			unlock()
			if err != nil {
				err = fmt.Errorf("remove volume %s: %w", r.Name, err)
			}
			done <- err
		}()
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return fmt.Errorf("remove volume %s: wiping it takes long and goes on by itself; until it has ended, its name cannot be used again: %w", r.Name, lvm.ErrBusy)
		}
	})
}

// remove deletes a volume that nobody holds. The caller has its lock.
func (d *Driver) remove(ctx context.Context, name string) error {
	look, cancel := context.WithTimeout(ctx, glance)
	defer cancel()
	v, err := d.find(look, name)
	if errors.Is(err, lvm.ErrNotFound) {
		return d.forget(lvm.KindDocker.LV(name))
	}
	if err != nil {
		return err
	}
	if v.Phase() == vg.Ready {
		if err := d.vacate(ctx, v); err != nil {
			return err
		}
	}
	return d.Engine.Delete(ctx, v.Handle)
}

// forget drops who held a volume that LVM does not show, unless it is mounted: then one of
// the two is wrong.
func (d *Driver) forget(lv string) error {
	s, err := d.settle(lv, "")
	if err == nil && s.mounted {
		err = fmt.Errorf("LVM does not show it, and it is mounted at %s (look at lvs and findmnt): %w", d.target(lv), lvm.ErrRefused)
	}
	if err != nil {
		return err
	}
	return d.Records.Delete(lv)
}

// vacate unmounts a volume that nobody holds. Docker asks to remove only volumes that no
// container of its own refers to, running or not. A holder that this process told Docker
// of is believed more than that. One of an earlier process may be one that Docker
// never heard of, or that it forgot when it died itself; it is dropped when the
// kernel shows the volume in no mount namespace. The engine asks it once more, for the
// device, before anything is deleted.
func (d *Driver) vacate(ctx context.Context, v lvm.Volume) error {
	s, err := d.settleVolume(v)
	if err != nil {
		return err
	}
	var ids []string
	for _, h := range s.rec.Holders {
		ids = append(ids, h.ID)
		if d.toldOf(v.LV.Name, h.ID) {
			return fmt.Errorf("it is mounted for %s (stop the containers that docker ps --filter volume=%s shows; if there are none, Docker forgot one: restart holdfast-docker-volume, and remove it again): %w",
				h.ID, nameOf(v), lvm.ErrInUse)
		}
	}
	if len(ids) > 0 {
		users, err := d.Namespaces.Users(ctx, v.Device(), d.target(v.LV.Name))
		if err != nil {
			return fmt.Errorf("look who has it mounted: %w", err)
		}
		if len(users) > 0 {
			return fmt.Errorf("it is in use by %s (stop it): %w", strings.Join(users, ", "), lvm.ErrInUse)
		}
		d.Log.Info("nobody has the volume that these IDs held, they are dropped", "volume", nameOf(v), "ids", ids)
	}
	if !s.mounted && len(ids) == 0 {
		return d.Records.Delete(v.LV.Name)
	}
	s.rec.Holders = nil
	return d.release(ctx, s.rec)
}

// Finish ends what an earlier call began and did not end, as the tags and records say:
// half made volumes go, which nobody ever had; half deleted ones go on being deleted;
// what nobody holds is unmounted. A volume that a call works on is left to it. Each volume
// is worked on beside the others, for one may hang; wait waits for all of them.
func (d *Driver) Finish() (wait func()) {
	var wg sync.WaitGroup
	d.adopt()
	for _, v := range d.seen() {
		if v.Phase() == vg.Ready {
			continue
		}
		unlock, ok := d.locks.try(v.LV.Name)
		if !ok {
			continue
		}
		wg.Go(func() {
			defer unlock()
			if err := d.finish(v); err != nil && d.ctx.Err() == nil {
				d.Metrics.failed(opFinish)
				d.Log.Info("volume is not removed yet", "volume", nameOf(v), "phase", v.Phase(), "error", err)
			}
		})
	}
	lvs, err := d.Records.List()
	if err != nil {
		d.Metrics.failed(opFinish)
		d.Log.Info("records cannot be listed", "error", err)
	}
	for _, lv := range lvs {
		unlock, ok := d.locks.try(lv)
		if !ok {
			continue
		}
		wg.Go(func() {
			defer unlock()
			if err := d.tidy(lv); err != nil && d.ctx.Err() == nil {
				d.Metrics.failed(opFinish)
				d.Log.Info("volume is not unmounted yet", "lv", lv, "error", err)
			}
		})
	}
	return wg.Wait
}

// adopt gives each volume that is mounted a record. It lacks one when a mount ended after
// the process that began it, and the next one had dropped its record: nobody was told,
// and nobody would ask. Who holds it is not known; a call of Docker finds out.
func (d *Driver) adopt() {
	for _, v := range d.seen() {
		if v.Phase() != vg.Ready {
			continue
		}
		unlock, ok := d.locks.try(v.LV.Name)
		if !ok {
			continue
		}
		_, err := d.settleVolume(v)
		unlock()
		if err != nil {
			d.Metrics.failed(opFinish)
			d.Log.Info("it is not known whether the volume is mounted", "volume", nameOf(v), "error", err)
		}
	}
}

// finish removes a volume that is still in another phase than ready.
func (d *Driver) finish(v lvm.Volume) error {
	now, err := d.find(d.ctx, nameOf(v))
	if errors.Is(err, lvm.ErrNotFound) || err == nil && (now.Phase() == vg.Ready || now.Handle != v.Handle) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.Engine.Delete(d.ctx, now.Handle)
}

// tidy unmounts a volume that nobody holds.
func (d *Driver) tidy(lv string) error {
	s, err := d.settle(lv, "")
	if err != nil || len(s.rec.Holders) > 0 {
		return err
	}
	if !s.mounted {
		return d.Records.Delete(lv)
	}
	ctx, cancel := context.WithTimeout(d.ctx, d.Answer)
	defer cancel()
	return d.release(ctx, s.rec)
}
