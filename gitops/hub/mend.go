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
	"holdfast.dev/gitops/render"
	"holdfast.dev/internal/atomicfile"
)

// rememberedFile has the newest commit of the cluster's branch that is the hub's. It
// lies beside the keys and not in the repository: who writes there past the hub must
// not choose what the hub signs.
func (h *Hub) rememberedFile(cluster string) string {
	return filepath.Join(h.opts.DataDir, "published", cluster)
}

func (h *Hub) remember(cluster, commit string) error {
	path := h.rememberedFile(cluster)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("remember what is published: %w", err)
	}
	if was, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(was)) == commit {
		return nil
	}
	if err := atomicfile.Write(path, []byte(commit+"\n"), 0o600); err != nil {
		return fmt.Errorf("remember what is published: %w", err)
	}
	return nil
}

// mendHeads publishes again, as they were, the branches that do not end with a commit
// of the hub's: it signs with another key now, or somebody wrote past it. Nothing
// changes for the cluster, so that no ring, window or approval is asked. A branch that
// cannot be mended stops no other: it is not served, and its cluster waits for its
// turn in the rollout.
func (h *Hub) mendHeads(ctx context.Context) error {
	h.mu.Lock()
	rev := h.accepted
	lost := map[string]string{}
	for name, hd := range h.heads {
		if rev != nil && rev.result.Bundles[name] != nil && hd.commit == "" {
			lost[name] = hd.tip
		}
	}
	h.mu.Unlock()
	mended := false
	for name, tip := range lost {
		switch done, err := h.mend(ctx, name, tip, rev.result.Bundles[name]); {
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
func (h *Hub) mend(ctx context.Context, cluster, tip string, want *render.Bundle) (bool, error) {
	branch := BranchPrefix + cluster
	message := func(digest string) string {
		return fmt.Sprintf("%s as it was\n\ndigest: %s\n", cluster, digest)
	}
	data, err := os.ReadFile(h.rememberedFile(cluster))
	if err == nil {
		last := strings.TrimSpace(string(data))
		digest, err := h.digestOf(ctx, cluster, last)
		if err != nil {
			return false, err
		}
		return true, h.repo.Republish(ctx, branch, tip, last, message(digest), h.now())
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	// A hub that remembers nothing knows at least what it would publish itself.
	if digest, err := h.digestOf(ctx, cluster, tip); err != nil || digest != want.Index.Digest {
		return false, err
	}
	entries, err := h.repo.List(ctx, tip)
	if err != nil {
		return false, err
	}
	files, err := h.repo.Read(ctx, entries)
	if err != nil {
		return false, err
	}
	if _, err := render.ParseBundle(files); err != nil { // it says the digest and does not have it
		return false, err
	}
	return true, h.repo.Publish(ctx, gitrepo.Publication{Branch: branch, Parent: tip, Time: h.now(), Files: want.Files, Message: message(want.Index.Digest)})
}
