package hub_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/protocol"
)

func cluster(st protocol.Status, name string) protocol.ClusterStatus {
	for _, c := range st.Clusters {
		if c.Name == name {
			return c
		}
	}
	return protocol.ClusterStatus{} // the hub has just started
}

func (f *fleet) write(path, text string) {
	f.t.Helper()
	if err := os.WriteFile(filepath.Join(f.work, path), []byte(text), 0o600); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fleet) head(cluster string) string { return f.git(f.bare, "rev-parse", "rendered/"+cluster) }

// TestTrialBeforePublication: what a cluster's API server refuses is not
// published to it, and not to the rings after it; a hub that is killed knows of
// it; what the cluster takes in the end is published.
func TestTrialBeforePublication(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer func() { stop() }()
	f.settleFirst(url)
	f.asked = nil
	head := f.head("canary")

	const why = "StorageClass.storage.k8s.io \"fast\" is invalid: parameters: Forbidden: updates to parameters are forbidden."
	refusal := protocol.PlanReport{Changes: []protocol.PlanChange{
		{Addon: "x", Object: "ConfigMap default/fine", Action: protocol.PlanChanged},
		{Addon: "x", Object: "StorageClass.storage.k8s.io fast", Action: protocol.PlanRefused, Message: why},
		{Addon: "x", Object: "Namespace held-since-long", Action: protocol.PlanHeld, Message: "stays"},
	}}
	f.trials["canary"] = refusal
	f.edit("salt/pillar/common.sls", "disk-monitor:", "remediation-controller:\n  planTimeout: 1h\ndisk-monitor:")
	commit := f.commit("pillar")
	held := func(st protocol.Status) bool {
		return st.Commit == commit && len(st.Rings) > 0 && st.Rings[0].WaitsFor == "plan" && st.Rings[0].Phase == "Held"
	}
	st := f.await(url, "the refusal", held)
	c := cluster(st, "canary")
	if !strings.Contains(st.Rings[0].Message, "cluster canary refuses the change: StorageClass.storage.k8s.io fast: "+why) || c.Trial.State != protocol.TrialRefuses || len(c.Trial.Refusals) != 1 {
		t.Errorf("ring %+v, trial %+v", st.Rings[0], c.Trial)
	}
	f.never(url, "a publication", func(st protocol.Status) bool { return len(published(st)) > 0 })
	if got := f.head("canary"); got != head {
		t.Errorf("the canary's branch is at %s, was at %s", got, head)
	}

	stop() // as good as a kill: nothing is written on the way out
	url, stop = f.start()
	agents := f.agents
	f.agents = map[string]*agent{} // nobody answers
	st = f.status(url)
	f.agents = agents
	for name, a := range agents {
		a.url = url
		a.reportAt(f.index(name), f.head(name), v1alpha1.HealthHealthy)
	}
	st = f.await(url, "the refusal after a restart", held)
	if !strings.Contains(st.Rings[0].Message, why) {
		t.Errorf("ring %+v", st.Rings[0])
	}

	delete(f.trials, "canary") // somebody mended the cluster
	f.asked = nil
	f.await(url, "publication to the canary", func(st protocol.Status) bool { return slices.Contains(published(st), "canary") })
	f.healthyEverywhere(url)
	if !slices.Contains(f.asked, "az1-c1") || !slices.Contains(f.asked, "az2-c1") {
		t.Errorf("asked %v", f.asked)
	}
}

// TestTrialOfDataThatGoes: a claim that the bundle drops holds the cluster until a
// person says what is to become of it.
func TestTrialOfDataThatGoes(t *testing.T) {
	f := newFleet(t)
	const dir = "salt/states/remediation-controller/"
	f.edit(dir+"init.sls", "/etc/kubernetes/addons/remediation-controller/rbac.yaml:", "/etc/kubernetes/addons/remediation-controller/claim.yaml:\n  file.managed:\n  - source: salt://remediation-controller/files/claim.yaml\n/etc/kubernetes/addons/remediation-controller/rbac.yaml:")
	f.write(dir+"files/claim.yaml", "apiVersion: v1\nkind: PersistentVolumeClaim\nmetadata: {name: history, namespace: holdfast-system}\nspec:\n  accessModes: [ReadWriteOnce]\n  resources: {requests: {storage: 1Gi}}\n")
	f.edit("addons/remediation-controller/addon.yaml", "\nversion: 0.", "\nversion: 9.")
	f.commit("a claim")
	url, stop := f.start()
	defer stop()
	f.settleFirst(url)

	object := "PersistentVolumeClaim holdfast-system/history"
	f.trials["canary"] = protocol.PlanReport{Changes: []protocol.PlanChange{{Addon: "remediation-controller", Object: object, Action: protocol.PlanHeld, Message: "stays: data goes with it"}}}
	f.git(f.work, "revert", "--no-edit", "HEAD")
	f.git(f.work, "push", "-q", f.bare, "main")
	commit := f.git(f.work, "rev-parse", "HEAD")
	st := f.await(url, "the hold", func(st protocol.Status) bool { return st.Commit == commit && st.Rings[0].WaitsFor == "plan" })
	if !strings.Contains(st.Rings[0].Message, object+": is no longer in the bundle, and nobody approved that") {
		t.Errorf("ring %+v", st.Rings[0])
	}
	f.never(url, "a publication", func(st protocol.Status) bool { return len(published(st)) > 0 })

	f.write("approvals.yaml", "apiVersion: holdfast.dev/v1alpha1\nkind: Approvals\nretained:\n- {cluster: canary, kind: PersistentVolumeClaim, namespace: holdfast-system, name: history, reason: an auditor wants it}\n")
	f.commit("it stays")
	f.await(url, "publication to the canary", func(st protocol.Status) bool { return slices.Contains(published(st), "canary") })
}

// TestUnreadableBranch: a branch whose objects are gone holds its own cluster, and
// nobody else. It stopped every step of the hub.
func TestUnreadableBranch(t *testing.T) {
	f := newFleet(t)
	f.edit("fleet.yaml", "- {name: az2-c1, ", "- {name: az1-c2, az: az1, kubernetes: \"1.36\", labels: {tier: prod}}\n- {name: az2-c1, ")
	f.commit("two of a zone")
	url, stop := f.start()
	defer func() { stop() }()
	f.healthyEverywhere(url)
	idx := f.index("az1-c1")
	damage := func(object string) {
		t.Helper()
		id := f.git(f.bare, "rev-parse", object)
		if err := os.Remove(filepath.Join(f.bare, "objects", id[:2], id[2:])); err != nil {
			t.Fatal(err)
		}
	}
	others := func(commit string) {
		t.Helper()
		const why = "cluster az1-c1: cannot say whether it would take the change: the hub cannot read what it has: "
		st := f.await(url, "the others", func(st protocol.Status) bool {
			for _, name := range []string{"canary", "az1-c2"} {
				if c := cluster(st, name); c.Revision != "" && (c.Report == nil || c.Report.Revision != c.Revision) {
					f.agent(url, name).reportAt(f.index(name), c.Revision, v1alpha1.HealthHealthy)
				}
			}
			return st.Commit == commit && slices.Contains(published(st), "canary") && slices.Contains(published(st), "az1-c2") && strings.Contains(st.Rings[1].Message, why)
		})
		if c := cluster(st, "az1-c1"); c.Published == c.Want || c.Trial == nil || c.Trial.State != protocol.TrialUnknown {
			t.Errorf("az1-c1: %+v", c)
		}
	}
	damage("rendered/az1-c1^{tree}")
	f.edit("salt/pillar/common.sls", "disk-monitor:", "remediation-controller:\n  planTimeout: 1h\ndisk-monitor:")
	others(f.commit("beside a tree that is gone"))

	stop()
	f.edit("salt/pillar/common.sls", "planTimeout: 1h", "planTimeout: 2h")
	commit := f.commit("beside a commit that is gone")
	damage("rendered/az1-c1")
	url, stop = f.start()
	f.agent(url, "az1-c1").report(idx, v1alpha1.HealthHealthy)
	others(commit)
}

// TestTrialWithoutAnAnswer: an agent that is there and cannot say holds its own
// ring, and says why.
func TestTrialWithoutAnAnswer(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer stop()
	f.settleFirst(url)
	f.trials["canary"] = protocol.PlanReport{Error: "read addon statuses: connection refused"}
	f.edit("salt/pillar/common.sls", "disk-monitor:", "remediation-controller:\n  planTimeout: 1h\ndisk-monitor:")
	f.commit("pillar")
	st := f.await(url, "the answer", func(st protocol.Status) bool {
		c := cluster(st, "canary")
		return c.Trial != nil && c.Trial.State == protocol.TrialUnknown
	})
	if c := cluster(st, "canary"); c.Trial.AgainAt.IsZero() || !strings.Contains(st.Rings[0].Message, "connection refused") {
		t.Errorf("ring %+v, trial %+v", st.Rings[0], c.Trial)
	}
	f.never(url, "a publication", func(st protocol.Status) bool { return len(published(st)) > 0 })
}
