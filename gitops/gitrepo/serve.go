package gitrepo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"holdfast.dev/internal/hostexec"
)

// Mirror brings one branch, with its history and nothing else, into a bare
// repository of its own at dir, which is made when it is not there. Git gives
// who may fetch from a repository any object that is in it, whatever refs are
// hidden (gitnamespaces(7), "Security"): what must not be read must not be there.
func (r *Repo) Mirror(ctx context.Context, dir, branch string) error {
	ref := "refs/heads/" + branch
	if _, err := os.Stat(filepath.Join(dir, "HEAD")); errors.Is(err, fs.ErrNotExist) {
		if _, err := r.git(ctx, nil, "init", "-q", "--bare", "--initial-branch="+branch, dir); err != nil {
			return fmt.Errorf("make mirror of %s: %w", branch, err)
		}
	}
	if _, err := hostexec.Run(ctx, timeout, hostexec.Command{Path: "git", Dir: dir, Env: r.env,
		Args: []string{"-c", "gc.autoDetach=false", "fetch", "-q", "--no-tags", "--no-write-fetch-head", "--", r.dir, "+" + ref + ":" + ref}}); err != nil {
		return fmt.Errorf("mirror %s: %w", branch, err)
	}
	return nil
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
	if _, err := hostexec.Run(ctx, timeout, hostexec.Command{Path: "git", Dir: dir, Env: env, Args: append(args, dir), Stdin: in, Stdout: out}); err != nil {
		return fmt.Errorf("serve git: %w", err)
	}
	return nil
}
