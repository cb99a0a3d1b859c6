package hub_test

import (
	"strings"
	"testing"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/protocol"
)

// TestRingByRing takes a commit through all rings, restarts the hub in the
// middle, and goes back by git revert.
func TestRingByRing(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	st := f.await(url, "publication to the canary", func(st protocol.Status) bool { return len(published(st)) == 1 })
	if got := published(st); got[0] != "canary" {
		t.Fatalf("published to %v first", got)
	}
	f.agent(url, "canary").report(f.index("canary"), v1alpha1.HealthHealthy)
	f.await(url, "publication to az1", func(st protocol.Status) bool { return len(published(st)) == 2 })
	stop()

	url, stop = f.start()
	defer func() { stop() }()
	st = f.await(url, "the same state after a restart", func(st protocol.Status) bool { return len(published(st)) == 2 })
	if st.Rendered != 0 {
		t.Errorf("%d units were rendered again after a restart", st.Rendered)
	}
	// The hub has forgotten what the canary said, so the gate is shut until it says it again.
	f.agent(url, "az1-c1").report(f.index("az1-c1"), v1alpha1.HealthHealthy)
	f.never(url, "publication to az2 without word from the canary", func(st protocol.Status) bool { return len(published(st)) != 2 })
	f.agent(url, "canary").report(f.index("canary"), v1alpha1.HealthHealthy)
	st = f.await(url, "publication everywhere", func(st protocol.Status) bool { return len(published(st)) == 3 })

	first := want(st, "canary")
	f.edit("salt/pillar/common.sls", "disk-monitor:", "remediation-controller:\n  planTimeout: 1h\ndisk-monitor:")
	second := f.commit("pillar")
	st = f.await(url, "the pillar change on the canary", func(st protocol.Status) bool { return st.Commit == second && len(published(st)) == 1 })
	for _, u := range st.RenderedUnits {
		if !strings.HasSuffix(u, "/remediation-controller") {
			t.Errorf("%s was rendered, and reads nothing that changed", u)
		}
	}
	f.git(f.work, "revert", "--no-edit", "HEAD")
	f.git(f.work, "push", "-q", f.bare, "main")
	reverted := f.git(f.work, "rev-parse", "HEAD")
	st = f.await(url, "the revert", func(st protocol.Status) bool { return st.Commit == reverted && len(published(st)) == 3 })
	if got := want(st, "canary"); got != first || st.Rendered != 0 {
		t.Errorf("after the revert: digest %s (first %s), %d units rendered", got, first, st.Rendered)
	}
}

func TestSickCanaryHalts(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer stop()
	f.await(url, "publication to the canary", func(st protocol.Status) bool { return len(published(st)) == 1 })
	canary := f.agent(url, "canary")
	canary.report(f.index("canary"), v1alpha1.HealthDegraded)
	st := f.await(url, "the halt", func(st protocol.Status) bool { return st.Rings[0].Phase == "Halted" })
	f.never(url, "publication past the halt", func(st protocol.Status) bool { return len(published(st)) != 1 })
	if !strings.Contains(st.Rings[0].Message, "addon crds: from the test") {
		t.Errorf("message %q", st.Rings[0].Message)
	}
}

// TestReportMustCoverTheBundle: one healthy addon says nothing of the others.
func TestReportMustCoverTheBundle(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer stop()
	f.await(url, "publication to the canary", func(st protocol.Status) bool { return len(published(st)) == 1 })
	idx := f.index("canary")
	canary := f.agent(url, "canary")
	canary.send(protocol.Report{Digest: idx.Digest, Addons: []protocol.AddonReport{{Name: "crds", DesiredDigest: "d", AppliedDigest: "d", Health: v1alpha1.HealthHealthy}}})
	f.never(url, "publication past a partial report", func(st protocol.Status) bool { return len(published(st)) != 1 })
	canary.send(protocol.Report{Digest: idx.Digest, Refused: "an older one", Error: "of another revision", Addons: nil})
	f.never(url, "a halt for another revision's error", func(st protocol.Status) bool { return st.Rings[0].Phase == "Halted" })
}

// TestAddonComesBackUnderItsVersion: removed, and added again with other content.
func TestAddonComesBackUnderItsVersion(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer stop()
	f.await(url, "publication", func(st protocol.Status) bool { return len(published(st)) == 1 })
	f.git(f.work, "rm", "-q", "-r", "addons/local-volume-provisioner", "salt/states/local-volume-provisioner", "kustomize/components/local-volume-provisioner")
	f.edit("salt/states/top.sls", "- local-volume-provisioner", "# none")
	removed := f.commit("without the provisioner")
	f.await(url, "the removal", func(st protocol.Status) bool { return st.Commit == removed })
	f.git(f.work, "revert", "--no-commit", "HEAD")
	f.edit("addons/local-volume-provisioner/addon.yaml", "summary: ", "summary: Another ")
	bad := f.commit("with another one under the same version")
	st := f.await(url, "the refusal", func(st protocol.Status) bool { return st.Rejected == bad })
	if len(st.Errors) != 1 || !strings.Contains(st.Errors[0], "was in this fleet before, with other content") {
		t.Errorf("errors %q", st.Errors)
	}
}

// TestCommitThatMustNotPass: without a hook the hub itself refuses, and the fleet stays.
func TestCommitThatMustNotPass(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer stop()
	st := f.await(url, "publication", func(st protocol.Status) bool { return len(published(st)) == 1 })
	accepted := st.Commit
	f.edit("fleet.yaml", "tier: canary}}", "tier: nowhere}}")
	bad := f.commit("a cluster in no ring")
	st = f.await(url, "the refusal", func(st protocol.Status) bool { return st.Rejected == bad })
	if st.Commit != accepted || len(st.Errors) == 0 || !strings.HasPrefix(st.Errors[0], "fleet.yaml:") {
		t.Errorf("commit %s (accepted %s), errors %q", st.Commit, accepted, st.Errors)
	}
}
