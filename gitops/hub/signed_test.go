package hub_test

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/hub"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/trust"
	"holdfast.dev/internal/hostexec"
)

// verify has git verify a cluster's branch by the hub's present key.
func (f *fleet) verify(cluster string) error {
	f.t.Helper()
	lines, err := f.store.AllowedSigners()
	if err != nil {
		f.t.Fatal(err)
	}
	allowed := filepath.Join(f.t.TempDir(), "allowed")
	if err := os.WriteFile(allowed, lines, 0o600); err != nil {
		f.t.Fatal(err)
	}
	_, err = hostexec.Run(f.t.Context(), 30*time.Second, hostexec.Command{Path: "git", Dir: f.bare, Args: []string{"-c", "gpg.ssh.allowedSignersFile=" + allowed, "verify-commit", "rendered/" + cluster}})
	return err
}

// forget removes files of the hub's data directory.
func (f *fleet) forget(names ...string) {
	f.t.Helper()
	for _, name := range names {
		if err := os.RemoveAll(filepath.Join(f.opts.DataDir, name)); err != nil {
			f.t.Fatal(err)
		}
	}
}

// TestPublishedIsSigned: git itself verifies every rendered branch, and what
// somebody wrote into the repository past the hub does not stay published.
func TestPublishedIsSigned(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	f.await(url, "publication", func(st protocol.Status) bool { return len(published(st)) == 1 })
	if err := f.verify("canary"); err != nil {
		t.Errorf("git does not verify the branch: %v", err)
	}
	stop()
	good := f.git(f.bare, "rev-parse", "rendered/canary")
	evil := f.git(f.bare, "commit-tree", "main^{tree}", "-p", good, "-m", "canary at will")
	f.git(f.bare, "update-ref", "refs/heads/rendered/canary", evil)
	url, stop = f.start()
	defer func() { stop() }()
	f.await(url, "publication over it", func(st protocol.Status) bool { return len(published(st)) == 1 })
	if err := f.verify("canary"); err != nil {
		t.Errorf("a commit of somebody else is published: %v", err)
	}
	if tree := f.git(f.bare, "rev-parse", "rendered/canary^{tree}"); tree != f.git(f.bare, "rev-parse", good+"^{tree}") {
		t.Errorf("tree %s is published", tree)
	}
}

// TestSignedAgain: what does not carry the signature of the hub's key is published
// again as it was, at once and with nobody there, and a change that waits stays
// where it is: a key that was replaced is no rollout.
func TestSignedAgain(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer func() { stop() }()
	f.settleFirst(url)
	names := []string{"canary", "az1-c1", "az2-c1"}
	heads, digests := map[string]string{}, map[string]string{}
	note := func() {
		for _, name := range names {
			heads[name], digests[name] = f.head(name), f.index(name).Digest
		}
	}
	signedAgain := func(st protocol.Status) bool {
		for _, c := range st.Clusters {
			if c.Revision == "" || c.Revision == heads[c.Name] {
				return false
			}
		}
		return len(st.Clusters) > 0
	}
	check := func() {
		t.Helper()
		for _, name := range names {
			if err := f.verify(name); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if got := f.index(name).Digest; got != digests[name] {
				t.Errorf("%s has %s, it had %s", name, got, digests[name])
			}
		}
	}

	// Somebody writes past the hub while it works.
	note()
	f.git(f.bare, "update-ref", "refs/heads/rendered/az1-c1", f.git(f.bare, "commit-tree", "main^{tree}", "-p", heads["az1-c1"], "-m", "az1-c1 at will"))
	f.never(url, "a rollout", func(st protocol.Status) bool { return st.Rings[1].Phase != "Passed" })
	check()

	// The key is replaced, while a change waits and no agent is there.
	stop()
	note()
	f.agents = map[string]*agent{}
	f.edit("salt/pillar/common.sls", "disk-monitor:", "remediation-controller:\n  planTimeout: 1h\ndisk-monitor:")
	f.commit("pillar")
	f.forget("signing")
	url, stop = f.start()
	f.await(url, "every branch under the new key", signedAgain)
	f.never(url, "the change", func(st protocol.Status) bool { return len(published(st)) > 0 })
	check()

	// Nothing is remembered: what the hub cannot know for its own is neither signed nor served.
	stop()
	note()
	f.forget("signing", "published")
	url, stop = f.start()
	f.never(url, "a publication", func(st protocol.Status) bool {
		for _, c := range st.Clusters {
			if c.Revision != "" || f.head(c.Name) != heads[c.Name] {
				return true
			}
		}
		return false
	})
	if code, _ := f.as(url, trust.Identity{Kind: trust.Cluster, Name: "canary"}).do(http.MethodGet, "/v1/clusters/canary/bundles/"+heads["canary"], nil); code != http.StatusNotFound {
		t.Errorf("an unsigned head is served: %d", code)
	}
	// Not even when it is what the hub would publish: each cluster waits for its turn, and
	// whoever writes that past the hub does not bring it forward.
	f.git(f.work, "revert", "--no-edit", "HEAD")
	f.git(f.work, "push", "-q", f.bare, "main")
	reverted := f.git(f.work, "rev-parse", "HEAD")
	f.await(url, "the revert", func(st protocol.Status) bool { return st.Commit == reverted })
	for i, name := range names {
		f.never(url, "a publication before its turn", func(protocol.Status) bool {
			return slices.ContainsFunc(names[i:], func(name string) bool { return f.head(name) != heads[name] })
		})
		f.agent(url, name).report(f.index(name), v1alpha1.HealthHealthy)
		f.await(url, "publication to "+name, func(st protocol.Status) bool { return slices.Contains(published(st), name) })
		if old := f.git(f.bare, "rev-list", "--count", "rendered/"+name); old != "1" {
			t.Errorf("%s: the history has %s commits; of those before is not known whose they are", name, old)
		}
		f.agent(url, name).report(f.index(name), v1alpha1.HealthHealthy)
	}
	check()
	f.healthyEverywhere(url)
}

// signers makes the keys of somebody who may sign and of somebody who may not, files
// "mine" and "other" in the directory that it returns.
func (f *fleet) signers() (keys string) {
	t := f.t
	t.Helper()
	keys = t.TempDir()
	for _, name := range []string{"mine", "other"} {
		if _, err := hostexec.Run(t.Context(), 30*time.Second, hostexec.Command{Path: "ssh-keygen", Args: []string{"-q", "-t", "ed25519", "-N", "", "-f", filepath.Join(keys, name)}}); err != nil {
			var e *hostexec.Error
			if errors.As(err, &e) && e.ExitCode == -1 {
				t.Skip("ssh-keygen is not installed (apt-get install openssh-client)")
			}
			t.Fatal(err)
		}
	}
	pub, err := os.ReadFile(filepath.Join(keys, "mine.pub"))
	if err != nil {
		t.Fatal(err)
	}
	f.opts.Signers = filepath.Join(keys, "allowed")
	if err := os.WriteFile(f.opts.Signers, append([]byte("me@example.com "), pub...), 0o600); err != nil {
		t.Fatal(err)
	}
	return keys
}

// sign signs the newest commit anew, and pushes it.
func (f *fleet) sign(key string) {
	f.t.Helper()
	f.git(f.work, "-c", "gpg.format=ssh", "-c", "user.signingkey="+key, "commit", "-q", "--amend", "--no-edit", "-S")
	f.git(f.work, "push", "-q", "-f", f.bare, "main")
}

// TestActMustBeSigned: where commits must be signed, who may push tags cannot approve
// without a signature, nor with that of another tag.
func TestActMustBeSigned(t *testing.T) {
	f := newFleet(t)
	keys := f.signers()
	mine := filepath.Join(keys, "mine")
	f.edit("fleet.yaml", "name: az1,", "name: az1, approval: required,")
	f.commit("az1 needs an approval")
	f.sign(mine)
	url, stop := f.start()
	defer stop()
	f.await(url, "publication to the canary", func(st protocol.Status) bool { return len(published(st)) == 1 })
	f.agent(url, "canary").report(f.index("canary"), v1alpha1.HealthHealthy)
	f.await(url, "the wait for a person", func(st protocol.Status) bool { return st.Rings[1].WaitsFor == "approval" })

	tag := func(key, name string) {
		args := []string{"tag", "-a", name, "-m", "why", "main"}
		if key != "" {
			args = append([]string{"-c", "gpg.format=ssh", "-c", "tag.gpgSign=true", "-c", "user.signingkey=" + filepath.Join(keys, key)}, args...)
		}
		f.git(f.work, args...)
	}
	tag("", "approve.az1.1")
	tag("other", "approve.az1.2")
	tag("mine", "approve.az2.3")
	tag("mine", "retry.4")
	f.git(f.work, "tag", "-a", "around", "-m", "a tag of a tag", "retry.4")
	repo, err := gitrepo.Open(t.Context(), f.bare, os.Environ(), false)
	if err != nil {
		t.Fatal(err)
	}
	none := strings.Repeat("0", 40)
	for _, tc := range []struct{ from, to, want string }{
		{"approve.az1.1", "approve.az1.1", "it is not signed (git config gpg.format ssh;"},
		{"approve.az1.2", "approve.az1.2", "of nobody who may sign"},
		{"approve.az2.3", "approve.az1.3", "what is signed is the tag approve.az2.3 of"},
		{"around", "approve.az1.5", "it is not signed"},
		{"retry.4", "retry.4", ""},
	} {
		object := f.git(f.work, "rev-parse", tc.from)
		f.git(f.work, "push", "-q", f.bare, object+":refs/test/"+tc.to)
		err := hub.PreReceive(t.Context(), repo, f.opts, strings.NewReader(none+" "+object+" refs/tags/"+tc.to+"\n"))
		if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
			t.Errorf("%s as %s: got %v, want %q", tc.from, tc.to, err, tc.want)
		}
		f.git(f.bare, "update-ref", "refs/tags/"+tc.to, object) // past the hook
	}
	f.never(url, "publication without a signed approval", func(st protocol.Status) bool { return len(published(st)) != 1 })

	for _, kv := range [][2]string{{"user.name", "On Call"}, {"user.email", "oncall@example.com"}, {"gpg.format", "ssh"}, {"user.signingkey", mine}, {"tag.gpgSign", "true"}} {
		f.git(f.work, "config", kv[0], kv[1])
	}
	clone, err := gitrepo.Open(t.Context(), f.work, os.Environ(), false)
	if err != nil {
		t.Fatal(err)
	}
	if err := clone.PushTag(t.Context(), f.bare, "approve.az1.6", f.git(f.work, "rev-parse", "main"), "looked at the canary"); err != nil {
		t.Fatal(err)
	}
	f.await(url, "publication to az1", func(st protocol.Status) bool {
		return st.Approvals["az1"].Ref == "approve.az1.6" && len(published(st)) == 2
	})
}

// TestPushMustBeSigned: by the hook, and by the hub where there is no hook.
func TestPushMustBeSigned(t *testing.T) {
	f := newFleet(t)
	keys := f.signers()
	sign := func(key string) { f.sign(filepath.Join(keys, key)) }
	url, stop := f.start()
	defer stop()
	unsigned := f.git(f.work, "rev-parse", "HEAD")
	st := f.await(url, "the refusal", func(st protocol.Status) bool { return st.Rejected == unsigned })
	if len(st.Errors) != 1 || !strings.Contains(st.Errors[0], "it is not signed (git config gpg.format ssh;") {
		t.Errorf("errors %q", st.Errors)
	}
	sign("mine")
	signed := f.git(f.work, "rev-parse", "HEAD")
	f.await(url, "the signed commit", func(st protocol.Status) bool { return st.Commit == signed })

	repo, err := gitrepo.Open(t.Context(), f.bare, os.Environ(), false)
	if err != nil {
		t.Fatal(err)
	}
	f.edit("fleet.yaml", "soak: 1ms", "soak: 2ms")
	f.commit("unsigned")
	f.edit("fleet.yaml", "soak: 2ms", "soak: 3ms")
	f.commit("next")
	for key, want := range map[string]string{"other": "of nobody who may sign", "mine": "it is not signed"} { // the last is signed, the one before is not
		sign(key)
		err := hub.PreReceive(t.Context(), repo, f.opts, strings.NewReader(signed+" "+f.git(f.work, "rev-parse", "HEAD")+" refs/heads/main\n"))
		var refused *hub.RefusedError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), want) {
			t.Errorf("signed by %s: %v", key, err)
		}
	}
	f.git(f.work, "-c", "gpg.format=ssh", "-c", "user.signingkey="+filepath.Join(keys, "mine"), "rebase", "-q", "-f", "--gpg-sign", signed)
	f.git(f.work, "push", "-q", "-f", f.bare, "main")
	head := f.git(f.work, "rev-parse", "HEAD")
	if err := hub.PreReceive(t.Context(), repo, f.opts, strings.NewReader(signed+" "+head+" refs/heads/main\n")); err != nil {
		t.Errorf("all signed: %v", err)
	}
	f.await(url, "the commits, all signed", func(st protocol.Status) bool { return st.Commit == head })
	// Back to a commit that was accepted once, without anybody's signature.
	if err := hub.PreReceive(t.Context(), repo, f.opts, strings.NewReader(head+" "+signed+" refs/heads/main\n")); err == nil || !strings.Contains(err.Error(), "git revert it") {
		t.Errorf("a rewind: %v", err)
	}
}
