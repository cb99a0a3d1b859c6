package hub_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/hub"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/rollout"
)

// healthyEverywhere reports every cluster healthy until all have what is wanted.
func (f *fleet) healthyEverywhere(url string) protocol.Status {
	f.t.Helper()
	agents := map[string]*agent{}
	return f.await(url, "rollout everywhere", func(st protocol.Status) bool {
		done := true
		for _, c := range st.Clusters {
			if c.Published == "" {
				return false
			}
			if agents[c.Name] == nil {
				agents[c.Name] = f.agent(url, c.Name)
			}
			if c.Report == nil || c.Report.Revision != c.Revision {
				agents[c.Name].reportAt(f.index(c.Name), c.Revision, v1alpha1.HealthHealthy)
			}
			done = done && c.Published == c.Want
		}
		for _, r := range st.Rings {
			done = done && r.Phase == "Passed"
		}
		return done && len(st.Clusters) > 0
	})
}

// settleFirst brings the first bundles to all clusters, ring by ring.
func (f *fleet) settleFirst(url string) protocol.Status {
	f.t.Helper()
	for _, name := range []string{"canary", "az1-c1", "az2-c1"} {
		f.await(url, "publication to "+name, func(st protocol.Status) bool {
			for _, c := range st.Clusters {
				if c.Name == name {
					return c.Published != "" && c.Published == c.Want
				}
			}
			return false
		})
		f.agent(url, name).report(f.index(name), v1alpha1.HealthHealthy)
	}
	return f.healthyEverywhere(url)
}

// TestRollback: a canary that fails goes back to the bytes it had, by itself, and
// stays there when the hub is killed, until a person tries again.
func TestRollback(t *testing.T) {
	f := newFleet(t)
	f.edit("fleet.yaml", "soak: 1ms", "soak: 1ms, onFailure: rollback, rollbackAfter: 0s")
	f.commit("go back on failure")
	url, stop := f.start()
	defer func() { stop() }()
	f.settleFirst(url)
	first, tree := f.index("canary").Digest, f.git(f.bare, "rev-parse", "rendered/canary^{tree}")

	f.edit("salt/pillar/common.sls", "disk-monitor:", "remediation-controller:\n  planTimeout: 1h\ndisk-monitor:")
	f.commit("pillar")
	st := f.await(url, "the change on the canary", func(st protocol.Status) bool { return len(published(st)) == 1 })
	bad := want(st, "canary")
	canary := f.agent(url, "canary")
	canary.reportAt(f.index("canary"), st.Clusters[0].Revision, v1alpha1.HealthDegraded)
	st = f.await(url, "the rollback", func(st protocol.Status) bool { return st.Rollback != nil && st.Clusters[0].Published == first })
	if got := f.git(f.bare, "rev-parse", "rendered/canary^{tree}"); got != tree {
		t.Errorf("the canary has the tree %s, it had %s: something was rendered anew", got, tree)
	}
	if st.Rollback.Digest != bad || st.Rollback.Cluster != "canary" || !strings.Contains(st.Rings[0].Action, "holdfast retry") {
		t.Errorf("rollback %+v, ring %+v", st.Rollback, st.Rings[0])
	}
	stop()
	url, stop = f.start()
	canary.url = url
	canary.report(f.index("canary"), v1alpha1.HealthHealthy)
	f.agent(url, "az1-c1").report(f.index("az1-c1"), v1alpha1.HealthHealthy)
	f.agent(url, "az2-c1").report(f.index("az2-c1"), v1alpha1.HealthHealthy)
	f.never(url, "the bad digest after a restart", func(st protocol.Status) bool { return len(published(st)) > 0 })

	f.git(f.work, "tag", "-a", "retry.1", "-m", "it was the network", "main")
	f.git(f.work, "push", "-q", f.bare, "refs/tags/retry.1")
	f.await(url, "the second try", func(st protocol.Status) bool { return len(published(st)) == 1 && st.Rollback == nil })
	f.healthyEverywhere(url)
}

// TestRetryWithoutAWayBack: a sick cluster that could not go back, for a commit was lost
// from the repository, stayed where it was after the commit was put back and a person
// had tried again, until the hub began anew. Its failure, which still stood, had the
// rollout taken back anew in the same decision.
func TestRetryWithoutAWayBack(t *testing.T) {
	f := newFleet(t)
	f.edit("fleet.yaml", "soak: 1ms", "soak: 1ms, onFailure: rollback, rollbackAfter: 0s")
	f.commit("go back on failure")
	url, stop := f.start()
	defer stop()
	f.settleFirst(url)
	first, good := f.index("canary").Digest, f.head("canary")
	f.edit("salt/pillar/common.sls", "disk-monitor:", "remediation-controller:\n  planTimeout: 1h\ndisk-monitor:")
	f.commit("pillar")
	st := f.await(url, "the change on the canary", func(st protocol.Status) bool { return len(published(st)) == 1 })

	object := filepath.Join(f.bare, "objects", good[:2], good[2:])
	if err := os.Rename(object, object+".lost"); err != nil {
		t.Fatal(err)
	}
	f.agent(url, "canary").reportAt(f.index("canary"), st.Clusters[0].Revision, v1alpha1.HealthDegraded)
	f.await(url, "no way back", func(st protocol.Status) bool {
		return st.Rings[0].Phase == rollout.Halted && strings.Contains(st.Rings[0].Message, "cluster canary cannot go back") && strings.Contains(st.Rings[0].Action, "holdfast retry")
	})
	if err := os.Rename(object+".lost", object); err != nil {
		t.Fatal(err)
	}
	f.never(url, "a second try that nobody asked for", func(st protocol.Status) bool { return st.Clusters[0].Published == first })
	f.git(f.work, "tag", "-a", "retry.1", "-m", "the commit is there again", "main")
	f.git(f.work, "push", "-q", f.bare, "refs/tags/retry.1")
	st = f.await(url, "the way back", func(st protocol.Status) bool { return st.Clusters[0].Published == first })
	if c := cluster(st, "canary"); st.Rollback == nil || c.PublishError != "" {
		t.Errorf("rollback %+v, error %q", st.Rollback, c.PublishError)
	}
}

// TestRollbackBesideATypo: a file of signers that cannot be read keeps no sick canary
// where it is. It stopped every step before anything was published.
func TestRollbackBesideATypo(t *testing.T) {
	f := newFleet(t)
	mine := filepath.Join(f.signers(), "mine")
	f.edit("fleet.yaml", "soak: 1ms", "soak: 1ms, onFailure: rollback, rollbackAfter: 0s")
	f.commit("go back on failure")
	f.sign(mine)
	url, stop := f.start()
	defer stop()
	f.settleFirst(url)
	first := f.index("canary").Digest
	f.edit("salt/pillar/common.sls", "disk-monitor:", "remediation-controller:\n  planTimeout: 1h\ndisk-monitor:")
	f.commit("pillar")
	f.sign(mine)
	st := f.await(url, "the change on the canary", func(st protocol.Status) bool { return len(published(st)) == 1 })

	if err := os.WriteFile(f.opts.Signers, []byte("me@example.com ssh-typo AAAA\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	f.git(f.work, "tag", "-a", "retry.1", "-m", "why", "main")
	f.git(f.work, "push", "-q", f.bare, "refs/tags/retry.1")
	f.edit("fleet.yaml", "soak: 1ms", "soak: 2ms")
	f.commit("that nobody can look at")
	f.agent(url, "canary").reportAt(f.index("canary"), st.Clusters[0].Revision, v1alpha1.HealthDegraded)
	st = f.await(url, "the rollback", func(st protocol.Status) bool { return st.Rollback != nil && st.Clusters[0].Published == first })
	if st.Rejected != "" || len(st.Approvals) != 0 {
		t.Errorf("%+v", st)
	}
}

// TestRestartBesideATypo: with such a file a hub that was started anew served what there
// was, took nothing, brought no sick cluster back, and said so in its log alone.
func TestRestartBesideATypo(t *testing.T) {
	f := newFleet(t)
	mine := filepath.Join(f.signers(), "mine")
	f.edit("fleet.yaml", "soak: 1ms", "soak: 1ms, onFailure: rollback, rollbackAfter: 0s")
	f.commit("go back on failure")
	f.sign(mine)
	url, stop := f.start()
	f.settleFirst(url)
	first := f.index("canary").Digest
	f.edit("salt/pillar/common.sls", "disk-monitor:", "remediation-controller:\n  planTimeout: 1h\ndisk-monitor:")
	f.commit("pillar")
	f.sign(mine)
	accepted := f.git(f.work, "rev-parse", "HEAD")
	st := f.await(url, "the change on the canary", func(st protocol.Status) bool { return len(published(st)) == 1 })
	stop()
	good, err := os.ReadFile(f.opts.Signers)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.opts.Signers, append(good, "you@example.com ssh-typo AAAA\n"...), 0o600); err != nil {
		t.Fatal(err)
	}

	url, stop = f.start()
	defer stop()
	st = f.await(url, "the trouble", func(st protocol.Status) bool { return len(st.Trouble) > 0 && st.Commit == accepted })
	want := f.opts.Signers + `:2: "you@example.com ssh-typo AAAA" has no key after the name`
	if len(st.Trouble) != 1 || !strings.Contains(st.Trouble[0], want) || !strings.Contains(st.Trouble[0], `(write: NAME namespaces="git" ssh-ed25519 AAAA`) {
		t.Errorf("trouble %q, want %q and what to write", st.Trouble, want)
	}
	if v := testutil.ToFloat64(f.hub.Metrics()); v != 1 {
		t.Errorf("the metric is %v", v)
	}
	f.edit("fleet.yaml", "soak: 1ms", "soak: 2ms")
	f.commit("that nobody can look at")
	f.sign(mine)
	f.agent(url, "canary").reportAt(f.index("canary"), st.Clusters[0].Revision, v1alpha1.HealthDegraded)
	st = f.await(url, "the rollback", func(st protocol.Status) bool { return st.Rollback != nil && st.Clusters[0].Published == first })
	if st.Commit != accepted || st.Rejected != "" {
		t.Errorf("commit %s is taken, %q refused", st.Commit, st.Rejected)
	}
	if err := os.WriteFile(f.opts.Signers, good, 0o600); err != nil {
		t.Fatal(err)
	}
	head := f.git(f.work, "rev-parse", "HEAD")
	f.await(url, "the commit, by itself", func(st protocol.Status) bool { return st.Commit == head && len(st.Trouble) == 0 })
	if v := testutil.ToFloat64(f.hub.Metrics()); v != 0 {
		t.Errorf("the metric is %v", v)
	}
}

// TestStateThatCannotBeRead: to begin anew would undo a rollback.
func TestStateThatCannotBeRead(t *testing.T) {
	f := newFleet(t)
	repo, err := gitrepo.Open(t.Context(), f.bare, os.Environ(), false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.WriteRefBlob(t.Context(), hub.StateRef, []byte("{"), ""); err != nil {
		t.Fatal(err)
	}
	url, stop := f.start()
	defer stop()
	f.never(url, "a publication", func(protocol.Status) bool { return f.git(f.bare, "for-each-ref", "refs/heads/rendered") != "" })
}

// TestApproval: a ring that needs one waits for a person, whose word outlives the hub.
func TestApproval(t *testing.T) {
	f := newFleet(t)
	f.edit("fleet.yaml", "name: az1,", "name: az1, approval: required,")
	commit := f.commit("az1 needs an approval")
	url, stop := f.start()
	defer func() { stop() }()
	f.await(url, "publication to the canary", func(st protocol.Status) bool { return len(published(st)) == 1 })
	f.agent(url, "canary").report(f.index("canary"), v1alpha1.HealthHealthy)
	st := f.await(url, "the wait for a person", func(st protocol.Status) bool { return st.Rings[1].WaitsFor == "approval" })
	if st.Rings[1].Phase != "Held" || !strings.Contains(st.Rings[1].Action, "holdfast approve az1") {
		t.Errorf("ring %+v", st.Rings[1])
	}
	f.never(url, "publication without it", func(st protocol.Status) bool { return len(published(st)) != 1 })
	f.git(f.work, "tag", "light", "main") // says nobody's name
	f.git(f.work, "push", "-q", f.bare, "refs/tags/light:refs/tags/approve.az1.light")
	f.never(url, "publication on a tag without a name", func(st protocol.Status) bool { return len(published(st)) != 1 })
	repo, err := gitrepo.Open(t.Context(), f.work, os.Environ(), false)
	if err != nil {
		t.Fatal(err)
	}
	f.git(f.work, "config", "user.name", "On Call")
	f.git(f.work, "config", "user.email", "oncall@example.com")
	if err := repo.PushTag(t.Context(), f.bare, "approve.az1.1", commit, "looked at the canary"); err != nil {
		t.Fatal(err)
	}
	st = f.await(url, "publication to az1", func(st protocol.Status) bool { return len(published(st)) == 2 })
	if a := st.Approvals["az1"]; a.By != "On Call <oncall@example.com>" || a.Message != "looked at the canary" {
		t.Errorf("approval %+v", a)
	}
	stop()
	f.git(f.bare, "update-ref", "-d", "refs/tags/approve.az1.1") // what is stored counts
	url, stop = f.start()
	f.await(url, "the approval after a restart", func(st protocol.Status) bool { return st.Approvals["az1"].Ref == "approve.az1.1" })
}

// TestHookChecksActs: a tag that could not act is refused while somebody is there to read why.
func TestHookChecksActs(t *testing.T) {
	f := newFleet(t)
	f.edit("fleet.yaml", "name: az1,", "name: az1, approval: required,")
	accepted := f.commit("az1 needs an approval")
	f.git(f.bare, "update-ref", hub.AcceptedRef, accepted)
	f.edit("fleet.yaml", "soak: 1ms", "soak: 2ms")
	later := f.commit("not accepted yet")
	tag := func(name, commit string) string {
		f.git(f.work, "tag", "-a", name, "-m", "why", commit)
		f.git(f.work, "push", "-q", f.bare, "refs/tags/"+name+":refs/tags/test-"+name)
		return f.git(f.work, "rev-parse", "refs/tags/"+name)
	}
	good, ahead := tag("one", accepted), tag("two", later)
	repo, err := gitrepo.Open(t.Context(), f.bare, os.Environ(), false)
	if err != nil {
		t.Fatal(err)
	}
	none := strings.Repeat("0", 40)
	cases := map[string]struct{ reason, line, want string }{
		"Approve":   {"an annotated tag of the accepted commit", none + " " + good + " refs/tags/approve.az1.1", ""},
		"Retry":     {"and one that names no ring", none + " " + good + " refs/tags/retry.1", ""},
		"Release":   {"other tags are nobody's business here", none + " " + later + " refs/tags/v1", ""},
		"NoRing":    {"a ring that does not wait", none + " " + good + " refs/tags/approve.az2.1", `no ring "az2" that needs an approval`},
		"Name":      {"a name that says too little", none + " " + good + " refs/tags/approve.az1", "use holdfast approve"},
		"Light":     {"a lightweight tag has no author", none + " " + accepted + " refs/tags/retry.1", "does not say who made it"},
		"Other":     {"an approval of what is not rolled out", none + " " + ahead + " refs/tags/approve.az1.1", "what the fleet rolls out is"},
		"Moved":     {"the record must not change", good + " " + ahead + " refs/tags/approve.az1.1", "is a record"},
		"Withdrawn": {"nor go away", good + " " + none + " refs/tags/approve.az1.1", "is a record"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			err := hub.PreReceive(t.Context(), repo, f.opts, strings.NewReader(tc.line+"\n"))
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("got %v, want %q; reason: %s", err, tc.want, tc.reason)
			}
		})
	}
}
