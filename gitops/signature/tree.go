package signature

import (
	"bytes"
	"crypto/sha1" // git names objects by it; see CommitID
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// CommitID is git's name of a commit with this content. It is SHA-1: that the
// content is the one that was signed rests on what the message says in SHA-256.
func CommitID(raw []byte) string { return hex.EncodeToString(objectID("commit", raw)) }

func objectID(kind string, data []byte) []byte {
	h := sha1.New()
	fmt.Fprintf(h, "%s %d\x00", kind, len(data))
	h.Write(data)
	return h.Sum(nil)
}

// TreeID is git's name of a tree with these files, none of them executable.
func TreeID(files map[string][]byte) string { return hex.EncodeToString(treeID(files)) }

func treeID(files map[string][]byte) []byte {
	folders := map[string]map[string][]byte{}
	entries := map[string]string{} // by what git sorts by
	for path, data := range files {
		folder, rest, ok := strings.Cut(path, "/")
		if !ok {
			entries[path] = "100644 " + path + "\x00" + string(objectID("blob", data))
			continue
		}
		if folders[folder] == nil {
			folders[folder] = map[string][]byte{}
		}
		folders[folder][rest] = data
	}
	for name, below := range folders {
		entries[name+"/"] = "40000 " + name + "\x00" + string(treeID(below))
	}
	var out bytes.Buffer
	for _, key := range slices.Sorted(maps.Keys(entries)) {
		out.WriteString(entries[key])
	}
	return objectID("tree", out.Bytes())
}
