package rollout_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

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

func decide(now time.Time, rings []rollout.Ring, clusters map[string]rollout.Cluster) rollout.Decision {
	return rollout.Decide(rollout.Input{Now: now, Since: t0, Rings: rings, Clusters: clusters})
}

func published(d rollout.Decision) (names []string) {
	for _, p := range d.Publish {
		names = append(names, p.Cluster)
	}
	return names
}

func TestDecide(t *testing.T) {
	takes := func(now time.Time) *rollout.Trial { return &rollout.Trial{Digest: "new", At: now} }
	old := rollout.Cluster{Want: "new", Published: "old", PublishedAt: t0, Contact: rollout.Present, Report: healthyAt("old", t0), Trial: takes(t0)}
	pub := func(c rollout.Cluster, rep *rollout.Report) rollout.Cluster {
		c.Published, c.PublishedAt, c.Report = "new", t0, rep
		if rep == nil {
			c.Contact = rollout.Silent
		}
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
		"SickAndNewPush": {"a canary that is sick at the old digest still gets the repair", t0, rollout.Cluster{Want: "new", Published: "old", PublishedAt: t0, Contact: rollout.Present, Report: &rollout.Report{Failing: "x", FailingDigest: "old"}, Trial: takes(t0)}, []string{"c"}, []rollout.Phase{rollout.Rolling, rollout.Waiting}},
	}
	t.Run("OneSickInRing", func(t *testing.T) {
		sick := rollout.Cluster{Want: "new", Published: "old", PublishedAt: t0, Contact: rollout.Present, Report: &rollout.Report{Applied: "old"}, Trial: takes(t0)}
		rs := []rollout.Ring{{Name: "prod", Clusters: []string{"p1", "p2", "p3"}, MaxUnavailable: 1}}
		d := decide(t0, rs, map[string]rollout.Cluster{"p1": old, "p2": sick, "p3": {Want: "new", Published: "old"}})
		if diff := cmp.Diff([]string{"p2"}, published(d)); diff != "" {
			t.Errorf("a healthy cluster must not go down beside a sick one, nor one that was not heard of (-want +got):\n%s", diff)
		}
	})
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := decide(tc.now, rings(), map[string]rollout.Cluster{"c": tc.canary, "p1": old, "p2": old, "p3": old})
			if diff := cmp.Diff(tc.publish, published(d)); diff != "" {
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
