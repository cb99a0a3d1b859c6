// Package interop finds the programs of others that "make interop" builds from the modules
// in its folders, for the tests that run the product beside them.
package interop

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"holdfast.dev/internal/hostexec"
)

// Tool is the path of a program.
func Tool(t *testing.T, name string) string {
	t.Helper()
	dir := os.Getenv("HOLDFAST_INTEROP_DIR")
	if dir == "" {
		t.Fatal("HOLDFAST_INTEROP_DIR does not say where the programs of others are (use make interop)")
	}
	return filepath.Join(dir, name)
}

// Module is the directory of the source of a module, such as github.com/fluxcd/source-controller,
// that programs are built from in a folder of this package. It logs the version. top is
// the path of the repository's top from the test.
func Module(t *testing.T, top, folder, path string) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join(top, "e2e/interop", folder))
	if err != nil {
		t.Fatal(err)
	}
	out, err := hostexec.Run(t.Context(), time.Minute, hostexec.Command{Path: "go", Dir: dir, Args: []string{"list", "-m", "-f", "{{.Version}} {{.Dir}}", path}})
	if err != nil {
		t.Fatal(err)
	}
	version, source, _ := strings.Cut(strings.TrimSpace(string(out)), " ")
	t.Logf("%s %s", path, version)
	return source
}
