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
	Branch string // without refs/heads/
	// Old is where the branch is now, whoever put it there; empty when it does not exist.
	Old string
	// Parent is the commit that the new one comes after, in history and in time. Whoever
	// fetches the branch gets all of that. Empty for none.
	Parent  string
	Message string
	Time    time.Time
	Files   map[string][]byte
}

// Published is the commit that a publication became, or why it did not.
type Published struct {
	Commit string
	Err    error
}

// Publish commits to branches, in a few runs of git however many they are. What came of
// it is in the publications' order; none stops another. One fails, and changes nothing,
// when its branch is no longer at Old.
func (r *Repo) Publish(ctx context.Context, all ...Publication) []Published {
	done := make([]Published, len(all))
	ids, err := r.publish(ctx, all)
	for i := range all {
		if err == nil {
			done[i].Commit = ids[i]
		} else if one, err := r.publish(ctx, all[i:i+1]); err != nil { // one by one: git does all or nothing
			done[i].Err = err
		} else {
			done[i].Commit = one[0]
		}
	}
	return done
}

func (r *Repo) publish(ctx context.Context, all []Publication) ([]string, error) {
	if len(all) == 0 {
		return nil, nil
	}
	made := make([]string, len(all))
	parents := make([]string, len(all))
	for i, p := range all {
		made[i], parents[i] = publishing(p.Branch), p.Parent
	}
	after, err := r.after(ctx, parents...)
	if err != nil {
		return nil, err
	}
	// The branches move by update-ref alone, which compares before it sets.
	if _, err := r.change(ctx, imports(all, after), "fast-import", "--quiet", "--done", "--force"); err != nil {
		return nil, fmt.Errorf("write commit for %s: %w", all[0].Branch, err)
	}
	commits, err := r.objects(ctx, "commit", made)
	if err != nil {
		return nil, err
	}
	ids, err := r.signed(ctx, commits...)
	if err != nil {
		return nil, err
	}
	var moves bytes.Buffer
	for i, p := range all {
		if p.Old == "" {
			fmt.Fprintf(&moves, "create refs/heads/%s %s\n", p.Branch, ids[i])
		} else {
			fmt.Fprintf(&moves, "update refs/heads/%s %s %s\n", p.Branch, ids[i], p.Old)
		}
	}
	_, err = r.change(ctx, &moves, "update-ref", "--stdin")
	return ids, err
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
