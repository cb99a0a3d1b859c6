package gitrepo

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// RemoveLocks removes, and names, the locks that a killed git or a power cut left on
// refs below folders of refs/. The refs must be the caller's alone. What is younger
// than two deadlines of a git stays: it may be held.
func (r *Repo) RemoveLocks(folders ...string) ([]string, error) {
	var removed []string
	for _, folder := range folders {
		err := filepath.WalkDir(filepath.Join(r.dir, "refs", filepath.FromSlash(folder)), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || !strings.HasSuffix(path, ".lock") {
				return err
			}
			info, err := d.Info()
			if err != nil || time.Since(info.ModTime()) < 2*timeout {
				return err
			}
			if err := os.Remove(path); err != nil {
				return err
			}
			removed = append(removed, path)
			return nil
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, fmt.Errorf("remove locks of an earlier git: %w", err)
		}
	}
	return removed, nil
}
