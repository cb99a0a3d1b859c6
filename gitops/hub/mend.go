package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/internal/atomicfile"
)

// rememberedFile has the newest commit of the cluster's branch that is the hub's. It
// lies beside the keys and not in the repository: who writes there past the hub must
// not choose what the hub signs.
func (h *Hub) rememberedFile(cluster string) string {
	return filepath.Join(h.opts.DataDir, "published", cluster)
}

// remembered is empty when there is none.
func (h *Hub) remembered(cluster string) (string, error) {
	data, err := os.ReadFile(h.rememberedFile(cluster))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", fmt.Errorf("read what is published: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// next is a cluster's next publication. It comes after what the hub itself published
// last, and not after what the branch has now, which may be anybody's: that would reach
// whoever fetches the branch, and what a rollback needs would be in no branch.
func (h *Hub) next(ctx context.Context, cluster, message string) (gitrepo.Publication, error) {
	h.mu.Lock()
	hd := h.heads[cluster]
	h.mu.Unlock()
	p := gitrepo.Publication{Branch: BranchPrefix + cluster, Old: hd.tip, Parent: hd.commit, Message: message, Time: h.now()}
	if p.Parent != "" {
		return p, nil
	}
	last, err := h.remembered(cluster)
	if err != nil || last == "" {
		return p, err
	}
	switch _, err := h.repo.Head(ctx, last); {
	case err == nil:
		p.Parent = last
	case !errors.Is(err, gitrepo.ErrNoRef): // gone with a repository that was put back from a backup
		return p, err
	}
	return p, nil
}

func (h *Hub) remember(cluster, commit string) error {
	path := h.rememberedFile(cluster)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("remember what is published: %w", err)
	}
	if was, err := h.remembered(cluster); err == nil && was == commit {
		return nil
	}
	if err := atomicfile.Write(path, []byte(commit+"\n"), 0o600); err != nil {
		return fmt.Errorf("remember what is published: %w", err)
	}
	return nil
}

// noWayBackError is of an earlier commit that a cluster's branch cannot go back to, however
// often that is tried.
type noWayBackError struct {
	revision string
	err      error
}

func (e *noWayBackError) Error() string { return e.err.Error() }

func (e *noWayBackError) Unwrap() error { return e.err }

// wayBack is the publication that has again what a cluster's branch had at an earlier
// commit. That must be in the hub's own history, for of no other is known what it is;
// else the error is a [noWayBackError].
func (h *Hub) wayBack(ctx context.Context, cluster, earlier, message string) (gitrepo.Publication, error) {
	p, err := h.next(ctx, cluster, message)
	if err != nil {
		return p, err
	}
	own := false
	if p.Parent != "" {
		if own, err = h.repo.Follows(ctx, p.Parent, earlier); err != nil {
			return p, err
		}
	}
	if !own {
		return p, &noWayBackError{earlier, fmt.Errorf("%.12s is not in the history of what the hub published to %s (push a repair, git revert, or holdfast retry)", earlier, cluster)}
	}
	return p, nil
}

// republish publishes what [Hub.wayBack] returned.
func (h *Hub) republish(ctx context.Context, cluster string, p gitrepo.Publication, earlier string) error {
	commit, err := h.repo.Republish(ctx, p, earlier)
	if err != nil {
		return err
	}
	return h.remember(cluster, commit)
}

// mendHeads publishes again, as they were, the branches that do not end with a commit
// of the hub's: it signs with another key now, or somebody wrote past it. One that could
// not be read may well be the hub's. Nothing changes for the cluster, so that no ring,
// window or approval is asked. A branch that cannot be mended, or of which nothing is
// remembered, stops no other: it is not served, and its cluster waits for its turn in
// the rollout.
func (h *Hub) mendHeads(ctx context.Context) error {
	h.mu.Lock()
	rev := h.accepted
	lost := map[string]string{}
	for name, hd := range h.heads {
		if rev != nil && rev.result.Bundles[name] != nil && hd.commit == "" && hd.unread == "" {
			lost[name] = hd.tip
		}
	}
	h.mu.Unlock()
	mended := false
	for name, tip := range lost {
		switch done, err := h.mend(ctx, name); {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			h.log.Info("rendered branch not published again", "cluster", name, "commit", tip, "error", err.Error())
		case done:
			mended = true
			h.log.Info("rendered branch published again as it was", "cluster", name, "over", tip)
		}
	}
	if !mended {
		return nil
	}
	return h.readHeads(ctx)
}

// mend is false when it is not known what the hub published to the cluster.
func (h *Hub) mend(ctx context.Context, cluster string) (bool, error) {
	last, err := h.remembered(cluster)
	if err != nil || last == "" {
		return false, err
	}
	digest, err := h.digestOf(ctx, cluster, last)
	if err != nil {
		return false, err
	}
	p, err := h.wayBack(ctx, cluster, last, fmt.Sprintf("%s as it was\n\ndigest: %s\n", cluster, digest))
	if err != nil {
		return true, err
	}
	return true, h.republish(ctx, cluster, p, last)
}
