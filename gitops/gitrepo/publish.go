package gitrepo

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"
)

// Publication is a branch's next commit: its whole content.
type Publication struct {
	Branch  string // without refs/heads/
	Parent  string // commit that the branch has now; empty when there is none
	Message string
	Time    time.Time
	Files   map[string][]byte
}

// Publish commits to one branch. It fails, and changes nothing, when the branch
// is no longer at Parent.
func (r *Repo) Publish(ctx context.Context, p Publication) error {
	return r.publish(ctx, []Publication{p})
}

// PublishAll is Publish for many branches, in a few runs of git however many they
// are. The errors are in the publications' order; none stops another.
func (r *Repo) PublishAll(ctx context.Context, all []Publication) []error {
	errs := make([]error, len(all))
	if r.publish(ctx, all) == nil {
		return errs
	}
	for i, p := range all { // one by one: git does all or nothing
		errs[i] = r.Publish(ctx, p)
	}
	return errs
}

func (r *Repo) publish(ctx context.Context, all []Publication) error {
	if len(all) == 0 {
		return nil
	}
	made := make([]string, len(all))
	parents := make([]string, len(all))
	for i, p := range all {
		made[i], parents[i] = publishing(p.Branch), p.Parent
	}
	after, err := r.after(ctx, parents...)
	if err != nil {
		return err
	}
	// The branches move by update-ref alone, which compares before it sets.
	if _, err := r.change(ctx, imports(all, after), "fast-import", "--quiet", "--done", "--force"); err != nil {
		return fmt.Errorf("write commit for %s: %w", all[0].Branch, err)
	}
	commits, err := r.objects(ctx, "commit", made)
	if err != nil {
		return err
	}
	ids, err := r.signed(ctx, commits...)
	if err != nil {
		return err
	}
	var moves bytes.Buffer
	for i, p := range all {
		if p.Parent == "" {
			fmt.Fprintf(&moves, "create refs/heads/%s %s\n", p.Branch, ids[i])
		} else {
			fmt.Fprintf(&moves, "update refs/heads/%s %s %s\n", p.Branch, ids[i], p.Parent)
		}
	}
	_, err = r.change(ctx, &moves, "update-ref", "--stdin")
	return err
}

func publishing(branch string) string { return "refs/holdfast/publishing/" + branch }

// imports is what git-fast-import(1) makes the commits from. A content that many of
// them have is in it once.
func imports(all []Publication, after []time.Time) *bytes.Buffer {
	var in bytes.Buffer
	marks := map[string]int{}
	for i, p := range all {
		paths := slices.Sorted(maps.Keys(p.Files))
		for _, path := range paths {
			text := string(p.Files[path])
			if marks[text] == 0 {
				marks[text] = len(marks) + 1
				fmt.Fprintf(&in, "blob\nmark :%d\ndata %d\n%s\n", marks[text], len(text), text)
			}
		}
		fmt.Fprintf(&in, "commit %s\ncommitter holdfast-hub <hub@holdfast.dev> %d +0000\n", publishing(p.Branch), later(p.Time, after[i]).Unix())
		fmt.Fprintf(&in, "data %d\n%s\n", len(p.Message), p.Message)
		if p.Parent != "" {
			fmt.Fprintf(&in, "from %s\n", p.Parent)
		}
		in.WriteString("deleteall\n")
		for _, path := range paths {
			fmt.Fprintf(&in, "M 100644 :%d %s\n", marks[string(p.Files[path])], strconv.Quote(path))
		}
	}
	in.WriteString("done\n")
	return &in
}
