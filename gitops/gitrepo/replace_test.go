package gitrepo_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/internal/hostexec"
)

// view is all that a repository tells of a commit.
type view struct {
	Files, Commit, Archive string
	New                    []string
	Follows                bool
	Fetched                string
}

func look(t *testing.T, r *gitrepo.Repo, base, commit string) view {
	t.Helper()
	ctx := t.Context()
	entries, err1 := r.List(ctx, commit)
	files, err2 := r.Read(ctx, entries)
	raw, err3 := r.Commit(ctx, commit)
	var tar bytes.Buffer
	err4 := r.Archive(ctx, commit, &tar)
	news, err5 := r.NewCommits(ctx, base, commit)
	follows, err6 := r.Follows(ctx, commit, base)
	mirror := filepath.Join(t.TempDir(), "m", "c1.git")
	err7 := r.Mirror(ctx, mirror, mirrored, commit, true)
	if err := errors.Join(err1, err2, err3, err4, err5, err6, err7); err != nil {
		t.Fatal(err)
	}
	v := view{Commit: string(raw), Archive: tar.String(), New: news, Follows: follows, Fetched: fetched(t, mirror)}
	for path, data := range files {
		v.Files += path + "=" + string(data) + "\n"
	}
	return v
}

// TestNothingStandsForAnother: git has several ways to show something else under the
// name of a commit or a file, and a replace ref can be pushed. What was signed was not
// what was rendered then, and a commit that nobody signed was left out of what is looked at.
func TestNothingStandsForAnother(t *testing.T) {
	for name, trick := range map[string]func(t *testing.T, git func(stdin string, args ...string) string, dir, first, second, third string){
		"Commit": func(_ *testing.T, git func(string, ...string) string, _, first, _, third string) {
			git("", "update-ref", "refs/replace/"+third, first)
		},
		"File": func(_ *testing.T, git func(string, ...string) string, _, first, _, third string) {
			git("", "update-ref", "refs/replace/"+git("", "rev-parse", third+":a"), git("", "rev-parse", first+":a"))
		},
		"Tree": func(_ *testing.T, git func(string, ...string) string, _, first, _, third string) {
			git("", "update-ref", "refs/replace/"+git("", "rev-parse", third+"^{tree}"), git("", "rev-parse", first+"^{tree}"))
		},
		"Graft": func(t *testing.T, _ func(string, ...string) string, dir, first, _, third string) {
			write(t, filepath.Join(dir, "info", "grafts"), third+" "+first+"\n")
		},
		"Shallow": func(t *testing.T, _ func(string, ...string) string, dir, _, _, third string) {
			write(t, filepath.Join(dir, "shallow"), third+"\n")
		},
		"CommitGraph": func(t *testing.T, git func(string, ...string) string, dir, _, _, third string) {
			git(third+"\n", "commit-graph", "write", "--stdin-commits", "--no-changed-paths")
			orphan(t, filepath.Join(dir, "objects", "info", "commit-graph"), third)
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRepo(t)
			first := publish(t, r, "", map[string][]byte{"a": []byte("1")})
			second := publish(t, r, first, map[string][]byte{"a": []byte("2")})
			third := publish(t, r, second, map[string][]byte{"a": []byte("3")})
			want := look(t, r, first, third)
			git := func(stdin string, args ...string) string {
				t.Helper()
				out, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: "git", Dir: r.Dir(), Args: args, Stdin: strings.NewReader(stdin)})
				if err != nil {
					t.Fatal(err)
				}
				return strings.TrimSpace(string(out))
			}
			before := git("", "log", "-p", third)
			trick(t, git, r.Dir(), first, second, third)
			if git("", "log", "-p", third) == before {
				t.Fatal("plain git is not deceived")
			}
			if diff := cmp.Diff(want, look(t, r, first, third)); diff != "" {
				t.Errorf("something else stands for the commit (-want +got):\n%s", diff)
			}
		})
	}
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
		t.Fatal(err)
	}
}

// orphan has a commit-graph say that a commit has no parents (gitformat-commit-graph(5)).
func orphan(t *testing.T, path, commit string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	chunk := func(id string) uint64 {
		at := bytes.Index(data, []byte(id))
		return binary.BigEndian.Uint64(data[at+4:])
	}
	ids, rows := data[chunk("OIDL"):chunk("CDAT")], data[chunk("CDAT"):]
	for i := 0; (i+1)*20 <= len(ids); i++ {
		if commit == hex.EncodeToString(ids[i*20:(i+1)*20]) {
			binary.BigEndian.PutUint32(rows[i*36+20:], 0x70000000)
		}
	}
	if err := errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, data, 0o600)); err != nil {
		t.Fatal(err)
	}
}
