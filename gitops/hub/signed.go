package hub

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/crypto/ssh"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/signature"
	"holdfast.dev/gitops/trust"
)

// signWith has everything that is published signed by the hub's key, and returns
// by what to know that.
func signWith(repo *gitrepo.Repo, store *trust.Store) (*signature.Signers, error) {
	key, err := store.SigningKey()
	if err != nil {
		return nil, err
	}
	repo.SignWith(func(raw []byte) ([]byte, error) {
		c, err := signature.ParseCommit(raw)
		if err != nil {
			return nil, err
		}
		return c.Signed(key)
	})
	return signature.ParseSigners("signing key", fmt.Appendf(nil, "holdfast-hub %s", ssh.MarshalAuthorizedKey(key.PublicKey())))
}

// foreignError says why a commit is not this hub's. Any other error of reading it may pass.
type foreignError struct{ error }

func (e *foreignError) Unwrap() error { return e.error }

// published is when a commit with this content was made. It is a [foreignError] for one
// that this hub has not signed: one of before it signed, under another key, or of somebody
// who writes to the repository past it. It is not served; see [Hub.mendHeads].
func (h *Hub) published(raw []byte) (time.Time, error) {
	c, err := signature.ParseCommit(raw)
	if err != nil {
		return time.Time{}, &foreignError{err}
	}
	if _, err := c.By(h.own); err != nil {
		return c.Committed, &foreignError{err}
	}
	return c.Committed, nil
}

func readSigners(file string) (*signature.Signers, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read allowed signers: %w", err)
	}
	return signature.ParseSigners(file, data)
}

// checkActSigned is an error for a tag by which a person acts on a rollout when it is not
// signed, under this name and of this commit, by one of those in file. Nothing is
// asked for when file is empty. object is the tag's object.
func checkActSigned(ctx context.Context, repo *gitrepo.Repo, file, tag, object, commit string) error {
	if file == "" {
		return nil
	}
	signers, err := readSigners(file)
	if err != nil {
		return err
	}
	raw, err := repo.RawTag(ctx, object)
	if err != nil {
		return err
	}
	t, err := signature.ParseTag(raw)
	if err == nil {
		_, err = t.By(signers)
	}
	if err == nil && (t.Name != tag || t.Object != commit) {
		err = fmt.Errorf("what is signed is the tag %s of %.12s", t.Name, t.Object)
	}
	if err != nil {
		return &RefusedError{commit, fmt.Errorf("the tag %s: %w (git config gpg.format ssh; git config user.signingkey ~/.ssh/id_ed25519.pub; git config tag.gpgSign true)", tag, err)}
	}
	return nil
}

// checkSigned refuses a commit when it, or one that comes with it, is not signed
// by one of those in file, and when it leaves base out: to go back needs a signature
// as well, that of a revert. Nothing is asked for when file is empty. Of a fleet's first
// commit, its history is not looked at.
func checkSigned(ctx context.Context, repo *gitrepo.Repo, file, base, commit string) error {
	if file == "" || base == commit { // it was looked at when it was accepted
		return nil
	}
	signers, err := readSigners(file)
	if err != nil {
		return err
	}
	commits := []string{commit}
	if base != "" {
		lost, err := repo.NewCommits(ctx, commit, base)
		if err != nil {
			return err
		}
		if len(lost) > 0 {
			return &RefusedError{commit, fmt.Errorf("commit %.12s, which was accepted, is not in its history, and nobody has signed that (git revert it, or rebase onto it)", base)}
		}
		if commits, err = repo.NewCommits(ctx, base, commit); err != nil {
			return err
		}
	}
	var faults []error
	for _, id := range commits {
		raw, err := repo.Commit(ctx, id)
		if err != nil {
			return err
		}
		c, err := signature.ParseCommit(raw)
		if err == nil {
			_, err = c.By(signers)
		}
		if err != nil {
			faults = append(faults, fmt.Errorf("commit %.12s: %w (git config gpg.format ssh; git config user.signingkey ~/.ssh/id_ed25519.pub; git commit --amend -S)", id, err))
		}
	}
	if len(faults) > 0 {
		return &RefusedError{commit, errors.Join(faults...)}
	}
	return nil
}
