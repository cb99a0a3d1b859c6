package hub_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/hub"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/rollout"
)

// forge changes the rollout's state past the hub.
func (f *fleet) forge(edit func(*rollout.State)) {
	f.t.Helper()
	repo, err := gitrepo.Open(f.t.Context(), f.bare, os.Environ(), false)
	if err != nil {
		f.t.Fatal(err)
	}
	data, old, err := repo.ReadRefBlob(f.t.Context(), hub.StateRef)
	if err != nil {
		f.t.Fatal(err)
	}
	var s rollout.State
	if err := json.Unmarshal(data, &s); err != nil {
		f.t.Fatal(err)
	}
	edit(&s)
	if data, err = json.Marshal(s); err != nil {
		f.t.Fatal(err)
	}
	if _, err := repo.WriteRefBlob(f.t.Context(), hub.StateRef, data, old); err != nil {
		f.t.Fatal(err)
	}
}

// TestRollbackToWhatIsNotThere: a state that sends a cluster back to a commit without the
// bundle holds that cluster. The hub published it again and again, some hundred commits
// a minute, and its step never ended.
func TestRollbackToWhatIsNotThere(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	f.settleFirst(url)
	digest := f.index("canary").Digest
	cases := map[string]string{ // where the state sends the canary
		"a commit without a bundle": f.git(f.bare, "commit-tree", f.git(f.bare, "hash-object", "-t", "tree", "-w", "/dev/null"), "-m", "x"),
		"another cluster's":         f.head("az1-c1"),
		"nothing":                   strings.Repeat("1", 40),
		"a commit past the hub":     f.git(f.bare, "commit-tree", "rendered/canary^{tree}", "-m", "x"),
	}
	f.edit("salt/pillar/common.sls", "disk-monitor:", "remediation-controller:\n  planTimeout: 1h\ndisk-monitor:")
	commit := f.commit("pillar")
	st := f.await(url, "the change on the canary", func(st protocol.Status) bool { return st.Commit == commit && len(published(st)) == 1 })
	stop()
	head := f.head("canary")
	cases["another digest"] = head
	for what, revision := range cases {
		f.forge(func(s *rollout.State) {
			s.Clusters["canary"] = rollout.Record{Good: digest, GoodRevision: revision}
			s.Rollback = &rollout.Rollback{Ring: "canary", Cluster: "canary", Digest: want(st, "canary"), Reason: "forged", At: time.Now()}
		})
		url, stop = f.start()
		f.agent(url, "canary").report(f.index("canary"), v1alpha1.HealthHealthy)
		f.await(url, "the error", func(st protocol.Status) bool {
			if f.head("canary") != head {
				t.Fatalf("%s is published", what)
			}
			// What cannot be takes no room, and the ring says so.
			return strings.Contains(cluster(st, "canary").PublishError, "git revert, or holdfast retry") &&
				st.Rings[0].Phase == rollout.Halted && strings.Contains(st.Rings[0].Message, "cluster canary cannot go back")
		})
		stop()
	}
}

// TestMendedHistory: what somebody wrote past the hub is in no history of what the hub
// publishes. The cluster could fetch it, the whole fleet among it, and what the branch
// had before was in no branch, and went with git gc.
func TestMendedHistory(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer stop()
	f.settleFirst(url)
	had := f.head("az1-c1")
	evil := f.git(f.bare, "commit-tree", "main^{tree}", "-p", "main", "-m", "x")
	f.git(f.bare, "update-ref", "refs/heads/rendered/az1-c1", evil)
	f.await(url, "the branch as it was", func(st protocol.Status) bool {
		f.git(f.bare, "update-ref", "refs/tags/look."+st.Commit, "refs/heads/main") // the hub looks at every new tag
		return f.head("az1-c1") != evil
	})
	if got, want := f.git(f.bare, "rev-list", "rendered/az1-c1^"), f.git(f.bare, "rev-list", had); got != want {
		t.Errorf("history\n%s\nwant\n%s", got, want)
	}
}

// TestOldCommitPutBack: a commit that the hub published once is not what it published
// last. It was taken for that, and served.
func TestOldCommitPutBack(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer func() { stop() }()
	f.settleFirst(url)
	old := f.head("az1-c1")
	f.edit("salt/pillar/common.sls", "disk-monitor:", "remediation-controller:\n  planTimeout: 1h\ndisk-monitor:")
	commit := f.commit("pillar")
	f.await(url, "the change", func(st protocol.Status) bool { return st.Commit == commit })
	f.healthyEverywhere(url)
	now := f.head("az1-c1")
	mended := func() {
		t.Helper()
		f.never(url, "the old bundle", func(st protocol.Status) bool {
			c := cluster(st, "az1-c1")
			return c.Published != c.Want || c.Revision == old
		})
		if parent := f.git(f.bare, "rev-parse", "rendered/az1-c1^"); parent != now {
			t.Errorf("the branch goes on from %s, it was at %s", parent, now)
		}
		now = f.head("az1-c1")
	}
	f.git(f.bare, "update-ref", "refs/heads/rendered/az1-c1", old)
	mended()
	stop()
	f.git(f.bare, "update-ref", "refs/heads/rendered/az1-c1", old)
	url, stop = f.start()
	mended()
}
