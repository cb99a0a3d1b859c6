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

func newRepo(t *testing.T) *gitrepo.Repo {
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
	err := r.Publish(t.Context(), gitrepo.Publication{Branch: "rendered/c1", Parent: parent, Message: "m", Time: time.Unix(1700000000, 0), Files: files})
	if err != nil {
		t.Fatal(err)
	}
	head, err := r.Head(t.Context(), "refs/heads/rendered/c1")
	if err != nil {
		t.Fatal(err)
	}
	return head
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
	err := r.Publish(t.Context(), gitrepo.Publication{Branch: "rendered/c1", Parent: first, Message: "m", Time: time.Unix(1, 0), Files: map[string][]byte{"a": []byte("3")}})
	if err == nil {
		t.Fatal("a publication on a stale parent must fail")
	}
	if head, _ := r.Head(t.Context(), "refs/heads/rendered/c1"); head != second {
		t.Errorf("head %s, want %s", head, second)
	}
}

// TestPublishAll: many branches at once, among which one that has moved and one whose
// parent is not there stop no other; of what a clock says, a branch's own time goes on.
func TestPublishAll(t *testing.T) {
	r := newRepo(t)
	r.SignWith(func(raw []byte) ([]byte, error) { return append(raw, "\nsigned\n"...), nil })
	now := time.Unix(1700000000, 0)
	pub := func(branch, parent, text string, at time.Time) gitrepo.Publication {
		return gitrepo.Publication{Branch: branch, Parent: parent, Message: "of " + branch, Time: at, Files: map[string][]byte{"own": []byte(branch), "shared": []byte(text), "none": {}}}
	}
	head := func(branch string) string {
		t.Helper()
		id, err := r.Head(t.Context(), "refs/heads/"+branch)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	if err := errors.Join(r.PublishAll(t.Context(), []gitrepo.Publication{pub("a", "", "1", now), pub("b", "", "1", now), pub("c", "", "1", now)})...); err != nil {
		t.Fatal(err)
	}
	a, b, c := head("a"), head("b"), head("c")
	errs := r.PublishAll(t.Context(), []gitrepo.Publication{pub("a", a, "2", now.Add(-time.Hour)), pub("b", a, "2", now), pub("c", strings.Repeat("1", 40), "2", now), pub("d", "", "2", now), pub("a2", "", "2", now.Add(time.Hour))})
	for i, fails := range []bool{false, true, true, false, false} {
		if (errs[i] != nil) != fails {
			t.Errorf("publication %d: %v", i, errs[i])
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

func TestHeadOfMissingRef(t *testing.T) {
	if _, err := newRepo(t).Head(context.Background(), "refs/heads/none"); !errors.Is(err, gitrepo.ErrNoRef) {
		t.Errorf("got %v, want ErrNoRef", err)
	}
}
