package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"holdfast.dev/internal/hostexec"
)

// mirrorTimeout bounds one fetch into a mirror, the first of a long history too.
const mirrorTimeout = 2 * time.Minute

// Mirror brings one branch up to a commit, with its history and nothing else, into a
// bare repository of its own at dir. The branch itself may be further: somebody may
// have written past the caller. Git gives who may fetch from a repository any
// object that is in it, whatever refs are hidden (gitnamespaces(7), "Security"):
// what must not be read must not be there.
//
// A mirror is a copy: with anew, or when git cannot bring it up to date (a fetch
// that was killed leaves locks), another takes its place. One call at a time may
// be for a dir. ctx should not be a request's: its end kills git between two steps.
func (r *Repo) Mirror(ctx context.Context, dir, branch, commit string, anew bool) error {
	if !anew && r.fetch(ctx, dir, branch, commit) == nil {
		return nil
	}
	if err := r.apart(dir); err != nil {
		return fmt.Errorf("mirror %s: %w", branch, err)
	}
	if err := r.replace(ctx, dir, branch, commit); err != nil {
		return fmt.Errorf("mirror %s: %w", branch, err)
	}
	return nil
}

// fetch brings the commit into a mirror that is there.
func (r *Repo) fetch(ctx context.Context, dir, branch, commit string) error {
	// That may be asked for which no ref of ours ends with any more. The variables do not
	// reach it by themselves: to git it is another repository (connect.c, local_repo_env).
	// Replace refs it never heeds.
	const uploads = "--upload-pack=" + noGrafts + " " + noShallow + " git -c " + noGraph + " -c uploadpack.allowAnySHA1InWant=true upload-pack"
	// Nothing is looked at of what a power cut leaves of a copy.
	// --git-dir, for git would look for another repository above one that it cannot read.
	_, err := run(ctx, mirrorTimeout, hostexec.Command{Dir: dir, Env: r.env,
		Args: []string{"--git-dir=.", "-c", "gc.autoDetach=false", "-c", "core.fsync=none", "fetch", "-q", "--no-tags", "--no-write-fetch-head", uploads, "--", r.dir, "+" + commit + ":refs/heads/" + branch}})
	return err
}

// replace makes a mirror and then puts it at dir. It is made where nothing else has
// ever been: what a git that an earlier hub left behind had started may still write to
// what it began. The one before stays for its readers, until the next one is replaced or a minute is over.
func (r *Repo) replace(ctx context.Context, dir, branch, commit string) error {
	parent, name := filepath.Split(dir)
	making := filepath.Join(parent, ".making", name)
	_ = os.RemoveAll(making) // what cannot be removed now is in nobody's way
	if err := os.MkdirAll(making, 0o700); err != nil {
		return err
	}
	work, err := os.MkdirTemp(making, "")
	if err != nil {
		return err
	}
	made, old := filepath.Join(work, "new"), filepath.Join(work, "old")
	_, err = r.git(ctx, nil, "init", "-q", "--bare", "--initial-branch="+branch, made)
	if err == nil {
		err = r.fetch(ctx, made, branch, commit)
	}
	replaced := false
	if err == nil {
		err = os.Rename(dir, old)
		replaced = err == nil
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	}
	if err == nil {
		err = os.Rename(made, dir)
	}
	if err == nil && replaced {
		// Who reads the old one opens more of it, until its git's deadline.
		time.AfterFunc(2*timeout, func() { _ = errors.Join(os.RemoveAll(work), os.Remove(making)) })
		return nil
	}
	_ = os.RemoveAll(making)
	return err
}

// apart is an error when dir is the repository itself, or holds it: that one is no
// copy, and must never be replaced.
func (r *Repo) apart(dir string) error {
	there, err := os.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	at, err := filepath.EvalSymlinks(r.dir)
	if err != nil {
		return err
	}
	for {
		here, err := os.Stat(at)
		if err != nil {
			return err
		}
		if os.SameFile(here, there) {
			return fmt.Errorf("%s is where the fleet's repository %s lies (move the repository, or use another data directory)", dir, r.dir)
		}
		if at == filepath.Dir(at) {
			return nil
		}
		at = filepath.Dir(at)
	}
}

// UploadPack answers one request of git's smart HTTP protocol about a mirror
// (gitprotocol-http(5)): the list of refs, or what in asks for. protocol is the
// client's Git-Protocol header.
func (r *Repo) UploadPack(ctx context.Context, dir, protocol string, refs bool, in io.Reader, out io.Writer) error {
	args := []string{"upload-pack", "--strict", "--stateless-rpc"}
	if refs {
		args = append(args, "--http-backend-info-refs")
	}
	env := r.env
	if protocol == "version=1" || protocol == "version=2" {
		env = append(env[:len(env):len(env)], "GIT_PROTOCOL="+protocol)
	}
	if _, err := run(ctx, timeout, hostexec.Command{Dir: dir, Env: env, Args: append(args, dir), Stdin: in, Stdout: out}); err != nil {
		return fmt.Errorf("serve git: %w", err)
	}
	return nil
}
