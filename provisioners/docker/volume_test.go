package docker_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"holdfast.dev/e2e/wait"
	"holdfast.dev/provisioners/docker"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
	"holdfast.dev/provisioners/lvm/vg"
)

// lvm3 is a group of another pool.
func lvm3() lvm.GroupInfo {
	return lvm.GroupInfo{Name: "hf-c", UUID: "cccccc-0000-0000-0000-0000-0000-000003", Pool: "log", Disks: []string{"disk-c"}}
}

// TestDefaults: what is not given comes from the plugin's flags, but not what only
// went with another option.
func TestDefaults(t *testing.T) {
	w := newWorld(t, append(groups(), lvm3())...)
	w.defaults = docker.Defaults{}
	for _, s := range []string{"size=7Gi", "pool=db", "kind=thin", "overcommit=2", "fsType=ext4", "mkfsOptions=-m 1"} {
		w.must(w.defaults.Set(s))
	}
	if err := w.defaults.Set("tpye=thin"); err == nil || !strings.Contains(err.Error(), "fsType, kind") {
		t.Errorf("an unknown default: %v", err)
	}
	w.restart()
	w.must(w.create("plain", nil))
	if l := w.lv("plain"); l.Size != 7*gib || l.Pool == "" || l.FS != lvm.Ext4 {
		t.Errorf("by defaults it is %+v", *l)
	}
	w.must(w.create("other", map[string]string{"kind": "linear", "fsType": "xfs", "size": "1Gi", "vg": "hf-c"}))
	if l := w.lv("other"); l.Size != gib || l.Pool != "" || l.FS != lvm.XFS {
		t.Errorf("with options it is %+v", *l)
	}
	if n := len(w.host.Volumes("hf-c")); n != 1 {
		t.Errorf("the volume group that was named has %d volumes", n)
	}
}

// TestMkfsOptionsReachMkfs as they were given.
func TestMkfsOptionsReachMkfs(t *testing.T) {
	w := newWorld(t)
	w.must(w.create("db", map[string]string{"size": "1Gi", "mkfsOptions": "-m reflink=0 -i size=512"}))
	for _, c := range w.host.Calls() {
		if c.Program == "mkfs.xfs" {
			if want := "mkfs.xfs -q -K -m reflink=0 -i size=512 /dev/hf-a/hfd-db"; c.Line() != want {
				t.Errorf("got %s, want %s", c.Line(), want)
			}
			return
		}
	}
	t.Error("mkfs did not run")
}

// TestOnlyTagsAreNeeded: everything but the disks is lost; volumes are there again with
// what they are.
func TestOnlyTagsAreNeeded(t *testing.T) {
	w := newWorld(t, groups()...)
	w.made("pg", thick())
	w.made("Big.Name_1", thin())
	w.must(w.engine.RefreshAll(t.Context())) // LVM's own time of creation
	before := map[string]string{}
	for _, name := range w.list() {
		v, err := w.get(name)
		w.must(err)
		before[name] = v.CreatedAt + v.Status["kind"].(string) + v.Status["fsType"].(string) + v.Status["vg"].(string)
	}
	w.dir = t.TempDir() // neither records nor mount points
	w.restart()
	if got := strings.Join(w.list(), " "); got != "Big.Name_1 pg" {
		t.Errorf("got %q", got)
	}
	for name, want := range before {
		v, err := w.get(name)
		w.must(err)
		if got := v.CreatedAt + v.Status["kind"].(string) + v.Status["fsType"].(string) + v.Status["vg"].(string); got != want {
			t.Errorf("%s: got %s, want %s", name, got, want)
		}
	}
}

// TestHalfMadeIsNone: Docker takes what Get answers for a volume that it need not
// create; the next Create makes it anew, and nobody has to ask for that.
func TestHalfMadeIsNone(t *testing.T) {
	for _, again := range []bool{true, false} {
		w := newWorld(t)
		w.misbehave(func(_ int, program string) lvmfake.Mode {
			if program == "mkfs.xfs" {
				return lvmfake.Fail
			}
			return lvmfake.Honest
		})
		if err := w.create("db", thick()); err == nil {
			t.Fatal("it was made without a file system")
		}
		w.misbehave(nil)
		if phase, _ := vg.Tags(w.lv("db").Tags).Intent(); phase != vg.Creating {
			t.Fatalf("it is in phase %s", phase)
		}
		if _, err := w.get("db"); !errors.Is(err, lvm.ErrNotFound) || !strings.Contains(err.Error(), "half made; create it again") {
			t.Errorf("get: %v", err)
		}
		if err := w.mount("db", "c1"); err == nil {
			t.Error("it was mounted")
		}
		if n := w.list(); len(n) != 0 {
			t.Errorf("listed are %q", n)
		}
		if again {
			w.must(w.create("db", thick()))
			if l := w.lv("db"); l.FS != lvm.XFS || l.Formats != 1 {
				t.Errorf("it is %+v", *l)
			}
			continue
		}
		w.driver.Finish()()
		if w.lv("db") != nil {
			t.Error("it stays for ever")
		}
	}
}

// TestWipingTakesLong: the answer comes in time and says so, and the wipe goes on.
func TestWipingTakesLong(t *testing.T) {
	w := newWorld(t)
	w.made("db", thick())
	w.answer = 1 // it takes longer than that
	gate := make(chan struct{})
	w.restart()
	w.seen = func(c lvmfake.Call) {
		if c.Program == "blkdiscard" {
			<-gate
		}
	}
	if err := w.remove("db"); !errors.Is(err, lvm.ErrBusy) || !strings.Contains(err.Error(), "goes on by itself") {
		t.Errorf("got %v", err)
	}
	close(gate)
	wait.For(t, 10*time.Second, "the volume is gone", func() bool { return w.lv("db") == nil })
}

// TestNotOnClosedDisks: a disk that the administrator closed takes nothing new.
func TestNotOnClosedDisks(t *testing.T) {
	w := newWorld(t, groups()...)
	w.closed = map[string]string{"disk-a": "named by --closed-disks"}
	w.must(w.create("x1", thick()))
	if len(w.host.Volumes("hf-a")) != 0 {
		t.Error("it is on the closed disk")
	}
	if err := w.create("x2", map[string]string{"size": "1Gi", "vg": "hf-a"}); err == nil || !strings.Contains(err.Error(), "disk disk-a is quarantined: named by --closed-disks") {
		t.Errorf("got %v", err)
	}
}

// TestAloneInItsDirectory: a second process would unmount what the first one holds.
func TestAloneInItsDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "state")
	free, err := docker.Alone(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := docker.Alone(dir); err == nil || !strings.Contains(err.Error(), "another holdfast-docker-volume runs") {
		t.Errorf("got %v", err)
	}
	free()
	if free, err = docker.Alone(dir); err != nil {
		t.Fatal(err)
	}
	free()
}

func TestMetricsAreWellFormed(t *testing.T) {
	reg := prometheus.NewRegistry()
	docker.NewMetrics(reg)
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
}
