// Package dependencies_test keeps docs/dependencies.md true.
package dependencies_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	root = "../../.."
	doc  = "docs/dependencies.md"
)

// use is a folder with files, of tests or others, that import a module.
type use struct {
	folder string
	test   bool
}

// covers: the table names folders, "tests" for all files of tests, or "everywhere". A
// folder stands for its component: which of a component's folders import what changes often.
func (u use) covers(said string) bool {
	component := func(s string) string { top, _, _ := strings.Cut(s, "/"); return top }
	return said == "everywhere" || said == "tests" && u.test || component(said) == component(u.folder)
}

// proves that what the table says is true.
func (u use) proves(said string) bool {
	return said == "everywhere" || said == "tests" && u.test || !u.test && (u.folder == said || strings.HasPrefix(u.folder, said+"/"))
}

// TestTable: each direct dependency has one line, which names no folder that does not
// import it, and leaves out no component that does.
func TestTable(t *testing.T) {
	lines, direct := table(t), modules(t)
	for m := range lines {
		if !slices.Contains(direct, m) {
			t.Errorf("%s: %s is no direct dependency of go.mod: remove it", doc, m)
		}
	}
	users := imports(t, direct)
	for _, m := range direct {
		said, ok := lines[m]
		if !ok {
			t.Errorf("%s: add a line for %s: where it is used, and for what", doc, m)
			continue
		}
		for _, folder := range said {
			if !slices.ContainsFunc(users[m], func(u use) bool { return u.proves(folder) }) {
				t.Errorf("%s: %s is not imported in %s", doc, m, folder)
			}
		}
		for _, u := range users[m] {
			if !slices.ContainsFunc(said, u.covers) {
				t.Errorf("%s: %s is imported in %s (by tests: %v), which its line does not name", doc, m, u.folder, u.test)
			}
		}
	}
}

// TestExternalSuite: Kubernetes' own storage suite is of the Kubernetes that the product is
// built with, in every part.
func TestExternalSuite(t *testing.T) {
	const suite = "e2e/external/go.mod"
	versions := func(file string) map[string]string {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(root, file))
		if err != nil {
			t.Fatal(err)
		}
		all := map[string]string{}
		for line := range strings.Lines(string(data)) {
			f := strings.Fields(line)
			switch {
			case len(f) == 4 && f[1] == "=>": // a replacement is what counts
				all[f[0]] = f[3]
			case len(f) >= 2 && f[0] == "k8s.io/kubernetes":
				all[f[0]] = f[1]
			}
		}
		return all
	}
	if d := cmp.Diff(versions("go.mod"), versions(suite)); d != "" {
		t.Errorf("go.mod and %s have different versions of Kubernetes (bring both to one, and images.StandIns to what the suite then wants):\n%s", suite, d)
	}
}

// modules are the direct dependencies.
func modules(t *testing.T) (all []string) {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(f[1], "v") {
			all = append(all, f[0])
		}
	}
	if len(all) == 0 {
		t.Fatal("go.mod has no dependency")
	}
	return all
}

// table is what the document says: modules and the folders that use them.
func table(t *testing.T) map[string][]string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, doc))
	if err != nil {
		t.Fatal(err)
	}
	all := map[string][]string{}
	for line := range strings.Lines(string(data)) {
		cells := strings.Split(line, " | ")
		if len(cells) < 3 || !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| module") {
			continue
		}
		for m := range strings.SplitSeq(strings.TrimPrefix(cells[0], "| "), ", ") {
			if all[m] != nil {
				t.Errorf("%s: %s has two lines", doc, m)
			}
			all[m] = strings.Split(cells[1], ", ")
		}
	}
	return all
}

// imports are the users of each module.
func imports(t *testing.T, modules []string) map[string][]use {
	t.Helper()
	all := map[string][]use{}
	files := token.NewFileSet()
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && d.Name() == ".git" {
			return filepath.SkipDir
		}
		if _, err := os.Stat(filepath.Join(path, "go.mod")); d.IsDir() && path != root && err == nil {
			return filepath.SkipDir // a module of its own
		}
		if filepath.Ext(path) != ".go" {
			return nil
		}
		file, err := parser.ParseFile(files, path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		folder, err := filepath.Rel(root, filepath.Dir(path))
		u := use{folder, strings.HasSuffix(path, "_test.go")}
		for _, i := range file.Imports {
			name, uerr := strconv.Unquote(i.Path.Value)
			if uerr != nil {
				return uerr
			}
			of := ""
			for _, m := range modules { // the longest prefix, as the go command has it
				if (name == m || strings.HasPrefix(name, m+"/")) && len(m) > len(of) {
					of = m
				}
			}
			if of != "" && !slices.Contains(all[of], u) {
				all[of] = append(all[of], u)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
