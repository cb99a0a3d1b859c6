package images

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// baseTar is an archive as a machine writes it: with times, names of users and devices.
func baseTar(t *testing.T, mtime time.Time) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "base.tar")
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, h := range []tar.Header{
		{Typeflag: tar.TypeDir, Name: "./", Mode: 0o755},
		{Typeflag: tar.TypeDir, Name: "./dev/", Mode: 0o755},
		{Typeflag: tar.TypeChar, Name: "./dev/null", Mode: 0o666, Devmajor: 1, Devminor: 3},
		{Typeflag: tar.TypeDir, Name: "./usr/bin/", Mode: 0o755},
		{Typeflag: tar.TypeReg, Name: "./usr/bin/bash", Mode: 0o755, Size: 4, Gname: "wheel"},
		{Typeflag: tar.TypeLink, Name: "./usr/bin/rbash", Linkname: "./usr/bin/bash", Mode: 0o755},
		{Typeflag: tar.TypeSymlink, Name: "./bin", Linkname: "usr/bin", Mode: 0o777},
		{Typeflag: tar.TypeReg, Name: "./etc/shadow", Mode: 0o640, Gid: 42, Gname: "shadow"},
	} {
		h.ModTime, h.Uname = mtime, "builder"
		if err := tw.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write(bytes.Repeat([]byte("b"), int(h.Size))); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(tw.Close(), os.WriteFile(path, buf.Bytes(), 0o600)); err != nil {
		t.Fatal(err)
	}
	return path
}

// options are those of a build of small images in a directory of its own.
func options(t *testing.T, mtime time.Time) Options {
	t.Helper()
	bin := t.TempDir()
	for _, img := range All() {
		if img.Binary == "" {
			continue
		}
		path := filepath.Join(bin, img.Binary)
		if err := errors.Join(os.WriteFile(path, []byte("program "+img.Binary), 0o755), os.Chtimes(path, mtime, mtime)); err != nil {
			t.Fatal(err)
		}
	}
	base := baseTar(t, mtime)
	return Options{Images: All(), BinDir: bin, Tag: "v0.1.0", Layout: filepath.Join(bin, "images"), File: filepath.Join(bin, "images.json"),
		Base: func(context.Context, string) (string, error) { return base, nil }}
}

func mustWrite(t *testing.T, o Options) []Written {
	t.Helper()
	done, err := Write(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	return done
}

func readJSON(t *testing.T, path string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]string
	if err := json.Unmarshal(data, &m); err != nil {
		t.Fatal(err)
	}
	return m
}

func untar(t *testing.T, archive string) string {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	dir := t.TempDir()
	tr := tar.NewReader(f)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return dir
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(tr)
		path := filepath.Join(dir, h.Name)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, data, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
}

// The same content gives the same digests, whenever and in whatever directory it is built.
func TestDigestsDependOnContentAlone(t *testing.T) {
	a, b := options(t, time.Unix(1700000000, 5)), options(t, time.Unix(1600000000, 0))
	mustWrite(t, a)
	mustWrite(t, b)
	if d := cmp.Diff(readJSON(t, a.File), readJSON(t, b.File)); d != "" {
		t.Errorf("references differ (-first +second):\n%s", d)
	}
	ids := map[string]bool{}
	for _, o := range []Options{a, b} {
		id, err := WriteArchiveFile(filepath.Join(t.TempDir(), "images.tar"), o.Layout)
		if err != nil {
			t.Fatal(err)
		}
		ids[id] = true
	}
	if len(ids) != 1 {
		t.Errorf("ids of the same archive: %v", ids)
	}
	if err := os.WriteFile(filepath.Join(b.BinDir, "pause"), []byte("another"), 0o755); err != nil {
		t.Fatal(err)
	}
	was := readJSON(t, b.File)
	mustWrite(t, b)
	for name, ref := range readJSON(t, b.File) {
		if changed := ref != was[name]; changed != strings.Contains(name, "/pause:") {
			t.Errorf("after a change of pause: %s changed = %v", name, changed)
		}
	}
	left, err := filepath.Glob(filepath.Join(b.BinDir, ".*"))
	if err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// An archive holds sound images, each by tag and by digest.
func TestArchive(t *testing.T) {
	o := options(t, time.Now())
	mustWrite(t, o)
	refs := readJSON(t, o.File)
	archive := filepath.Join(t.TempDir(), "images.tar")
	if _, err := WriteArchiveFile(archive, o.Layout); err != nil {
		t.Fatal(err)
	}
	dir := untar(t, archive)
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(index, validate.Fast); err != nil { // all of it would take layers for compressed
		t.Errorf("the archive is not valid: %v", err)
	}
	checkBlobs(t, dir)
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]v1.Hash{}
	for _, d := range m.Manifests {
		if d.Annotations[refNameAnnotation] != d.Annotations[imageNameAnnotation] {
			t.Errorf("names differ: %v", d.Annotations)
		}
		got[d.Annotations[imageNameAnnotation]] = d.Digest
	}
	if len(refs) != len(All()) || len(got) != 2*len(refs) || len(m.Manifests) != len(got) {
		t.Errorf("%d images have %d references and, in the archive, %d names in %d entries", len(All()), len(refs), len(got), len(m.Manifests))
	}
	for name, ref := range refs {
		_, digest, _ := strings.Cut(ref, "@")
		untagged := name[:strings.LastIndex(name, ":")]
		for _, n := range []string{name, untagged + "@" + digest} {
			if got[n].String() != digest {
				t.Errorf("%s is %q in the archive, %q in images.json", n, got[n], digest)
			}
		}
		if ref != name+"@"+digest {
			t.Errorf("reference of %s is %s", name, ref)
		}
		short := shortName(name)
		if r, err := Reference(o.File, short); err != nil || r != ref {
			t.Errorf("Reference(%s) = %s, %v", short, r, err)
		}
	}
}

// checkBlobs checks that every blob is what it is called.
func checkBlobs(t *testing.T, dir string) {
	t.Helper()
	blobs, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil || len(blobs) == 0 {
		t.Fatalf("blobs: %v, %v", blobs, err)
	}
	for _, b := range blobs {
		data, err := os.ReadFile(filepath.Join(dir, "blobs", "sha256", b.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(data); hex.EncodeToString(sum[:]) != b.Name() {
			t.Errorf("blob %s has the digest %x", b.Name(), sum)
		}
	}
}

// Images carry nothing of the machine that they are built on, and run what the manifests start.
func TestImages(t *testing.T) {
	o := options(t, time.Now())
	mustWrite(t, o)
	ii, err := layout.ImageIndexFromPath(o.Layout)
	if err != nil {
		t.Fatal(err)
	}
	m, err := ii.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	for i, img := range All() {
		image, err := ii.Image(m.Manifests[i].Digest)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		if !cfg.Created.Equal(time.Unix(0, 0)) || cfg.Config.User != img.User || cfg.OS != "linux" {
			t.Errorf("%s: created %s, user %q, OS %q", img.Name, cfg.Created, cfg.Config.User, cfg.OS)
		}
		if img.Binary != "" && !slices.Equal(cfg.Config.Entrypoint, []string{"/" + img.Binary}) {
			t.Errorf("%s: entrypoint %q", img.Name, cfg.Config.Entrypoint)
		}
		layers, err := image.Layers()
		if err != nil {
			t.Fatal(err)
		}
		var files []string
		for _, l := range layers {
			files = append(files, checkLayer(t, img.Name, l)...)
		}
		var want []string
		if img.Base != "" {
			want = append(want, "dev/ 755 0", "usr/bin/ 755 0", "usr/bin/bash 755 0", "usr/bin/rbash=usr/bin/bash 755 0", "bin=usr/bin 777 0", "etc/shadow 640 42")
		}
		if img.Binary != "" {
			want = append(want, img.Binary+" 755 0")
		}
		if d := cmp.Diff(want, files); d != "" {
			t.Errorf("%s: files (-want +got):\n%s", img.Name, d)
		}
	}
}

// Stand-ins have the whole names that the suite wants, and run what the suite leaves to the
// image.
func TestStandIns(t *testing.T) {
	o := options(t, time.Now())
	o.Images = StandIns()
	if err := os.WriteFile(filepath.Join(o.BinDir, "agnhost"), []byte("program"), 0o755); err != nil {
		t.Fatal(err)
	}
	mustWrite(t, o)
	entries, err := Entries(o.Layout)
	if err != nil {
		t.Fatal(err)
	}
	ii, err := layout.ImageIndexFromPath(o.Layout)
	if err != nil {
		t.Fatal(err)
	}
	runs := map[string][]string{}
	for _, e := range entries {
		image, err := ii.Image(e.Manifest.Digest)
		if err != nil {
			t.Fatal(err)
		}
		cfg, err := image.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		runs[e.Names[0]] = append(cfg.Config.Entrypoint, cfg.Config.Cmd...)
	}
	want := map[string][]string{
		"registry.k8s.io/e2e-test-images/agnhost:2.63.0":          {"/agnhost"},
		"registry.k8s.io/e2e-test-images/busybox:1.37.0-1":        {"/bin/sh"},
		"registry.k8s.io/e2e-test-images/glibc-dns-testing:2.0.0": {"/bin/bash"},
		"registry.k8s.io/e2e-test-images/nginx:1.15-4":            {"/bin/bash"},
	}
	if d := cmp.Diff(want, runs); d != "" {
		t.Error(d)
	}
}

func checkLayer(t *testing.T, name string, l v1.Layer) (files []string) {
	t.Helper()
	if mt, err := l.MediaType(); err != nil || mt != types.OCIUncompressedLayer {
		t.Errorf("%s: media type %s, %v", name, mt, err)
	}
	r, err := l.Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Close() }()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		if !h.ModTime.Equal(time.Unix(0, 0)) || h.Uid != 0 || h.Uname != "" || h.Gname != "" {
			t.Errorf("%s: %s has time %s, user %d %q, group %q", name, h.Name, h.ModTime, h.Uid, h.Uname, h.Gname)
		}
		line := h.Name
		if h.Linkname != "" {
			line += "=" + h.Linkname
		}
		files = append(files, line+" "+strconv.FormatInt(h.Mode, 8)+" "+strconv.Itoa(h.Gid))
	}
}

func TestNamedImagesOnly(t *testing.T) {
	o := options(t, time.Now())
	mustWrite(t, o)
	dir := t.TempDir()
	archive := filepath.Join(dir, "two.tar")
	all, err := WriteArchiveFile(archive, o.Layout)
	if err != nil {
		t.Fatal(err)
	}
	id, err := WriteArchiveFile(archive, o.Layout, "pause", Registry+"/disk-monitor:v0.1.0")
	if err != nil || id == all {
		t.Fatalf("id %s, of all images %s, %v", id, all, err)
	}
	index, err := layout.ImageIndexFromPath(untar(t, archive))
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, d := range m.Manifests {
		names = append(names, shortName(d.Annotations[imageNameAnnotation]))
	}
	if d := cmp.Diff([]string{"disk-monitor", "disk-monitor", "pause", "pause"}, names); d != "" {
		t.Error(d)
	}
	if _, err := WriteArchiveFile(filepath.Join(dir, "no.tar"), o.Layout, "pause", "paws"); err == nil || !strings.Contains(err.Error(), `no image "paws", only disk-monitor, `) {
		t.Errorf("unknown image: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

func TestErrorsSayWhatToDo(t *testing.T) {
	o := options(t, time.Now())
	mustWrite(t, o)
	before := readJSON(t, o.File)
	fail := func(reason string, o Options, want string) {
		t.Helper()
		if _, err := Write(t.Context(), o); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", reason, err, want)
		}
	}
	noBase := o
	noBase.Base = func(context.Context, string) (string, error) { return "", errors.New("no mirror answers") }
	fail("a base that cannot be built", noBase, "write image holdfast-hub: no mirror answers")
	badBase := o
	badBase.Base = func(context.Context, string) (string, error) { return filepath.Join(o.BinDir, "pause"), nil }
	fail("a base that is no archive", badBase, "read "+filepath.Join(o.BinDir, "pause"))
	if err := os.Remove(filepath.Join(o.BinDir, "pause")); err != nil {
		t.Fatal(err)
	}
	fail("a program that is not built", o, "pause, which the image pause is made of, is not there (run make build)")
	if d := cmp.Diff(before, readJSON(t, o.File)); d != "" {
		t.Errorf("a failed build changed the references:\n%s", d)
	}
	if _, err := layout.ImageIndexFromPath(o.Layout); err != nil {
		t.Errorf("a failed build took the layout away: %v", err)
	}
	if _, err := WriteArchiveFile(filepath.Join(o.BinDir, "x.tar"), filepath.Join(o.BinDir, "none")); err == nil || !strings.Contains(err.Error(), "run make images") {
		t.Errorf("archive of no layout: %v", err)
	}
	if _, err := Reference(filepath.Join(o.BinDir, "none.json"), "pause"); err == nil || !strings.Contains(err.Error(), "run make images") {
		t.Errorf("reference without file: %v", err)
	}
	if _, err := Reference(o.File, "paws"); err == nil || !strings.Contains(err.Error(), `no image "paws", only `) {
		t.Errorf("reference of an unknown image: %v", err)
	}
}

func TestEnsureBase(t *testing.T) {
	cache := t.TempDir()
	for _, img := range append(All(), StandIns()...) {
		if img.Base == "" {
			continue
		}
		install, remove, err := packages(packagesFile, img.Base)
		if err != nil || len(install) == 0 {
			t.Fatalf("packages of %s: %v, %v", img.Base, install, err)
		}
		dir := filepath.Join(cache, img.Base+"-"+baseKey(img.Base, install, remove))
		if err := os.MkdirAll(dir, 0o755); err != nil { // two images may have one base
			t.Fatal(err)
		}
		// What is in the cache is used: no mmdebstrap, no network.
		e, err := EnsureBase(t.Context(), cache, img.Base, io.Discard)
		if err != nil || e.Dir != dir {
			t.Errorf("EnsureBase(%s) = %+v, %v", img.Base, e, err)
		}
	}
	if _, err := EnsureBase(t.Context(), cache, "none", io.Discard); err == nil || !strings.Contains(err.Error(), "no section [none]") {
		t.Errorf("unknown base: %v", err)
	}
	t.Setenv("PATH", "")
	if _, err := EnsureBase(t.Context(), t.TempDir(), "storage-tools", io.Discard); err == nil || !strings.Contains(err.Error(), "apt-get install mmdebstrap") {
		t.Errorf("without mmdebstrap: %v", err)
	}
}

func TestPackages(t *testing.T) {
	list := []byte("# comment\n[a]\none # why\n-two\n\n[b]\nthree\n")
	install, remove, err := packages(list, "a")
	if d := cmp.Diff([][]string{{"one"}, {"two"}}, [][]string{install, remove}); d != "" || err != nil {
		t.Errorf("%v\n%s", err, d)
	}
	if baseKey("a", install, remove) == baseKey("a", remove, install) {
		t.Error("the key does not tell installing from removing")
	}
}
