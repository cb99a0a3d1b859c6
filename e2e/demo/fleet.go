package demo

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"holdfast.dev/gitops/protocol"
	"holdfast.dev/internal/hostexec"
)

// edit changes one file of the fleet repository: old, which must be there once, becomes new.
func (w *world) edit(path, old, replacement string) error {
	full := filepath.Join(w.work, path)
	data, err := os.ReadFile(full)
	if err != nil {
		return err
	}
	if n := strings.Count(string(data), old); n != 1 {
		return fmt.Errorf("edit %s: %q is there %d times", path, old, n)
	}
	return os.WriteFile(full, []byte(strings.Replace(string(data), old, replacement, 1)), 0o644)
}

// addFile writes a new file into the fleet repository, or at the end of one that is there.
func (w *world) addFile(path, content string) error {
	full := filepath.Join(w.work, path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(full, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.WriteString(content)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}

// commit commits everything and returns the commit.
func (w *world) commit(ctx context.Context, message string) (string, error) {
	if err := w.git(ctx, w.work, "add", "-A"); err != nil {
		return "", err
	}
	if err := w.git(ctx, w.work, "commit", "-q", "-m", message); err != nil {
		return "", err
	}
	return w.head(ctx)
}

func (w *world) head(ctx context.Context) (string, error) {
	out, err := hostexec.Run(ctx, 10*time.Second, hostexec.Command{Path: "git", Dir: w.work, Env: gitEnv(), Args: []string{"rev-parse", "HEAD"}})
	return strings.TrimSpace(string(out)), err
}

// push pushes main and returns when the push began.
func (w *world) push(ctx context.Context) (time.Time, error) {
	start := time.Now()
	return start, w.git(ctx, w.work, "push", "-q", w.repo, "main")
}

// pushRefused pushes what must be refused, returns what the person reads, and
// takes the commit back.
func (w *world) pushRefused(ctx context.Context) (string, error) {
	_, err := w.push(ctx)
	if rerr := w.git(ctx, w.work, "reset", "-q", "--hard", "HEAD~1"); rerr != nil {
		return "", rerr
	}
	if err == nil {
		return "", fmt.Errorf("the push was taken")
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

// status asks the hub.
func (w *world) status(ctx context.Context) (protocol.Status, error) {
	var st protocol.Status
	token, err := os.ReadFile(w.adminToken)
	if err != nil {
		return st, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.hubURL+"/v1/status", nil)
	if err != nil {
		return st, err
	}
	req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(token)))
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return st, err
	}
	defer func() { _ = resp.Body.Close() }() // read only
	return st, json.NewDecoder(resp.Body).Decode(&st)
}

func clusterOf(st protocol.Status, name string) protocol.ClusterStatus {
	for _, c := range st.Clusters {
		if c.Name == name {
			return c
		}
	}
	return protocol.ClusterStatus{}
}

// landed is when every addon of a cluster was applied and healthy at the wanted digest.
type landed struct {
	applied, healthy time.Time
}

// rolledOut tells whether a cluster runs what commit wants of it.
func rolledOut(st protocol.Status, commit, name string) (landed, bool) {
	c := clusterOf(st, name)
	if st.Commit != commit || c.Report == nil || c.Published == "" || c.Published != c.Want || c.Report.Digest != c.Want || len(c.Report.Addons) == 0 {
		return landed{}, false
	}
	var l landed
	for _, a := range c.Report.Addons {
		if a.AppliedDigest != a.DesiredDigest || a.Health != "Healthy" {
			return landed{}, false
		}
		l.applied = later(l.applied, a.AppliedAt)
		l.healthy = later(l.healthy, a.HealthySince)
	}
	return l, true
}

// awaitRollout waits until every cluster runs what commit wants, and returns when each had it.
func (w *world) awaitRollout(ctx context.Context, commit string, timeout time.Duration) (map[string]landed, error) {
	got := map[string]landed{}
	var st protocol.Status
	_, err := until(ctx, timeout, "rollout of "+commit[:12], func() (bool, error) {
		var err error
		if st, err = w.status(ctx); err != nil {
			return false, err
		}
		for _, s := range w.sites {
			l, ok := rolledOut(st, commit, s.name)
			if !ok {
				return false, nil
			}
			got[s.name] = l
		}
		return true, nil
	})
	if err != nil {
		out, _ := w.holdfast(ctx, "status") // for the reader of the failure; it may fail too
		return nil, fmt.Errorf("%w\n%s", err, indent(string(out)))
	}
	return got, nil
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
