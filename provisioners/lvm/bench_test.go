//go:build bench

package lvm_test

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

func figure(t *testing.T, name string, value float64, unit string) {
	_, _ = fmt.Fprintf(os.Stdout, "BENCH name=%s value=%.4g unit=%s\n", name, value, unit)
	t.Logf("%s %.4g %s", name, value, unit)
}

// timed is the fake machine, which counts the time that is spent in programs.
type timed struct {
	*lvmfake.Host
	spent time.Duration
}

func (h *timed) Run(ctx context.Context, d time.Duration, program string, args ...string) ([]byte, error) {
	start := time.Now()
	defer func() { h.spent += time.Since(start) }()
	return h.Host.Run(ctx, d, program, args...)
}

func p99(all []time.Duration) float64 {
	slices.Sort(all)
	return all[len(all)*99/100].Seconds()
}

const density = 300

// TestBench measures the driver's own share: programs are the fake's, and their time
// is taken off.
func TestBench(t *testing.T) {
	w := newWorld(t)
	h := &timed{Host: w.host}
	w.engine = lvm.NewEngine(lvm.EngineOptions{Node: "n1", Groups: w.infos, Host: h, Mounts: h, Deadlines: lvm.DefaultDeadlines(), Log: slog.New(slog.DiscardHandler),
		Quarantine: func(context.Context) lvm.Quarantine { return lvm.Quarantine{} }})
	if err := w.engine.RefreshAll(t.Context()); err != nil {
		t.Fatal(err)
	}
	commands := func() (n int) {
		for _, c := range w.host.Calls() {
			if c.Program == "lvm" {
				n++
			}
		}
		return n
	}
	commands()
	own := func(f func() error) time.Duration {
		h.spent = 0
		start := time.Now()
		if err := f(); err != nil {
			t.Fatal(err)
		}
		return time.Since(start) - h.spent
	}
	var create, publish []time.Duration
	var handles []lvm.Handle
	for i := range density {
		r := w.request(fmt.Sprint("v", i), thin, lvm.XFS, gib)
		create = append(create, own(func() error {
			v, err := w.engine.Create(t.Context(), r)
			handles = append(handles, v.Handle)
			return err
		}))
	}
	mutations := density
	dir := t.TempDir()
	for _, hd := range handles {
		publish = append(publish, own(func() error {
			return w.engine.Publish(t.Context(), lvm.PublishRequest{Handle: hd, Target: filepath.Join(dir, hd.LV)})
		}))
	}
	for i := range 50 {
		if _, err := w.engine.Expand(t.Context(), handles[i], 2*gib, 0); err != nil {
			t.Fatal(err)
		}
		snap, err := w.engine.Snapshot(t.Context(), handles[i], lvm.CreateRequest{Name: fmt.Sprint("s", i)})
		if err != nil {
			t.Fatal(err)
		}
		if err := w.engine.Delete(t.Context(), snap.Handle); err != nil {
			t.Fatal(err)
		}
		mutations += 3
	}
	figure(t, "lvm_create_overhead_seconds_p99", p99(create), "s")
	figure(t, "publish_overhead_seconds_p99", p99(publish), "s")
	figure(t, "volumes_on_node", float64(len(handles)), "volumes")
	figure(t, "lvm_commands_per_mutation", float64(commands())/float64(mutations), "commands")
	for range 2 { // a minute at the default of --refresh
		if err := w.engine.Refresh(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	figure(t, "lvm_idle_commands_per_minute", float64(commands()), "commands")
}
