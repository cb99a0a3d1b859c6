// Package gitrepo reads and writes a bare git repository through the git
// program. The program, and not a library, because a pre-receive hook sees the
// pushed objects only through git's own quarantine environment
// (git-receive-pack(1), "Quarantine Environment").
package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/internal/hostexec"
)

const timeout = 30 * time.Second

// What else git takes parents of a commit from (gitrepository-layout(5), info/grafts and
// shallow; git-config(1), core.commitGraph).
const (
	noGrafts  = "GIT_GRAFT_FILE=/dev/null/none" // of a file that there is, git says that grafts are deprecated
	noShallow = "GIT_SHALLOW_FILE="
	noGraph   = "core.commitGraph=false"
)

// ErrNoRef is returned for a ref that does not exist.
var ErrNoRef = errors.New("no such ref")

// Repo is a bare repository.
type Repo struct {
	dir string
	env []string // nil inherits: a hook needs git's variables
	// sign adds a signature to the content of a commit; nil for none.
	sign func(commit []byte) ([]byte, error)
}

// Open checks that dir is a repository. environ is os.Environ(): those of its
// GIT_… variables that say which repository is meant reach git only when inHook is set.
func Open(ctx context.Context, dir string, environ []string, inHook bool) (*Repo, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(abs); err != nil {
		return nil, fmt.Errorf("open git repository: %w", err)
	}
	r := &Repo{dir: abs}
	for _, kv := range environ {
		if inHook || !strings.HasPrefix(kv, "GIT_") || personal(kv) {
			r.env = append(r.env, kv)
		}
	}
	// Nothing stands for another object: replace refs, which can be pushed, and grafts
	// show other content, or another history, under the name of what was signed.
	r.env = append(r.env, "GIT_CONFIG_NOSYSTEM=1", "LC_ALL=C", "GIT_NO_REPLACE_OBJECTS=1", noGrafts)
	if !inHook { // which changes nothing, and has git's own configuration
		// By default only packs outlive a power cut: a branch whose objects or ref are
		// empty files stays so until a person comes (git-config(1), core.fsync).
		r.env = append(r.env, "GIT_CONFIG_COUNT=1", "GIT_CONFIG_KEY_0=core.fsync", "GIT_CONFIG_VALUE_0=committed,reference")
	}
	if _, err := r.git(ctx, nil, "rev-parse", "--git-dir"); err != nil {
		return nil, fmt.Errorf("open git repository %s: %w", dir, err)
	}
	return r, nil
}

// personal is true for git's variables that say who somebody is and how to reach
// a remote, and not which repository is meant.
func personal(kv string) bool {
	for _, p := range []string{"GIT_AUTHOR_", "GIT_COMMITTER_", "GIT_SSH", "GIT_ASKPASS=", "GIT_CONFIG_GLOBAL="} {
		if strings.HasPrefix(kv, p) {
			return true
		}
	}
	return false
}

// Bare tells whether the repository is bare.
func (r *Repo) Bare(ctx context.Context) (bool, error) {
	out, err := r.git(ctx, nil, "rev-parse", "--is-bare-repository")
	return strings.TrimSpace(string(out)) == "true", err
}

// Dir is the repository's directory.
func (r *Repo) Dir() string { return r.dir }

// Head is the commit that a ref names.
func (r *Repo) Head(ctx context.Context, ref string) (string, error) {
	out, err := r.git(ctx, nil, "rev-parse", "--quiet", "--verify", ref+"^{commit}")
	if hostexec.ExitCode(err) == 1 {
		return "", fmt.Errorf("%s: %w", ref, ErrNoRef)
	}
	return strings.TrimSpace(string(out)), err
}

// Branch is one branch with its newest commit.
type Branch struct {
	Name   string // without refs/heads/
	Commit string
}

// Branches lists the branches below a prefix such as "rendered/". Their commits are
// not looked at: one that cannot be read hides no other branch.
func (r *Repo) Branches(ctx context.Context, prefix string) ([]Branch, error) {
	out, err := r.git(ctx, nil, "for-each-ref", "--format=%(refname:strip=2) %(objectname)", "refs/heads/"+prefix)
	if err != nil {
		return nil, err
	}
	var list []Branch
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		if len(f) != 2 {
			return nil, fmt.Errorf("read branches: git printed %q", line)
		}
		list = append(list, Branch{Name: f[0], Commit: f[1]})
	}
	return list, nil
}

// History lists at most limit commits, newest first, that end at commit and
// changed something below one of the paths.
func (r *Repo) History(ctx context.Context, commit string, limit int, paths ...string) ([]string, error) {
	out, err := r.git(ctx, nil, append([]string{"rev-list", "--max-count=" + strconv.Itoa(limit), commit, "--"}, paths...)...)
	return strings.Fields(string(out)), err
}

// Archive writes the files of a commit as a tar stream.
func (r *Repo) Archive(ctx context.Context, commit string, w io.Writer) error {
	_, err := run(ctx, timeout, hostexec.Command{Dir: r.dir, Env: r.env, Stdout: w,
		Args: []string{"archive", "--format=tar", commit}})
	return err
}

// SetRef points ref at commit if it points at old now; an empty old means that
// it must not exist.
func (r *Repo) SetRef(ctx context.Context, ref, commit, old string) error {
	_, err := r.change(ctx, nil, "update-ref", ref, commit, old)
	return err
}

// change runs a git that changes the repository, to its end or its own deadline: if
// the end of ctx killed it, its locks would stay, and nobody removes them. For the same
// reason it alone outlives a caller that is killed, for the moment that it takes.
func (r *Repo) change(ctx context.Context, in io.Reader, args ...string) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return hostexec.Run(context.WithoutCancel(ctx), timeout, hostexec.Command{Path: "git", Args: args, Dir: r.dir, Env: r.env, Stdin: in})
}

// walk runs a git that goes along the history of commits by what is in them alone: a
// commit that a file hides would not be asked who signed it. Where the repository does
// not have the whole history that is asked for, it is an error.
func (r *Repo) walk(ctx context.Context, args ...string) ([]byte, error) {
	return run(ctx, timeout, hostexec.Command{Args: append([]string{"-c", noGraph}, args...), Dir: r.dir, Env: append(slices.Clip(r.env), noShallow)})
}

func (r *Repo) git(ctx context.Context, in io.Reader, args ...string) ([]byte, error) {
	return run(ctx, timeout, hostexec.Command{Args: args, Dir: r.dir, Env: r.env, Stdin: in})
}

// run runs a git that may be killed at any moment, and is when its caller dies: a hub
// that was killed left gits behind that went on writing into copies.
func run(ctx context.Context, timeout time.Duration, c hostexec.Command) ([]byte, error) {
	c.Path, c.DiesWithCaller = "git", true
	return hostexec.Run(ctx, timeout, c)
}
