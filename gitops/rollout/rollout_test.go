package rollout_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"holdfast.dev/gitops/rollout"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func rings() []rollout.Ring {
	return []rollout.Ring{
		{Name: "canary", Clusters: []string{"c"}, Soak: time.Minute, MaxUnavailable: 1, Timeout: 5 * time.Minute},
		{Name: "prod", Clusters: []string{"p1", "p2", "p3"}, MaxUnavailable: 2, Timeout: 5 * time.Minute},
	}
}

func healthyAt(digest string, since time.Time) *rollout.Report {
	return &rollout.Report{Applied: digest, Healthy: true, HealthySince: since}
}

func TestDecide(t *testing.T) {
	old := rollout.Cluster{Want: "new", Published: "old", PublishedAt: t0, Report: healthyAt("old", t0)}
	pub := func(c rollout.Cluster, rep *rollout.Report) rollout.Cluster {
		c.Published, c.PublishedAt, c.Report = "new", t0, rep
		return c
	}
	cases := map[string]struct {
		reason  string
		now     time.Time
		canary  rollout.Cluster
		publish []string
		phases  []rollout.Phase
	}{
		"CanaryFirst":    {"a new digest goes to the first ring alone", t0, old, []string{"c"}, []rollout.Phase{rollout.Rolling, rollout.Waiting}},
		"StaleHealth":    {"argo-cd 29410: the healthy report of the digest before must not open the gate", t0, pub(old, healthyAt("old", t0)), nil, []rollout.Phase{rollout.Rolling, rollout.Waiting}},
		"Soaking":        {"healthy, but not for long enough", t0.Add(30 * time.Second), pub(old, healthyAt("new", t0)), nil, []rollout.Phase{rollout.Soaking, rollout.Waiting}},
		"Soaked":         {"the next ring starts with as many as may be unavailable", t0.Add(time.Minute), pub(old, healthyAt("new", t0)), []string{"p1", "p2"}, []rollout.Phase{rollout.Passed, rollout.Rolling}},
		"Failed":         {"a failing canary halts", t0.Add(time.Hour), pub(old, &rollout.Report{Failing: "disk-monitor: bad", FailingDigest: "new"}), nil, []rollout.Phase{rollout.Halted, rollout.Waiting}},
		"FailedBefore":   {"a failure of the digest before is not this one's", t0, pub(old, &rollout.Report{Failing: "x", FailingDigest: "old"}), nil, []rollout.Phase{rollout.Rolling, rollout.Waiting}},
		"Silent":         {"an agent that says nothing halts after the timeout", t0.Add(5 * time.Minute), pub(old, nil), nil, []rollout.Phase{rollout.Halted, rollout.Waiting}},
		"SickAndNewPush": {"a canary that is sick at the old digest still gets the repair", t0, rollout.Cluster{Want: "new", Published: "old", PublishedAt: t0, Report: &rollout.Report{Failing: "x", FailingDigest: "old"}}, []string{"c"}, []rollout.Phase{rollout.Rolling, rollout.Waiting}},
	}
	t.Run("OneSickInRing", func(t *testing.T) {
		sick := rollout.Cluster{Want: "new", Published: "old", PublishedAt: t0, Report: &rollout.Report{Applied: "old"}}
		rs := []rollout.Ring{{Name: "prod", Clusters: []string{"p1", "p2", "p3"}, MaxUnavailable: 1}}
		d := rollout.Decide(t0, rs, map[string]rollout.Cluster{"p1": old, "p2": sick, "p3": {Want: "new", Published: "old"}})
		if diff := cmp.Diff([]string{"p2"}, d.Publish); diff != "" {
			t.Errorf("a healthy cluster must not go down beside a sick one, nor one that was not heard of (-want +got):\n%s", diff)
		}
	})
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := rollout.Decide(tc.now, rings(), map[string]rollout.Cluster{"c": tc.canary, "p1": old, "p2": old, "p3": old})
			if diff := cmp.Diff(tc.publish, d.Publish); diff != "" {
				t.Errorf("publish (-want +got):\n%s\nreason: %s", diff, tc.reason)
			}
			var phases []rollout.Phase
			for _, r := range d.Rings {
				phases = append(phases, r.Phase)
			}
			if diff := cmp.Diff(tc.phases, phases); diff != "" {
				t.Errorf("phases (-want +got):\n%s\nreason: %s", diff, tc.reason)
			}
		})
	}
}

// TestNoClusterAheadOfItsGate runs random schedules of pushes, reports, lost
// reports and hub restarts, and asserts after every publication that each ring
// before it was healthy at its digest, and that a healthy fleet ends rolled out.
func TestNoClusterAheadOfItsGate(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := t0
		var rs []rollout.Ring
		state := map[string]rollout.Cluster{}
		ringOf := map[string]int{}
		for i := range rapid.IntRange(1, 4).Draw(t, "rings") {
			r := rollout.Ring{Name: fmt.Sprint("r", i), Soak: time.Duration(rapid.IntRange(0, 3).Draw(t, "soak")) * time.Second,
				MaxUnavailable: rapid.IntRange(0, 3).Draw(t, "max"), Timeout: time.Hour}
			for j := range rapid.IntRange(1, 4).Draw(t, "clusters") {
				name := fmt.Sprintf("c%d-%d", i, j)
				r.Clusters = append(r.Clusters, name)
				state[name] = rollout.Cluster{Want: "d0", Published: "d0", PublishedAt: now, Report: healthyAt("d0", now)}
				ringOf[name] = i
			}
			rs = append(rs, r)
		}
		down := func(r rollout.Ring) (n int) {
			for _, name := range r.Clusters {
				if c := state[name]; c.Report == nil || c.Report.Applied != c.Published || !c.Report.Healthy {
					n++
				}
			}
			return n
		}
		step := func() {
			var before []int
			for _, r := range rs {
				before = append(before, down(r))
			}
			d := rollout.Decide(now, rs, state)
			for _, name := range d.Publish {
				for other, ring := range ringOf {
					c := state[other]
					if ring < ringOf[name] && (c.Published != c.Want || c.Report == nil || c.Report.Applied != c.Want || !c.Report.Healthy) {
						t.Fatalf("%s published while %s of an earlier ring is %+v", name, other, c)
					}
				}
				c := state[name]
				c.Published, c.PublishedAt = c.Want, now
				state[name] = c
			}
			for i, r := range rs {
				if after := down(r); after > max(before[i], max(1, r.MaxUnavailable)) {
					t.Fatalf("ring %s had %d clusters down and has %d now, %d allowed", r.Name, before[i], after, r.MaxUnavailable)
				}
			}
		}
		report := func(name string) {
			c := state[name]
			if c.Report == nil || !c.Report.Healthy || c.Report.Applied != c.Published {
				c.Report = healthyAt(c.Published, now)
			}
			state[name] = c
		}
		names := make([]string, 0, len(state))
		for _, r := range rs {
			names = append(names, r.Clusters...)
		}
		for range rapid.IntRange(5, 60).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 2000).Draw(t, "ms")) * time.Millisecond)
			name := rapid.SampledFrom(names).Draw(t, "cluster")
			switch rapid.IntRange(0, 4).Draw(t, "event") {
			case 0: // a push
				want := fmt.Sprint("d", rapid.IntRange(0, 5).Draw(t, "digest"))
				for n, c := range state {
					c.Want = want
					state[n] = c
				}
			case 1, 2:
				report(name)
			case 3: // the hub restarts and has heard nothing
				c := state[name]
				c.Report = nil
				state[name] = c
			case 4: // it fails
				c := state[name]
				c.Report = &rollout.Report{Applied: c.Published, Failing: "sick", FailingDigest: c.Published}
				state[name] = c
			}
			step()
		}
		for range len(names)*3 + 3 {
			now = now.Add(5 * time.Second)
			for _, n := range names {
				report(n)
			}
			step()
		}
		for n, c := range state {
			if c.Published != c.Want {
				t.Fatalf("the rollout is stuck: %s has %s, wants %s", n, c.Published, c.Want)
			}
		}
	})
}
