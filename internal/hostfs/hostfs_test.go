package hostfs_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"holdfast.dev/internal/hostfs"
)

func tree(t *testing.T) (*hostfs.FS, string) {
	t.Helper()
	outside := t.TempDir()
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("s"), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, d := range []string{"sys/devices/a", "sys/block", "etc"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write := func(name, data string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("sys/devices/a/size", "42\n")
	link("../devices/a", "sys/block/a")
	link("/sys/devices/a", "sys/block/abs")
	link(filepath.Join(outside, "secret"), "etc/evil")
	link("../../../../../../../../.."+outside+"/secret", "etc/dots")
	link("loop", "etc/loop")
	f, err := hostfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f, outside
}

func TestReadStaysBelowRoot(t *testing.T) {
	f, outside := tree(t)
	cases := map[string]struct {
		reason, name, want string
		err                bool
	}{
		"Plain":    {"a plain file", "/sys/devices/a/size", "42", false},
		"Link":     {"sysfs is made of relative links", "/sys/block/a/size", "42", false},
		"Absolute": {"an absolute link is taken from the root, as after chroot", "/sys/block/abs/size", "42", false},
		"Evil":     {"a link to a file outside must not be followed", "/etc/evil", "", true},
		"DotsLink": {"nor one that climbs", "/etc/dots", "", true},
		"Dots":     {"nor a climbing name", "/../../.." + outside + "/secret", "", true},
		"Loop":     {"a link to itself ends", "/etc/loop", "", true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := f.ReadString(tc.name)
			if (err != nil) != tc.err || got != tc.want {
				t.Errorf("ReadString(%s) = %q, %v; reason: %s", tc.name, got, err, tc.reason)
			}
		})
	}
}

func TestMissingIsNotExist(t *testing.T) {
	f, _ := tree(t)
	if _, err := f.ReadFile("/sys/nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want fs.ErrNotExist", err)
	}
}
