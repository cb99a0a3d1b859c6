package fleet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/gitops/render"
	"holdfast.dev/internal/hostexec"
)

// Init fills Work with what "holdfast init" writes for such a fleet, as an
// empty git repository. Nothing is committed yet.
func (f *Fleet) Init(ctx context.Context, o render.InitOptions) error {
	if _, err := render.Init(f.Work, o); err != nil {
		return err
	}
	return f.git(ctx, f.Work, "init", "-q", "--initial-branch=main")
}

// Edit changes one file of Work: old, which must be there once, becomes new.
func (f *Fleet) Edit(path, old, replacement string) error {
	full := filepath.Join(f.Work, path)
	data, err := os.ReadFile(full)
	if err != nil {
		return err
	}
	if n := strings.Count(string(data), old); n != 1 {
		return fmt.Errorf("edit %s: %q is there %d times", path, old, n)
	}
	return os.WriteFile(full, []byte(strings.Replace(string(data), old, replacement, 1)), 0o644)
}

// AddFile writes a new file into Work, or at the end of one that is there.
func (f *Fleet) AddFile(path, content string) error {
	full := filepath.Join(f.Work, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	file, err := os.OpenFile(full, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = file.WriteString(content)
	return errors.Join(err, file.Close())
}

// Commit commits everything and returns the commit.
func (f *Fleet) Commit(ctx context.Context, message string) (string, error) {
	if err := f.git(ctx, f.Work, "add", "-A"); err != nil {
		return "", err
	}
	if err := f.git(ctx, f.Work, "commit", "-q", "-m", message); err != nil {
		return "", err
	}
	return f.head(ctx)
}

// Revert commits the opposite of a commit and returns the new one.
func (f *Fleet) Revert(ctx context.Context, commit string) (string, error) {
	if err := f.git(ctx, f.Work, "revert", "--no-edit", commit); err != nil {
		return "", err
	}
	return f.head(ctx)
}

func (f *Fleet) head(ctx context.Context) (string, error) {
	out, err := hostexec.Run(ctx, commandTimeout, hostexec.Command{Path: "git", Dir: f.Work, Env: gitEnv(), Args: []string{"rev-parse", "HEAD"}})
	return strings.TrimSpace(string(out)), err
}

// Push pushes main and returns when the push began.
func (f *Fleet) Push(ctx context.Context) (time.Time, error) {
	start := time.Now()
	return start, f.git(ctx, f.Work, "push", "-q", f.Repo, "main")
}

// PushRefused pushes what must be refused, returns what the person reads, and
// takes the commit back.
func (f *Fleet) PushRefused(ctx context.Context) (string, error) {
	_, err := f.Push(ctx)
	if rerr := f.git(ctx, f.Work, "reset", "-q", "--hard", "HEAD~1"); rerr != nil {
		return "", rerr
	}
	if err == nil {
		return "", errors.New("the push was taken")
	}
	var said []string
	for line := range strings.Lines(err.Error()) {
		if text, ok := strings.CutPrefix(strings.TrimSpace(line), "remote: "); ok {
			said = append(said, strings.TrimRight(text, " \n"))
		}
	}
	// The first line follows git's own prefix of the error.
	if i := strings.Index(err.Error(), "remote: holdfast"); i >= 0 && len(said) == 0 {
		return "", fmt.Errorf("cannot read what git said: %w", err)
	}
	return strings.Join(said, "\n"), nil
}

func (f *Fleet) git(ctx context.Context, dir string, args ...string) error {
	_, err := hostexec.Run(ctx, commandTimeout, hostexec.Command{Path: "git", Dir: dir, Env: gitEnv(), Args: args})
	return err
}

// gitEnv keeps the commits apart from the person's own git configuration.
func gitEnv() []string {
	return append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=Platform Engineer", "GIT_AUTHOR_EMAIL=platform@example.com",
		"GIT_COMMITTER_NAME=Platform Engineer", "GIT_COMMITTER_EMAIL=platform@example.com", "LC_ALL=C")
}
