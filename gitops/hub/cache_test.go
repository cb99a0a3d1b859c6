package hub

import (
	"os"
	"path/filepath"
	"testing"
)

// TestUnreadableCacheEntry: it counts as absent and is made anew. It was an error at
// every commit, for ever.
func TestUnreadableCacheEntry(t *testing.T) {
	const key = "0123abcd"
	for reason, damage := range map[string]func(path string) error{
		"a repaired file system has a folder there": func(path string) error { return os.MkdirAll(filepath.Join(path, "lost"), 0o700) },
		"a link that leads to itself":               func(path string) error { return os.Symlink(path, path) },
		"nothing":                                   func(string) error { return nil },
	} {
		c := fileCache{t.TempDir()}
		if err := c.Put(key, []byte("old")); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(c.path(key)); err != nil {
			t.Fatal(err)
		}
		if err := damage(c.path(key)); err != nil {
			t.Fatal(err)
		}
		if data, ok, err := c.Get(key); ok || err != nil {
			t.Errorf("%s: got %q %v %v, want nothing", reason, data, ok, err)
		}
		if err := c.Put(key, []byte("new")); err != nil {
			t.Errorf("%s: %v", reason, err)
		}
		if data, ok, err := c.Get(key); string(data) != "new" || !ok || err != nil {
			t.Errorf("%s: got %q %v %v, want what was put", reason, data, ok, err)
		}
	}
}
