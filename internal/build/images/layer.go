package images

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"
)

// programLayer is a layer with one program at the root.
func programLayer(name string, program []byte) ([]byte, error) {
	var out bytes.Buffer
	out.Grow(len(program) + 4096)
	tw := tar.NewWriter(&out)
	if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o755, Size: int64(len(program)), ModTime: time.Unix(0, 0), Format: tar.FormatUSTAR}); err != nil {
		return nil, err
	}
	if _, err := tw.Write(program); err != nil {
		return nil, err
	}
	return out.Bytes(), tw.Close()
}

// baseLayer is the layer of a base's archive.
func baseLayer(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // read only
	var out bytes.Buffer
	if info, err := f.Stat(); err == nil {
		out.Grow(int(info.Size()))
	}
	if err := normalise(&out, f); err != nil {
		return nil, fmt.Errorf("read %s: %w", file, err)
	}
	return out.Bytes(), nil
}

// normalise copies an archive without what depends on the machine that wrote
// it: times, and the names that its users have there. Devices are left out: a
// container runtime brings its own /dev, and an unpacking one may not make them.
func normalise(w io.Writer, r io.Reader) error {
	tr, tw := tar.NewReader(r), tar.NewWriter(w)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return tw.Close()
		}
		if err != nil {
			return err
		}
		name := strings.TrimPrefix(path.Clean("/"+h.Name), "/")
		if name == "" || strings.HasPrefix(name, "dev/") {
			continue
		}
		out := &tar.Header{Typeflag: h.Typeflag, Name: name, Linkname: h.Linkname, Mode: h.Mode & 0o7777, Uid: h.Uid, Gid: h.Gid, ModTime: time.Unix(0, 0)}
		switch h.Typeflag {
		case tar.TypeDir:
			out.Name += "/"
		case tar.TypeReg:
			out.Size = h.Size
		case tar.TypeLink:
			out.Linkname = strings.TrimPrefix(path.Clean("/"+h.Linkname), "/")
		case tar.TypeSymlink:
		default:
			continue
		}
		if err := tw.WriteHeader(out); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		if _, err := io.Copy(tw, tr); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
}
