package gitrepo_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
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

func TestHeadOfMissingRef(t *testing.T) {
	if _, err := newRepo(t).Head(context.Background(), "refs/heads/none"); !errors.Is(err, gitrepo.ErrNoRef) {
		t.Errorf("got %v, want ErrNoRef", err)
	}
}
