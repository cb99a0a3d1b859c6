package hub

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/render"
)

// head is a rendered branch. tip is its newest commit, whoever wrote it; commit is
// that same commit if it is this hub's, digest what it has. Else both are empty, and
// nothing of it is served. unread says why that is not known yet.
type head struct {
	tip, commit, digest string
	at                  time.Time
	unread              string
}

func (h *Hub) readHeads(ctx context.Context) error {
	branches, err := h.repo.Branches(ctx, BranchPrefix)
	if err != nil {
		return err
	}
	h.mu.Lock()
	was := maps.Clone(h.heads)
	h.mu.Unlock()
	heads := map[string]head{}
	var changed []gitrepo.Branch
	for _, b := range branches {
		cluster := strings.TrimPrefix(b.Name, BranchPrefix)
		if known := was[cluster]; known.tip == b.Commit && known.unread == "" {
			heads[cluster] = known
		} else {
			changed = append(changed, b)
		}
	}
	for some := range slices.Chunk(changed, publishAtOnce) {
		if err := h.readChanged(ctx, some, was, heads); err != nil {
			return err
		}
	}
	h.setHeads(heads)
	return nil
}

// readChanged adds to heads what branches end with now.
func (h *Hub) readChanged(ctx context.Context, branches []gitrepo.Branch, was, heads map[string]head) error {
	tips := make([]string, len(branches))
	for i, b := range branches {
		tips[i] = b.Commit
	}
	read := h.repo.CommitFiles(ctx, render.BundleFile, tips...)
	for _, b := range branches {
		cluster := strings.TrimPrefix(b.Name, BranchPrefix)
		known := was[cluster]
		hd, err := h.readHead(ctx, cluster, b.Commit, read)
		var foreign *foreignError
		switch { // one bad branch stops no other
		case errors.As(err, &foreign):
			h.log.Info("rendered branch is no bundle of this hub", "cluster", cluster, "commit", b.Commit, "error", err.Error())
		case err != nil: // that may pass
			if hd.unread = err.Error(); hd.unread != known.unread {
				h.log.Info("rendered branch not read; looking again", "cluster", cluster, "commit", b.Commit, "error", hd.unread)
			}
		default:
			if err := h.remember(cluster, b.Commit); err != nil {
				return err
			}
			hd.commit = b.Commit
		}
		heads[cluster] = hd
	}
	return nil
}

// readHead reads what a branch ends with, unless read has it. Its error is a
// [foreignError] when that was read and is not this hub's, or is not what it published last.
func (h *Hub) readHead(ctx context.Context, cluster, tip string, read map[string]gitrepo.CommitFile) (hd head, err error) {
	hd.tip = tip
	have, ok := read[tip]
	if !ok {
		if have.Commit, err = h.repo.Commit(ctx, tip); err != nil {
			return hd, err
		}
	}
	if hd.at, err = h.published(have.Commit); err != nil {
		return hd, err
	}
	if !ok {
		if have.File, err = h.repo.ReadPath(ctx, tip, render.BundleFile); err != nil {
			return hd, err
		}
	}
	digest, err := digestIn(cluster, tip, have.File)
	if err != nil {
		return hd, err
	}
	last, err := h.remembered(cluster)
	if err != nil {
		return hd, err
	}
	if last != "" { // an old commit of the hub's carries its signature for ever
		follows, err := h.repo.Follows(ctx, tip, last)
		if err != nil {
			return hd, err
		}
		if !follows {
			return hd, &foreignError{fmt.Errorf("it does not come after %.12s, which was published last", last)}
		}
	}
	hd.digest = digest
	return hd, nil
}

// digestOf is the digest of the bundle that a commit has for the cluster.
func (h *Hub) digestOf(ctx context.Context, cluster, commit string) (string, error) {
	data, err := h.repo.ReadPath(ctx, commit, render.BundleFile)
	if err != nil {
		return "", err
	}
	return digestIn(cluster, commit, data)
}

// digestIn is the same of the file that the commit has.
func digestIn(cluster, commit string, data []byte) (string, error) {
	idx, err := render.ParseIndex(fmt.Sprintf("%.12s:%s", commit, render.BundleFile), data)
	if err != nil {
		return "", &foreignError{err}
	}
	if idx.Cluster != cluster {
		return "", &foreignError{fmt.Errorf("the bundle of %.12s is for cluster %q", commit, idx.Cluster)}
	}
	return idx.Digest, nil
}

func (h *Hub) setHeads(heads map[string]head) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !maps.Equal(h.heads, heads) {
		h.heads = heads
		h.announce()
	}
}

// announce lets the agents that wait for a revision look again; the caller holds h.mu.
func (h *Hub) announce() {
	close(h.changed)
	h.changed = make(chan struct{})
}
