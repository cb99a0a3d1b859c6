package gitrepo_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/hostexec"
)

// TestObjectsAreGenuine: git does not check what it reads against its name. Who could
// write files into the repository showed another commit, folder or file under the names
// of those that were signed.
func TestObjectsAreGenuine(t *testing.T) {
	r := newRepo(t)
	first := publish(t, r, "", map[string][]byte{"bundle": []byte("one"), "a/b/x": []byte("one x")})
	second := publish(t, r, first, map[string][]byte{"bundle": []byte("two"), "a/b/x": []byte("two x")})
	git := func(t *testing.T, args ...string) string {
		t.Helper()
		out, err := hostexec.Run(t.Context(), 30*time.Second, hostexec.Command{Path: "git", Dir: r.Dir(), Env: os.Environ(), Args: args})
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(out))
	}
	ctx := t.Context()
	read := func(path string) error {
		_, err := r.ReadPath(ctx, second, path)
		return err
	}
	list := func() error {
		_, err := r.List(ctx, second)
		return err
	}
	content := func() error {
		entries, err := r.List(ctx, second)
		if err == nil {
			_, err = r.Read(ctx, entries)
		}
		return err
	}
	batch := func() error {
		if got := r.CommitFiles(ctx, "bundle", first, second); len(got) != 2 {
			return os.ErrNotExist
		}
		return nil
	}
	commit := func() error {
		_, err := r.Commit(ctx, second)
		return err
	}
	cases := map[string]struct {
		shown   string // instead of the same of the second commit
		refused map[string]func() error
		works   map[string]func() error
	}{
		"Commit": {"%", map[string]func() error{"commit": commit, "list": list, "batch": batch, "read": func() error { return read("bundle") }}, nil},
		"Root":   {"%^{tree}", map[string]func() error{"list": list, "batch": batch, "read": func() error { return read("a/b/x") }}, map[string]func() error{"commit": commit}},
		"Folder": {"%:a/b", map[string]func() error{"list": list, "read": func() error { return read("a/b/x") }}, map[string]func() error{"batch": batch, "another": func() error { return read("bundle") }}},
		"File":   {"%:bundle", map[string]func() error{"content": content, "batch": batch, "read": func() error { return read("bundle") }}, map[string]func() error{"list": list, "another": func() error { return read("a/b/x") }}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			loose := func(of string) string {
				id := git(t, "rev-parse", strings.Replace(tc.shown, "%", of, 1))
				return filepath.Join(r.Dir(), "objects", id[:2], id[2:])
			}
			from, to := loose(first), loose(second)
			data, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			good, err := os.ReadFile(to)
			if err != nil {
				t.Fatal(err)
			}
			put := func(data []byte) {
				if err := os.Remove(to); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(to, data, 0o444); err != nil {
					t.Fatal(err)
				}
			}
			for what, f := range tc.refused {
				if err := f(); err != nil {
					t.Fatalf("%s before: %v", what, err)
				}
			}
			put(data)
			defer put(good)
			for what, f := range tc.refused {
				if err := f(); err == nil {
					t.Errorf("%s: the content of another is taken", what)
				}
			}
			for what, f := range tc.works {
				if err := f(); err != nil {
					t.Errorf("%s: %v", what, err)
				}
			}
		})
	}
}
