package docker_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/docker/go-plugins-helpers/volume"

	"holdfast.dev/provisioners/docker"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

const gib = int64(1) << 30

// groups of the tests: two of one pool, both with a thin pool.
func groups() []lvm.GroupInfo {
	return []lvm.GroupInfo{
		{Name: "hf-a", UUID: "aaaaaa-0000-0000-0000-0000-0000-000001", Pool: "db", ThinPool: "pool0", Disks: []string{"disk-a"}, Media: "ssd"},
		{Name: "hf-b", UUID: "bbbbbb-0000-0000-0000-0000-0000-000002", Pool: "db", ThinPool: "pool0", Disks: []string{"disk-b"}},
	}
}

// namespaces are who else has a device, by its path.
type namespaces struct {
	mu    sync.Mutex
	users map[string][]string
	err   error
}

func (n *namespaces) Users(_ context.Context, device, _ string) ([]string, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.users[device], n.err
}

func (n *namespaces) set(device string, users ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.users[device] = users
}

// world is a host with a plugin that can be started again. A step is a program that is
// run or a record that is written; faults are by the number of the step.
type world struct {
	t         testing.TB
	host      *lvmfake.Host
	infos     []lvm.GroupInfo
	dir       string
	boot      string
	ns        *namespaces
	deadlines lvm.Deadlines
	defaults  docker.Defaults
	answer    time.Duration
	closed    map[string]string

	engine *lvm.Engine
	driver *docker.Driver
	end    context.CancelFunc

	mu    sync.Mutex
	steps int
	fault func(n int, program string) lvmfake.Mode // nil is honest
	seen  func(c lvmfake.Call)                     // told of each program before it runs
}

func newWorld(t testing.TB, infos ...lvm.GroupInfo) *world {
	if infos == nil {
		infos = groups()[:1]
	}
	const d = 5 * time.Millisecond // the fake hangs until they end
	w := &world{t: t, infos: infos, host: lvmfake.New(1000*gib, infos...), dir: t.TempDir(), boot: "boot-1", ns: &namespaces{users: map[string][]string{}},
		deadlines: lvm.Deadlines{Report: d, Change: d, Mkfs: d, Mount: d, Wipe: d, Patience: 10 * time.Second}, answer: time.Minute}
	if err := os.MkdirAll(w.records(), 0o700); err != nil {
		t.Fatal(err)
	}
	w.restart()
	t.Cleanup(func() { w.end() })
	return w
}

func (w *world) records() string { return filepath.Join(w.dir, "holders") }

// target is where a volume is mounted.
func (w *world) target(name string) string {
	return filepath.Join(w.dir, "mnt", lvm.KindDocker.LV(name))
}

// restart is a new process on the same machine.
func (w *world) restart() {
	if w.end != nil {
		w.end()
	}
	w.host.Revive()
	w.misbehave(nil)
	ctx, cancel := context.WithCancel(context.Background())
	w.end = cancel
	log := slog.New(slog.DiscardHandler)
	w.engine = lvm.NewEngine(lvm.EngineOptions{Node: "h1", Groups: w.infos, Host: w.host, Mounts: w.host, Deadlines: w.deadlines, Log: log,
		Quarantine: func(context.Context) lvm.Quarantine { return lvm.Quarantine{Disks: w.closed} }})
	w.driver = docker.NewDriver(ctx, docker.Config{Engine: w.engine, Groups: w.infos, Mounts: w.host, Present: w.host.Present,
		Records: &records{Files: docker.Files{Dir: w.records()}, w: w}, Namespaces: w.ns, MountDir: filepath.Join(w.dir, "mnt"), Boot: w.boot,
		Defaults: w.defaults, Answer: w.answer, Log: log})
}

// misbehave sets the fault of each step from now on, and counts from one.
func (w *world) misbehave(f func(n int, program string) lvmfake.Mode) {
	w.mu.Lock()
	w.steps, w.fault = 0, f
	w.mu.Unlock()
	w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if w.seen != nil {
			w.seen(c)
		}
		return w.step(c.Program)
	})
}

func (w *world) step(program string) lvmfake.Mode {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.steps++
	if w.fault == nil {
		return lvmfake.Honest
	}
	return w.fault(w.steps, program)
}

func (w *world) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.steps
}

// die is the death of the process.
func (w *world) die() error {
	w.host.Misbehave(func(lvmfake.Call) lvmfake.Mode { return lvmfake.KillBefore })
	_, err := w.host.Run(context.Background(), 0, "true")
	return err
}

// records are files that the process can die at, too.
type records struct {
	docker.Files
	w *world
}

// record is the name of a step that writes a record.
const record = "record"

func (r *records) effect(f func() error) error {
	if r.w.host.Dead() {
		return lvmfake.ErrKilled
	}
	switch r.w.step(record) {
	case lvmfake.KillBefore:
		return r.w.die()
	case lvmfake.KillAfter:
		if err := f(); err != nil {
			r.w.t.Error(err)
		}
		return r.w.die()
	case lvmfake.Fail:
		return errors.New("no space left on device")
	}
	return f()
}

func (r *records) Load(lv string) (*docker.Record, error) {
	if r.w.host.Dead() {
		return nil, lvmfake.ErrKilled
	}
	return r.Files.Load(lv)
}

func (r *records) Save(rec docker.Record) error {
	return r.effect(func() error { return r.Files.Save(rec) })
}

func (r *records) Delete(lv string) error {
	return r.effect(func() error { return r.Files.Delete(lv) })
}

// What Docker calls.

func (w *world) create(name string, opts map[string]string) error {
	return w.driver.Create(&volume.CreateRequest{Name: name, Options: opts})
}

func (w *world) mount(name, id string) error {
	r, err := w.driver.Mount(&volume.MountRequest{Name: name, ID: id})
	if err == nil && r.Mountpoint != w.target(name) {
		w.t.Errorf("%s is mounted at %s", name, r.Mountpoint)
	}
	return err
}

func (w *world) unmount(name, id string) error {
	return w.driver.Unmount(&volume.UnmountRequest{Name: name, ID: id})
}

func (w *world) remove(name string) error {
	return w.driver.Remove(&volume.RemoveRequest{Name: name})
}

func (w *world) get(name string) (*volume.Volume, error) {
	r, err := w.driver.Get(&volume.GetRequest{Name: name})
	if err != nil {
		return nil, err
	}
	return r.Volume, nil
}

func (w *world) list() []string {
	w.t.Helper()
	r, err := w.driver.List()
	if err != nil {
		w.t.Fatal(err)
	}
	names := []string{}
	for _, v := range r.Volumes {
		names = append(names, v.Name)
	}
	return names
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// made makes a volume with data.
func (w *world) made(name string, opts map[string]string) {
	w.t.Helper()
	w.must(w.create(name, opts))
	for _, g := range w.infos {
		w.host.With(g.Name, func(g *lvmfake.Group) {
			if lv := g.LVs[lvm.KindDocker.LV(name)]; lv != nil {
				lv.Data = "data of " + name
			}
		})
	}
}

// mounted is the machine's own view.
func (w *world) mounted(name string) bool {
	w.t.Helper()
	m, _, err := w.host.At(w.target(name), "")
	w.must(err)
	return m != nil
}

// lv is the machine's own view of a volume, in any group.
func (w *world) lv(name string) *lvmfake.LV {
	for _, g := range w.infos {
		for _, l := range w.host.Volumes(g.Name) {
			if l.Name == lvm.KindDocker.LV(name) {
				return &l
			}
		}
	}
	return nil
}

// holders are the IDs in the record of a volume.
func (w *world) holders(name string) []string {
	w.t.Helper()
	rec, err := docker.Files{Dir: w.records()}.Load(lvm.KindDocker.LV(name))
	w.must(err)
	ids := []string{}
	if rec != nil {
		for _, h := range rec.Holders {
			ids = append(ids, h.ID)
		}
	}
	return ids
}

func thick() map[string]string { return map[string]string{"size": "5Gi"} }

func thin() map[string]string {
	return map[string]string{"size": "5Gi", "kind": "thin", "fsType": "ext4"}
}

func discard() *slog.Logger { return slog.New(slog.DiscardHandler) }

func engineQuarantine(context.Context) lvm.Quarantine { return lvm.Quarantine{} }
