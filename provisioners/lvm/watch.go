package lvm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path"

	"github.com/fsnotify/fsnotify"

	"holdfast.dev/internal/hostfs"
	"holdfast.dev/internal/nodedisks"
)

// WatchDisks calls changed when the content of disks.yaml is not what it was. The file
// is replaced by a rename, which only its directory sees.
func WatchDisks(ctx context.Context, root *hostfs.FS, changed func(), log *slog.Logger) error {
	was, err := root.ReadFile(nodedisks.Path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", nodedisks.Path, err)
	}
	w, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch directories: %w", err)
	}
	dir := path.Dir(nodedisks.Path)
	for _, d := range []string{path.Dir(dir), dir} {
		if err := w.Add(root.Path(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return errors.Join(fmt.Errorf("watch %s: %w", d, err), w.Close())
		}
	}
	go func() {
		defer func() { _ = w.Close() }() // nothing to be done about it
		for {
			select {
			case <-ctx.Done():
				return
			case _, ok := <-w.Errors:
				if !ok {
					return
				}
			case _, ok := <-w.Events:
				if !ok {
					return
				}
			}
			_ = w.Add(root.Path(dir)) // it may be new; else the file is looked at when something happens above
			now, err := root.ReadFile(nodedisks.Path)
			if err == nil && !bytes.Equal(now, was) {
				log.Info("disks.yaml changed, the driver starts again")
				changed()
				return
			}
		}
	}()
	return nil
}
