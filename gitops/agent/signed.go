package agent

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"holdfast.dev/gitops/signature"
)

// keyAccepted, in the identity's Secret, is the newest revision that was taken,
// with its time: nothing older is taken again.
const keyAccepted = "accepted"

// commit fetches the commit object of a revision.
func (h *hubClient) commit(ctx context.Context, revision string) ([]byte, error) {
	raw, err := h.do(ctx, time.Minute, http.MethodGet, "/bundles/"+url.PathEscape(revision)+"/commit", nil)
	if err != nil {
		return nil, fmt.Errorf("fetch commit %.12s: %w", revision, err)
	}
	return raw, nil
}

// checkSigned refuses a bundle that was not published for this cluster, with
// this content, by one of those in signersFile. It returns when it was published.
func checkSigned(signersFile, cluster, revision, digest string, raw []byte, files map[string][]byte) (time.Time, error) {
	data, err := os.ReadFile(signersFile)
	if err != nil {
		return time.Time{}, fmt.Errorf("read allowed signers: %w", err)
	}
	signers, err := signature.ParseSigners(signersFile, data)
	if err != nil {
		return time.Time{}, err
	}
	if id := signature.CommitID(raw); id != revision {
		return time.Time{}, fmt.Errorf("the hub sent the commit %.12s instead", id)
	}
	c, err := signature.ParseCommit(raw)
	if err != nil {
		return time.Time{}, err
	}
	if _, err := c.By(signers); err != nil {
		return time.Time{}, fmt.Errorf("the commit is not to be trusted: %w", err)
	}
	if tree := signature.TreeID(files); tree != c.Tree {
		return time.Time{}, fmt.Errorf("the files are not those of the signed commit, whose tree is %.12s and not %.12s", c.Tree, tree)
	}
	// Trees are named by SHA-1; the digest is SHA-256.
	subject, body, _ := strings.Cut(c.Message, "\n")
	if name, _, _ := strings.Cut(subject, " "); name != cluster || !strings.Contains("\n"+body+"\n", "\ndigest: "+digest+"\n") {
		return time.Time{}, fmt.Errorf("the signed commit %q is not of this bundle for %s", subject, cluster)
	}
	return c.Committed, nil
}

// errOlder is a revision that was replaced by a later one already.
var errOlder = errors.New("it is older than what this cluster has had: somebody plays an old bundle again, or the hub's repository is an old copy")

// advance notes a revision as the newest one, before anything of it is applied.
func (i *identity) advance(ctx context.Context, revision string, at time.Time) error {
	return i.withSecret(ctx, func(ctx context.Context) error {
		if had := string(i.known.Data[keyAccepted]); had != "" {
			name, stamp, _ := strings.Cut(had, " ")
			if name == revision {
				return nil
			}
			var last time.Time
			if err := last.UnmarshalText([]byte(stamp)); err != nil {
				return fmt.Errorf("read %s of %s: %w (delete the key to take the next bundle as it is)", keyAccepted, i.secret, err)
			}
			if !at.After(last) {
				return errOlder
			}
		}
		stamp, err := at.UTC().MarshalText()
		if err != nil {
			return err
		}
		return i.save(ctx, map[string][]byte{keyAccepted: []byte(revision + " " + string(stamp))})
	})
}
