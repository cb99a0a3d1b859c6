package daemon_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"holdfast.dev/internal/daemon"
	"holdfast.dev/internal/hostexec"
)

// TestMain is a daemon when it is asked to be one.
func TestMain(m *testing.M) {
	if dir := os.Getenv("DAEMON_TEST_DIR"); dir != "" {
		os.Exit(daemon.Main("example", func(_ context.Context, args []string) error {
			fmt.Fprintln(os.Stdout, os.Getpid(), args)
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
	var out bytes.Buffer
	p, err := hostexec.Start(hostexec.Command{Path: os.Args[0], Args: []string{"--flag=1", "word"}, Env: append(os.Environ(), "DAEMON_TEST_DIR="+t.TempDir()), Stdout: &out})
	if err != nil {
		t.Fatal(err)
	}
	<-p.Done()
	if err := p.Err(); err != nil {
		t.Fatalf("%v\n%s", err, &out)
	}
	line := fmt.Sprintln(p.PID(), "[--flag=1 word]")
	if want := line + line; out.String() != want {
		t.Errorf("the daemon says\n%swant\n%s", &out, want)
	}
}
