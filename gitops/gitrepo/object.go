package gitrepo

import (
	"bytes"
	"crypto/sha1" // git names objects by it
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"regexp"
	"strings"
)

// object is an object with its name.
type object struct {
	id, kind string
	data     []byte
}

var nameRE = regexp.MustCompile(`^(?:[0-9a-f]{40}|[0-9a-f]{64})$`)

// genuine is an error when the object is not the one that was asked for, or its content
// is not that of its name. Git itself checks that when objects come in (index-pack) and
// in git fsck, and not when it reads one: who writes files into the repository could
// show any content under the name of what was signed (object-file.c, read_object_file).
func (o object) genuine(asked string) error {
	if nameRE.MatchString(asked) && asked != o.id {
		return fmt.Errorf("git shows %s instead", o.id)
	}
	var h hash.Hash
	switch len(o.id) { // gitformat-pack(5), "object format"
	case 2 * sha1.Size:
		h = sha1.New()
	case 2 * sha256.Size:
		h = sha256.New()
	default:
		return fmt.Errorf("the name %q is neither SHA-1 nor SHA-256", o.id)
	}
	fmt.Fprintf(h, "%s %d\x00", o.kind, len(o.data))
	h.Write(o.data)
	if got := hex.EncodeToString(h.Sum(nil)); got != o.id {
		return fmt.Errorf("the content of %s is that of %s: the repository is damaged, or somebody changed it past git (git fsck)", o.id, got)
	}
	return nil
}

// tree names the tree of a commit.
func (o object) tree() (string, error) {
	id, ok := strings.CutPrefix(firstLine(o.data), "tree ")
	if o.kind != "commit" || !ok {
		return "", fmt.Errorf("%s is no commit", o.id)
	}
	return id, nil
}

func firstLine(data []byte) string {
	line, _, _ := bytes.Cut(data, []byte("\n"))
	return string(line)
}

// treeMode is the mode of a folder in a tree.
const treeMode = "40000"

// treeEntry is one entry of a tree.
type treeEntry struct{ mode, name, id string }

// entries takes a tree apart: mode, space, name, NUL, and the name of the object as it
// is, for each entry (git's tree-walk.c, decode_tree_entry).
func (o object) entries() ([]treeEntry, error) {
	if o.kind != "tree" {
		return nil, errors.New("there is no such tree")
	}
	var list []treeEntry
	for rest := o.data; len(rest) > 0; {
		head, after, ok := bytes.Cut(rest, []byte{0})
		mode, name, named := strings.Cut(string(head), " ")
		if !ok || !named || len(after) < len(o.id)/2 {
			return nil, errors.New("the tree is not whole")
		}
		list = append(list, treeEntry{mode, name, hex.EncodeToString(after[:len(o.id)/2])})
		rest = after[len(o.id)/2:]
	}
	return list, nil
}
