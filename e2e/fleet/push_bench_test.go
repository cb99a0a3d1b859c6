//go:build bench

package fleet

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"holdfast.dev/e2e/wait"
	"holdfast.dev/gitops/protocol"
)

// gatesOff is one ring that receives a change at once.
func gatesOff(n int) string {
	return fmt.Sprintf("- {name: all, select: {az: az1}, maxUnavailable: %d}\n", n)
}

// pushes times n changes of one pillar value, from the begin of the push to the
// moment when the last cluster has applied it.
func (r *rig) pushes(n, from int) []float64 {
	r.t.Helper()
	var out []float64
	for i := from; i < from+n; i++ {
		r.edit(settingsFile, fmt.Sprintf("value: v%d}", i), fmt.Sprintf("value: v%d}", i+1))
		commit, start := r.commit(fmt.Sprintf("value %d", i+1))
		out = append(out, r.landed(commit, start))
	}
	return out
}

// clustersThatFit is how many of want control planes the memory carries: one is
// 400 MiB when it starts, and grows.
func clustersThatFit(t *testing.T, want int) int {
	t.Helper()
	if text := os.Getenv("HOLDFAST_BENCH_CLUSTERS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 2 {
			t.Fatalf("HOLDFAST_BENCH_CLUSTERS=%s is not a number of clusters, of at least 2", text)
		}
		return n
	}
	if short() {
		return 3
	}
	const each, reserve = 550, 3 << 10
	return max(2, min(want, (memoryMiB(t, "MemAvailable")-reserve)/each))
}

// TestBenchPush measures real clusters: one, then as many as fit up to 25.
func TestBenchPush(t *testing.T) {
	noteLoad(t, "before the pushes")
	t.Run("One", func(t *testing.T) {
		r := newRig(t, 1)
		r.begin(r.names(), gatesOff(1), map[string]int{"settings": 10})
		r.startAgents()
		commit, start := r.commit("the fleet")
		r.landed(commit, start)
		benchPercentile("push_applied_1_seconds_p95", 95, r.pushes(samples(30, 3), 0), "s")
	})
	t.Run("Many", func(t *testing.T) {
		n := clustersThatFit(t, 25)
		r := newRig(t, n)
		if n != 25 {
			note("%d clusters run where 25 are meant: the names of the figures say so (%d MiB of memory left)", n, memoryMiB(t, "MemAvailable"))
		}
		r.begin(r.names(), gatesOff(n), map[string]int{"settings": 10})
		r.startAgents()
		commit, start := r.commit("the fleet")
		note("%d clusters: the first bundle was everywhere after %.1f s", n, r.landed(commit, start))
		count := samples(20, 2)
		benchPercentile(fmt.Sprintf("push_applied_%d_seconds_p95", n), 95, r.pushes(count, 0), "s")
		r.rollbacks(samples(10, 2), count, n)
		r.halts(samples(10, 2), count, n)
	})
	noteLoad(t, "after the pushes")
}

// rollbacks times git revert and push, until every cluster has the digest before.
func (r *rig) rollbacks(n, from, clusters int) {
	r.t.Helper()
	var out []float64
	for range n {
		r.edit(settingsFile, fmt.Sprintf("value: v%d}", from), fmt.Sprintf("value: v%d}", from+1))
		commit, start := r.commit("to be taken back")
		r.landed(commit, start)
		back, err := r.fleet.Revert(r.t.Context(), "HEAD")
		if err != nil {
			r.t.Fatal(err)
		}
		out = append(out, r.landed(back, r.push()))
	}
	note("rollback of %d real clusters, gates off", clusters)
	benchPercentile("rollback_seconds_p95", 95, out, "s")
}

// halts times a push that the canary's API server refuses, until the hub says that
// the rollout stops there; no other cluster may receive it.
func (r *rig) halts(n, from, clusters int) {
	r.t.Helper()
	r.edit("fleet.yaml", "name: c0, az: az1", "name: c0, az: canary")
	r.edit("fleet.yaml", gatesOff(clusters), "- {name: canary, select: {az: canary}}\n"+gatesOff(clusters))
	commit, start := r.commit("a canary")
	r.landed(commit, start)
	var out []float64
	version := 0
	bump := func() {
		r.edit("addons/settings/addon.yaml", fmt.Sprintf("version: 0.1.%d\n", version), fmt.Sprintf("version: 0.1.%d\n", version+1))
		version++
	}
	for range n {
		const template, subject = "salt/states/settings/files/objects.yaml.jinja", `{kind: ServiceAccount, name: "settings-{{ i }}", namespace: default}`
		nobody := `{kind: ServiceAccount, name: "", namespace: default}` // no API server takes it
		r.edit(template, subject, nobody)
		bump()
		before, err := r.fleet.Status(r.t.Context())
		if err != nil {
			r.t.Fatal(err)
		}
		commit, start := r.commit("a change that the API server refuses")
		if _, err := wait.Until(r.t.Context(), landTimeout, "the halt", func() (bool, error) {
			st, err := r.fleet.Status(r.t.Context())
			if err != nil || st.Commit != commit {
				return false, err
			}
			for _, s := range r.sites[1:] {
				if ClusterOf(st, s.name).Revision != ClusterOf(before, s.name).Revision {
					return false, fmt.Errorf("the sick change reached %s", s.name)
				}
			}
			return st.Rings[0].Phase == "Held", nil // before anything of it was published
		}); err != nil {
			r.t.Fatal(err)
		}
		out = append(out, time.Since(start).Seconds())
		r.edit(template, nobody, subject)
		bump()
		cure, start := r.commit("the cure")
		r.landed(cure, start)
	}
	benchPercentile("canary_halt_seconds_p95", 95, out, "s")
}

// TestBenchStaged is a hundred simulated clusters in rings of 20, 30 and 50, the
// hub's own program ahead of them. A cluster takes up to a second to apply.
func TestBenchStaged(t *testing.T) {
	noteLoad(t, "before the staged rollouts")
	const n = 100
	r := &rig{t: t, dir: t.TempDir()}
	r.startHub()
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("c%d", i))
	}
	clients, err := joined(r.fleet, names)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	sim := simulate(ctx, r.fleet.HubURL, time.Second, clients)
	r.begin(names, stagedRings(n), map[string]int{"settings": 10})
	everyone := func(commit string) string {
		st := await(t, r.fleet, landTimeout, "every cluster", func(st protocol.Status) bool {
			return st.Commit == commit && !slices.ContainsFunc(st.Clusters, func(c protocol.ClusterStatus) bool { return c.Published != c.Want })
		})
		digest := st.Clusters[0].Want
		if _, err := wait.Until(t.Context(), landTimeout, "every report", func() (bool, error) { return len(sim.times(sim.landed, digest)) == n, sim.err() }); err != nil {
			t.Fatal(err)
		}
		return digest
	}
	commit, _ := r.commit("the fleet")
	everyone(commit)
	var out []float64
	for i := range samples(10, 2) {
		r.edit(settingsFile, fmt.Sprintf("value: v%d}", i), fmt.Sprintf("value: v%d}", i+1))
		commit, start := r.commit("a value")
		last := start
		for _, at := range sim.times(sim.landed, everyone(commit)) {
			last = later(last, at)
		}
		out = append(out, last.Sub(start).Seconds())
	}
	benchPercentile("staged100_seconds_p90", 90, out, "s")
	note("KubeFleet's staged rollout over as many clusters takes 96 s, by its own report; it was not run here")
	noteLoad(t, "after the staged rollouts")
}
