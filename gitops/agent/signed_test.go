package agent_test

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"holdfast.dev/gitops/render"
	"holdfast.dev/gitops/signature"
)

// published is a commit of a bundle as the hub makes it.
func published(t *testing.T, key ssh.Signer, cluster string, files map[string][]byte, at int) []byte {
	t.Helper()
	idx, err := render.ParseIndex(render.BundleFile, files[render.BundleFile])
	if err != nil {
		t.Fatal(err)
	}
	raw := fmt.Appendf(nil, "tree %s\nauthor h <h@example.com> %d +0000\ncommitter h <h@example.com> %d +0000\n\n%s at 0123456789ab\n\ndigest: %s\nsource: x\n",
		signature.TreeID(files), at, at, cluster, idx.Digest)
	if key == nil {
		return raw
	}
	c, err := signature.ParseCommit(raw)
	if err != nil {
		t.Fatal(err)
	}
	if raw, err = c.Signed(key); err != nil {
		t.Fatal(err)
	}
	return raw
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// trust makes the keys those that may sign, all at once, as the kubelet does.
func (r *rig) trust(keys ...ssh.Signer) {
	r.t.Helper()
	r.keys = filepath.Join(r.dir, "allowed_signers")
	var text string
	for _, key := range keys {
		text += "hub namespaces=\"git\" " + string(ssh.MarshalAuthorizedKey(key.PublicKey()))
	}
	if err := errors.Join(os.WriteFile(r.keys+".new", []byte(text), 0o600), os.Rename(r.keys+".new", r.keys)); err != nil {
		r.t.Fatal(err)
	}
}

// TestOnlySignedIsApplied: an agent that demands signatures refuses, says why,
// and leaves the cluster as it is.
func TestOnlySignedIsApplied(t *testing.T) {
	hub, evil := newKey(t), newKey(t)
	r := newRig(t, "signed-1")
	r.stop()
	r.trust(hub)
	r.start()
	fleet := func(version int) map[string][]byte {
		return bundle(t, r.name, map[string]addon{"one": {fmt.Sprintf("0.1.%d", version), map[string]string{"a.yaml": configMap("signed", fmt.Sprint(version))}}})
	}
	first := fleet(1)
	old := published(t, hub, r.name, first, 1700000000)
	r.hub.wantCommit(first, old)
	r.until("a signed bundle", func() bool { return r.settled(first) })

	second := fleet(2)
	newer := published(t, hub, r.name, second, 1700000100)
	cases := []struct {
		name, reason string
		files        map[string][]byte
		commit       []byte
		want         string
	}{
		{"Unsigned", "no signature", second, published(t, nil, r.name, second, 1700000100), "it is not signed"},
		{"Stranger", "a good signature of somebody else", second, published(t, evil, r.name, second, 1700000100), "of nobody who may sign"},
		{"Other", "a commit that the hub signed for another cluster", second, published(t, hub, "signed-2", second, 1700000100), "not of this bundle for signed-1"},
		{"Files", "other files under a good commit", fleet(3), newer, "are not those of the signed commit"},
		{"Older", "what the cluster has had, published again", second, published(t, hub, r.name, second, 1699999999), "older than what this cluster has had"},
		{"SameTime", "two commits of one second", second, published(t, hub, r.name, second, 1700000000), "older than what this cluster has had"},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			r.hub.wantCommit(tc.files, tc.commit)
			r.until("the refusal", func() bool {
				rep := r.hub.last()
				return rep.Refused == signature.CommitID(tc.commit) && strings.Contains(rep.Error, tc.want)
			})
			if got := r.value("signed"); got != "1" {
				t.Errorf("the cluster has %q; reason: %s", got, tc.reason)
			}
		})
	}
	r.hub.wantCommit(second, newer)
	r.until("the next signed bundle", func() bool { return r.settled(second) })

	// A replay works no better on an agent that was just started.
	r.stop()
	r.hub.wantCommit(first, old)
	r.start()
	r.until("the refusal of a replay", func() bool { return strings.Contains(r.hub.last().Error, "older than what this cluster has had") })
	if r.value("signed") != "2" {
		t.Errorf("the cluster went back to %q", r.value("signed"))
	}
	// Nor does a file of signers that is gone.
	r.stop()
	if err := os.Remove(r.keys); err != nil {
		t.Fatal(err)
	}
	third := fleet(4)
	r.hub.wantCommit(third, published(t, evil, r.name, third, 1700000200))
	r.start()
	r.until("the refusal without signers", func() bool { return strings.Contains(r.hub.last().Error, "read allowed signers") })
	if r.value("signed") != "2" {
		t.Errorf("without anybody who may sign, %q was applied", r.value("signed"))
	}
}

// TestKeysAreRenewed: a cluster that is told of the hub's new key after the hub
// signs with it refused that bundle until its agent was restarted.
func TestKeysAreRenewed(t *testing.T) {
	old, next := newKey(t), newKey(t)
	r := newRig(t, "signed-3")
	r.stop()
	r.trust(old)
	r.hub.holdFor(100 * time.Millisecond) // the hub itself answers within a minute
	r.start()
	fleet := func(version string) map[string][]byte {
		return bundle(t, r.name, map[string]addon{"one": {"0.1." + version, map[string]string{"a.yaml": configMap("renewed", version)}}})
	}
	refused := func(commit []byte) {
		t.Helper()
		r.until("the refusal", func() bool {
			rep := r.hub.last()
			return rep.Refused == signature.CommitID(commit) && strings.Contains(rep.Error, "of nobody who may sign")
		})
	}
	// The very same bundle, published again under a key that is trusted.
	first := fleet("1")
	stranger := published(t, next, r.name, first, 1700000000)
	r.hub.wantCommit(first, stranger)
	refused(stranger)
	r.hub.wantCommit(first, published(t, old, r.name, first, 1700000000))
	r.until("the bundle under another signature", func() bool { return r.settled(first) })
	// The very same commit, when its key has become a trusted one.
	second := fleet("2")
	commit := published(t, next, r.name, second, 1700000100)
	r.hub.wantCommit(second, commit)
	refused(commit)
	r.trust(old, next)
	r.until("the bundle under the new key", func() bool { return r.settled(second) && r.hub.last().Refused == "" })
}
