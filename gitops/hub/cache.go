package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"holdfast.dev/gitops/render"
	"holdfast.dev/internal/atomicfile"
)

// effort is what it took to render a commit. The hook that verifies a push
// leaves it for the hub, which then finds every unit in the cache.
type effort struct {
	Rendered int      `json:"rendered"`
	Cached   int      `json:"cached"`
	Units    []string `json:"units,omitempty"`
	Seconds  float64  `json:"seconds"`
}

func effortOf(r *render.Result, since time.Time) effort {
	return effort{Rendered: r.Rendered, Cached: r.Cached, Units: r.RenderedUnits, Seconds: time.Since(since).Seconds()}
}

func effortFile(dataDir, commit string) string {
	return filepath.Join(dataDir, "verified", commit+".json")
}

// leaveEffort writes what the hook did. It is a note for people: losing it is no fault.
func leaveEffort(dataDir, commit string, e effort) error {
	data, err := json.Marshal(e)
	if err != nil {
		return err
	}
	path := effortFile(dataDir, commit)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return atomicfile.Replace(path, data, 0o600)
}

// takeEffort reads and removes it.
func takeEffort(dataDir, commit string) (effort, bool) {
	var e effort
	data, err := os.ReadFile(effortFile(dataDir, commit))
	if err != nil || json.Unmarshal(data, &e) != nil {
		return e, false
	}
	return e, os.Remove(effortFile(dataDir, commit)) == nil
}

// fileCache keeps rendered units in a directory. Losing it costs a render, no
// byte of the result.
type fileCache struct{ dir string }

// Get returns what was put under the key, if anything. What cannot be read is
// removed, for it would be in Put's way, and counts as absent.
func (c fileCache) Get(key string) ([]byte, bool, error) {
	data, err := os.ReadFile(c.path(key))
	if err == nil {
		return data, true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		if rerr := os.RemoveAll(c.path(key)); rerr != nil {
			return nil, false, fmt.Errorf("read render cache: %w", errors.Join(err, rerr))
		}
	}
	return nil, false, nil
}

// Put stores data under the key.
func (c fileCache) Put(key string, data []byte) error {
	path := c.path(key)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write render cache: %w", err)
	}
	if err := atomicfile.Write(path, data, 0o600); err != nil {
		return fmt.Errorf("write render cache: %w", err)
	}
	return nil
}

func (c fileCache) path(key string) string {
	return filepath.Join(c.dir, key[:min(2, len(key))], key)
}
