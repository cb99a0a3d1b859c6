package gitrepo

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

const signing = "holdfast-commits-" // begins the names of folders with commits that are being signed

// SignWith has every commit that is published from now on signed: f adds a
// signature to the content of a commit. What a killed process left of its signing is
// removed, but for what is young and may be another's at work.
func (r *Repo) SignWith(f func(commit []byte) ([]byte, error)) {
	r.sign = f
	left, _ := filepath.Glob(filepath.Join(r.dir, signing+"*")) // is in nobody's way if it stays
	for _, dir := range left {
		if info, err := os.Stat(dir); err == nil && time.Since(info.ModTime()) > 2*timeout {
			_ = os.RemoveAll(dir)
		}
	}
}

// signed are the names of commits, with a signature if there is to be one.
func (r *Repo) signed(ctx context.Context, commits ...object) ([]string, error) {
	ids := make([]string, len(commits))
	for i, c := range commits {
		ids[i] = c.id
	}
	if r.sign == nil {
		return ids, nil
	}
	dir, err := os.MkdirTemp(r.dir, signing) // the one place that can be written to wherever a hub runs
	if err != nil {
		return nil, fmt.Errorf("write signed commits: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // they are in the repository, or of no use
	var paths strings.Builder
	for i, c := range commits {
		raw, err := r.sign(c.data)
		if err != nil {
			return nil, err
		}
		path := filepath.Join(dir, strconv.Itoa(i))
		if err := os.WriteFile(path, raw, 0o600); err != nil {
			return nil, fmt.Errorf("write signed commits: %w", err)
		}
		paths.WriteString(path + "\n")
	}
	out, err := r.git(ctx, strings.NewReader(paths.String()), "hash-object", "-t", "commit", "-w", "--no-filters", "--stdin-paths")
	if err != nil {
		return nil, fmt.Errorf("write signed commits: %w", err)
	}
	if ids = strings.Fields(string(out)); len(ids) != len(commits) {
		return nil, fmt.Errorf("write signed commits: git printed %d names of %d", len(ids), len(commits))
	}
	return ids, nil
}

// after is the second after each parent was committed, and zero where there is none: of
// a branch's commits the later one is the newer one, even if the clock was set back.
func (r *Repo) after(ctx context.Context, parents ...string) ([]time.Time, error) {
	commits, err := r.objects(ctx, "commit", slices.DeleteFunc(slices.Clone(parents), func(p string) bool { return p == "" }))
	if err != nil {
		return nil, err
	}
	first := make([]time.Time, len(parents))
	for i, p := range parents {
		if p == "" {
			continue
		}
		_, line, _ := strings.Cut(string(commits[0].data), "\ncommitter ")
		line, _, _ = strings.Cut(line, "\n")
		commits = commits[1:]
		f := strings.Fields(line) // name, address, seconds, zone
		if len(f) < 2 {
			return nil, fmt.Errorf("read time of %s: it has none", p)
		}
		sec, err := strconv.ParseInt(f[len(f)-2], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("read time of %s: %w", p, err)
		}
		first[i] = time.Unix(sec+1, 0)
	}
	return first, nil
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// Commit is the content of a commit object.
func (r *Repo) Commit(ctx context.Context, commit string) ([]byte, error) {
	commits, err := r.objects(ctx, "commit", []string{commit})
	if err != nil {
		return nil, err
	}
	return commits[0].data, nil
}

// NewCommits lists the commits that commit has and base, if given, has not, newest first.
func (r *Repo) NewCommits(ctx context.Context, base, commit string) ([]string, error) {
	args := []string{"rev-list", commit}
	if base != "" {
		args = append(args, "^"+base)
	}
	out, err := r.walk(ctx, args...)
	return strings.Fields(string(out)), err
}
