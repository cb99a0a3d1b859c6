package hub

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/rollout"
	"holdfast.dev/internal/hostexec"
)

// TestTakingTogether: clusters that take their first bundles at once are noted in one
// write of the state. Each wrote all of it: of 1,000 clusters a thousand times a thousand.
func TestTakingTogether(t *testing.T) {
	dir := t.TempDir()
	if _, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: "git", Args: []string{"init", "-q", "--bare", dir}}); err != nil {
		t.Fatal(err)
	}
	repo, err := gitrepo.Open(t.Context(), dir, os.Environ(), false)
	if err != nil {
		t.Fatal(err)
	}
	const n = 50
	h := &Hub{repo: repo, state: &stored{State: rollout.State{Clusters: map[string]rollout.Record{"absent": {Away: "d"}}}}}
	done := make(chan error)
	h.stateMu.Lock()
	for i := range n {
		name := fmt.Sprintf("c%d", i)
		h.state.Clusters[name] = rollout.Record{Away: "d", Good: "g"}
		go func() { done <- h.taking(t.Context(), name) }()
	}
	wait.For(t, time.Minute, "all to wait", func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		return len(h.takers) == n
	})
	h.stateMu.Unlock()
	for range n {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
	for name, rec := range h.state.Clusters {
		if want := map[bool]string{true: "d"}[name == "absent"]; rec.Away != want {
			t.Errorf("%s: away %q, want %q", name, rec.Away, want)
		}
	}
	written, err := filepath.Glob(filepath.Join(dir, "objects", "??", "*"))
	if err != nil || len(written) != 1 {
		t.Errorf("the state was written %d times: %v", len(written), err)
	}
	if err := h.taking(t.Context(), "c0"); err != nil {
		t.Error(err)
	}
}
