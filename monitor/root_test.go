//go:build root

package monitor

import (
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/node/disk"
)

func enter() error { return disk.EnterNamespace() }

// Real loop devices, the kernel's own lines, the real /dev/kmsg.
func TestRealDisks(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	set, err := disk.Open(t.Context(), disk.Config{Root: root, Count: 2, Size: 64 << 20, StorageClass: "local-ssd", Group: "data"}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := set.Close(); err != nil {
			t.Error(err)
		}
	}()
	if set.Mode() != disk.ModeLoop {
		t.Fatalf("disks are %s", set.Mode())
	}
	a, b := set.List()[0], set.List()[1]
	h, api := &host{t: t, dir: root}, newMemory()
	o := h.options("n")
	o.ScanInterval = time.Minute // what is seen, the kernel announced
	m, stop := watch(t, h, api, o)
	api.await(t, "healthy", is(b.ID, "Healthy"))

	f, err := set.Fail(t.Context(), a.Name)
	if err != nil {
		t.Fatal(err)
	}
	failed := func(n *v1alpha1.ComputeNode) bool { return strings.HasPrefix(diskState(n, a.ID), "Failed ") }
	n := api.await(t, "failed", failed)
	t.Logf("read error to status: %s; %s", time.Since(f.Time).Round(time.Millisecond), n.Status.Summary)
	if got := diskState(n, b.ID); got != "Healthy" {
		t.Errorf("the other disk is %s", got)
	}

	// The kernel shows all its records again: none may count twice.
	count := func(m *Monitor) int64 {
		var sum int64
		if p := m.published.Load(); p != nil {
			for _, d := range p.status.Disks {
				for _, f := range d.Faults {
					sum += f.Count
				}
			}
		}
		return sum
	}
	stop()
	before := count(m)
	m, stop = watch(t, h, api, o)
	if _, err := set.ReadError(t.Context(), a.Name); err != nil {
		t.Fatal(err)
	}
	within(t, func() bool { return count(m) > before })
	if more, read := count(m)-before, m.stats.Records.Load(); more > read {
		t.Errorf("%d more faults from %d records after the restart", more, read)
	}

	if err := set.Remove(b.Name); err != nil {
		t.Fatal(err)
	}
	pulled := time.Now()
	api.await(t, "missing", is(b.ID, "Missing Missing*1"))
	t.Logf("removal to Missing: %s, of which settling %s", time.Since(pulled).Round(time.Millisecond), o.Settle)

	if err := set.Replace(t.Context(), a.Name); err != nil {
		t.Fatal(err)
	}
	api.await(t, "replaced", is(set.List()[0].ID, "Healthy"))
	api.await(t, "the old one has left", is(a.ID, "not listed"))
	stop()

	// A monitor that knows nothing reads every record since boot. Those of the
	// old disk are under the name that the new one has.
	fresh := newMemory()
	watch(t, h, fresh, o)
	n = fresh.await(t, "read", func(n *v1alpha1.ComputeNode) bool { return n.Status.KernelLog != nil })
	if got := diskState(n, set.List()[0].ID); got != "Healthy" {
		t.Errorf("the new disk, %s like the old one's %s, is %s", set.List()[0].Device, a.Device, got)
	}
}
