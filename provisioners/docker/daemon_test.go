package docker_test

import (
	"context"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/e2e/wait"
	"holdfast.dev/provisioners/docker"
	"holdfast.dev/provisioners/lvm"
	"holdfast.dev/provisioners/lvm/lvmfake"
)

// options are those of a command line, with everything below a directory.
func options(t *testing.T, dir string, args ...string) *docker.Options {
	t.Helper()
	var o docker.Options
	fs := flag.NewFlagSet("holdfast-docker-volume", flag.ContinueOnError)
	fs.SetOutput(&strings.Builder{})
	o.BindFlags(fs)
	err := fs.Parse(append([]string{"--socket", dir + "/holdfast.sock", "--state-dir", dir + "/state", "--mount-dir", dir + "/mnt", "--metrics-address", ""}, args...))
	if err != nil {
		t.Fatal(err)
	}
	return &o
}

// started is a daemon on the machine, as a new process, and what stops it.
func started(t *testing.T, w *world, dir string) (*daemon, func()) {
	t.Helper()
	o := options(t, dir, "--default", "size=2Gi", "--refresh", "1s")
	if err := o.Validate(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- o.RunOn(ctx, w.infos, w.host, w.host, w.ns, w.boot, discard()) }()
	wait.For(t, 10*time.Second, "it listens", func() bool { _, err := os.Stat(dir + "/holdfast.sock"); return err == nil })
	st, err := os.Stat(dir + "/holdfast.sock")
	w.must(err)
	wait.For(t, 10*time.Second, "the socket is closed to others", func() bool { st, err = os.Stat(dir + "/holdfast.sock"); return err == nil && st.Mode().Perm() == 0o600 })
	return connect(t, dir+"/holdfast.sock"), func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// TestDaemon: it serves, ends what an earlier process began, leaves its socket to the next
// one, and that one knows who holds what.
func TestDaemon(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	d, stop := started(t, w, dir)
	at := `{"Mountpoint":"` + filepath.Join(dir, "mnt/hfd-db") + `"}`
	d.good("VolumeDriver.Create", `{"Name":"db"}`, `{}`)
	d.good("VolumeDriver.Mount", `{"Name":"db","ID":"c1"}`, at)
	d.good("VolumeDriver.Mount", `{"Name":"db","ID":"c2"}`, at)
	stop()
	w.misbehave(func(_ int, program string) lvmfake.Mode {
		if program == "mkfs.xfs" {
			return lvmfake.Fail
		}
		return lvmfake.Honest
	})
	if err := w.create("half", thick()); err == nil || w.lv("half") == nil {
		t.Fatalf("got %v", err)
	}
	w.misbehave(nil)
	d, stop = started(t, w, dir)
	d.good("VolumeDriver.Unmount", `{"Name":"db","ID":"c1"}`, `{}`)
	d.good("VolumeDriver.Path", `{"Name":"db"}`, at)
	d.good("VolumeDriver.Unmount", `{"Name":"db","ID":"c2"}`, `{}`)
	d.good("VolumeDriver.Path", `{"Name":"db"}`, `{"Mountpoint":""}`)
	wait.For(t, 10*time.Second, "the half made volume is gone", func() bool { return w.lv("half") == nil })
	stop()
}

// TestLateMount: the plugin is killed while mount(8) runs, the next one drops whom it was for,
// and then the mount is there. It is known from then on, and it can be removed. A group
// that hangs keeps Docker waiting for none of that.
func TestLateMount(t *testing.T) {
	t.Parallel() // it waits for what hangs
	w := newWorld(t, groups()...)
	dir := t.TempDir()
	target := filepath.Join(dir, "mnt/hfd-db")
	file := filepath.Join(dir, "state/holders/hfd-db.json")
	d, stop := started(t, w, dir)
	d.good("VolumeDriver.Create", `{"Name":"db","Opts":{"vg":"hf-a"}}`, `{}`)
	w.misbehave(func(_ int, program string) lvmfake.Mode {
		if program == "mount" {
			return lvmfake.KillBefore
		}
		return lvmfake.Honest
	})
	d.bad("VolumeDriver.Mount", `{"Name":"db","ID":"c1"}`, "killed")
	stop()
	w.restart()
	held := func() bool {
		_, body := d.ask("VolumeDriver.Get", `{"Name":"db"}`)
		return strings.Contains(body, `"holders":1`) && strings.Contains(body, `"Mountpoint":"`+target+`"`)
	}
	d, stop = started(t, w, dir)
	wait.For(t, 10*time.Second, "the record is dropped", func() bool { _, err := os.Stat(file); return errors.Is(err, fs.ErrNotExist) })
	_, err := w.host.Run(t.Context(), 0, "mount", "-t", "xfs", "/dev/hf-a/hfd-db", target)
	w.must(err)
	wait.For(t, 10*time.Second, "the mount has a record", held)
	stop()
	w.must(os.Remove(file)) // as if it had ended between the two
	w.host.Misbehave(func(c lvmfake.Call) lvmfake.Mode {
		if c.Program == "lvm" && slices.Contains(c.Args, "hf-b") {
			return lvmfake.Hang
		}
		return lvmfake.Honest
	})
	d, stop = started(t, w, dir)
	if !held() {
		t.Error("Docker is answered before it is known who holds what")
	}
	at := `{"Mountpoint":"` + target + `"}`
	d.good("VolumeDriver.Mount", `{"Name":"db","ID":"c2"}`, at)
	d.good("VolumeDriver.Unmount", `{"Name":"db","ID":"c2"}`, `{}`)
	d.good("VolumeDriver.Path", `{"Name":"db"}`, at) // whose it was is not known
	w.host.Misbehave(nil)
	d.good("VolumeDriver.Remove", `{"Name":"db"}`, `{}`)
	if m, _, err := w.host.At(target, ""); err != nil || m != nil || w.lv("db") != nil {
		t.Errorf("after its removal: mount %+v, %v, volume %+v", m, err, w.lv("db"))
	}
	stop()
}

// TestOptionsThatCannotBe are refused at the start.
func TestOptionsThatCannotBe(t *testing.T) {
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"Socket":   {[]string{"--socket", "holdfast.sock"}, "check --socket"},
		"Suffix":   {[]string{"--socket", "/run/docker/plugins/holdfast"}, "ends with .sock"},
		"MountDir": {[]string{"--mount-dir", "/x/../etc"}, "check --mount-dir"},
		"OneDir":   {[]string{"--mount-dir", "/x", "--state-dir", "/x"}, "it is the state directory"},
		"Refresh":  {[]string{"--refresh", "1ms"}, "check --refresh"},
		"Default":  {[]string{"--default", "fsType=zfs"}, `check --default: option fsType="zfs": not installed`},
		"Pair":     {[]string{"--default", "kind=linear", "--default", "overcommit=2"}, `option overcommit="2": only with kind thin`},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			o := options(t, t.TempDir(), tc.args...)
			err := o.Validate()
			if err == nil {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				err = o.RunOn(ctx, []lvm.GroupInfo{w.infos[0]}, w.host, w.host, w.ns, w.boot, discard())
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("got %v, want %q", err, tc.want)
			}
		})
	}
}
