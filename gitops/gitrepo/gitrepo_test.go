package gitrepo_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/internal/hostexec"
)

func newRepo(t testing.TB) *gitrepo.Repo {
	t.Helper()
	dir := t.TempDir()
	if _, err := hostexec.Run(t.Context(), 10*time.Second, hostexec.Command{Path: "git", Args: []string{"init", "-q", "--bare", dir}}); err != nil {
		t.Fatal(err)
	}
	r, err := gitrepo.Open(t.Context(), dir, os.Environ(), false)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func publish(t *testing.T, r *gitrepo.Repo, parent string, files map[string][]byte) string {
	t.Helper()
	done := r.Publish(t.Context(), gitrepo.Publication{Branch: "rendered/c1", Old: parent, Parent: parent, Message: "m", Time: time.Unix(1700000000, 0), Files: files})[0]
	if done.Err != nil {
		t.Fatal(done.Err)
	}
	if head, err := r.Head(t.Context(), "refs/heads/rendered/c1"); err != nil || head != done.Commit {
		t.Fatalf("the branch is at %s, published was %s: %v", head, done.Commit, err)
	}
	return done.Commit
}

func TestPublishReadBack(t *testing.T) {
	r := newRepo(t)
	first := publish(t, r, "", map[string][]byte{"a": []byte("1\n"), "dir/with \"quote\".yaml": []byte("x: ä\n"), "empty": {}})
	want := map[string][]byte{"a": []byte("2"), "b": []byte("no newline")}
	second := publish(t, r, first, want)
	entries, err := r.List(t.Context(), second)
	if err != nil {
		t.Fatal(err)
	}
	got, err := r.Read(t.Context(), entries)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("a publication is the whole content (-want +got):\n%s", diff)
	}
	var buf bytes.Buffer
	if err := r.Archive(t.Context(), second, &buf); err != nil {
		t.Fatal(err)
	}
	tr := tar.NewReader(&buf)
	names := 0
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			names++
		}
	}
	if names != len(want) {
		t.Errorf("archive has %d files, want %d", names, len(want))
	}
}

func TestPublishComparesBeforeItSets(t *testing.T) {
	r := newRepo(t)
	first := publish(t, r, "", map[string][]byte{"a": []byte("1")})
	second := publish(t, r, first, map[string][]byte{"a": []byte("2")})
	p := gitrepo.Publication{Branch: "rendered/c1", Old: first, Parent: second, Message: "m", Time: time.Unix(1, 0), Files: map[string][]byte{"a": []byte("3")}}
	if r.Publish(t.Context(), p)[0].Err == nil {
		t.Fatal("a publication to a branch that has moved must fail")
	}
	if _, err := r.Republish(t.Context(), p, first); err == nil {
		t.Fatal("a republication to a branch that has moved must fail")
	}
	if head, _ := r.Head(t.Context(), "refs/heads/rendered/c1"); head != second {
		t.Errorf("head %s, want %s", head, second)
	}
}

// TestPublishMany: many branches at once, among which one that has moved and one whose
// parent is not there stop no other; of what a clock says, a branch's own time goes on.
func TestPublishMany(t *testing.T) {
	r := newRepo(t)
	r.SignWith(func(raw []byte) ([]byte, error) { return append(raw, "\nsigned\n"...), nil })
	now := time.Unix(1700000000, 0)
	pub := func(branch, parent, text string, at time.Time) gitrepo.Publication {
		return gitrepo.Publication{Branch: branch, Old: parent, Parent: parent, Message: "of " + branch, Time: at, Files: map[string][]byte{"own": []byte(branch), "shared": []byte(text), "none": {}}}
	}
	head := func(branch string) string {
		t.Helper()
		id, err := r.Head(t.Context(), "refs/heads/"+branch)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	for _, done := range r.Publish(t.Context(), pub("a", "", "1", now), pub("b", "", "1", now), pub("c", "", "1", now)) {
		if done.Err != nil {
			t.Fatal(done.Err)
		}
	}
	a, b, c := head("a"), head("b"), head("c")
	all := r.Publish(t.Context(), pub("a", a, "2", now.Add(-time.Hour)), pub("b", a, "2", now), pub("c", strings.Repeat("1", 40), "2", now), pub("d", "", "2", now), pub("a2", "", "2", now.Add(time.Hour)))
	for i, fails := range []bool{false, true, true, false, false} {
		if (all[i].Err != nil) != fails {
			t.Errorf("publication %d: %v", i, all[i].Err)
		}
	}
	if head("b") != b || head("c") != c {
		t.Error("a branch moved that was not where the publication took it to be")
	}
	for branch, want := range map[string]struct {
		parent string
		at     int64
	}{"a": {a, now.Unix() + 1}, "d": {"", now.Unix()}, "a2": {"", now.Unix() + 3600}} {
		raw, err := r.Commit(t.Context(), head(branch))
		if err != nil {
			t.Fatal(err)
		}
		text := string(raw)
		if !strings.Contains(text, fmt.Sprintf("\ncommitter holdfast-hub <hub@holdfast.dev> %d +0000\n", want.at)) || strings.Contains(text, "parent") != (want.parent != "") || !strings.Contains(text, want.parent) ||
			!strings.HasSuffix(text, "of "+branch+"\nsigned\n") {
			t.Errorf("%s: %s", branch, text)
		}
		entries, err := r.List(t.Context(), branch)
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Read(t.Context(), entries)
		if diff := cmp.Diff(map[string][]byte{"own": []byte(branch), "shared": []byte("2"), "none": {}}, got); diff != "" || err != nil {
			t.Errorf("%s: %s%v", branch, diff, err)
		}
	}
}

// TestPublishOverAnother: what a branch has is replaced, and is in its history only when
// that is wanted.
func TestPublishOverAnother(t *testing.T) {
	r := newRepo(t)
	first := publish(t, r, "", map[string][]byte{"a": []byte("1")})
	over := func(old, parent string) gitrepo.Publication {
		return gitrepo.Publication{Branch: "rendered/c1", Old: old, Parent: parent, Message: "m", Time: time.Unix(1700000000, 0), Files: map[string][]byte{"a": []byte("3")}}
	}
	for _, parent := range []string{first, ""} {
		foreign := publish(t, r, first, map[string][]byte{"a": []byte("2")})
		again, err := r.Republish(t.Context(), over(foreign, parent), first)
		if err != nil {
			t.Fatal(err)
		}
		next := r.Publish(t.Context(), over(again, parent))[0]
		if next.Err != nil {
			t.Fatal(next.Err)
		}
		for _, commit := range []string{again, next.Commit} {
			want := map[string]bool{first: parent != "", foreign: false, commit: true, strings.Repeat("1", 40): false}
			for earlier, want := range want {
				if got, err := r.Follows(t.Context(), commit, earlier); got != want || err != nil {
					t.Errorf("after %q: %s follows %s: %v, want %v (%v)", parent, commit, earlier, got, want, err)
				}
			}
		}
		first = next.Commit
	}
}

func TestHeadOfMissingRef(t *testing.T) {
	if _, err := newRepo(t).Head(context.Background(), "refs/heads/none"); !errors.Is(err, gitrepo.ErrNoRef) {
		t.Errorf("got %v, want ErrNoRef", err)
	}
}
