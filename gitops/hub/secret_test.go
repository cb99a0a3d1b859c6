package hub_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/hub"
)

// TestPushWithASecret pushes through git and the hook itself: one that a later
// commit of the push takes out again, and one on a branch that nothing renders.
func TestPushWithASecret(t *testing.T) {
	f := newFleet(t)
	const secret = "hunter22-of-the-canary"
	push := func(refspec string) string {
		t.Helper()
		commit := f.git(f.work, "rev-parse", strings.Split(refspec, ":")[0])
		// What the hook does: the objects are here, no ref names them.
		f.git(f.bare, "fetch", "-q", f.work, commit)
		if err := os.RemoveAll(filepath.Join(f.bare, "FETCH_HEAD")); err != nil {
			t.Fatal(err)
		}
		repo, err := gitrepo.Open(t.Context(), f.bare, os.Environ(), false)
		if err != nil {
			t.Fatal(err)
		}
		err = hub.PreReceive(t.Context(), repo, f.opts, strings.NewReader(strings.Repeat("0", 40)+" "+commit+" refs/heads/"+strings.Split(refspec, ":")[1]+"\n"))
		if err == nil {
			return ""
		}
		return err.Error()
	}
	base := f.git(f.work, "rev-parse", "HEAD")
	f.edit("salt/pillar/common.sls", "disk-monitor:", "x: {password: "+secret+"}\ndisk-monitor:")
	f.git(f.work, "commit", "-q", "-a", "-m", "with a password")
	f.edit("salt/pillar/common.sls", "x: {password: "+secret+"}\n", "")
	f.git(f.work, "commit", "-q", "-a", "-m", "without it")
	for _, refspec := range []string{"main:main", "main:draft"} {
		said := push(refspec)
		if !strings.Contains(said, "salt/pillar/common.sls:1: has what looks like a password under \"password\"") && !strings.Contains(said, "common.sls") {
			t.Errorf("push of %s: %q", refspec, said)
		}
		if strings.Contains(said, secret) {
			t.Errorf("the refusal has the secret: %q", said)
		}
	}
	f.git(f.work, "reset", "-q", "--hard", base)
	f.edit("README.md", "# ", "# Notes\n\n# ")
	f.git(f.work, "commit", "-q", "-a", "-m", "prose")
	if said := push("main:main"); said != "" {
		t.Errorf("a push without a secret is refused: %s", said)
	}
}
