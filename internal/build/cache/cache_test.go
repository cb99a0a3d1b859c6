package cache

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// write is a build whose directory holds the file what.
func write(what string) func(context.Context, string) error {
	return func(_ context.Context, tmp string) error {
		return os.WriteFile(filepath.Join(tmp, what), nil, 0o644)
	}
}

func ensure(t *testing.T, cache, name, key string) *Entry {
	t.Helper()
	e, err := Ensure(t.Context(), cache, name, key, write(key))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(e.Dir, key)); err != nil {
		t.Error(err)
	}
	return e
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func TestEnsureBuildsOnce(t *testing.T) {
	cache := filepath.Join(t.TempDir(), "made")
	a := ensure(t, cache, "base", "1")
	if a.Took == 0 {
		t.Error("a build took no time")
	}
	b, err := Ensure(t.Context(), cache, "base", "1", func(context.Context, string) error { return errors.New("built again") })
	if err != nil || b.Took != 0 || b.Dir != a.Dir {
		t.Errorf("the second time: %+v, %v", b, err)
	}
}

func TestEnsureRemovesOldVersionsThatNobodyUses(t *testing.T) {
	cache := t.TempDir()
	used, unused := ensure(t, cache, "base", "1"), ensure(t, cache, "base", "2")
	other := ensure(t, cache, "other", "1")
	for _, e := range []*Entry{unused, other} {
		if err := e.Close(); err != nil {
			t.Fatal(err)
		}
	}
	left := filepath.Join(cache, "building-left") // by a process that was killed
	if err := os.Mkdir(left, 0o755); err != nil {
		t.Fatal(err)
	}
	ensure(t, cache, "base", "3")
	if !exists(used.Dir) || !exists(other.Dir) {
		t.Error("a directory that is used, or one of another name, is gone")
	}
	if exists(unused.Dir) || exists(left) {
		t.Error("an old directory that nobody uses, or what a killed build left, stays")
	}
}

func TestEnsureLeavesNothingOfAFailedBuild(t *testing.T) {
	cache := t.TempDir()
	old := ensure(t, cache, "base", "1")
	if err := old.Close(); err != nil {
		t.Fatal(err)
	}
	failure := errors.New("no mirror")
	if _, err := Ensure(t.Context(), cache, "base", "2", func(ctx context.Context, tmp string) error {
		return errors.Join(write("half")(ctx, tmp), failure)
	}); !errors.Is(err, failure) {
		t.Errorf("got %v", err)
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) != 1 || !exists(old.Dir) {
		t.Errorf("the cache holds %v, %v", left, err)
	}
}

func TestEnsureWaitsForItsDeadlineOnly(t *testing.T) {
	cache := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 3*lockInterval)
	defer cancel()
	_, err := Ensure(t.Context(), cache, "base", "1", func(_ context.Context, tmp string) error {
		began := time.Now()
		if _, err := Ensure(ctx, cache, "base", "2", write("2")); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("while another builds: %v", err)
		}
		if took := time.Since(began); took > 10*time.Second {
			t.Errorf("it waited %s", took)
		}
		return write("1")(t.Context(), tmp)
	})
	if err != nil {
		t.Error(err)
	}
}
