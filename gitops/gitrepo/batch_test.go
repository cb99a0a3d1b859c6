package gitrepo_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/gitops/gitrepo"
)

// publishMany publishes n branches, each with a file "bundle" of its own.
func publishMany(t testing.TB, r *gitrepo.Repo, n int) (commits []string) {
	t.Helper()
	var all []gitrepo.Publication
	for i := range n {
		all = append(all, gitrepo.Publication{Branch: fmt.Sprintf("rendered/many%d", i), Message: "m", Time: time.Unix(1700000000, 0),
			Files: map[string][]byte{"bundle": fmt.Appendf(nil, "of c%d\n", i)}})
	}
	for _, done := range r.Publish(t.Context(), all...) {
		if done.Err != nil {
			t.Fatal(done.Err)
		}
		commits = append(commits, done.Commit)
	}
	return commits
}

// TestCommitFiles: one that git cannot read, or even ends at, is left out, and what is
// told of the others is right.
func TestCommitFiles(t *testing.T) {
	r := newRepo(t)
	bare := publish(t, r, "", map[string][]byte{"other": nil})
	broken := publish(t, r, bare, map[string][]byte{"bundle": []byte("broken")})
	all := publishMany(t, r, 3)
	tree := strings.Fields(string(mustCommit(t, r, all[0])))[1]
	path := filepath.Join(r.Dir(), "objects", broken[:2], broken[2:])
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, []byte("no object"), 0o600)); err != nil {
		t.Fatal(err)
	}
	none := strings.Repeat("1", 40)
	for name, tc := range map[string]struct {
		reason string
		ask    []string
		must   []string // be told
		no     []string
	}{
		"All":    {"in any order", []string{all[2], all[0], all[1]}, all, nil},
		"Absent": {"one that is not there, and one without the file, stand in nobody's way", []string{none, bare, tree, all[0]}, all[:1], []string{none, bare, tree}},
		"Broken": {"git ends at it, and what came before holds", []string{all[0], broken, all[1]}, all[:1], []string{broken}},
		"None":   {"nothing is asked", nil, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			got := r.CommitFiles(t.Context(), "bundle", tc.ask...)
			for _, c := range tc.must {
				if _, ok := got[c]; !ok {
					t.Errorf("%s is left out; reason: %s", c, tc.reason)
				}
			}
			for _, c := range tc.no {
				if f, ok := got[c]; ok {
					t.Errorf("%s is %+v; reason: %s", c, f, tc.reason)
				}
			}
			for c, f := range got {
				file, err := r.ReadPath(t.Context(), c, "bundle")
				if err != nil || string(file) != string(f.File) || string(mustCommit(t, r, c)) != string(f.Commit) {
					t.Errorf("%s has %q and %q: %v; reason: %s", c, f.Commit, f.File, err, tc.reason)
				}
			}
		})
	}
}

func mustCommit(t *testing.T, r *gitrepo.Repo, commit string) []byte {
	t.Helper()
	raw, err := r.Commit(t.Context(), commit)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// BenchmarkCommitFiles reads what a hundred branches end with, at once and as it was
// read before, each alone.
func BenchmarkCommitFiles(b *testing.B) {
	r := newRepo(b)
	commits := publishMany(b, r, 100)
	b.Run("batch", func(b *testing.B) {
		for b.Loop() {
			if got := r.CommitFiles(b.Context(), "bundle", commits...); len(got) != len(commits) {
				b.Fatalf("%d of %d were read", len(got), len(commits))
			}
		}
	})
	b.Run("alone", func(b *testing.B) {
		for b.Loop() {
			for _, c := range commits {
				_, err1 := r.Commit(b.Context(), c)
				_, err2 := r.ReadPath(b.Context(), c, "bundle")
				if err := errors.Join(err1, err2); err != nil {
					b.Fatal(err)
				}
			}
		}
	})
}
