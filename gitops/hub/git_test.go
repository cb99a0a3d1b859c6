package hub_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/gitops/protocol"
	"holdfast.dev/gitops/trust"
	"holdfast.dev/internal/hostexec"
)

// gitAs runs git as whoever has the credential.
func (f *fleet) gitAs(cred *trust.Credential, args ...string) (string, error) {
	f.t.Helper()
	dir := f.t.TempDir()
	for name, data := range map[string][]byte{"tls.crt": cred.Cert, "tls.key": cred.Key, "ca.crt": cred.Roots} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			f.t.Fatal(err)
		}
	}
	env := append(os.Environ(), "GIT_SSL_CERT="+filepath.Join(dir, "tls.crt"), "GIT_SSL_KEY="+filepath.Join(dir, "tls.key"), "GIT_SSL_CAINFO="+filepath.Join(dir, "ca.crt"), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_TERMINAL_PROMPT=0", "LC_ALL=C")
	out, err := hostexec.Run(f.t.Context(), 30*time.Second, hostexec.Command{Path: "git", Dir: f.work, Env: env, Args: args})
	return string(out), err
}

// TestGitFetch: the branch of the cluster is plain git for whoever has its
// credential, and nothing else of the repository can be had that way.
func TestGitFetch(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer stop()
	f.await(url, "publication to the canary", func(st protocol.Status) bool { return len(published(st)) == 1 })
	f.agent(url, "canary").report(f.index("canary"), v1alpha1.HealthHealthy)
	f.await(url, "publication to az1", func(st protocol.Status) bool { return len(published(st)) == 2 })
	own := f.git(f.bare, "rev-parse", "rendered/canary")
	other := f.git(f.bare, "rev-parse", "rendered/az1-c1")
	source := f.git(f.bare, "rev-parse", "main")
	blob := f.git(f.bare, "rev-parse", "main:fleet.yaml")
	canary := f.credential(trust.Identity{Kind: trust.Cluster, Name: "canary"})
	base := url + "/v1/clusters/canary/git"
	for _, version := range []string{"0", "2"} {
		v := []string{"-c", "protocol.version=" + version}
		out, err := f.gitAs(canary, append(v, "ls-remote", base)...)
		if want := own + "\tHEAD\n" + own + "\trefs/heads/rendered/canary\n"; err != nil || out != want {
			t.Errorf("version %s: ls-remote printed %q, want %q: %v", version, out, want, err)
		}
		dir := filepath.Join(t.TempDir(), "clone")
		if _, err := f.gitAs(canary, append(v, "clone", "-q", "-b", "rendered/canary", base, dir)...); err != nil {
			t.Errorf("version %s: clone: %v", version, err)
		} else if _, err := os.Stat(filepath.Join(dir, "bundle.yaml")); err != nil {
			t.Error(err)
		}
		fresh := filepath.Join(t.TempDir(), "fresh")
		f.git(f.work, "init", "-q", "--bare", fresh)
		for what, object := range map[string]string{"another cluster's commit": other, "the source commit": source, "a file of it": blob, "another branch": "main", "the hub's state": "refs/holdfast/accepted"} {
			if _, err := f.gitAs(canary, append(v, "-C", fresh, "fetch", "-q", base, object)...); err == nil {
				t.Errorf("version %s: %s can be fetched", version, what)
			}
		}
		if _, err := f.gitAs(canary, append(v, "ls-remote", url+"/v1/clusters/az1-c1/git")...); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("version %s: another cluster's branch: %v", version, err)
		}
	}
	if _, err := f.gitAs(canary, "push", base, "HEAD:refs/heads/rendered/canary"); err == nil || !strings.Contains(err.Error(), "403") {
		t.Errorf("a cluster can push: %v", err)
	}
	mirror, err := os.Stat(filepath.Join(f.opts.DataDir, "git", "canary.git"))
	if err != nil {
		t.Fatal(err)
	}
	// Without git's own manners: want whatever, in both protocols.
	a := f.with(url, "canary", canary)
	for _, object := range []string{other, source, blob} {
		for version, body := range map[string]string{
			"":          pkt("want "+object+" no-progress\n") + "0000" + pkt("done\n"),
			"version=2": pkt("command=fetch\n") + "0001" + pkt("no-progress\n") + pkt("want "+object+"\n") + pkt("done\n") + "0000",
		} {
			if answer := a.uploadPack(version, body); bytes.Contains(answer, []byte("PACK")) {
				t.Errorf("%q: %s was sent", version, object)
			}
		}
	}
	// What a client may not have is its own fault: the mirror was made anew under whoever
	// read it.
	now, err := os.Stat(filepath.Join(f.opts.DataDir, "git", "canary.git"))
	if err != nil || !os.SameFile(mirror, now) {
		t.Errorf("the mirror is another one now: %v", err)
	}
	if answer := a.uploadPack("version=2", pkt("command=fetch\n")+"0001"+pkt("no-progress\n")+pkt("want "+own+"\n")+pkt("done\n")+"0000"); !bytes.Contains(answer, []byte("PACK")) {
		t.Errorf("the test's own request is not one: %q", answer)
	}
	if code, _ := a.do(http.MethodGet, "/v1/clusters/canary/git/info/refs?service=git-receive-pack", nil); code != http.StatusForbidden {
		t.Errorf("receive-pack: %d", code)
	}
}

// TestGitFetchFromABrokenMirror: what cannot be read is made anew within the request,
// under a running hub and under one that finds what an earlier one left.
func TestGitFetchFromABrokenMirror(t *testing.T) {
	f := newFleet(t)
	url, stop := f.start()
	defer func() { stop() }()
	f.await(url, "publication", func(st protocol.Status) bool { return len(published(st)) == 1 })
	canary := f.credential(trust.Identity{Kind: trust.Cluster, Name: "canary"})
	mirror := filepath.Join(f.opts.DataDir, "git", "canary.git")
	want := f.git(f.bare, "rev-parse", "rendered/canary")
	clone := func(reason string) {
		t.Helper()
		if _, err := f.gitAs(canary, "clone", "-q", "-b", "rendered/canary", url+"/v1/clusters/canary/git", filepath.Join(t.TempDir(), "clone")); err != nil {
			t.Errorf("%s: %v", reason, err)
		}
		if got := f.git(mirror, "rev-parse", "rendered/canary"); got != want {
			t.Errorf("%s: the mirror is at %s, want %s", reason, got, want)
		}
	}
	clone("the first request")
	truncated := func() {
		t.Helper()
		if err := os.WriteFile(filepath.Join(mirror, "HEAD"), []byte("ref:"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	truncated()
	clone("a HEAD that was cut off")
	stop()
	if err := os.RemoveAll(filepath.Join(mirror, "objects", "pack")); err != nil {
		t.Fatal(err)
	}
	truncated()
	url, stop = f.start()
	f.await(url, "status", func(st protocol.Status) bool { return len(published(st)) == 1 })
	clone("what a killed hub left")
}

// TestPublishOverALock: a lock that a power cut left on a branch, or on what the hub
// publishes by, stopped every later publication there.
func TestPublishOverALock(t *testing.T) {
	f := newFleet(t)
	for _, name := range []string{"refs/heads/rendered/canary.lock", "refs/holdfast/publishing/rendered/canary.lock", "refs/holdfast/rollout.lock"} {
		lock := filepath.Join(f.bare, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(lock), 0o700), os.WriteFile(lock, nil, 0o600), os.Chtimes(lock, time.Time{}, time.Now().Add(-time.Hour))); err != nil {
			t.Fatal(err)
		}
	}
	url, stop := f.start()
	defer stop()
	f.await(url, "publication", func(st protocol.Status) bool { return len(published(st)) == 1 })
}

func pkt(s string) string { return fmt.Sprintf("%04x%s", len(s)+4, s) }

func (a *agent) uploadPack(version, body string) []byte {
	a.t.Helper()
	req, err := http.NewRequestWithContext(a.t.Context(), http.MethodPost, a.url+"/v1/clusters/canary/git/git-upload-pack", strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Git-Protocol", version)
	resp, err := a.client.Do(req)
	if err != nil {
		return nil // the stream was broken off
	}
	defer func() { _ = resp.Body.Close() }()
	data, _ := io.ReadAll(resp.Body) // as far as it came
	return data
}
