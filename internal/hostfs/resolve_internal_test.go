package hostfs

import (
	"errors"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// TestKernelAndWalkAgree holds the two ways to resolve against each other, on random trees
// of directories, files and links that climb, loop, dangle and lie.
func TestKernelAndWalkAgree(t *testing.T) {
	const trees, names = 60, 200
	compared := 0
	for seed := range uint64(trees) {
		r := rand.New(rand.NewPCG(seed, 1))
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(filepath.Dir(dir), "a"), []byte("outside"), 0o600); err != nil {
			t.Fatal(err)
		}
		grow(t, r, dir)
		kernel, err := Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		if kernel.dir == nil {
			if os.Getenv("HOLDFAST_NO_OPENAT2") == "" {
				t.Fatal("the kernel does not resolve below a root here: run this on Linux 5.6 or later and where openat2 is let through, or set HOLDFAST_NO_OPENAT2=1")
			}
			t.Skip("there is one way alone: HOLDFAST_NO_OPENAT2 is set")
		}
		walk := &FS{root: kernel.root}
		for range names {
			name := "/" + relative(r)
			kp, kerr := kernel.Resolve(name)
			wp, werr := walk.Resolve(name)
			if kp != wp || !alike(kerr, werr) {
				t.Fatalf("seed %d: %s is %q, %v by the kernel and %q, %v by walking", seed, name, kp, kerr, wp, werr)
			}
			kd, kerr := kernel.ReadFile(name)
			wd, werr := walk.ReadFile(name)
			if string(kd) != string(wd) || (kerr == nil) != (werr == nil) || string(kd) == "outside" {
				t.Fatalf("seed %d: %s reads %q, %v by the kernel and %q, %v by walking", seed, name, kd, kerr, wd, werr)
			}
			kn, kerr := kernel.ReadDir(name)
			wn, werr := walk.ReadDir(name)
			if strings.Join(kn, " ") != strings.Join(wn, " ") || (kerr == nil) != (werr == nil) {
				t.Fatalf("seed %d: %s lists %q, %v by the kernel and %q, %v by walking", seed, name, kn, kerr, wn, werr)
			}
			ki, kerr := kernel.Lstat(name)
			wi, werr := walk.Lstat(name)
			if !alike(kerr, werr) || kerr == nil && (!os.SameFile(ki, wi) || clean(name) != "/" && ki.Name() != wi.Name()) {
				t.Fatalf("seed %d: %s is %v, %v by the kernel and %v, %v by walking", seed, name, ki, kerr, wi, werr)
			}
			if kp != "" {
				compared++
			}
		}
		if err := kernel.Close(); err != nil {
			t.Error(err)
		}
	}
	if compared < trees*names/10 {
		t.Errorf("only %d of %d names led anywhere: this compares nothing", compared, trees*names)
	}
}

func alike(a, b error) bool {
	return (a == nil) == (b == nil) && errors.Is(a, fs.ErrNotExist) == errors.Is(b, fs.ErrNotExist)
}

var elements = []string{"a", "b", "c", "d (deleted)", ".."}

// relative is a path of a few elements.
func relative(r *rand.Rand) string {
	all := make([]string, 1+r.IntN(5))
	for i := range all {
		all[i] = elements[r.IntN(len(elements))]
	}
	return strings.Join(all, "/")
}

// grow makes the tree, through a root: its links may lead anywhere.
func grow(t *testing.T, r *rand.Rand, dir string) {
	t.Helper()
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = root.Close() }()
	for range 40 {
		name := rel(clean(relative(r)))
		_ = root.MkdirAll(path.Dir(name), 0o700) // what does not go is a thing less in the tree
		switch r.IntN(4) {
		case 0:
			_ = root.Mkdir(name, 0o700)
		case 1:
			_ = root.WriteFile(name, []byte(name), 0o600)
		default:
			target := relative(r)
			if r.IntN(4) == 0 {
				target = "/" + target
			}
			_ = root.Symlink(target, name)
		}
	}
}
