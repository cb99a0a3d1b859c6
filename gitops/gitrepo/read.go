package gitrepo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// Entry is one file of a tree.
type Entry struct {
	Mode string // as git writes it: 100644, 100755, 120000 (symbolic link), 160000 (submodule)
	Size int64
	Path string
	hash string
}

// List lists the files of a commit, sorted by path, as the commit and its trees have
// them by their names: see [object.genuine].
func (r *Repo) List(ctx context.Context, commit string) ([]Entry, error) {
	out, err := r.git(ctx, nil, "ls-tree", "-r", "-t", "-l", "-z", "--full-tree", commit)
	if err != nil {
		return nil, err
	}
	var list []Entry
	names := []string{commit + "^{commit}", commit + "^{tree}"}
	for rec := range strings.SplitSeq(strings.TrimSuffix(string(out), "\x00"), "\x00") {
		if rec == "" {
			continue
		}
		meta, path, ok := strings.Cut(rec, "\t")
		f := strings.Fields(meta)
		if !ok || len(f) != 4 {
			return nil, fmt.Errorf("list files of %s: git printed %q", commit, rec)
		}
		if f[1] == "tree" {
			if !slices.Contains(names, f[2]) {
				names = append(names, f[2])
			}
			continue
		}
		size, err := strconv.ParseInt(f[3], 10, 64)
		if err != nil {
			size = 0 // "-": a submodule has no size
		}
		list = append(list, Entry{Mode: f[0], hash: f[2], Size: size, Path: path})
	}
	if err := r.checkListed(ctx, names, list); err != nil {
		return nil, fmt.Errorf("list files of %s: %w", commit, err)
	}
	return list, nil
}

// checkListed compares a listing with what the commit and the trees, the first two and
// the others of names, have by their names.
func (r *Repo) checkListed(ctx context.Context, names []string, list []Entry) error {
	read, err := r.batch(ctx, names)
	if err != nil {
		return err
	}
	trees := map[string]object{}
	for _, o := range read[1:] {
		trees[o.id] = o
	}
	root, err := read[0].tree()
	if err != nil {
		return err
	}
	i := 0
	var walk func(id, prefix string) error
	walk = func(id, prefix string) error {
		entries, err := trees[id].entries()
		if err != nil {
			return fmt.Errorf("read tree %s: %w", id, err)
		}
		for _, e := range entries {
			switch path := prefix + e.name; {
			case e.mode == treeMode:
				if err := walk(e.id, path+"/"); err != nil {
					return err
				}
			case i == len(list) || list[i].Path != path || list[i].hash != e.id || strings.TrimLeft(list[i].Mode, "0") != e.mode:
				return fmt.Errorf("git lists something else than the trees have, at %q", path)
			default:
				i++
			}
		}
		return nil
	}
	if err := walk(root, ""); err != nil {
		return err
	}
	if i != len(list) {
		return fmt.Errorf("git lists %q, which the trees do not have", list[i].Path)
	}
	return nil
}

// Read reads the contents of entries that List returned.
func (r *Repo) Read(ctx context.Context, entries []Entry) (map[string][]byte, error) {
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.hash
	}
	blobs, err := r.objects(ctx, "blob", names)
	if err != nil {
		return nil, err
	}
	files := make(map[string][]byte, len(entries))
	for i, e := range entries {
		files[e.Path] = blobs[i].data
	}
	return files, nil
}

// objects reads objects of one type by their names, in one run of git.
func (r *Repo) objects(ctx context.Context, kind string, names []string) ([]object, error) {
	list, err := r.batch(ctx, names)
	for i, o := range list {
		if err == nil && o.kind != kind {
			err = fmt.Errorf("read %s: it is a %s", names[i], o.kind)
		}
	}
	return list, err
}

// batch reads objects of any type.
func (r *Repo) batch(ctx context.Context, names []string) ([]object, error) {
	if len(names) == 0 {
		return nil, nil
	}
	out, err := r.git(ctx, strings.NewReader(strings.Join(names, "\n")+"\n"), "cat-file", "--batch")
	if err != nil {
		return nil, err
	}
	list := make([]object, 0, len(names))
	rd := bufio.NewReader(bytes.NewReader(out))
	for _, name := range names {
		o, err := nextObject(rd)
		if err == nil {
			err = o.genuine(name)
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		list = append(list, o)
	}
	return list, nil
}

// nextObject reads one object of what git-cat-file(1) prints with --batch. It is an
// [absentError] for one that is not there, after which the next one may be read.
func nextObject(rd *bufio.Reader) (object, error) {
	head, err := rd.ReadString('\n')
	if err != nil {
		return object{}, err
	}
	f := strings.Fields(head)
	if len(f) != 3 {
		return object{}, absentError(strings.TrimSpace(head))
	}
	size, err := strconv.Atoi(f[2])
	if err != nil {
		return object{}, err
	}
	data := make([]byte, size)
	if _, err := io.ReadFull(rd, data); err != nil {
		return object{}, err
	}
	_, err = rd.Discard(1)
	return object{f[0], f[1], data}, err
}

// absentError is what git says of an object that it does not have.
type absentError string

func (e absentError) Error() string { return fmt.Sprintf("git printed %q", string(e)) }

// CommitFile is the content of a commit, and of one file that it has.
type CommitFile struct{ Commit, File []byte }

// CommitFiles reads commits, by their full names, each with the file at path, in one run
// of git however many they are. Of what git cannot read, and may end at, and of what is
// not what its name says, nothing is told: to read that commit alone says why.
func (r *Repo) CommitFiles(ctx context.Context, path string, commits ...string) map[string]CommitFile {
	if len(commits) == 0 {
		return nil
	}
	var names []string
	for _, c := range commits {
		names = append(names, stepsTo(c, path)...)
	}
	out, _ := r.git(ctx, strings.NewReader(strings.Join(names, "\n")+"\n"), "cat-file", "--batch") // as far as it came
	read := make(map[string]CommitFile, len(commits))
	rd := bufio.NewReader(bytes.NewReader(out))
	steps := len(names) / len(commits)
	for _, c := range commits {
		way := make([]object, steps)
		errs := make([]error, steps)
		for i := range way {
			var absent absentError
			if way[i], errs[i] = nextObject(rd); errs[i] != nil && !errors.As(errs[i], &absent) {
				return read
			}
		}
		if errors.Join(errs...) == nil && way[0].id == c && leads(way, path) == nil {
			read[c] = CommitFile{way[0].data, way[steps-1].data}
		}
	}
	return read
}

// ReadPath reads one file of a commit.
func (r *Repo) ReadPath(ctx context.Context, commit, path string) ([]byte, error) {
	way, err := r.batch(ctx, stepsTo(commit, path))
	if err == nil {
		err = leads(way, path)
	}
	if err != nil {
		return nil, fmt.Errorf("read %s of %s: %w", path, commit, err)
	}
	return way[len(way)-1].data, nil
}

// stepsTo names the objects on the way to a file: the commit, its trees, the file.
func stepsTo(commit, path string) []string {
	names := []string{commit + "^{commit}", commit + "^{tree}"}
	for i, c := range path {
		if c == '/' {
			names = append(names, commit+":"+path[:i])
		}
	}
	return append(names, commit+":"+path)
}

// leads is an error when such objects are not what their names say, or do not name each other.
func leads(way []object, path string) error {
	for _, o := range way {
		if err := o.genuine(o.id); err != nil {
			return err
		}
	}
	next, err := way[0].tree()
	if err != nil {
		return err
	}
	for i, name := range strings.Split(path, "/") {
		if way[i+1].id != next {
			return fmt.Errorf("git shows %s for %s", way[i+1].id, next)
		}
		entries, err := way[i+1].entries()
		if err != nil {
			return err
		}
		at := slices.IndexFunc(entries, func(e treeEntry) bool { return e.name == name })
		if at < 0 {
			return fmt.Errorf("the tree %s has no %q", next, name)
		}
		next = entries[at].id
	}
	if file := way[len(way)-1]; file.id != next || file.kind != "blob" {
		return fmt.Errorf("git shows the %s %s for %s", file.kind, file.id, next)
	}
	return nil
}
