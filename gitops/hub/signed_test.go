package hub_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/hub"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/internal/hostexec"
)

// TestPublishedIsSigned: git itself verifies every rendered branch, and what
// somebody wrote into the repository past the hub does not stay published.
func TestPublishedIsSigned(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	f.await(url, "publication", func(st protocol.Status) bool { return len(published(st)) == 1 })
	lines, err := f.store.AllowedSigners()
	if err != nil {
		t.Fatal(err)
	}
	allowed := filepath.Join(t.TempDir(), "allowed")
	if err := os.WriteFile(allowed, lines, 0o600); err != nil {
		t.Fatal(err)
	}
	verify := func() error {
		_, err := hostexec.Run(t.Context(), 30*time.Second, hostexec.Command{Path: "git", Dir: f.bare, Args: []string{"-c", "gpg.ssh.allowedSignersFile=" + allowed, "verify-commit", "rendered/canary"}})
		return err
	}
	if err := verify(); err != nil {
		t.Errorf("git does not verify the branch: %v", err)
	}
	stop()
	good := f.git(f.bare, "rev-parse", "rendered/canary")
	evil := f.git(f.bare, "commit-tree", "main^{tree}", "-p", good, "-m", "canary at will")
	f.git(f.bare, "update-ref", "refs/heads/rendered/canary", evil)
	url, stop = f.start()
	defer func() { stop() }()
	f.await(url, "publication over it", func(st protocol.Status) bool { return len(published(st)) == 1 })
	if err := verify(); err != nil {
		t.Errorf("a commit of somebody else is published: %v", err)
	}
	if tree := f.git(f.bare, "rev-parse", "rendered/canary^{tree}"); tree != f.git(f.bare, "rev-parse", good+"^{tree}") {
		t.Errorf("tree %s is published", tree)
	}
}

// TestPushMustBeSigned: by the hook, and by the hub where there is no hook.
func TestPushMustBeSigned(t *testing.T) {
	f := newFleet(t)
	keys := t.TempDir()
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
	sign := func(key string) {
		f.git(f.work, "-c", "gpg.format=ssh", "-c", "user.signingkey="+filepath.Join(keys, key), "commit", "-q", "--amend", "--no-edit", "-S")
		f.git(f.work, "push", "-q", "-f", f.bare, "main")
	}
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
