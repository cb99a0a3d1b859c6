package node

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"holdfast.dev/e2e/node/disk"
)

// Cleanup ends what a killed runner may have left below root: processes of its
// pods, their directories, and loop devices of its disks, whose names it
// returns. The disks' images, logs and images of containers stay.
func Cleanup(ctx context.Context, root string, log *slog.Logger) ([]string, error) {
	pods := filepath.Join(root, "var/lib/kubelet/pods")
	for {
		left := processesBelow(pods)
		if len(left) == 0 {
			break
		}
		for _, pid := range left {
			log.Info("ending process of an earlier run", "pid", pid)
			_ = syscall.Kill(pid, syscall.SIGKILL) // ESRCH: it is gone
		}
		if !sleep(ctx, 20*time.Millisecond) {
			return nil, fmt.Errorf("processes %v of an earlier run do not end: %w", left, ctx.Err())
		}
	}
	if err := os.RemoveAll(pods); err != nil {
		return nil, fmt.Errorf("remove pods of an earlier run: %w", err)
	}
	return disk.Cleanup(ctx, root)
}

// processesBelow lists the processes whose working directory is dir or below.
// Every pod's process starts in its pod's directory.
func processesBelow(dir string) []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		cwd, err := os.Readlink(filepath.Join("/proc", e.Name(), "cwd"))
		if err == nil && strings.HasPrefix(cwd+"/", dir+"/") {
			out = append(out, pid)
		}
	}
	return out
}
