package docker_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"holdfast.dev/provisioners/docker"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

// TestCountsAreRebuilt: a new process knows who holds what.
func TestCountsAreRebuilt(t *testing.T) {
	w := newWorld(t)
	w.made("db", thick())
	w.must(w.mount("db", "c1"))
	w.must(w.mount("db", "c2"))
	w.restart()
	w.driver.Finish()()
	w.must(w.unmount("db", "c1"))
	if !w.mounted("db") {
		t.Fatal("unmounted under c2")
	}
	w.restart()
	w.must(w.mount("db", "c3"))
	w.must(w.unmount("db", "c2"))
	w.must(w.unmount("db", "c2"))
	if !w.mounted("db") || !slices.Equal(w.holders("db"), []string{"c3"}) {
		t.Fatalf("mounted: %v, held by %q", w.mounted("db"), w.holders("db"))
	}
	w.must(w.unmount("db", "c3"))
	if w.mounted("db") {
		t.Error("still mounted")
	}
	if files, err := os.ReadDir(w.records()); err != nil || len(files) != 0 {
		t.Errorf("records stay: %v, %v", files, err)
	}
	w.must(w.remove("db"))
}

// TestUntoldIsDropped: the process died before it told Docker that the volume is mounted. No
// container has it, and it is not mounted for nobody.
func TestUntoldIsDropped(t *testing.T) {
	die := func(at string) func(int, string) lvmfake.Mode {
		return func(_ int, program string) lvmfake.Mode {
			if program == at {
				return lvmfake.KillAfter
			}
			return lvmfake.Honest
		}
	}
	for _, program := range []string{"mount", record} {
		w := newWorld(t)
		w.made("db", thick())
		w.made("two", thick())
		w.must(w.mount("two", "c1"))
		w.misbehave(die(program))
		if err := w.mount("db", "c1"); err == nil || !w.host.Dead() {
			t.Fatalf("%s: %v", program, err)
		}
		w.restart()
		w.misbehave(die(record))
		if err := w.mount("two", "c2"); err == nil {
			t.Fatal("mounted by a dead process")
		}
		w.restart()
		w.driver.Finish()()
		if w.mounted("db") || !w.mounted("two") {
			t.Errorf("%s: db is mounted: %v, two: %v", program, w.mounted("db"), w.mounted("two"))
		}
		w.must(w.unmount("two", "c1"))
		if files, err := os.ReadDir(w.records()); w.mounted("two") || err != nil || len(files) != 0 {
			t.Errorf("%s: two is mounted: %v, records: %v, %v", program, w.mounted("two"), files, err)
		}
	}
}

// TestLostRecord: who holds a volume is not known; it is not unmounted for one of
// them, and it is removed only when the kernel shows it to nobody.
func TestLostRecord(t *testing.T) {
	for name, spoil := range map[string]func(file string) error{
		"Gone":    os.Remove,
		"Torn":    func(f string) error { return os.WriteFile(f, []byte(`{"lv":"hfd-db","hol`), 0o600) },
		"Empty":   func(f string) error { return os.WriteFile(f, nil, 0o600) },
		"Another": func(f string) error { return os.WriteFile(f, []byte(`{"lv":"hfd-x","boot":"boot-1"}`), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.made("db", thick())
			w.must(w.mount("db", "c1"))
			w.must(w.mount("db", "c2"))
			w.must(spoil(filepath.Join(w.records(), "hfd-db.json")))
			w.restart()
			w.driver.Finish()()
			w.must(w.unmount("db", "c1"))
			w.driver.Finish()()
			if !w.mounted("db") {
				t.Fatal("unmounted under c2")
			}
			w.ns.set("/dev/hf-a/hfd-db", "process 7 (postgres) at /data")
			if err := w.remove("db"); !errors.Is(err, lvm.ErrInUse) || !strings.Contains(err.Error(), "process 7 (postgres) at /data") {
				t.Errorf("got %v", err)
			}
			w.ns.err = errors.New("proc is not there")
			w.ns.set("/dev/hf-a/hfd-db")
			if err := w.remove("db"); err == nil {
				t.Error("removed, and it is not known who has it")
			}
			if !w.mounted("db") || w.lv("db") == nil || w.lv("db").Data == "" {
				t.Fatal("it was touched")
			}
			w.ns.err = nil
			w.must(w.remove("db"))
			if w.lv("db") != nil || w.mounted("db") {
				t.Error("it stays for ever")
			}
		})
	}
}

// TestAnotherBoot: no container outlives its kernel; who held the volumes then holds
// none now.
func TestAnotherBoot(t *testing.T) {
	w := newWorld(t)
	w.made("db", thick())
	w.must(w.mount("db", "c1"))
	_, err := w.host.Run(t.Context(), 0, "umount", w.target("db"))
	w.must(err)
	w.boot = "boot-2"
	w.restart()
	w.driver.Finish()()
	if files, err := os.ReadDir(w.records()); err != nil || len(files) != 0 {
		t.Errorf("records stay: %v, %v", files, err)
	}
	w.must(w.mount("db", "c1")) // Docker's restart policy, with the ID that it knows
	w.must(w.unmount("db", "c1"))
	w.must(w.remove("db"))
}

// TestTooLateIsNotMounted: Docker does not wait any more, and starts no container; the mount
// that comes then is taken back.
func TestTooLateIsNotMounted(t *testing.T) {
	w := newWorld(t)
	w.made("db", thick())
	w.must(w.mount("db", "c1"))
	w.must(w.unmount("db", "c1"))
	w.answer = 1
	w.restart()
	w.must(w.engine.RefreshAll(t.Context()))
	if err := w.mount("db", "c1"); !errors.Is(err, lvm.ErrUnavailable) {
		t.Errorf("got %v", err)
	}
	if w.mounted("db") || len(w.holders("db")) != 0 {
		t.Errorf("mounted: %v, held by %q", w.mounted("db"), w.holders("db"))
	}
}

// TestBusyMountIsUnmountedLater: the kernel refuses while something has it open; it is tried
// again without a question.
func TestBusyMountIsUnmountedLater(t *testing.T) {
	w := newWorld(t)
	w.made("db", thick())
	w.must(w.mount("db", "c1"))
	busy := func(_ int, program string) lvmfake.Mode {
		if program == "umount" {
			return lvmfake.Fail
		}
		return lvmfake.Honest
	}
	w.misbehave(busy)
	if err := w.unmount("db", "c1"); err == nil {
		t.Error("unmounted, says the answer")
	}
	if err := w.remove("db"); err == nil || w.lv("db") == nil {
		t.Errorf("removed while it is mounted: %v", err)
	}
	w.misbehave(nil)
	w.driver.Finish()()
	if w.mounted("db") {
		t.Error("it stays mounted")
	}
	w.must(w.remove("db"))
}

// TestForeignMount: what is mounted at our place by others is neither shown nor unmounted.
func TestForeignMount(t *testing.T) {
	w := newWorld(t)
	w.made("db", thick())
	w.made("xx", thick())
	_, err := w.host.Run(t.Context(), 0, "mount", "-t", "xfs", "/dev/hf-a/hfd-xx", w.target("db"))
	w.must(err)
	for _, active := range []bool{true, false} {
		w.host.With("hf-a", func(g *lvmfake.Group) { g.LVs["hfd-db"].Active = active })
		if err := w.mount("db", "c1"); !errors.Is(err, lvm.ErrRefused) || !strings.Contains(err.Error(), "something else is mounted") {
			t.Errorf("got %v", err)
		}
		if err := w.remove("db"); err == nil || w.lv("db") == nil {
			t.Errorf("removed: %v", err)
		}
	}
	w.must(w.unmount("db", "c1"))
	if !w.mounted("db") {
		t.Error("it was unmounted")
	}
}

// TestLVMDoesNotShowIt: LVM's report of the whole group lacks a volume that is mounted.
// Who holds it stays known.
func TestLVMDoesNotShowIt(t *testing.T) {
	w := newWorld(t)
	w.made("db", thick())
	w.must(w.mount("db", "c1"))
	w.must(w.mount("db", "c2"))
	w.restart()
	w.host.With("hf-a", func(g *lvmfake.Group) { delete(g.LVs, "hfd-db") })
	if err := w.remove("db"); !errors.Is(err, lvm.ErrRefused) || !strings.Contains(err.Error(), "LVM does not show it, and it is mounted at") {
		t.Errorf("got %v", err)
	}
	w.driver.Finish()()
	w.must(w.unmount("db", "c1"))
	if !w.mounted("db") || !slices.Equal(w.holders("db"), []string{"c2"}) {
		t.Errorf("mounted: %v, held by %q", w.mounted("db"), w.holders("db"))
	}
	w.must(w.unmount("db", "c2"))
	if w.mounted("db") {
		t.Error("still mounted")
	}
}

// TestConcurrentContainers: containers come and go on volumes side by side; whoever was
// told that a volume is mounted finds it so until he gives it back.
func TestConcurrentContainers(t *testing.T) {
	w := newWorld(t, groups()...)
	w.deadlines = lvm.DefaultDeadlines()
	w.restart()
	const volumes, containers, rounds = 5, 4, 15
	var wg sync.WaitGroup
	errs := make(chan error, volumes*containers*rounds*8)
	for v := range volumes {
		name := fmt.Sprintf("vol-%d", v)
		w.made(name, thin())
		for c := range containers {
			wg.Go(func() {
				for r := range rounds {
					id := fmt.Sprintf("c%d-%d", c, r)
					errs <- w.mount(name, id)
					if r%3 == 0 {
						errs <- w.mount(name, id)
					}
					if m, _, err := w.host.At(w.target(name), ""); err != nil || m == nil {
						errs <- fmt.Errorf("%s is not mounted for %s: %w", name, id, err)
					}
					if _, err := w.get(name); err != nil {
						errs <- err
					}
					if err := w.remove(name); !errors.Is(err, lvm.ErrInUse) {
						errs <- fmt.Errorf("removed while %s holds %s: %w", id, name, err)
					}
					errs <- w.unmount(name, id)
				}
			})
		}
	}
	wg.Go(func() {
		for range rounds {
			w.driver.Finish()()
			w.list()
		}
	})
	wg.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			t.Error(err)
		}
	}
	for v := range volumes {
		name := fmt.Sprintf("vol-%d", v)
		if w.mounted(name) || w.lv(name).Formats != 1 || w.lv(name).Data != "data of "+name {
			t.Errorf("%s: mounted %v, %+v", name, w.mounted(name), *w.lv(name))
		}
		w.must(w.remove(name))
	}
}

// TestSameNameAtOnce: one volume comes of it.
func TestSameNameAtOnce(t *testing.T) {
	w := newWorld(t, groups()...)
	w.deadlines = lvm.DefaultDeadlines()
	w.restart()
	var wg sync.WaitGroup
	errs := make([]error, 10)
	for i := range errs {
		wg.Go(func() { errs[i] = w.create("db", thin()) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		t.Error(err)
	}
	if n := len(w.host.Volumes("hf-a")) + len(w.host.Volumes("hf-b")); n != 1 || w.lv("db").Formats != 1 {
		t.Errorf("%d volumes, %+v", n, *w.lv("db"))
	}
	if err := w.create("db", thick()); !errors.Is(err, lvm.ErrExists) {
		t.Errorf("the same name with other options: %v", err)
	}
}

var _ docker.Records = (*records)(nil)
