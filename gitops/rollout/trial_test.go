package rollout_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/gitops/rollout"
)

// TestTrial: nothing is published before the cluster's API server said that it
// would take it, lately, and of exactly that.
func TestTrial(t *testing.T) {
	ring := rollout.Ring{Name: "r", Clusters: []string{"a", "b"}, MaxUnavailable: 1, Timeout: time.Minute}
	next := rollout.Ring{Name: "next", Clusters: []string{"z"}, MaxUnavailable: 1, Timeout: time.Minute}
	base := rollout.Cluster{Want: "new", Published: "old", Revision: "rev", PublishedAt: t0, Contact: rollout.Present, Report: healthyAt("old", t0)}
	with := func(trial rollout.Trial) rollout.Cluster {
		c := base
		c.Trial = &trial
		return c
	}
	takes := with(rollout.Trial{Digest: "new", Base: "rev", At: t0})
	refuses := with(rollout.Trial{Digest: "new", Base: "rev", At: t0, Refused: "StorageClass fast: parameters are immutable"})
	sick := refuses
	sick.Report = &rollout.Report{Applied: "old"}
	silent := refuses
	silent.Contact = rollout.Silent
	done := base
	done.Published, done.Report, done.Revision = "new", healthyAt("new", t0), "rev2"
	first := rollout.Cluster{Want: "new"}
	gone := rollout.Cluster{Want: "new", Contact: rollout.Silent}
	cases := map[string]struct {
		reason       string
		a, b         rollout.Cluster
		now          time.Time
		state        rollout.State
		publish, ask []string
		phase        rollout.Phase
		message      string
	}{
		"Asked":       {"all of the ring are asked at once, so that people see every refusal", base, base, t0, rollout.State{}, nil, []string{"a", "b"}, rollout.Rolling, "0 of 2"},
		"Takes":       {"one that takes it is given it", takes, base, t0, rollout.State{}, []string{"a"}, []string{"b"}, rollout.Rolling, "0 of 2"},
		"Stale":       {"an answer of long ago says nothing of now", takes, done, t0.Add(rollout.TrialFresh), rollout.State{}, nil, []string{"a"}, rollout.Rolling, "1 of 2"},
		"Other":       {"an answer about another bundle is none", with(rollout.Trial{Digest: "older", Base: "rev", At: t0}), done, t0, rollout.State{}, nil, []string{"a"}, rollout.Rolling, "1 of 2"},
		"OtherBase":   {"nor is one about another state of the cluster", with(rollout.Trial{Digest: "new", Base: "before", At: t0}), done, t0, rollout.State{}, nil, []string{"a"}, rollout.Rolling, "1 of 2"},
		"Refuses":     {"a refusal holds that cluster and not its neighbour", refuses, takes, t0, rollout.State{}, []string{"b"}, []string{"a"}, rollout.Rolling, "1 refuse the change"},
		"Held":        {"a ring in which all others are done says why it is held", refuses, done, t0, rollout.State{}, nil, []string{"a"}, rollout.Held, "parameters are immutable"},
		"NoRoom":      {"a sick one that refuses its repair keeps the others out, and only a person can do something", sick, takes, t0, rollout.State{}, nil, []string{"a"}, rollout.Held, "the room (maxUnavailable) that 1 healthy clusters wait for"},
		"Remembered":  {"a hub that was killed knows of the refusal", base, done, t0, rollout.State{Clusters: map[string]rollout.Record{"a": {Refused: "new", Why: "it is immutable"}}}, nil, []string{"a"}, rollout.Held, "it is immutable"},
		"Unreachable": {"one that refused and fell silent delays nobody", silent, done, t0, rollout.State{}, nil, nil, rollout.Passed, "1 silent"},
		"NoAnswer":    {"an agent that is there and cannot say is no consent", with(rollout.Trial{Digest: "new", Base: "rev", At: t0, Unknown: "timed out"}), done, t0, rollout.State{}, nil, []string{"a"}, rollout.Rolling, "timed out"},
		"First":       {"there is nobody yet who could be asked", first, done, t0, rollout.State{}, []string{"a"}, nil, rollout.Rolling, "1 of 2"},
		"FirstAgain":  {"one that refused its first bundle and is not heard since is not given it", first, done, t0, rollout.State{Clusters: map[string]rollout.Record{"a": {Refused: "new", Why: "it is immutable"}}}, nil, nil, rollout.Held, "it is immutable"},
		"FirstGone":   {"nor one that is silent by now; it delays nobody", gone, done, t0, rollout.State{Clusters: map[string]rollout.Record{"a": {Refused: "new", Why: "it is immutable"}}}, nil, nil, rollout.Passed, "1 silent"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := rollout.Decide(rollout.Input{Now: tc.now, Since: t0, Rings: []rollout.Ring{ring, next}, State: tc.state,
				Clusters: map[string]rollout.Cluster{"a": tc.a, "b": tc.b, "z": done}})
			if diff := cmp.Diff(tc.publish, published(d)); diff != "" {
				t.Errorf("publish (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tc.ask, d.Ask); diff != "" {
				t.Errorf("ask (-want +got):\n%s", diff)
			}
			if r := d.Rings[0]; r.Phase != tc.phase || !strings.Contains(r.Message, tc.message) {
				t.Errorf("ring is %s %q, want %s and %q", r.Phase, r.Message, tc.phase, tc.message)
			}
			if t.Failed() {
				t.Log("reason:", tc.reason)
			}
		})
	}
}

// TestTrialAheadOfApproval: a person who is asked to approve sees what is refused.
func TestTrialAheadOfApproval(t *testing.T) {
	ring := rollout.Ring{Name: "r", Clusters: []string{"a"}, MaxUnavailable: 1, Approval: true}
	c := rollout.Cluster{Want: "new", Published: "old", Revision: "rev", Contact: rollout.Present, Report: healthyAt("old", t0)}
	d := decide(t0, []rollout.Ring{ring}, map[string]rollout.Cluster{"a": c})
	if d.Rings[0].WaitsFor != "approval" || !cmp.Equal(d.Ask, []string{"a"}) {
		t.Fatalf("%+v", d)
	}
	c.Trial = &rollout.Trial{Digest: "new", Base: "rev", At: t0}
	if d = decide(t0.Add(time.Hour), []rollout.Ring{ring}, map[string]rollout.Cluster{"a": c}); len(d.Ask) != 0 {
		t.Fatalf("asked %v again and again while a person thinks", d.Ask)
	}
	ring.Freezes = []rollout.Freeze{{Reason: "a person said so"}}
	c.Trial = nil
	if d = decide(t0, []rollout.Ring{ring}, map[string]rollout.Cluster{"a": c}); len(d.Ask) != 0 {
		t.Fatalf("asked %v in a freeze", d.Ask)
	}
}
