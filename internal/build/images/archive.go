package images

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"holdfast.dev/internal/atomicfile"
)

// WriteArchiveFile writes an OCI archive, a tar file of a layout, of the named
// images of a layout; of all when none is named. A name is one with or without
// registry and tag. "ctr -n k8s.io images import" takes the archive, and knows
// each image by both its names afterwards. The id is the digest of the archive's index,
// and so of all that is in it.
func WriteArchiveFile(path, layoutDir string, names ...string) (id string, err error) {
	entries, err := Entries(layoutDir, names...)
	if err != nil {
		return "", fmt.Errorf("write archive of images: %w", err)
	}
	err = atomicfile.ReplaceFunc(path, 0o644, func(f *os.File) error {
		id, err = writeArchive(f, layoutDir, entries)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("write archive of images: %w", err)
	}
	return id, nil
}

// Entry is an image of a layout.
type Entry struct {
	// Names are name:tag and name@digest; containerd looks for name:tag@digest by
	// the latter.
	Names    []string
	Manifest v1.Descriptor
}

// Entries are the named images of a layout, in the layout's order; see
// WriteArchiveFile for the names.
func Entries(layoutDir string, names ...string) ([]Entry, error) {
	ii, err := layout.ImageIndexFromPath(layoutDir)
	if err != nil {
		return nil, fmt.Errorf("%w (run make images)", err)
	}
	index, err := ii.IndexManifest()
	if err != nil {
		return nil, err
	}
	var found []Entry
	missing := slices.Clone(names)
	var known []string
	for _, m := range index.Manifests {
		name := m.Annotations[imageNameAnnotation]
		is := func(n string) bool { return n == name || n == shortName(name) }
		if len(names) == 0 || slices.ContainsFunc(names, is) {
			found = append(found, Entry{Names: []string{name, name[:strings.LastIndex(name, ":")] + "@" + m.Digest.String()}, Manifest: m})
		}
		missing = slices.DeleteFunc(missing, is)
		known = append(known, shortName(name))
	}
	if len(missing) > 0 {
		return nil, fmt.Errorf("%s has no image %q, only %s", layoutDir, missing[0], strings.Join(known, ", "))
	}
	return found, nil
}

func writeArchive(w io.Writer, layoutDir string, images []Entry) (id string, err error) {
	index := v1.IndexManifest{SchemaVersion: 2, MediaType: types.OCIImageIndex, Manifests: []v1.Descriptor{}}
	blobs := map[v1.Hash]bool{}
	for _, e := range images {
		m := e.Manifest
		for _, name := range e.Names {
			m.Annotations = map[string]string{refNameAnnotation: name, imageNameAnnotation: name}
			index.Manifests = append(index.Manifests, m)
		}
		if err := collect(layoutDir, m.Digest, blobs); err != nil {
			return "", err
		}
	}
	data, err := json.Marshal(index)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(data)
	tw := tar.NewWriter(w)
	add := func(name string, size int64, r io.Reader) error {
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644, Size: size, ModTime: time.Unix(0, 0), Format: tar.FormatGNU}); err != nil {
			return err
		}
		_, err := io.Copy(tw, r)
		return err
	}
	version := []byte(`{"imageLayoutVersion":"1.0.0"}`)
	if err := add("oci-layout", int64(len(version)), bytes.NewReader(version)); err != nil {
		return "", err
	}
	if err := add("index.json", int64(len(data)), bytes.NewReader(data)); err != nil {
		return "", err
	}
	for _, h := range slices.SortedFunc(maps.Keys(blobs), func(a, b v1.Hash) int { return strings.Compare(a.String(), b.String()) }) {
		if err := addBlob(layoutDir, h, add); err != nil {
			return "", err
		}
	}
	return "sha256:" + hex.EncodeToString(sum[:]), tw.Close()
}

// collect adds the manifest and what it refers to.
func collect(layoutDir string, manifest v1.Hash, blobs map[v1.Hash]bool) error {
	data, err := layout.Path(layoutDir).Bytes(manifest)
	if err != nil {
		return err
	}
	m, err := v1.ParseManifest(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("read manifest %s: %w", manifest, err)
	}
	blobs[manifest], blobs[m.Config.Digest] = true, true
	for _, l := range m.Layers {
		blobs[l.Digest] = true
	}
	return nil
}

func addBlob(layoutDir string, h v1.Hash, add func(string, int64, io.Reader) error) error {
	name := filepath.Join("blobs", h.Algorithm, h.Hex)
	f, err := os.Open(filepath.Join(layoutDir, name))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	info, err := f.Stat()
	if err != nil {
		return err
	}
	return add(name, info.Size(), f)
}
