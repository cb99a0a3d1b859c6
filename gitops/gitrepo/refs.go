package gitrepo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"holdfast.dev/internal/hostexec"
)

// Republish is Publish with the content of an earlier commit instead of Files. Nothing
// is rendered or written but the commit itself, which it returns.
func (r *Repo) Republish(ctx context.Context, p Publication, earlier string) (string, error) {
	after, err := r.after(ctx, p.Parent)
	if err != nil {
		return "", err
	}
	stamp := strconv.FormatInt(later(p.Time, after[0]).Unix(), 10) + " +0000"
	env := append(slices.Clone(r.env), "GIT_AUTHOR_NAME=holdfast-hub", "GIT_AUTHOR_EMAIL=hub@holdfast.dev", "GIT_COMMITTER_NAME=holdfast-hub", "GIT_COMMITTER_EMAIL=hub@holdfast.dev",
		"GIT_AUTHOR_DATE="+stamp, "GIT_COMMITTER_DATE="+stamp)
	args := []string{"commit-tree", earlier + "^{tree}", "-m", p.Message}
	if p.Parent != "" {
		args = append(args, "-p", p.Parent)
	}
	out, err := run(ctx, timeout, hostexec.Command{Dir: r.dir, Env: env, Args: args})
	if err != nil {
		return "", fmt.Errorf("write commit for %s: %w", p.Branch, err)
	}
	commits, err := r.objects(ctx, "commit", strings.Fields(string(out)))
	if err != nil {
		return "", err
	}
	ids, err := r.signed(ctx, commits...)
	if err != nil {
		return "", err
	}
	return ids[0], r.SetRef(ctx, "refs/heads/"+p.Branch, ids[0], p.Old)
}

// Follows tells whether a commit is an earlier one or has it in its history. One that is
// not in the repository is in nobody's.
func (r *Repo) Follows(ctx context.Context, commit, earlier string) (bool, error) {
	if commit == earlier {
		return true, nil
	}
	_, err := r.Head(ctx, earlier)
	if errors.Is(err, ErrNoRef) {
		return false, nil
	}
	if err == nil {
		_, err = r.walk(ctx, "merge-base", "--is-ancestor", earlier, commit)
	}
	if hostexec.ExitCode(err) == 1 {
		return false, nil
	}
	return err == nil, err
}

// ReadRefBlob reads the blob that a ref points at, with its object's name for
// [Repo.WriteRefBlob]. Both are empty when the ref does not exist.
func (r *Repo) ReadRefBlob(ctx context.Context, ref string) (data []byte, object string, err error) {
	out, err := r.git(ctx, nil, "for-each-ref", "--format=%(objectname)", ref)
	if err != nil {
		return nil, "", err
	}
	object = strings.TrimSpace(string(out))
	if object == "" {
		return nil, "", nil
	}
	blobs, err := r.objects(ctx, "blob", []string{object})
	if err != nil {
		return nil, object, err
	}
	return blobs[0].data, object, nil
}

// WriteRefBlob stores data as a blob, points ref at it, and returns its name. It
// fails, and changes nothing, when ref does not point at old now.
func (r *Repo) WriteRefBlob(ctx context.Context, ref string, data []byte, old string) (string, error) {
	out, err := r.change(ctx, bytes.NewReader(data), "-c", "core.fsync=loose-object,reference", "hash-object", "-w", "--stdin")
	if err != nil {
		return "", err
	}
	object := strings.TrimSpace(string(out))
	if old == "" {
		old = strings.Repeat("0", len(object))
	}
	return object, r.SetRef(ctx, ref, object, old)
}

// Tag is an annotated tag.
type Tag struct {
	Name    string // without refs/tags/
	Target  string // commit
	By      string // tagger, as "Name <email>"
	At      time.Time
	Message string // its first line
}

// Tags lists the annotated tags whose names match a pattern such as
// "approve.*" and that point at commits. Lightweight tags, which do not say who made them, are left out.
func (r *Repo) Tags(ctx context.Context, patterns ...string) ([]Tag, error) {
	args := []string{"for-each-ref", "--format=%(refname:strip=2)%00%(*objectname)%00%(*objecttype)%00%(taggername) %(taggeremail)%00%(taggerdate:unix)%00%(contents:subject)"}
	for _, p := range patterns {
		args = append(args, "refs/tags/"+p)
	}
	out, err := r.git(ctx, nil, args...)
	if err != nil {
		return nil, err
	}
	var list []Tag
	for line := range strings.Lines(string(out)) {
		f := strings.Split(strings.TrimSuffix(line, "\n"), "\x00")
		if len(f) != 6 {
			return nil, fmt.Errorf("read tags: git printed %q", line)
		}
		sec, err := strconv.ParseInt(f[4], 10, 64)
		if f[2] != "commit" || err != nil {
			continue
		}
		list = append(list, Tag{Name: f[0], Target: f[1], By: f[3], At: time.Unix(sec, 0).UTC(), Message: f[5]})
	}
	return list, nil
}

// RawTag is the content of the tag object that a name stands for.
func (r *Repo) RawTag(ctx context.Context, name string) ([]byte, error) {
	tags, err := r.objects(ctx, "tag", []string{name})
	if err != nil {
		return nil, err
	}
	return tags[0].data, nil
}

// ObjectType is the type of an object: commit, tag, tree or blob.
func (r *Repo) ObjectType(ctx context.Context, object string) (string, error) {
	out, err := r.git(ctx, nil, "cat-file", "-t", object)
	return strings.TrimSpace(string(out)), err
}

// RemoteHead is the commit of a branch of a remote, which must be known here.
func (r *Repo) RemoteHead(ctx context.Context, remote, branch string) (string, error) {
	out, err := r.git(ctx, nil, "ls-remote", "--exit-code", remote, "refs/heads/"+branch)
	if err != nil {
		return "", fmt.Errorf("ask %s for its branch %s: %w", remote, branch, err)
	}
	commit, _, _ := strings.Cut(string(out), "\t")
	if kind, err := r.ObjectType(ctx, commit); err != nil || kind != "commit" {
		return "", fmt.Errorf("the commit %.12s of %s is not here; git fetch, and look at it first", commit, remote)
	}
	return commit, nil
}

// PushTag makes an annotated tag and pushes it. When the remote refuses it, it
// is gone here, too.
func (r *Repo) PushTag(ctx context.Context, remote, name, commit, message string) error {
	if _, err := r.git(ctx, nil, "tag", "-a", name, commit, "-m", message); err != nil {
		return fmt.Errorf("make tag %s: %w", name, err)
	}
	if _, err := r.git(ctx, nil, "push", "-q", remote, "refs/tags/"+name); err != nil {
		_, derr := r.git(context.WithoutCancel(ctx), nil, "tag", "-d", name)
		return errors.Join(fmt.Errorf("push tag %s: %w", name, err), derr)
	}
	return nil
}

// NewBlobs reads the files that a commit, with its history, brings and that no
// branch, tag or other ref has yet. Inside a pre-receive hook that is what is
// being pushed. Blobs larger than maxSize bytes are returned without content.
func (r *Repo) NewBlobs(ctx context.Context, commit string, maxSize int64) ([]Blob, error) {
	out, err := r.git(ctx, nil, "rev-list", "--objects", "--filter=object:type=blob", "--filter-provided-objects", commit, "--not", "--all")
	if err != nil {
		return nil, fmt.Errorf("list what is pushed: %w", err)
	}
	var entries []Entry
	var in bytes.Buffer
	for line := range strings.Lines(string(out)) {
		hash, path, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " ")
		if ok {
			// The hash keeps apart the versions of one file.
			entries = append(entries, Entry{Path: hash + " " + path, hash: hash})
			in.WriteString(hash + "\n")
		}
	}
	sizes, err := r.git(ctx, &in, "cat-file", "--batch-check=%(objectname) %(objectsize)")
	if err != nil {
		return nil, fmt.Errorf("read what is pushed: %w", err)
	}
	var blobs []Blob
	var small []Entry
	i := 0
	for line := range strings.Lines(string(sizes)) {
		var hash string
		var size int64
		if _, err := fmt.Sscan(line, &hash, &size); err != nil || i >= len(entries) || hash != entries[i].hash {
			return nil, fmt.Errorf("read what is pushed: git printed %q", line)
		}
		_, path, _ := strings.Cut(entries[i].Path, " ")
		blobs = append(blobs, Blob{Path: path, Hash: hash})
		if size <= maxSize {
			small = append(small, entries[i])
		}
		i++
	}
	files, err := r.Read(ctx, small)
	if err != nil {
		return nil, err
	}
	for i := range blobs {
		blobs[i].Data = files[blobs[i].Hash+" "+blobs[i].Path]
	}
	return blobs, nil
}

// Blob is one version of a file.
type Blob struct {
	Path, Hash string
	Data       []byte
}
