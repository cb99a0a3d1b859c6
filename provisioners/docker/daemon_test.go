package docker_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
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

// TestDaemon: it serves, ends what an earlier process began, leaves its socket to the next
// one, and that one knows who holds what.
func TestDaemon(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	start := func() (*daemon, func()) {
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
	d, stop := start()
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
	d, stop = start()
	d.good("VolumeDriver.Unmount", `{"Name":"db","ID":"c1"}`, `{}`)
	d.good("VolumeDriver.Path", `{"Name":"db"}`, at)
	d.good("VolumeDriver.Unmount", `{"Name":"db","ID":"c2"}`, `{}`)
	d.good("VolumeDriver.Path", `{"Name":"db"}`, `{"Mountpoint":""}`)
	wait.For(t, 10*time.Second, "the half made volume is gone", func() bool { return w.lv("half") == nil })
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
