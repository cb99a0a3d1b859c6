package node

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"holdfast.dev/internal/atomicfile"
)

// registry is the only one that images come from.
const registry = "registry.holdfast.dev/"

// image is one program that containers are started from.
type image struct {
	path   string // on this machine
	binary string // inside the container: /<binary>
	id     string // registry.holdfast.dev/<binary>@sha256:…
}

// images is the node's image store.
type images struct {
	binDir string
	dir    string
	mu     sync.Mutex
	pulled map[string]image // by reference
}

func newImages(binDir, root string) *images {
	return &images{binDir: binDir, dir: filepath.Join(root, "var/lib/images"), pulled: map[string]image{}}
}

// pull gives the image of a reference, copying it on first use: a tag means
// one program as long as the node runs, whatever is built beside it.
func (s *images) pull(ref string) (image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if img, ok := s.pulled[ref]; ok {
		return img, nil
	}
	binary, err := imageBinary(ref)
	if err != nil {
		return image{}, err
	}
	src := filepath.Join(s.binDir, binary)
	if info, err := os.Stat(src); err != nil || !info.Mode().IsRegular() {
		return image{}, fmt.Errorf("image %s is not there: it would be the file %s", ref, src)
	}
	sum, err := digest(src)
	if err != nil {
		return image{}, fmt.Errorf("pull image %s: %w", ref, err)
	}
	dst := filepath.Join(s.dir, sum, binary)
	if err := copyProgram(src, dst); err != nil {
		return image{}, fmt.Errorf("pull image %s: %w", ref, err)
	}
	img := image{path: dst, binary: "/" + binary, id: registry + binary + "@sha256:" + sum}
	s.pulled[ref] = img
	return img, nil
}

func imageBinary(ref string) (string, error) {
	name, ok := strings.CutPrefix(ref, registry)
	if !ok {
		return "", fmt.Errorf("image %s is not of %s<binary>, the only registry of this node", ref, registry)
	}
	name, _, _ = strings.Cut(name, "@")
	name, _, _ = strings.Cut(name, ":")
	if name == "" || strings.ContainsAny(name, "/\\") || strings.HasPrefix(name, ".") {
		return "", fmt.Errorf("image %s names no program", ref)
	}
	return name, nil
}

func digest(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // read only
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// copyProgram copies src, by reference where the file system can, for users
// who may not be able to reach src.
func copyProgram(src, dst string) error {
	if _, err := os.Stat(dst); err == nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // read only
	return atomicfile.ReplaceFunc(dst, 0o755, func(out *os.File) error {
		if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
			return nil
		}
		_, err := io.Copy(out, in)
		return err
	})
}
