package hub

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/render"
	"holdfast.dev/gitops/secretscan"
)

// RefusedError is a commit that must not reach the fleet.
type RefusedError struct {
	Commit string
	Err    error
}

func (e *RefusedError) Error() string { return fmt.Sprintf("commit %.12s: %v", e.Commit, e.Err) }

func (e *RefusedError) Unwrap() error { return e.Err }

// Lines is one line for each fault.
func (e *RefusedError) Lines() []string {
	return strings.Split(strings.TrimSpace(e.Err.Error()), "\n")
}

// Verify renders a commit and makes every check that can be made before it is
// published. base is the accepted commit before it, or empty. A commit that
// does not pass is a *RefusedError; anything else is trouble of the hub.
func Verify(ctx context.Context, repo *gitrepo.Repo, base, commit string, cache render.Cache) (*render.Result, error) {
	tree, err := readTree(ctx, repo, commit)
	if err != nil {
		return nil, err
	}
	res, err := render.Fleet(ctx, tree, commit, cache)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if base != "" && base != commit {
		old, oerr := readTree(ctx, repo, base)
		if oerr != nil {
			return nil, oerr
		}
		err = errors.Join(err, checkVersions(ctx, repo, base, old, tree))
	}
	if err != nil {
		return nil, &RefusedError{commit, err}
	}
	return res, nil
}

// historyDepth is how many commits back a version that git revert brings back is looked for.
const historyDepth = 200

// checkVersions takes a lower version only when the history has it with the same content.
func checkVersions(ctx context.Context, repo *gitrepo.Repo, base string, old, tree render.Tree) error {
	err := render.CheckVersions(old, tree)
	if err == nil && !render.AddsAddon(old, tree) {
		return nil
	}
	commits, herr := repo.History(ctx, base, historyDepth, "addons", "salt/states", "kustomize/components")
	if herr != nil {
		return errors.Join(err, herr)
	}
	var known []render.Published
	for _, c := range commits {
		if past, perr := readTree(ctx, repo, c); perr == nil { // one that was refused in its time teaches nothing
			known = append(known, render.Contents(past)...)
		}
	}
	return render.CheckVersions(old, tree, known...)
}

func readTree(ctx context.Context, repo *gitrepo.Repo, commit string) (render.Tree, error) {
	entries, err := repo.List(ctx, commit)
	if err != nil {
		return render.Tree{}, err
	}
	var faults error
	var total int64
	for _, e := range entries {
		faults = errors.Join(faults, render.CheckEntry(e.Path, e.Mode, e.Size))
		total += e.Size
	}
	if total > render.MaxTreeSize { // before anything is read
		faults = errors.Join(faults, fmt.Errorf("the repository has %d bytes, the limit is %d (keep what is not rendered elsewhere)", total, render.MaxTreeSize))
	}
	if faults != nil {
		return render.Tree{}, &RefusedError{commit, faults}
	}
	files, err := repo.Read(ctx, entries)
	if err != nil {
		return render.Tree{}, err
	}
	tree, err := render.NewTree(files)
	if err != nil {
		return render.Tree{}, &RefusedError{commit, err}
	}
	return tree, nil
}

// PreReceive is git's pre-receive hook (githooks(5)): it reads the pushed refs
// and returns an error when the push must be refused. People must not move the
// branches that the hub owns.
func PreReceive(ctx context.Context, repo *gitrepo.Repo, o Options, stdin io.Reader) error {
	branch := o.Branch
	sc := bufio.NewScanner(stdin)
	for sc.Scan() {
		f := strings.Fields(sc.Text())
		if len(f) != 3 {
			return fmt.Errorf("read pushed refs: git wrote %q", sc.Text())
		}
		newCommit, ref := f[1], f[2]
		if err := scanPush(ctx, repo, newCommit); err != nil {
			return err
		}
		if tag, ok := strings.CutPrefix(ref, "refs/tags/"); ok {
			if err := checkAct(ctx, repo, o.Signers, tag, f[0], newCommit); err != nil {
				return err
			}
			continue
		}
		switch {
		case ref+"/" == "refs/heads/"+BranchPrefix, strings.HasPrefix(ref, "refs/heads/"+BranchPrefix), strings.HasPrefix(ref, "refs/holdfast/"):
			return fmt.Errorf("%s belongs to the hub; push to %s and let it render", ref, branch)
		case strings.HasPrefix(ref, "refs/replace/") && strings.Trim(newCommit, "0") != "":
			// The hub heeds none; whoever else reads the repository would see something else.
			return fmt.Errorf("%s would have another object stand for the one that it names; push a commit", ref)
		case ref != "refs/heads/"+branch:
			continue
		case strings.Trim(newCommit, "0") == "":
			return fmt.Errorf("%s must not be deleted: it is what the fleet runs; revert a commit instead", ref)
		}
		base, err := repo.Head(ctx, AcceptedRef)
		if err != nil && !errors.Is(err, gitrepo.ErrNoRef) {
			return err
		}
		if err := checkSigned(ctx, repo, o.Signers, base, newCommit); err != nil {
			return err
		}
		start := time.Now()
		res, err := Verify(ctx, repo, base, newCommit, newCache(o))
		if err != nil {
			return err
		}
		_ = leaveEffort(o.DataDir, newCommit, effortOf(res, start)) // a note for people, no reason to refuse a push
	}
	return sc.Err()
}

// scanPush looks for secrets in everything that a push brings, on any branch and
// in commits that a later one of the push corrects: all of it can be read once it is here.
func scanPush(ctx context.Context, repo *gitrepo.Repo, object string) error {
	if strings.Trim(object, "0") == "" {
		return nil
	}
	blobs, err := repo.NewBlobs(ctx, object, render.MaxFileSize)
	if err != nil {
		return err
	}
	var faults []error
	for _, b := range blobs {
		for _, err := range secretscan.Scan(b.Path, b.Data) {
			faults = append(faults, fmt.Errorf("%w [blob %.10s]", err, b.Hash))
		}
	}
	if len(faults) > 0 {
		return &RefusedError{object, errors.Join(faults...)}
	}
	return nil
}

// checkAct refuses a tag by which a person cannot act on a rollout. Other tags
// are not looked at.
func checkAct(ctx context.Context, repo *gitrepo.Repo, signers, tag, old, object string) error {
	if kind, _, _ := strings.Cut(tag, "."); kind != approveTag && kind != retryTag {
		return nil
	}
	ring, ok := parseAct(tag)
	switch {
	case strings.Trim(old, "0") != "":
		return fmt.Errorf("the tag %s is a record of who decided what, and stays as it is; make another", tag)
	case !ok:
		return fmt.Errorf("the tag %s is not approve.RING.ID or retry.ID; use holdfast approve or holdfast retry", tag)
	}
	if kind, err := repo.ObjectType(ctx, object); err != nil || kind != "tag" {
		return errors.Join(fmt.Errorf("the tag %s does not say who made it; use git tag -a, or holdfast approve", tag), err)
	}
	commit, err := repo.Head(ctx, object)
	if err != nil {
		return err
	}
	accepted, err := repo.Head(ctx, AcceptedRef)
	if err != nil && !errors.Is(err, gitrepo.ErrNoRef) {
		return err
	}
	if commit != accepted {
		return fmt.Errorf("the tag %s is of %.12s, but what the fleet rolls out is %.12s; look at that, and tag it", tag, commit, accepted)
	}
	if err := checkActSigned(ctx, repo, signers, tag, object, commit); err != nil {
		return err
	}
	if ring == "" {
		return nil
	}
	data, err := repo.ReadPath(ctx, commit, fleet.File)
	if err != nil {
		return err
	}
	f, err := fleet.Compile(fleet.File, data)
	if err != nil {
		return err
	}
	if i := slices.IndexFunc(f.Rings, func(r fleet.Ring) bool { return r.Name == ring }); i < 0 || !f.Rings[i].Approval {
		return fmt.Errorf("%s has no ring %q that needs an approval", fleet.File, ring)
	}
	return nil
}
