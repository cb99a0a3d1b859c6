package daemon_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"holdfast.dev/internal/daemon"
)

// TestMain is a daemon when it is asked to be one.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DAEMON_TEST_DIR"); dir != "" {
		os.Exit(daemon.Main("example", func(_ context.Context, args []string) error {
			fmt.Println(os.Getpid(), args)
			if os.Mkdir(filepath.Join(dir, "started"), 0o700) == nil {
				return fmt.Errorf("changed: %w", daemon.ErrStartAnew)
			}
			return nil
		}))
	}
	os.Exit(m.Run())
}

// TestStartAnew: a daemon that must read its files again stays the same process.
func TestStartAnew(t *testing.T) {
	c := exec.CommandContext(t.Context(), os.Args[0], "--flag=1", "word")
	c.Env = append(os.Environ(), "DAEMON_TEST_DIR="+t.TempDir())
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	line := fmt.Sprintln(c.Process.Pid, "[--flag=1 word]")
	if want := line + line; string(out) != want {
		t.Errorf("the daemon says\n%swant\n%s", out, want)
	}
}
