package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
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
			return cleared, errors.Join(err, sweepLoops())
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

// sweepLoops removes the loop devices of this package that nobody uses any
// more. Others than those with its numbers are left alone.
func sweepLoops() error {
	control, err := openLoopControl()
	if err != nil {
		return nil // without it there are no devices to remove
	}
	defer func() { _ = control.Close() }() // holds nothing
	names, err := filepath.Glob("/sys/block/loop*")
	if err != nil {
		return err
	}
	for _, name := range names {
		n, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(name), "loop"))
		if err != nil || n < firstLoop || n >= endLoop {
			continue
		}
		if _, err := os.Stat(filepath.Join(name, "loop")); errors.Is(err, os.ErrNotExist) {
			sweepLoop(control, n)
		}
	}
	return nil
}

// sweepLoop removes one loop device unless it is in use; then whoever comes later does.
func sweepLoop(control *os.File, n int) {
	_ = unix.IoctlSetInt(int(control.Fd()), unix.LOOP_CTL_REMOVE, n)
}
