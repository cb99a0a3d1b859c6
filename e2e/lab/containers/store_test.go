package containers_test

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/e2e/lab/containers"
)

// newLayout writes an OCI layout with one image of these layers, each a list of headers.
func newLayout(t *testing.T, layers ...[]tar.Header) (dir string, img containers.Image) {
	t.Helper()
	image := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	for _, headers := range layers {
		var buf bytes.Buffer
		tw := tar.NewWriter(&buf)
		for _, h := range headers {
			content := ""
			if h.Typeflag == tar.TypeReg {
				content = "content of " + h.Name
				h.Size = int64(len(content))
			}
			if err := tw.WriteHeader(&h); err != nil {
				t.Fatal(err)
			}
			if _, err := tw.Write([]byte(content)); err != nil {
				t.Fatal(err)
			}
		}
		if err := tw.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if image, err = mutate.Append(image, mutate.Addendum{Layer: static.NewLayer(buf.Bytes(), types.OCIUncompressedLayer), MediaType: types.OCIUncompressedLayer}); err != nil {
			t.Fatal(err)
		}
	}
	dir = t.TempDir()
	path, err := layout.Write(dir, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err == nil {
		err = path.AppendImage(image)
	}
	if err != nil {
		t.Fatal(err)
	}
	var d v1.Descriptor
	if index, err := path.ImageIndex(); err != nil {
		t.Fatal(err)
	} else if m, err := index.IndexManifest(); err != nil {
		t.Fatal(err)
	} else {
		d = m.Manifests[0]
	}
	return dir, containers.Image{Names: []string{"example.com/a:v1"}, Manifest: ocispec.Descriptor{MediaType: string(d.MediaType), Digest: digest.Digest(d.Digest.String()), Size: d.Size}}
}

// That containerd runs what is written here, the lab shows; this shows where it lies.
func TestWriteStore(t *testing.T) {
	dir, img := newLayout(t,
		[]tar.Header{{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o750}, {Name: "etc/a", Typeflag: tar.TypeReg, Mode: 0o640}},
		[]tar.Header{{Name: "bin/tool", Typeflag: tar.TypeReg, Mode: 0o4755}, {Name: "bin/same", Typeflag: tar.TypeLink, Linkname: "bin/tool"}, {Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/etc/passwd"}})
	other := img
	other.Names = []string{"example.com/b:v1"} // of the same layers
	root := filepath.Join(t.TempDir(), "containerd")
	if err := containers.WriteStore(t.Context(), root, dir, []containers.Image{img, other}); err != nil {
		t.Fatal(err)
	}
	for pattern, want := range map[string]struct {
		mode os.FileMode
		text string
	}{
		"etc/a":    {0o640, "content of etc/a"},
		"bin/tool": {0o755 | os.ModeSetuid, "content of bin/tool"},
		"bin/same": {0o755 | os.ModeSetuid, "content of bin/tool"},
	} {
		found, err := filepath.Glob(filepath.Join(root, "io.containerd.snapshotter.v1.overlayfs/snapshots/*/fs", pattern))
		if err != nil || len(found) != 1 {
			t.Errorf("%s is in %q (%v), want one snapshot", pattern, found, err)
			continue
		}
		info, err := os.Stat(found[0])
		if err != nil {
			t.Fatal(err)
		}
		if data, err := os.ReadFile(found[0]); err != nil || string(data) != want.text || info.Mode() != want.mode {
			t.Errorf("%s: %q of mode %v (%v), want %q of %v", pattern, data, info.Mode(), err, want.text, want.mode)
		}
	}
}

func TestLayersThatAreRefused(t *testing.T) {
	for name, headers := range map[string][]tar.Header{
		"a device":                {{Name: "dev/sda", Typeflag: tar.TypeBlock}},
		"a path that climbs out":  {{Name: "../../outside", Typeflag: tar.TypeReg}},
		"a way out by a symlink":  {{Name: "out", Typeflag: tar.TypeSymlink, Linkname: "/tmp"}, {Name: "out/file", Typeflag: tar.TypeReg}},
		"a link to what is above": {{Name: "up", Typeflag: tar.TypeLink, Linkname: "../../x"}},
	} {
		t.Run(name, func(t *testing.T) {
			dir, img := newLayout(t, headers)
			err := containers.WriteStore(t.Context(), filepath.Join(t.TempDir(), "containerd"), dir, []containers.Image{img})
			if err == nil || !strings.Contains(err.Error(), headers[len(headers)-1].Name) {
				t.Errorf("got %v, want an error that names the file", err)
			}
		})
	}
}
