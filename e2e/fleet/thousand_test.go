package fleet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"
	"time"

	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/hub"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/trust"
)

// stagedRings are 20, 30 and 50 of a hundred clusters, one after the other, each
// ring at once.
func stagedRings(n int) string {
	return fmt.Sprintf("- {name: first, select: {stage: first}, maxUnavailable: %d}\n- {name: second, select: {stage: second}, maxUnavailable: %d}\n- {name: last, select: {stage: last}, maxUnavailable: %d}\n",
		max(1, n/5), max(1, n/2-n/5), n-n/2)
}

// newSimulated makes a fleet of n simulated clusters with a hub in this process.
func newSimulated(t *testing.T, n int) (*Fleet, *simulated, []string) {
	t.Helper()
	dir := t.TempDir()
	f := &Fleet{o: Options{Dir: dir}, Repo: filepath.Join(dir, "fleet.git"), Work: filepath.Join(dir, "fleet"), Credential: filepath.Join(dir, "admin.pem")}
	if err := f.git(t.Context(), dir, "init", "-q", "--bare", "--initial-branch=main", f.Repo); err != nil {
		t.Fatal(err)
	}
	h, err := hub.New(t.Context(), hub.Options{Repo: f.Repo, Branch: "main", DataDir: f.hubDir(), Listen: "127.0.0.1:0"}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.HubURL = "https://" + l.Addr().String()
	f.agentURL = f.HubURL
	done := make(chan error, 2)
	go func() { done <- h.Serve(ctx, l) }()
	go func() { done <- h.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		for range 2 {
			if err := <-done; err != nil && !errors.Is(err, http.ErrServerClosed) {
				t.Error(err)
			}
		}
	})
	if err := writeAdmin(f); err != nil {
		t.Fatal(err)
	}
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("c%d", i))
	}
	clients, err := joined(f, names)
	if err != nil {
		t.Fatal(err)
	}
	return f, simulate(ctx, f.HubURL, 200*time.Millisecond, clients), names
}

// writeAdmin is "holdfast join --admin".
func writeAdmin(f *Fleet) error {
	store, err := trust.Open(f.hubDir(), time.Now)
	if err != nil {
		return err
	}
	roots, err := store.Roots()
	if err != nil {
		return err
	}
	cred, err := store.Credential(trust.Identity{Kind: trust.Admin, Name: "admin"}, roots)
	if err != nil {
		return err
	}
	return os.WriteFile(f.Credential, cred.Bytes(), 0o600)
}

// TestSimulatedClusters rolls changes over many clusters in three rings, 1,000 with
// HOLDFAST_SIMULATED=1000: a good one that no ring receives before its gate, with
// some clusters silent, who delay nobody and catch up; and one that makes a cluster
// of the first ring sick, which goes no further, and is taken back by a revert.
func TestSimulatedClusters(t *testing.T) {
	n := 100
	if text := os.Getenv("HOLDFAST_SIMULATED"); text != "" {
		var err error
		if n, err = strconv.Atoi(text); err != nil || n < 20 {
			t.Fatalf("HOLDFAST_SIMULATED=%s is not a number of clusters, of at least 20", text)
		}
	}
	limit := time.Minute + time.Duration(n)*time.Second/2
	f, sim, names := newSimulated(t, n)
	ring := func(i int) int {
		switch {
		case i < n/5:
			return 0
		case i < n/2:
			return 1
		}
		return 2
	}
	push := func(message string) (digest string) {
		t.Helper()
		commit, err := f.Commit(t.Context(), message)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Push(t.Context()); err != nil {
			t.Fatal(err)
		}
		await(t, f, limit, "the hub's acceptance", func(st protocol.Status) bool {
			digest = ClusterOf(st, names[0]).Want
			return st.Commit == commit
		})
		return digest
	}
	all := func(digest string, count int) {
		t.Helper()
		_, err := wait.Until(t.Context(), limit, fmt.Sprintf("%d clusters at %.12s", count, digest), func() (bool, error) {
			return len(sim.times(sim.landed, digest)) >= count, sim.err()
		})
		if err != nil {
			t.Fatal(err)
		}
	}

	if err := writeFleet(t.Context(), f, names, stagedRings(n), map[string]int{"settings": 2}); err != nil {
		t.Fatal(err)
	}
	first := push("the fleet")
	all(first, n)

	// Every twentieth of the last ring is away.
	away := map[string]bool{}
	for i := n / 2; i < n; i += 20 {
		away[names[i]] = true
	}
	sim.set(func() { sim.silent = away })
	if err := f.Edit(settingsFile, "value: v0", "value: v1"); err != nil {
		t.Fatal(err)
	}
	second := push("a good change")
	all(second, n-len(away))
	ends, begins := [3]time.Time{}, [3]time.Time{}
	landed, taken := sim.times(sim.landed, second), sim.times(sim.taken, second)
	for i, name := range names {
		k := ring(i)
		ends[k] = later(ends[k], landed[name])
		if at := taken[name]; !at.IsZero() && (begins[k].IsZero() || at.Before(begins[k])) {
			begins[k] = at
		}
	}
	// A report is noted here when the hub has answered it, a little late.
	const slack = 500 * time.Millisecond
	for k := 1; k < 3; k++ {
		if begins[k].Before(ends[k-1].Add(-slack)) {
			t.Errorf("ring %d began at %s, before the ring ahead of it was done at %s", k, begins[k].Format(time.StampMilli), ends[k-1].Format(time.StampMilli))
		}
	}
	sim.set(func() { sim.silent = map[string]bool{} })
	all(second, n)

	sim.set(func() {
		sim.sick = func(cluster, digest string) bool { return cluster == names[0] && digest != first && digest != second }
	})
	if err := f.Edit(settingsFile, "value: v1", "value: v2"); err != nil {
		t.Fatal(err)
	}
	third := push("a bad change")
	await(t, f, limit, "the halt", func(st protocol.Status) bool { return len(st.Rings) == 3 && st.Rings[0].Phase == "Halted" })
	if _, err := f.Revert(t.Context(), "HEAD"); err != nil {
		t.Fatal(err)
	}
	sim.set(func() { clear(sim.landed[second]) })
	back, err := f.head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Push(t.Context()); err != nil {
		t.Fatal(err)
	}
	st := await(t, f, limit, "everyone at the digest before", func(st protocol.Status) bool {
		return st.Commit == back && !slices.ContainsFunc(st.Clusters, func(c protocol.ClusterStatus) bool {
			return c.Published != second || c.Report == nil || c.Report.Digest != second
		})
	})
	for _, name := range slices.Sorted(maps.Keys(sim.times(sim.taken, third))) {
		if ClusterOf(st, name).Ring != "first" {
			t.Errorf("%s received the change that made %s sick", name, names[0])
		}
	}
	if err := sim.err(); err != nil {
		t.Error(err)
	}
	sim.set(func() { t.Logf("%d clusters made %d requests again", n, sim.again) })
}

const settingsFile = "salt/pillar/common.sls"

func await(t *testing.T, f *Fleet, limit time.Duration, what string, ok func(protocol.Status) bool) protocol.Status {
	t.Helper()
	var st protocol.Status
	if _, err := wait.Until(t.Context(), limit, what, func() (bool, error) {
		var err error
		if st, err = f.Status(t.Context()); err != nil {
			return false, err
		}
		return ok(st), nil
	}); err != nil {
		t.Fatalf("%v\nrings: %+v\nrefused: %v", err, st.Rings, st.Errors)
	}
	return st
}
