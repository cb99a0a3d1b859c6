package lvm_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"testing"
	"time"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

const gib = int64(1) << 30

// groups of the tests: one on one disk, one on two, both with a thin pool.
func groups() []lvm.GroupInfo {
	return []lvm.GroupInfo{
		{Name: "hf-a", UUID: "aaaaaa-0000-0000-0000-0000-0000-000001", Pool: "db", ThinPool: "pool0", Disks: []string{"disk-a"}, Media: "ssd"},
		{Name: "hf-b", UUID: "bbbbbb-0000-0000-0000-0000-0000-000002", Pool: "db", ThinPool: "pool0", Disks: []string{"disk-b1", "disk-b2"}},
	}
}

// world is a node with a driver that can be started again.
type world struct {
	t      testing.TB
	node   string
	host   *lvmfake.Host
	infos  []lvm.GroupInfo
	q      lvm.Quarantine
	block  time.Duration // Deadlines.Block, when it is not quick's
	engine *lvm.Engine
}

func newWorld(t testing.TB, infos ...lvm.GroupInfo) *world {
	if infos == nil {
		infos = groups()[:1]
	}
	w := &world{t: t, node: "n1", infos: infos, host: lvmfake.New(1000*gib, infos...)}
	w.restart()
	return w
}

// quick deadlines: the fake hangs until they end.
func quick() lvm.Deadlines {
	const d = 5 * time.Millisecond
	return lvm.Deadlines{Report: d, Change: d, Mkfs: d, Mount: d, Wipe: d, Block: time.Minute, Patience: 10 * time.Second}
}

// restart is a new process on the same machine.
func (w *world) restart() {
	w.host.Revive()
	d := quick()
	if w.block > 0 {
		d.Block = w.block
	}
	w.engine = lvm.NewEngine(lvm.EngineOptions{
		Node: w.node, Cluster: "c1", Groups: w.infos, Host: w.host, Mounts: w.host, Deadlines: d, Log: slog.New(slog.DiscardHandler),
		Quarantine: func(context.Context) lvm.Quarantine { return w.q },
	})
}

func (w *world) spec(params map[string]string, fs string) lvm.Spec {
	w.t.Helper()
	p := map[string]string{"pool": "db"}
	for k, v := range params {
		p[k] = v
	}
	s, err := lvm.ParseSpec(p, fs)
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *world) request(name string, params map[string]string, fs string, size int64) lvm.CreateRequest {
	w.t.Helper()
	return lvm.CreateRequest{Kind: lvm.KindVolume, Name: name, Spec: w.spec(params, fs), Size: size, Owner: lvm.Owner{Claim: "ns/" + name, Class: "fast"}}
}

var (
	thin  = map[string]string{"type": "thin"}
	thick = map[string]string{"type": "linear"}
)

// must makes a volume and writes data into it.
func (w *world) must(name string, params map[string]string, fs string, size int64) lvm.Volume {
	w.t.Helper()
	v, err := w.engine.Create(w.t.Context(), w.request(name, params, fs, size))
	if err != nil {
		w.t.Fatal(err)
	}
	w.write(v, "data of "+name)
	return v
}

func (w *world) write(v lvm.Volume, data string) {
	w.host.With(v.Info.Name, func(g *lvmfake.Group) { g.LVs[v.LV.Name].Data = data })
}

// find is the machine's own view of a volume.
func (w *world) find(group, name string) *lvmfake.LV {
	for _, l := range w.host.Volumes(group) {
		if l.Name == name {
			return &l
		}
	}
	return nil
}

// retry repeats a call as CSI's callers do, and restarts the driver when it was killed.
func (w *world) retry(f func() error) error {
	var err error
	for range 6 {
		if err = f(); err == nil {
			return nil
		}
		if w.host.Dead() || errors.Is(err, lvmfake.ErrKilled) {
			w.restart()
		}
	}
	return fmt.Errorf("it does not end well after all faults are over: %w", err)
}
