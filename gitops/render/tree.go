package render

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"

	"holdfast.dev/internal/strictyaml"
)

// Limits of a fleet repository.
const (
	// MaxFileSize is the largest file, in bytes.
	MaxFileSize = strictyaml.MaxSize
	// MaxTreeSize bounds all files together, in bytes.
	MaxTreeSize = 64 << 20
	// MaxFiles bounds the number of files.
	MaxFiles = 20_000
)

// Tree is the files of a fleet repository at one commit. It is checked when it
// is made, and does not change.
type Tree struct {
	files map[string][]byte
	paths []string                     // sorted
	sums  map[string][sha256.Size]byte // of the files
}

// CheckEntry checks one entry of a git tree before its content is read: mode is
// as git writes it (100644), size is the blob's, in bytes.
func CheckEntry(p, mode string, size int64) error {
	if err := checkPath(p); err != nil {
		return err
	}
	switch mode {
	case "100644", "100755":
	case "120000":
		return &strictyaml.Error{File: p, Msg: "is a symbolic link", Hint: "replace it by the file"}
	case "160000":
		return &strictyaml.Error{File: p, Msg: "is a submodule", Hint: "copy its files into this repository"}
	default:
		return &strictyaml.Error{File: p, Msg: "has the mode " + mode + ", which is not a file's", Hint: "replace it by a file"}
	}
	return checkSize(p, size)
}

func checkSize(p string, size int64) error {
	if size > MaxFileSize {
		return &strictyaml.Error{File: p, Msg: fmt.Sprintf("%d bytes is too large, the limit is %d", size, MaxFileSize), Hint: "split the file, or keep it elsewhere"}
	}
	return nil
}

func checkPath(p string) error {
	unsafe := p == "" || len(p) > 512 || !utf8.ValidString(p) || path.IsAbs(p) || path.Clean(p) != p || p == ".." || strings.HasPrefix(p, "../") ||
		strings.ContainsRune(p, '\\') || strings.ContainsFunc(p, unicode.IsControl)
	if unsafe {
		return &strictyaml.Error{File: fmt.Sprintf("%q", p), Msg: "is not a path in the repository", Hint: "rename it, with / and without .. or control characters"}
	}
	return nil
}

// NewTree makes a tree of file contents by slash-separated path. The error joins
// one [strictyaml.Error] for each file that cannot be part of it.
func NewTree(files map[string][]byte) (Tree, error) {
	t := Tree{files: maps.Clone(files), paths: slices.Sorted(maps.Keys(files)), sums: make(map[string][sha256.Size]byte, len(files))}
	if len(t.paths) > MaxFiles {
		return Tree{}, fmt.Errorf("the repository has %d files, the limit is %d (keep what is not rendered elsewhere)", len(t.paths), MaxFiles)
	}
	var errs []error
	total := 0
	for _, p := range t.paths {
		err := checkPath(p)
		if err == nil {
			err = checkSize(p, int64(len(files[p])))
		}
		if err == nil {
			err = strictyaml.CheckText(p, files[p])
		}
		if err != nil {
			errs = append(errs, err)
		}
		total += len(files[p])
		t.sums[p] = sha256.Sum256(files[p])
	}
	if total > MaxTreeSize {
		errs = append(errs, fmt.Errorf("the repository has %d bytes, the limit is %d (keep what is not rendered elsewhere)", total, MaxTreeSize))
	}
	if len(errs) > 0 {
		return Tree{}, errors.Join(errs...)
	}
	return t, nil
}

// TreeFromFS reads a tree from a directory. The folder .git at its top is left out.
func TreeFromFS(fsys fs.FS) (Tree, error) {
	files := map[string][]byte{}
	var errs []error
	total := int64(0)
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if p == ".git" {
				return fs.SkipDir
			}
			return nil
		}
		if p == ".git" { // a linked work tree
			return nil
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		if err := CheckEntry(p, gitMode(info.Mode()), info.Size()); err != nil {
			errs = append(errs, err)
			return nil
		}
		if total += info.Size(); total > MaxTreeSize || len(files) > MaxFiles {
			return fmt.Errorf("the directory is larger than %d files or %d bytes (is it a fleet repository?)", MaxFiles, MaxTreeSize)
		}
		files[p], err = fs.ReadFile(fsys, p)
		return err
	})
	if err != nil {
		return Tree{}, fmt.Errorf("read fleet repository: %w", err)
	}
	t, err := NewTree(files)
	if err = errors.Join(append(errs, err)...); err != nil {
		return Tree{}, err
	}
	return t, nil
}

func gitMode(m fs.FileMode) string {
	switch {
	case m.IsRegular():
		return "100644"
	case m&fs.ModeSymlink != 0:
		return "120000"
	}
	return m.String()
}

// File returns the content of a file. It must not be changed.
func (t Tree) File(p string) ([]byte, bool) {
	data, ok := t.files[p]
	return data, ok
}

// Under lists the paths of all files below a folder, sorted.
func (t Tree) Under(dir string) []string {
	prefix := dir + "/"
	from := sort.SearchStrings(t.paths, prefix)
	to := from
	for to < len(t.paths) && strings.HasPrefix(t.paths[to], prefix) {
		to++
	}
	return t.paths[from:to:to]
}

// folders lists the names of the folders directly below dir, sorted.
func (t Tree) folders(dir string) []string {
	var out []string
	for _, p := range t.Under(dir) {
		name, _, isFolder := strings.Cut(p[len(dir)+1:], "/")
		if isFolder && (len(out) == 0 || out[len(out)-1] != name) && !slices.Contains(out, name) {
			out = append(out, name)
		}
	}
	return out
}
