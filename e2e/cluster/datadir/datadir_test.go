package datadir

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// abandon lets go of a directory as a process does that is killed.
func (d *Dir) abandon(t *testing.T) {
	t.Helper()
	if err := d.lock.Close(); err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, parent, prefix string) (*Dir, []string) {
	t.Helper()
	d, removed, err := Create(t.Context(), parent, prefix)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.lock.Close() })
	return d, removed
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func TestCreateRemovesWhatNobodyHolds(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "made", "by", "us")
	held, _ := create(t, parent, "held")
	dead, _ := create(t, parent, "dead")
	if err := os.MkdirAll(filepath.Join(dead.Path(), "etcd", "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	dead.abandon(t)
	_, removed := create(t, parent, "next")
	if d := cmp.Diff([]string{dead.Path()}, removed); d != "" {
		t.Errorf("removed (-want +got):\n%s", d)
	}
	if exists(dead.Path()) {
		t.Error("the directory of a dead holder is still there")
	}
	if !exists(filepath.Join(held.Path(), Marker)) {
		t.Error("the directory of a live holder is damaged")
	}
}

func TestForeignDirectoriesStay(t *testing.T) {
	outside := t.TempDir()
	marked := filepath.Join(outside, "marked")
	for path, content := range map[string]string{
		filepath.Join(outside, "precious"): "x",
		filepath.Join(marked, Marker):      magic,
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, tc := range map[string]struct {
		reason string
		make   func(path string) error
	}{
		"Unmarked": {"no marker, not ours", func(path string) error { return os.Mkdir(path, 0o700) }},
		"OtherContent": {"a file of that name is not enough", func(path string) error {
			if err := os.Mkdir(path, 0o700); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(path, Marker), []byte(strings.Repeat("x", 2*len(magic))), 0o600)
		}},
		"EmptyMarker": {"the marker's text counts", func(path string) error {
			if err := os.Mkdir(path, 0o700); err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(path, Marker), nil, 0o600)
		}},
		"MarkerLink": {"a link to a marker elsewhere is not the marker", func(path string) error {
			if err := os.Mkdir(path, 0o700); err != nil {
				return err
			}
			return os.Symlink(filepath.Join(marked, Marker), filepath.Join(path, Marker))
		}},
		"DirectoryLink": {"a link is not followed out of the parent", func(path string) error { return os.Symlink(marked, path) }},
		"File":          {"a file is no directory", func(path string) error { return os.WriteFile(path, []byte(magic), 0o600) }},
	} {
		t.Run(name, func(t *testing.T) {
			parent := t.TempDir()
			path := filepath.Join(parent, "holdfast-1")
			if err := tc.make(path); err != nil {
				t.Fatal(err)
			}
			_, removed := create(t, parent, "holdfast")
			if len(removed) > 0 || !exists(path) {
				t.Errorf("%s: removed %s", tc.reason, removed)
			}
			if !exists(filepath.Join(marked, Marker)) || !exists(filepath.Join(outside, "precious")) {
				t.Errorf("%s: something outside of the parent was removed", tc.reason)
			}
		})
	}
}

func TestRemove(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "parent")
	one, _ := create(t, parent, "one")
	two, _ := create(t, parent, "two")
	if err := one.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exists(one.Path()) || !exists(two.Path()) {
		t.Error("one was to be removed, and two to stay")
	}
	if err := two.Remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if exists(parent) {
		t.Error("the empty parent is left")
	}
}

func TestKeptDirectoryStays(t *testing.T) {
	parent := t.TempDir()
	d, _ := create(t, parent, "kept")
	if err := d.Keep(); err != nil {
		t.Fatal(err)
	}
	if _, removed := create(t, parent, "next"); len(removed) > 0 || !exists(d.Path()) {
		t.Errorf("a directory that is to be kept was removed: %s", removed)
	}
}

// A parent comes and goes with its last cluster; many at once must neither
// lose a directory nor fail because another one removed the parent.
func TestManyAtOnce(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "parent")
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 25 {
				d, removed, err := Create(ctx, parent, "many")
				if err != nil {
					t.Error(err)
					return
				}
				if len(removed) > 0 {
					t.Errorf("removed %s, which was held", removed)
				}
				if !exists(filepath.Join(d.Path(), Marker)) {
					t.Error("the new directory has no marker")
				}
				if err := d.Remove(ctx); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if exists(parent) {
		t.Error("the empty parent is left")
	}
}

func TestLockHasADeadline(t *testing.T) {
	parent := t.TempDir()
	unlock, err := lockParent(t.Context(), parent)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, _, err := Create(ctx, parent, "late"); err == nil || !strings.Contains(err.Error(), parent) {
		t.Errorf("got %v, want an error that names %s", err, parent)
	}
}

func TestRemoveStaleWithoutParent(t *testing.T) {
	parent := filepath.Join(t.TempDir(), "none")
	removed, err := RemoveStale(t.Context(), parent)
	if err != nil || len(removed) > 0 || exists(parent) {
		t.Errorf("got %s, %v; the parent must not be made", removed, err)
	}
}
