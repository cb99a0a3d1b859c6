package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// fileCache keeps rendered units in a directory. Losing it costs a render, no
// byte of the result.
type fileCache struct{ dir string }

// Get returns what was put under the key, if anything.
func (c fileCache) Get(key string) ([]byte, bool, error) {
	data, err := os.ReadFile(c.path(key))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("read render cache: %w", err)
	}
	return data, true, nil
}

// Put stores data under the key.
func (c fileCache) Put(key string, data []byte) error {
	path := c.path(key)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("write render cache: %w", err)
	}
	if err := writeAtomic(path, data); err != nil {
		return fmt.Errorf("write render cache: %w", err)
	}
	return nil
}

func (c fileCache) path(key string) string {
	return filepath.Join(c.dir, key[:min(2, len(key))], key)
}
