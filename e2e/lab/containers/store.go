// Package containers writes container images into the root directory of a
// containerd that is not running, unpacked, by containerd's own libraries. What
// "ctr images import" does in three minutes of an emulated processor takes a
// second here, and the containerd that starts on the directory cannot tell.
package containers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/identity"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.etcd.io/bbolt"
)

// The layout of containerd's root directory: one directory a plugin, from the
// plugin's type and name. The metadata of containerd 2 are read by 1.6 as well.
const (
	contentDir  = "io.containerd.content.v1.content"
	metadataDir = "io.containerd.metadata.v1.bolt"
	snapshotDir = "io.containerd.snapshotter.v1.overlayfs"
	snapshotter = "overlayfs"
	// kubernetes is the namespace of the CRI plugin; managed marks its images.
	kubernetes = "k8s.io"
	managed    = "io.cri-containerd.image"
	// snapshotRef keeps an image's snapshot from being collected.
	snapshotRef = "containerd.io/gc.ref.snapshot." + snapshotter
)

// Image is an image of an OCI layout, and the names it gets.
type Image struct {
	Names    []string
	Manifest ocispec.Descriptor
}

// WriteStore writes the images of an OCI layout into root, which is made, or added to. Their
// layers must not be compressed and must hold files, directories and links
// only, as package internal/build/images writes them. Owners of files are kept
// when the caller is root.
func WriteStore(ctx context.Context, root, layoutDir string, list []Image) (err error) {
	if err := os.MkdirAll(filepath.Join(root, metadataDir), 0o711); err != nil {
		return fmt.Errorf("write container store: %w", err)
	}
	s := &store{layout: layoutDir}
	cs, err := local.NewStore(filepath.Join(root, contentDir))
	if err != nil {
		return fmt.Errorf("write container store: %w", err)
	}
	sn, err := overlay.NewSnapshotter(filepath.Join(root, snapshotDir))
	if err != nil {
		return fmt.Errorf("write container store: %w", err)
	}
	defer func() { err = errors.Join(err, sn.Close()) }()
	bolt, err := bbolt.Open(filepath.Join(root, metadataDir, "meta.db"), 0o644, &bbolt.Options{NoSync: true})
	if err != nil {
		return fmt.Errorf("write container store: %w", err)
	}
	defer func() { err = errors.Join(err, bolt.Sync(), bolt.Close()) }()
	db := metadata.NewDB(bolt, cs, map[string]snapshots.Snapshotter{snapshotter: sn})
	if err := db.Init(ctx); err != nil {
		return fmt.Errorf("write container store: %w", err)
	}
	s.content, s.snapshots, s.images = db.ContentStore(), db.Snapshotter(snapshotter), metadata.NewImageStore(db)
	ctx = namespaces.WithNamespace(ctx, kubernetes)
	for _, img := range list {
		if err := s.add(ctx, img); err != nil {
			return fmt.Errorf("write image %q into container store: %w", img.Names, err)
		}
	}
	return nil
}

type store struct {
	layout    string
	content   content.Store
	snapshots snapshots.Snapshotter
	images    images.Store
}

func (s *store) blob(d digest.Digest) string {
	return filepath.Join(s.layout, "blobs", string(d.Algorithm()), d.Encoded())
}

func (s *store) add(ctx context.Context, img Image) error {
	// The manifest and what it refers to, each with labels of its references.
	put := images.HandlerFunc(func(ctx context.Context, d ocispec.Descriptor) ([]ocispec.Descriptor, error) {
		return nil, s.put(ctx, d)
	})
	children := images.SetChildrenMappedLabels(s.content, images.ChildrenHandler(s.content), nil)
	if err := images.Walk(ctx, images.Handlers(put, children), img.Manifest); err != nil {
		return err
	}
	if err := s.unpack(ctx, img.Manifest); err != nil {
		return err
	}
	for _, name := range img.Names {
		_, err := s.images.Create(ctx, images.Image{Name: name, Target: img.Manifest, Labels: map[string]string{managed: "managed"}})
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *store) put(ctx context.Context, d ocispec.Descriptor) error {
	f, err := os.Open(s.blob(d.Digest))
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	return content.WriteBlob(ctx, s.content, d.Digest.String(), f, d)
}

// unpack makes a snapshot of each layer, named by the chain of layers up to it.
func (s *store) unpack(ctx context.Context, manifest ocispec.Descriptor) error {
	var m ocispec.Manifest
	if err := s.read(manifest.Digest, &m); err != nil {
		return err
	}
	var config ocispec.Image
	if err := s.read(m.Config.Digest, &config); err != nil {
		return err
	}
	parent := ""
	for i := range m.Layers {
		chain := identity.ChainID(config.RootFS.DiffIDs[:i+1]).String()
		if err := s.snapshot(ctx, chain, parent, s.blob(m.Layers[i].Digest)); err != nil {
			return fmt.Errorf("unpack layer %d: %w", i+1, err)
		}
		parent = chain
	}
	_, err := s.content.Update(ctx, content.Info{Digest: m.Config.Digest, Labels: map[string]string{snapshotRef: parent}}, "labels."+snapshotRef)
	return err
}

func (s *store) read(d digest.Digest, v any) error {
	data, err := os.ReadFile(s.blob(d))
	if err != nil {
		return err
	}
	return json.Unmarshal(data, v)
}

func (s *store) snapshot(ctx context.Context, chain, parent, layer string) error {
	if _, err := s.snapshots.Stat(ctx, chain); err == nil {
		return nil // another image has the same layers
	} else if !errdefs.IsNotFound(err) {
		return err
	}
	key := "unpack " + chain
	mounts, err := s.snapshots.Prepare(ctx, key, parent, snapshots.WithLabels(map[string]string{"containerd.io/gc.root": "true"}))
	if err != nil {
		return err
	}
	dir, err := upperDir(mounts)
	if err != nil {
		return err
	}
	if err := untar(layer, dir); err != nil {
		return err
	}
	return s.snapshots.Commit(ctx, chain, key)
}
