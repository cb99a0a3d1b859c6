package trust

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"holdfast.dev/e2e/wait"
)

// knownStore is a store whose one authority is known, with the certificate of a cluster
// and the authority's file.
func knownStore(t testing.TB) (s *Store, shown func() error, path string) {
	t.Helper()
	s, err := Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	cred, err := s.Credential(Identity{Kind: Cluster, Name: "canary"}, nil)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := cred.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	shown = func() error {
		_, err := s.Authenticate(leaf)
		return err
	}
	wait.For(t, time.Minute, "the authority to be known", func() bool {
		if err := shown(); err != nil {
			t.Fatal(err)
		}
		return len(s.known.byPath) == 1
	})
	for p := range s.known.byPath {
		path = p
	}
	return s, shown, path
}

// TestKnownAuthorityEnds: whatever ends an authority does so at once, however well the
// hub knows it. Each is done by somebody else, as "holdfast join" and "holdfast rotate"
// are, on the same directory.
func TestKnownAuthorityEnds(t *testing.T) {
	for name, end := range map[string]func(t *testing.T, other *Store, path string) error{
		"Rotated": func(_ *testing.T, other *Store, _ string) error { return other.Rotate(true) },
		"Removed": func(_ *testing.T, _ *Store, path string) error { return os.Remove(path) },
		"Replaced": func(t *testing.T, _ *Store, path string) error {
			return os.Rename(another(t, path), path)
		},
		"Overwritten": func(t *testing.T, _ *Store, path string) error {
			fi, err := os.Stat(path)
			if err != nil {
				return err
			}
			data, err := os.ReadFile(another(t, path))
			if err != nil {
				return err
			}
			if err := os.WriteFile(path, data, 0o600); err != nil {
				return err
			}
			return os.Chtimes(path, fi.ModTime(), fi.ModTime()) // as if nothing had happened
		},
		"Invited": func(_ *testing.T, other *Store, _ string) error {
			_, err := other.Invite(Identity{Kind: Cluster, Name: "canary"})
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, shown, path := knownStore(t)
			other, err := Open(s.dir, time.Now)
			if err != nil {
				t.Fatal(err)
			}
			if err := end(t, other, path); err != nil {
				t.Fatal(err)
			}
			if err := shown(); !errors.Is(err, ErrDenied) {
				t.Errorf("the next request: %v", err)
			}
		})
	}
}

// another is the file of an authority that somebody else made, beside path.
func another(t *testing.T, path string) string {
	t.Helper()
	s, err := Open(t.TempDir(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	list, err := s.authorities()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(list[0].path)
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(filepath.Dir(path), ".another")
	if err := os.WriteFile(name, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// BenchmarkAuthenticate compares a request with one that reads the authorities anew, as
// each did.
func BenchmarkAuthenticate(b *testing.B) {
	s, shown, _ := knownStore(b)
	for name, forget := range map[string]bool{"known": false, "anew": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if forget {
					clear(s.known.byPath)
				}
				if err := shown(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
