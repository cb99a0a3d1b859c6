package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/gitops/rollout"
)

// TestRollbackTakesTurns: healthy clusters go back as room allows, and one that
// does not recover at the earlier digest keeps its room for its timeout only.
func TestRollbackTakesTurns(t *testing.T) {
	ring := rollout.Ring{Name: "r", Clusters: []string{"a", "b", "c"}, MaxUnavailable: 1, Timeout: time.Minute, Rollback: true, RollbackAfter: 10 * time.Second}
	healthy := func(digest string) rollout.Cluster {
		return rollout.Cluster{Want: "bad", Published: digest, Revision: "rev-" + digest, PublishedAt: t0, Contact: rollout.Present, Report: healthyAt(digest, t0)}
	}
	sick := healthy("bad")
	sick.Report = &rollout.Report{Failing: "x", FailingDigest: "bad", FailingSince: t0}
	good := rollout.Record{Good: "good", GoodRevision: "rev-good"}
	in := rollout.Input{Now: t0.Add(9 * time.Second), Since: t0, Rings: []rollout.Ring{ring}, Clusters: map[string]rollout.Cluster{"a": sick, "b": healthy("bad"), "c": healthy("bad")},
		State: rollout.State{Clusters: map[string]rollout.Record{"a": good, "b": good, "c": good}}}

	d := rollout.Decide(in)
	if len(d.Publish) != 0 || d.State.Rollback != nil || d.Rings[0].Phase != rollout.Halted || !d.Recheck.Equal(t0.Add(10*time.Second)) {
		t.Fatalf("before the failure has stood for long enough: %+v", d)
	}
	in.Now = t0.Add(10 * time.Second)
	d = rollout.Decide(in)
	if diff := cmp.Diff([]rollout.Publication{{Cluster: "a", Digest: "good", Revision: "rev-good"}}, d.Publish); diff != "" || d.State.Rollback == nil {
		t.Fatalf("the sick one goes first, by its earlier revision (-want +got):\n%s", diff)
	}
	stuck := healthy("good")
	stuck.Report, stuck.PublishedAt = &rollout.Report{Applied: "good"}, in.Now
	in.State, in.Clusters["a"] = d.State, stuck
	if d = rollout.Decide(in); len(d.Publish) != 0 || !d.Recheck.Equal(in.Now.Add(time.Minute)) {
		t.Fatalf("there is room for one: %+v", d)
	}
	in.Now = in.Now.Add(time.Minute)
	if d = rollout.Decide(in); !cmp.Equal(published(d), []string{"b"}) {
		t.Fatalf("published %v: one that does not recover keeps the others at what is bad", d.Publish)
	}
	in.Rings[0].Freezes = []rollout.Freeze{{Reason: "a person looks"}}
	if d = rollout.Decide(in); len(d.Publish) != 0 || d.Rings[0].Phase != rollout.Held {
		t.Fatalf("a freeze holds a rollback: %+v", d)
	}
}

// TestRollbackWithoutAWay: a cluster that cannot go back, for the hub lost its memory of
// the branch, kept its room for ever, and the others at what is bad.
func TestRollbackWithoutAWay(t *testing.T) {
	ring := rollout.Ring{Name: "r", Clusters: []string{"a", "b", "c"}, MaxUnavailable: 1, Timeout: time.Minute, Rollback: true}
	cluster := func(name string, report *rollout.Report) rollout.Cluster {
		return rollout.Cluster{Want: "bad", Published: "bad", Revision: "rev-bad-" + name, PublishedAt: t0, Contact: rollout.Present, Report: report}
	}
	good := rollout.Record{Good: "good", GoodRevision: "rev-good"}
	decide := func(now time.Time, a rollout.Cluster) rollout.Decision {
		return rollout.Decide(rollout.Input{Now: now, Since: t0, Rings: []rollout.Ring{ring},
			Clusters: map[string]rollout.Cluster{"a": a, "b": cluster("b", healthyAt("bad", t0)), "c": cluster("c", healthyAt("bad", t0))},
			State:    rollout.State{Clusters: map[string]rollout.Record{"a": good, "b": good, "c": good}, Rollback: &rollout.Rollback{Ring: "r", Cluster: "a", Digest: "bad"}}})
	}
	well := cluster("a", healthyAt("bad", t0))
	if d := decide(t0, well); !cmp.Equal(published(d), []string{"a"}) {
		t.Fatalf("published %v: nobody knows yet that it cannot go back", d.Publish)
	}
	well.NoWayBack = "rev-older"
	if d := decide(t0, well); !cmp.Equal(published(d), []string{"a"}) {
		t.Fatalf("published %v: what it could not go back to is not where it would go now", d.Publish)
	}
	well.NoWayBack = "rev-good"
	d := decide(t0, well)
	if !cmp.Equal(published(d), []string{"b"}) {
		t.Errorf("published %v: the one that stays where it is takes no room", d.Publish)
	}
	if st := d.Rings[0]; st.Phase != rollout.RollingBack || !strings.Contains(st.Message, "2 of 3 clusters still to go back; cluster a cannot go back") || st.Action != "push a repair, git revert, or try again with holdfast retry" {
		t.Errorf("status %+v", st)
	}
	sick := cluster("a", &rollout.Report{Applied: "bad"})
	sick.NoWayBack = "rev-good"
	if d := decide(t0.Add(59*time.Second), sick); len(d.Publish) != 0 || !d.Recheck.Equal(t0.Add(time.Minute)) {
		t.Errorf("published %v, again at %s: a sick one is down, for as long as it may be", d.Publish, d.Recheck)
	}
	if d := decide(t0.Add(time.Minute), sick); !cmp.Equal(published(d), []string{"b"}) {
		t.Errorf("published %v: one that does not recover keeps the others at what is bad", d.Publish)
	}
	back := cluster("", healthyAt("good", t0))
	back.Published = "good"
	d = rollout.Decide(rollout.Input{Now: t0, Since: t0, Rings: []rollout.Ring{ring}, Clusters: map[string]rollout.Cluster{"a": well, "b": back, "c": back},
		State: rollout.State{Clusters: map[string]rollout.Record{"a": good, "b": good, "c": good}, Rollback: &rollout.Rollback{Ring: "r", Cluster: "a", Digest: "bad"}}})
	if st := d.Rings[0]; len(d.Publish) != 0 || st.Phase != rollout.Halted || !strings.Contains(st.Message, "cluster a cannot go back") {
		t.Errorf("at the end %+v", d)
	}
}

// TestRollbackEnds: by a repair of the cluster that failed, or by a person's word, once.
func TestRollbackEnds(t *testing.T) {
	ring := rollout.Ring{Name: "r", Clusters: []string{"a"}, MaxUnavailable: 1, Timeout: time.Minute, Rollback: true}
	c := rollout.Cluster{Want: "bad", Published: "good", Revision: "rev-good", Contact: rollout.Present, Report: healthyAt("good", t0)}
	in := rollout.Input{Now: t0, Since: t0, Rings: []rollout.Ring{ring}, Clusters: map[string]rollout.Cluster{"a": c}, State: rollout.State{
		Clusters: map[string]rollout.Record{"a": {Good: "good", GoodRevision: "rev-good"}}, Rollback: &rollout.Rollback{Ring: "r", Cluster: "a", Digest: "bad"}}}
	if d := rollout.Decide(in); len(d.Publish) != 0 || d.Rings[0].Phase != rollout.RolledBack {
		t.Fatalf("in force: %+v", d)
	}
	retry := in
	tried := c
	tried.Trial = &rollout.Trial{Digest: "bad", Base: "rev-good", At: t0}
	retry.Clusters = map[string]rollout.Cluster{"a": tried}
	retry.Acts = []rollout.Act{{Ref: "retry.1"}}
	d := rollout.Decide(retry)
	if !cmp.Equal(published(d), []string{"a"}) || d.State.Rollback != nil {
		t.Fatalf("tried again: %+v", d)
	}
	retry.State = d.State
	retry.State.Rollback = in.State.Rollback // it failed again
	if d := rollout.Decide(retry); len(d.Publish) != 0 || d.State.Rollback == nil {
		t.Fatalf("one word is good for one try: %+v", d)
	}
	c.Want, c.Trial = "repair", &rollout.Trial{Digest: "repair", Base: "rev-good", At: t0}
	in.Clusters = map[string]rollout.Cluster{"a": c}
	if d := rollout.Decide(in); !cmp.Equal(published(d), []string{"a"}) || d.State.Rollback != nil {
		t.Fatalf("repaired: %+v", d)
	}
}
