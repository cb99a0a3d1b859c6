package lab

import (
	"archive/tar"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDoRefuses(t *testing.T) {
	l := &Lab{Nodes: []*Node{{Name: "n1"}, {Name: "n2"}}}
	for args, want := range map[string]string{
		"":                       "give a node and an action",
		"n1":                     "give a node and an action",
		"n3 pull nvme":           `no node "n3"; there are n1, n2`,
		"n1 explode":             `no action "explode"`,
		"n1 pull":                "pull needs 1 arguments: DISK",
		"n1 power-cut now":       "power-cut needs 0 arguments",
		"n1 jump-clock tomorrow": `invalid duration "tomorrow"`,
		"n1 swap nvme X twelve":  `WWN "twelve" is no number`,
	} {
		if err := l.Do(t.Context(), strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("do %q: got %v, want %q", args, err, want)
		}
	}
}

// A node that is broken into could send any archive as its pods' logs.
func TestUntarStaysBelowItsDirectory(t *testing.T) {
	var buf bytes.Buffer
	tw := tar.NewWriter(&buf)
	for _, name := range []string{"pods/a/0.log", "../outside.log"} {
		if err := tw.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Size: 1, Mode: 0o644}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "logs")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := untar(&buf, dir); err == nil {
		t.Error("a path that climbs out is no error")
	}
	if _, err := os.Stat(filepath.Join(dir, "pods/a/0.log")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "outside.log")); err == nil {
		t.Error("a file was written outside")
	}
}
