package hub

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/render"
	"holdfast.dev/gitops/rollout"
)

// revision is an accepted commit with what it renders to.
type revision struct {
	commit string
	result *render.Result
	rings  []rollout.Ring
	effort effort
}

func (h *Hub) takeCommit(ctx context.Context) error {
	commit, err := h.repo.Head(ctx, "refs/heads/"+h.opts.Branch)
	if errors.Is(err, gitrepo.ErrNoRef) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := h.signersTrouble(); err != nil {
		return errors.Join(err, h.resumeAccepted(ctx))
	}
	h.mu.Lock()
	known := h.rejected == commit || (h.rejected == "" && h.accepted != nil && h.accepted.commit == commit)
	h.mu.Unlock()
	if known {
		return nil
	}
	base, err := h.repo.Head(ctx, AcceptedRef)
	if err != nil && !errors.Is(err, gitrepo.ErrNoRef) {
		return err
	}
	rev, err := h.renderCommit(ctx, base, commit)
	if err != nil {
		var refused *RefusedError
		if !errors.As(err, &refused) {
			return err // the hub's own trouble, not the commit's
		}
		h.mu.Lock()
		h.rejected, h.errs = commit, refused.Lines()
		h.mu.Unlock()
		h.log.Info("commit refused; the fleet stays at the one before", "commit", commit, "error", err.Error())
		if base == "" || base == commit {
			return nil
		}
		return h.resume(ctx, base)
	}
	if base != commit {
		if err := h.repo.SetRef(ctx, AcceptedRef, commit, base); err != nil {
			return err
		}
	}
	h.mu.Lock()
	h.accepted, h.rejected, h.errs = rev, "", nil
	h.mu.Unlock()
	h.log.Info("commit accepted", "commit", commit, "rendered", rev.effort.Rendered, "cached", rev.effort.Cached, "seconds", rev.effort.Seconds)
	return nil
}

// resumeAccepted is resume when the newest commit cannot be looked at.
func (h *Hub) resumeAccepted(ctx context.Context) error {
	base, err := h.repo.Head(ctx, AcceptedRef)
	if errors.Is(err, gitrepo.ErrNoRef) {
		return nil
	}
	if err != nil {
		return err
	}
	return h.resume(ctx, base)
}

// resume goes on with the accepted commit after a restart onto a refused one.
func (h *Hub) resume(ctx context.Context, base string) error {
	h.mu.Lock()
	have := h.accepted != nil
	h.mu.Unlock()
	if have {
		return nil
	}
	rev, err := h.renderCommit(ctx, base, base)
	if err != nil {
		return err
	}
	h.mu.Lock()
	h.accepted = rev
	h.mu.Unlock()
	return nil
}

func (h *Hub) renderCommit(ctx context.Context, base, commit string) (*revision, error) {
	start := time.Now()
	if err := checkSigned(ctx, h.repo, h.opts.Signers, base, commit); err != nil {
		return nil, err
	}
	res, err := Verify(ctx, h.repo, base, commit, h.cache)
	if err != nil {
		return nil, err
	}
	rev := &revision{commit: commit, result: res, effort: effortOf(res, start)}
	if res.CacheError != nil {
		h.log.Info("render cache of no use; every unit is rendered anew", "error", res.CacheError.Error())
	}
	if hook, ok := takeEffort(h.opts.DataDir, commit); ok {
		rev.effort = hook
	}
	for _, r := range res.Fleet.Rings {
		rev.rings = append(rev.rings, rollout.Ring{Name: r.Name, Clusters: r.Clusters, Soak: r.Soak, MaxUnavailable: r.MaxUnavailable, Timeout: r.Timeout,
			Windows: r.Windows, Freezes: r.Freezes, Approval: r.Approval, Rollback: r.Rollback, RollbackAfter: r.RollbackAfter})
	}
	return rev, nil
}

// signersTrouble says what is wrong with the file of signers, whether or not there is
// anything to look at now: who has mistyped it is to know before somebody pushes.
func (h *Hub) signersTrouble() error {
	if h.opts.Signers == "" {
		return nil
	}
	if _, err := readSigners(h.opts.Signers); err != nil {
		return fmt.Errorf("no new commit and no approval is taken, what was accepted before goes on: %w", err)
	}
	return nil
}
