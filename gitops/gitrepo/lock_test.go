package gitrepo_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"holdfast.dev/e2e/wait"
)

const waitingHook = `#!/bin/sh
[ "$1" = prepared ] || exit 0
: > "$GIT_DIR/prepared"
until [ -e "$GIT_DIR/go" ]; do sleep 0.05; done
`

// TestChangeIsNotKilledInTheMiddle: a hub that was told to end killed the git that
// held a branch's lock. The lock stayed, and nothing was published there ever again.
func TestChangeIsNotKilledInTheMiddle(t *testing.T) {
	r := newRepo(t)
	commit := publish(t, r, "", map[string][]byte{"a": []byte("1")})
	if err := os.WriteFile(filepath.Join(r.Dir(), "hooks", "reference-transaction"), []byte(waitingHook), 0o700); err != nil {
		t.Fatal(err)
	}
	ctx, end := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.SetRef(ctx, "refs/heads/rendered/c2", commit, "") }()
	wait.For(t, time.Minute, "git to hold the lock", func() bool {
		_, err := os.Stat(filepath.Join(r.Dir(), "prepared"))
		return err == nil
	})
	end()
	if err := os.WriteFile(filepath.Join(r.Dir(), "go"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if got, err := r.Head(t.Context(), "refs/heads/rendered/c2"); got != commit {
		t.Errorf("the branch is at %q: %v", got, err)
	}
	if err := r.SetRef(ctx, "refs/heads/rendered/c3", commit, ""); !errors.Is(err, context.Canceled) {
		t.Errorf("another change was begun: %v", err)
	}
}

// TestLocksOfAPowerCut: one that no living git can have goes, on refs of the hub's
// alone; a young one may be in use.
func TestLocksOfAPowerCut(t *testing.T) {
	r := newRepo(t)
	first := publish(t, r, "", map[string][]byte{"a": []byte("1")})
	ages := map[string]time.Duration{"refs/heads/rendered/c1": time.Hour, "refs/heads/rendered/c2": time.Second, "refs/heads/main": time.Hour}
	for ref, age := range ages {
		lock := filepath.Join(r.Dir(), ref+".lock")
		if err := errors.Join(os.WriteFile(lock, nil, 0o600), os.Chtimes(lock, time.Time{}, time.Now().Add(-age))); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.SetRef(t.Context(), "refs/heads/rendered/c1", first, first); err == nil {
		t.Fatal("git does not mind the lock; the test shows nothing")
	}
	removed, err := r.RemoveLocks("heads/rendered", "holdfast")
	if want := []string{filepath.Join(r.Dir(), "refs/heads/rendered/c1.lock")}; err != nil || !slices.Equal(removed, want) {
		t.Errorf("removed %q, want %q: %v", removed, want, err)
	}
	publish(t, r, first, map[string][]byte{"a": []byte("2")})
	for _, ref := range []string{"refs/heads/rendered/c2", "refs/heads/main"} {
		if _, err := os.Stat(filepath.Join(r.Dir(), ref+".lock")); err != nil {
			t.Error(err)
		}
	}
}
