//go:build root

package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMain(m *testing.M) {
	if err := EnterNamespace(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// TestLoop runs what the simulated disks pass on real loop devices.
func TestLoop(t *testing.T) {
	s := openTest(t, Config{})
	if s.Mode() != ModeLoop {
		t.Fatalf("mode %s", s.Mode())
	}
	testIdentity(t, s)
	testPull(t, s)
	start := time.Now()
	f := testFail(t, s)
	if f.Reads == 1 && f.Time.Sub(start) > time.Second {
		t.Errorf("the kernel's line took %s", f.Time.Sub(start))
	}
	testReplace(t, s)
	names := devices(s)
	closeTest(t, s)
	noLoops(t, s.cfg.Root)

	again := openTest(t, Config{Root: s.cfg.Root})
	testIdentity(t, again)
	closeTest(t, again)
	noLoops(t, s.cfg.Root)
	t.Logf("devices %v, record %q", names, f.Record)
}

func TestLoopIsReal(t *testing.T) {
	s := openTest(t, Config{})
	defer closeTest(t, s)
	d := s.List()[0]
	sysfs := filepath.Join(s.cfg.Root, "sys/block", d.Device)
	for name, want := range map[string]string{"size": "131072", "loop/autoclear": "1", "loop/backing_file": d.Image, d.Device + "p1/start": "2048"} {
		data, err := os.ReadFile(filepath.Join(sysfs, name))
		if got := strings.TrimSpace(string(data)); got != want || err != nil {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	entries, err := os.ReadDir(filepath.Join(s.cfg.Root, "sys/block"))
	if err != nil || len(entries) != 2 {
		t.Errorf("the node sees %d disks, %v; want its own 2", len(entries), err)
	}
	up, err := os.ReadFile(filepath.Join(s.cfg.Root, "proc/uptime"))
	if err != nil || len(up) == 0 {
		t.Errorf("uptime %q, %v", up, err)
	}
}

// TestManyAtOnce is six nodes that start together: the kernel hands the same
// free loop device to several askers.
func TestManyAtOnce(t *testing.T) {
	var wg sync.WaitGroup
	sets := make([]*Set, 6)
	start := time.Now()
	for i := range sets {
		wg.Go(func() { sets[i] = openTest(t, Config{}) })
	}
	wg.Wait()
	t.Logf("12 disks in %s", time.Since(start))
	seen := map[string]bool{}
	for _, s := range sets {
		for _, d := range s.List() {
			if seen[d.Device] || d.Device == "" {
				t.Errorf("device %q is of two disks", d.Device)
			}
			seen[d.Device] = true
		}
	}
	for _, s := range sets {
		closeTest(t, s)
		noLoops(t, s.cfg.Root)
	}
}

func TestCleanup(t *testing.T) {
	s := openTest(t, Config{})
	d := s.List()[0]
	// As if the runner had died and something held the devices.
	for _, b := range s.bays {
		if err := os.WriteFile(filepath.Join(s.cfg.Root, b.MountPoint, "x"), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if left, err := LoopsBelow(s.cfg.Root); err != nil || len(left) != 2 {
		t.Fatalf("loop devices %v, %v; want 2", left, err)
	}
	closeTest(t, s)
	if left, err := Cleanup(t.Context(), s.cfg.Root); err != nil || len(left) != 0 {
		t.Errorf("cleanup after close cleared %v, %v", left, err)
	}
	// One that nobody holds but its own setting: no autoclear without an opener's close.
	dev, err := configureLoop(t.Context(), d.Image)
	if err != nil {
		t.Fatal(err)
	}
	defer dev.whole.Close() //nolint:errcheck // cleared already
	done := make(chan error, 1)
	go func() {
		_, err := Cleanup(t.Context(), s.cfg.Root)
		done <- err
	}()
	// Cleanup has asked for it; the last close lets the kernel do it.
	deadline := time.Now().Add(5 * time.Second)
	for time.Now().Before(deadline) {
		if left, _ := LoopsBelow(s.cfg.Root); len(left) == 0 {
			break
		}
		_ = dev.whole.Close()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func devices(s *Set) []string {
	var out []string
	for _, d := range s.List() {
		out = append(out, d.Device)
	}
	return out
}

func noLoops(t *testing.T, root string) {
	t.Helper()
	if left, err := LoopsBelow(root); err != nil || len(left) != 0 {
		t.Errorf("loop devices %v are left, %v", left, err)
	}
}
