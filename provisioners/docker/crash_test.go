package docker_test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

// docker is what Docker knows: who was told that a volume is mounted, and did not hear
// yet that it is unmounted.
type dockerd struct {
	w       *world
	running map[string]map[string]bool // volume to IDs
}

func (d *dockerd) mount(name, id string) error {
	err := d.w.mount(name, id)
	if err == nil {
		if d.running[name] == nil {
			d.running[name] = map[string]bool{}
		}
		d.running[name][id] = true
	}
	return err
}

// unmount is of a container that has ended: it runs no more, whatever the answer is.
func (d *dockerd) unmount(name, id string) error {
	delete(d.running[name], id)
	return d.w.unmount(name, id)
}

// remove asks only when no container is there, as Docker does.
func (d *dockerd) remove(name string) error {
	if len(d.running[name]) > 0 {
		return nil
	}
	return d.w.remove(name)
}

// act is one call of Docker that is interrupted.
type act struct {
	name string
	do   func(d *dockerd) error
}

func acts() []act {
	return []act{
		{"create-thick", func(d *dockerd) error { return d.w.create("new", thick()) }},
		{"create-thin", func(d *dockerd) error { return d.w.create("new", thin()) }},
		{"mount-first", func(d *dockerd) error { return d.mount("idle", "a1") }},
		{"mount-second", func(d *dockerd) error { return d.mount("busy", "a1") }},
		{"mount-again", func(d *dockerd) error { return d.mount("busy", "b1") }},
		{"unmount-one", func(d *dockerd) error { return d.unmount("busy", "b2") }},
		{"unmount-last", func(d *dockerd) error { return d.unmount("once", "o1") }},
		{"remove-thick", func(d *dockerd) error { return d.remove("idle") }},
		{"remove-thin", func(d *dockerd) error { return d.remove("thin") }},
	}
}

// before is a host with a volume that nobody has, one that b1 and b2 have, one that o1 has.
func before(t *testing.T) *dockerd {
	w := newWorld(t)
	d := &dockerd{w: w, running: map[string]map[string]bool{}}
	for _, name := range []string{"idle", "busy", "once"} {
		w.made(name, thick())
	}
	w.made("thin", thin())
	for _, m := range [][2]string{{"busy", "b1"}, {"busy", "b2"}, {"once", "o1"}} {
		w.must(d.mount(m[0], m[1]))
	}
	return d
}

// watch reports unmounts under containers that run, and writes to a device that one has.
func (d *dockerd) watch(complain func(string)) {
	d.w.seen = func(c lvmfake.Call) {
		last := c.Args[max(0, len(c.Args)-1):]
		for name, ids := range d.running {
			if len(ids) == 0 || len(last) == 0 {
				continue
			}
			wiped := slices.Contains([]string{"mkfs.xfs", "mkfs.ext4", "blkdiscard"}, c.Program) && strings.HasSuffix(last[0], "/"+lvm.KindDocker.LV(name))
			if c.Program == "umount" && last[0] == d.w.target(name) || wiped {
				complain(c.Line() + " while containers run")
			}
		}
	}
}

// held says which container that runs lost its volume.
func (d *dockerd) held() string {
	for name, ids := range d.running {
		lv := d.w.lv(name)
		switch {
		case len(ids) == 0:
		case lv == nil || lv.Data != "data of "+name || lv.Formats != 1:
			return fmt.Sprintf("%s lost its data: %+v", name, lv)
		case !d.w.mounted(name):
			return name + " is not mounted, and containers run"
		}
	}
	return ""
}

var faults = []lvmfake.Mode{lvmfake.KillBefore, lvmfake.KillAfter, lvmfake.Fail, lvmfake.Empty, lvmfake.Garbage, lvmfake.Hang, lvmfake.HangAfter, lvmfake.LieNotFound}

// atStep is a fault at one step. Only LVM lies: no caller sees that mkfs or blkdiscard
// did nothing and say that they did. Of mount and umount it does.
func atStep(n int, m lvmfake.Mode) func(int, string) lvmfake.Mode {
	return func(step int, program string) lvmfake.Mode {
		lies := m == lvmfake.Garbage || m == lvmfake.LieNotFound || m == lvmfake.Empty && program != "mount" && program != "umount"
		if step != n || lies && program != "lvm" {
			return lvmfake.Honest
		}
		return m
	}
}

// endings are what happens after a call that was interrupted.
var endings = []struct {
	name           string
	repeat, reboot bool // Docker repeats the call; the plugin starts anew
}{{"repeated", true, false}, {"repeated to a new process", true, true}, {"given up", false, false}, {"given up, and a new process", false, true}}

// TestCrashMatrix interrupts each call at each program and each record, in each way.
// While that goes on, and after it, every container that Docker started has its
// volume; and when all containers have ended, everything can be removed.
func TestCrashMatrix(t *testing.T) {
	runs := 0
	for _, a := range acts() {
		d := before(t)
		d.w.restart()
		if err := a.do(d); err != nil {
			t.Fatalf("%s without any fault: %v", a.name, err)
		}
		for step := 1; step <= d.w.count(); step++ {
			for _, mode := range faults {
				for _, e := range endings {
					runs++
					if msg := interrupt(t, a, step, mode, e.repeat, e.reboot); msg != "" {
						t.Errorf("%s, step %d mode %d, %s: %s", a.name, step, mode, e.name, msg)
					}
				}
			}
		}
	}
	t.Logf("%d runs", runs)
	if runs < 1000 {
		t.Errorf("only %d runs", runs)
	}
}

func interrupt(t *testing.T, a act, step int, mode lvmfake.Mode, repeat, reboot bool) string {
	d := before(t)
	w := d.w
	w.restart()
	wrong := ""
	d.watch(func(s string) { wrong = s })
	w.misbehave(atStep(step, mode))
	err := a.do(d)
	w.misbehave(nil)
	if w.host.Dead() || reboot {
		w.restart()
	}
	if msg := d.held(); msg != "" {
		return "at once: " + msg
	}
	if err != nil && repeat {
		if err := a.do(d); err != nil {
			return fmt.Sprintf("again: %v", err)
		}
	}
	if err := w.engine.RefreshAll(t.Context()); err != nil {
		return err.Error()
	}
	w.driver.Finish()()
	if msg := d.held(); msg != "" {
		return "later: " + msg
	}
	// A half made or half deleted volume does not need a question to go.
	for _, name := range []string{"new", "idle", "busy", "once", "thin"} {
		if _, err := w.get(name); err != nil && w.lv(name) != nil {
			return fmt.Sprintf("%s stays, and Docker does not see it: %v", name, err)
		}
	}
	if msg := d.clear(); msg != "" {
		return msg
	}
	return wrong
}

// clear ends all containers and removes all volumes.
func (d *dockerd) clear() string {
	w := d.w
	for name, ids := range d.running {
		for id := range ids {
			if err := d.unmount(name, id); err != nil {
				return fmt.Sprintf("unmount of %s: %v", name, err)
			}
		}
	}
	for _, name := range []string{"new", "idle", "busy", "once", "thin"} {
		if err := d.remove(name); err != nil {
			return fmt.Sprintf("remove: %v", err)
		}
		if w.mounted(name) {
			return name + " is mounted for ever"
		}
	}
	if n := len(w.host.Volumes("hf-a")); n != 0 {
		return fmt.Sprintf("%d volumes stay", n)
	}
	var residue []string
	w.host.With("hf-a", func(g *lvmfake.Group) { residue = g.Residue })
	if len(residue) > 0 {
		return fmt.Sprintf("data is still on the disk: %q", residue)
	}
	if files, err := os.ReadDir(w.records()); err != nil || len(files) > 0 {
		return fmt.Sprintf("records stay: %v, %v", files, err)
	}
	return ""
}
