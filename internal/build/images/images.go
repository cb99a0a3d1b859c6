// Package images writes the container images of Holdfast without a daemon: an
// OCI image layout (https://github.com/opencontainers/image-spec, image-layout.md)
// whose digests depend on nothing but what is in the images. Layers are not
// compressed, so that nodes need no time to unpack them. See docs/images.md.
package images

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"holdfast.dev/internal/atomicfile"
)

// Registry is what the names of our images begin with.
const Registry = "registry.holdfast.dev"

// Annotations of an index's entries: the first is the image specification's,
// the second is what containerd names an imported image by.
const (
	refNameAnnotation   = "org.opencontainers.image.ref.name"
	imageNameAnnotation = "io.containerd.image.name"
)

// nonRoot is the user that the manifests of the addons and the agent name.
const nonRoot = "65532:65532"

// Image is one image to write.
type Image struct {
	// Name is its name below the registry.
	Name string
	// Binary, when set, is the static program that it has at /<Binary>, and runs.
	Binary string
	// Base, when set, is the section of packages.txt that it stands on; without
	// one there is nothing but the program.
	Base string
	// User is the numeric user and group of the process, unless a manifest says otherwise.
	User string
	// Reference, when set, is its whole name with registry and tag, in place of ours.
	Reference string
}

// All are the images of Holdfast.
func All() []Image {
	return []Image{
		{Name: "disk-monitor", Binary: "disk-monitor", User: nonRoot},
		{Name: "holdfast-agent", Binary: "holdfast-agent", User: nonRoot},
		{Name: "holdfast-hub", Binary: "holdfast-hub", Base: "git-tools", User: nonRoot},
		{Name: "local-volume-cleaner", Binary: "local-volume-cleaner", Base: "storage-tools", User: "0:0"},
		{Name: "local-volume-provisioner", Binary: "local-volume-provisioner", User: nonRoot},
		{Name: "lvm-csi-driver", Binary: "lvm-csi-driver", Base: "storage-tools", User: "0:0"},
		{Name: "pause", Binary: "pause", User: nonRoot},
		{Name: "remediation-controller", Binary: "remediation-controller", User: nonRoot},
		{Name: "storage-scheduler", Binary: "storage-scheduler", User: nonRoot},
		{Name: "storage-tools", Base: "storage-tools", User: "0:0"},
	}
}

// StandIns are images under the names that Kubernetes' own storage suite wants
// (k8s.io/kubernetes v1.36.3, test/utils/image/manifest.go), for nodes without a
// registry: agnhost is the suite's program, built from its source, on Debian's tools in
// place of Alpine's; busybox is Debian's; of the others the specs want a shell and its tools.
func StandIns() []Image {
	const registry = "registry.k8s.io/e2e-test-images/"
	return []Image{
		{Name: "agnhost", Binary: "agnhost", Base: "storage-tools", User: "0:0", Reference: registry + "agnhost:2.63.0"},
		{Name: "busybox", Base: busyboxBase, User: "0:0", Reference: registry + "busybox:1.37.0-1"},
		{Name: "glibc-dns-testing", Base: "storage-tools", User: "0:0", Reference: registry + "glibc-dns-testing:2.0.0"},
		{Name: "nginx", Base: "storage-tools", User: "0:0", Reference: registry + "nginx:1.15-4"},
	}
}

// Options say what to write and where.
type Options struct {
	Images []Image
	BinDir string // has the programs
	Tag    string // of every image, such as v0.1.0
	// Layout is the directory of the layout; it is replaced as a whole.
	Layout string
	// File receives the map from name:tag to name:tag@digest, as JSON.
	File string
	// Base returns the path of a base's archive.
	Base func(ctx context.Context, name string) (string, error)
}

// Written is an image that was written.
type Written struct {
	Reference string // name:tag@digest
	Bytes     int64  // of its layers
}

// Write writes the layout and the file of references.
func Write(ctx context.Context, o Options) (_ []Written, err error) {
	if err := checkBinaries(o); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Dir(o.Layout), 0o755); err != nil {
		return nil, fmt.Errorf("write images: %w", err)
	}
	tmp, err := os.MkdirTemp(filepath.Dir(o.Layout), ".images-")
	if err != nil {
		return nil, fmt.Errorf("write images: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	dir, err := layout.Write(filepath.Join(tmp, "new"), mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return nil, fmt.Errorf("write images: %w", err)
	}
	var done []Written
	refs := map[string]string{}
	for _, img := range o.Images {
		name := cmp.Or(img.Reference, Registry+"/"+img.Name+":"+o.Tag)
		w, err := write(ctx, o, dir, img, name)
		if err != nil {
			return nil, fmt.Errorf("write image %s: %w", img.Name, err)
		}
		done = append(done, w)
		refs[name] = w.Reference
	}
	data, err := json.MarshalIndent(refs, "", "  ")
	if err != nil {
		return nil, err
	}
	if err := replaceDir(o.Layout, string(dir), filepath.Join(tmp, "old")); err != nil {
		return nil, fmt.Errorf("write images: %w", err)
	}
	if err := atomicfile.Replace(o.File, append(data, '\n'), 0o644); err != nil {
		return nil, fmt.Errorf("write references of images: %w", err)
	}
	return done, nil
}

// checkBinaries looks for the programs first: bases take a while.
func checkBinaries(o Options) error {
	for _, img := range o.Images {
		if img.Binary == "" {
			continue
		}
		path := filepath.Join(o.BinDir, img.Binary)
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("%s, which the image %s is made of, is not there (run make build)", path, img.Name)
		}
		if err != nil {
			return fmt.Errorf("find program of image %s: %w", img.Name, err)
		}
		if !info.Mode().IsRegular() || info.Mode()&0o111 == 0 {
			return fmt.Errorf("%s, which the image %s is made of, is not a program (run make build)", path, img.Name)
		}
	}
	return nil
}

func write(ctx context.Context, o Options, dir layout.Path, img Image, name string) (Written, error) {
	image, err := assemble(ctx, o, img)
	if err != nil {
		return Written{}, err
	}
	digest, err := image.Digest()
	if err != nil {
		return Written{}, err
	}
	m, err := image.Manifest()
	if err != nil {
		return Written{}, err
	}
	w := Written{Reference: name + "@" + digest.String()}
	for _, l := range m.Layers {
		w.Bytes += l.Size
	}
	return w, dir.AppendImage(image,
		layout.WithAnnotations(map[string]string{refNameAnnotation: name, imageNameAnnotation: name}),
		layout.WithPlatform(v1.Platform{OS: "linux", Architecture: runtime.GOARCH}))
}

// assemble puts the layers of one image together.
func assemble(ctx context.Context, o Options, img Image) (v1.Image, error) {
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	cfg := v1.Config{User: img.User, Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}}
	var add []mutate.Addendum
	layer := func(data []byte, what string) {
		add = append(add, mutate.Addendum{Layer: static.NewLayer(data, types.OCIUncompressedLayer),
			MediaType: types.OCIUncompressedLayer, History: v1.History{Created: epoch(), CreatedBy: "holdfast make images: " + what}})
	}
	if img.Base != "" {
		path, err := o.Base(ctx, img.Base)
		if err != nil {
			return nil, err
		}
		data, err := baseLayer(path)
		if err != nil {
			return nil, err
		}
		layer(data, "Debian 12 "+img.Base)
		cfg.Cmd = []string{"/bin/bash"}
		if img.Base == busyboxBase {
			cfg.Cmd = []string{"/bin/sh"}
		}
	}
	if img.Binary != "" {
		data, err := os.ReadFile(filepath.Join(o.BinDir, img.Binary))
		if err != nil {
			return nil, err
		}
		data, err = programLayer(img.Binary, data)
		if err != nil {
			return nil, err
		}
		layer(data, img.Binary)
		cfg.Entrypoint, cfg.Cmd = []string{"/" + img.Binary}, nil
	}
	image, err := mutate.ConfigFile(image, &v1.ConfigFile{OS: "linux", Architecture: runtime.GOARCH, Created: epoch(), Config: cfg,
		RootFS: v1.RootFS{Type: "layers"}})
	if err != nil {
		return nil, err
	}
	return mutate.Append(image, add...)
}

func epoch() v1.Time { return v1.Time{Time: time.Unix(0, 0).UTC()} }

// replaceDir puts the directory at from in the place of the one at path, which
// goes to aside.
func replaceDir(path, from, aside string) error {
	if err := os.Rename(path, aside); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Rename(from, path)
}

// shortName is the name of an image without registry, tag and digest.
func shortName(reference string) string {
	name, _, _ := strings.Cut(reference, "@")
	name = name[strings.LastIndex(name, "/")+1:]
	name, _, _ = strings.Cut(name, ":")
	return name
}
