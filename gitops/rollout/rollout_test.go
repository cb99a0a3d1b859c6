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

// TestLostBranch: of a cluster that has something, and nobody knows what (the hub
// signs with another key, or cannot read the branch), nothing is taken for granted.
func TestLostBranch(t *testing.T) {
	lost := func(contact rollout.Contact, rep *rollout.Report) rollout.Cluster {
		return rollout.Cluster{Want: "new", Revision: "rev", PublishedAt: t0, Contact: contact, Report: rep, Trial: &rollout.Trial{Digest: "new", Base: "rev", At: t0}}
	}
	silent, well, sick := lost(rollout.Silent, nil), lost(rollout.Present, healthyAt("old", t0)), lost(rollout.Present, &rollout.Report{Failing: "x", FailingDigest: "old"})
	deleted := silent
	deleted.Revision = ""
	good := map[string]rollout.Record{"c": {Good: "old", GoodRevision: "rev"}}
	cases := map[string]struct {
		reason  string
		canary  rollout.Cluster
		prod    rollout.Cluster // each of its three
		records map[string]rollout.Record
		publish []string
		phase   rollout.Phase // of the canary's ring
	}{
		"Silent":  {"a silent cluster is no new one: it got the change past every gate; and it may have the change already", silent, well, nil, nil, rollout.Rolling},
		"Deleted": {"nor is one that proved something before its branch was deleted", deleted, well, good, nil, rollout.Rolling},
		"Vouches": {"nor does what it proved before open a gate, as long as nobody else vouches", silent, well, map[string]rollout.Record{"c": {Good: "new"}}, nil, rollout.Rolling},
		"Unheard": {"nor is one that the hub has not heard since it started", lost(rollout.Unknown, nil), well, nil, nil, rollout.Rolling},
		"Present": {"one that is there is given it in its turn", well, well, nil, []string{"c"}, rollout.Rolling},
		"Room":    {"healthy ones take turns as all do", rollout.Cluster{Want: "new", Published: "new", Contact: rollout.Present, Report: healthyAt("new", t0.Add(-time.Hour))}, well, nil, []string{"p1", "p2"}, rollout.Passed},
		"Sick":    {"sick ones get the repair at once", rollout.Cluster{Want: "new", Published: "new", Contact: rollout.Present, Report: healthyAt("new", t0.Add(-time.Hour))}, sick, nil, []string{"p1", "p2", "p3"}, rollout.Passed},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			in := rollout.Input{Now: t0, Since: t0, Rings: rings(), State: rollout.State{Clusters: tc.records},
				Clusters: map[string]rollout.Cluster{"c": tc.canary, "p1": tc.prod, "p2": tc.prod, "p3": tc.prod}}
			d := rollout.Decide(in)
			if diff := cmp.Diff(tc.publish, published(d)); diff != "" || d.Rings[0].Phase != tc.phase {
				t.Errorf("ring %+v, publish (-want +got):\n%s\nreason: %s", d.Rings[0], diff, tc.reason)
			}
		})
	}
}
