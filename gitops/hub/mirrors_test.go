package hub

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
)

// calls are what mirrors ask of git: the folder and the branch, and whether anew.
type calls struct {
	list []string
	err  error
}

func (c *calls) bring(_ context.Context, dir, branch, _ string, anew bool) error {
	call := dir + " " + branch
	if anew {
		call += " anew"
	}
	c.list = append(c.list, call)
	return c.err
}

// TestMirrorIsFetchedWhenItMustBe: when there is a new commit, and no more often.
func TestMirrorIsFetchedWhenItMustBe(t *testing.T) {
	c := &calls{}
	m := &mirrors{dir: "/d", bring: c.bring}
	update := func(commit string, fails error, want ...string) {
		t.Helper()
		c.list, c.err = nil, fails
		if err := m.update(t.Context(), "c1", commit); !errors.Is(err, fails) {
			t.Errorf("got %v, want %v", err, fails)
		}
		if !slices.Equal(c.list, want) {
			t.Errorf("%s: git did %q, want %q", commit, c.list, want)
		}
	}
	const fetch, anew = "/d/c1.git rendered/c1", "/d/c1.git rendered/c1 anew"
	full := errors.New("no space left on device")
	update("a", nil, anew) // of an earlier hub's mirror nothing is known
	update("a", nil)
	update("b", nil, fetch)
	update("c", full, fetch)
	update("c", nil, anew)
	m.doubt(t.Context(), "c1")
	update("c", nil, anew)
	update("c", nil)
}

// TestSlowMirrorDelaysNoOther: one lock was for all clusters.
func TestSlowMirrorDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := make(chan struct{})
		m := &mirrors{bring: func(_ context.Context, _, branch, _ string, _ bool) error {
			if strings.HasSuffix(branch, "slow") {
				<-slow
			}
			return nil
		}}
		done := make(chan error)
		go func() { done <- m.update(t.Context(), "slow", "a") }()
		synctest.Wait()
		if err := m.update(t.Context(), "other", "a"); err != nil { // synctest fails when it waits
			t.Error(err)
		}
		close(slow)
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// TestClientThatLeaves: what it began is done for those who wait for it; a client
// that waits may leave at once.
func TestClientThatLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun, begins := make(chan struct{}), 0
		m := &mirrors{bring: func(ctx context.Context, _, _, _ string, _ bool) error {
			begins++
			<-begun
			return ctx.Err()
		}}
		first, leave := context.WithCancel(t.Context())
		second, leaveToo := context.WithCancel(t.Context())
		left, stays := make(chan error, 1), make(chan error, 2)
		go func() { stays <- m.update(first, "c1", "a") }()
		synctest.Wait()
		go func() { left <- m.update(second, "c1", "a") }()
		go func() { stays <- m.update(t.Context(), "c1", "a") }()
		synctest.Wait()
		leave()
		leaveToo()
		if err := <-left; !errors.Is(err, context.Canceled) {
			t.Errorf("who waited and left was told %v", err)
		}
		close(begun)
		for range 2 {
			if err := <-stays; err != nil {
				t.Error(err)
			}
		}
		if begins != 1 {
			t.Errorf("git was run %d times for one commit", begins)
		}
	})
}
