package gitrepo

import (
	"bytes"
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// SignWith has every commit that is published from now on signed: f adds a
// signature to the content of a commit.
func (r *Repo) SignWith(f func(commit []byte) ([]byte, error)) { r.sign = f }

// signed is the commit with a signature, if there is to be one.
func (r *Repo) signed(ctx context.Context, commit string) (string, error) {
	if r.sign == nil {
		return commit, nil
	}
	raw, err := r.Commit(ctx, commit)
	if err != nil {
		return "", err
	}
	if raw, err = r.sign(raw); err != nil {
		return "", err
	}
	out, err := r.git(ctx, bytes.NewReader(raw), "hash-object", "-t", "commit", "-w", "--stdin")
	if err != nil {
		return "", fmt.Errorf("write signed commit: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// after is at, or just after the parent was committed: of a branch's commits the
// later one is the newer one, even if the clock was set back.
func (r *Repo) after(ctx context.Context, parent string, at time.Time) (time.Time, error) {
	if parent == "" {
		return at, nil
	}
	out, err := r.git(ctx, nil, "show", "-s", "--format=%ct", parent)
	if err != nil {
		return at, err
	}
	sec, err := strconv.ParseInt(strings.TrimSpace(string(out)), 10, 64)
	if err != nil {
		return at, fmt.Errorf("read time of %s: %w", parent, err)
	}
	if next := time.Unix(sec+1, 0); at.Before(next) {
		return next, nil
	}
	return at, nil
}

// Commit is the content of a commit object.
func (r *Repo) Commit(ctx context.Context, commit string) ([]byte, error) {
	return r.git(ctx, nil, "cat-file", "commit", commit)
}

// NewCommits lists the commits that commit has and base, if given, has not, newest first.
func (r *Repo) NewCommits(ctx context.Context, base, commit string) ([]string, error) {
	args := []string{"rev-list", commit}
	if base != "" {
		args = append(args, "^"+base)
	}
	out, err := r.git(ctx, nil, args...)
	return strings.Fields(string(out)), err
}
