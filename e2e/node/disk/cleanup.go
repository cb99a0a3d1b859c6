package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Cleanup detaches every loop device whose backing file lies below root and
// returns their names. After kill -9 the kernel does so by itself once the
// mount namespace is gone; Cleanup waits for that.
func Cleanup(ctx context.Context, root string) ([]string, error) {
	var cleared []string
	seen := map[string]bool{}
	for {
		left, err := LoopsBelow(root)
		if err != nil || len(left) == 0 {
			return cleared, err
		}
		var errs []error
		for _, name := range left {
			if err := clearLoop(name); err != nil {
				errs = append(errs, err)
			}
			if !seen[name] {
				seen[name] = true
				cleared = append(cleared, name)
			}
		}
		select {
		case <-ctx.Done():
			return cleared, fmt.Errorf("loop devices %s below %s are still in use: %w", strings.Join(left, ", "), root, errors.Join(append(errs, ctx.Err())...))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// LoopsBelow lists the loop devices whose backing file lies below dir.
func LoopsBelow(dir string) ([]string, error) {
	files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
	if err != nil {
		return nil, err
	}
	var names []string
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			continue // cleared since
		}
		if strings.HasPrefix(string(data), strings.TrimSuffix(dir, "/")+"/") {
			names = append(names, filepath.Base(filepath.Dir(filepath.Dir(f))))
		}
	}
	return names, nil
}

func clearLoop(name string) error {
	f, err := os.OpenFile("/dev/"+name, os.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // read only
	if err := unix.IoctlSetInt(int(f.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("clear %s: %w", name, err)
	}
	return nil
}
