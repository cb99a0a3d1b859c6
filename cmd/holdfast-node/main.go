// Command holdfast-node runs a simulated node: see holdfast.dev/e2e/node.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"holdfast.dev/e2e/node"
	"holdfast.dev/e2e/node/disk"
	"holdfast.dev/internal/daemon"
)

// The main function stays on the main thread: see disk.EnterNamespace.
func init() { runtime.LockOSThread() } //nolint:gochecknoinits // only here is it certain to be the main thread

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		os.Exit(daemon.Fail("holdfast-node", err))
	}
}

func run(args []string, stdout io.Writer) error {
	if len(args) > 0 && args[0] == "cleanup" {
		return cleanup(args[1:], stdout)
	}
	var o node.Options
	fs := flag.NewFlagSet("holdfast-node", flag.ContinueOnError)
	level := fs.String("log-level", "info", "debug or info")
	o.BindFlags(fs)
	fs.Usage = func() {
		_, _ = fmt.Fprint(fs.Output(), "holdfast-node runs a simulated node.\nholdfast-node cleanup --root DIR ends what a killed one left.\n\n")
		fs.PrintDefaults()
	}
	if err := daemon.ParseAll(fs, args); err != nil {
		return err
	}
	log, err := logger(*level)
	if err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return err
	}
	if os.Geteuid() == 0 && !o.Simulate {
		if err := disk.EnterNamespace(); err != nil {
			return err
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	return node.Run(ctx, &o, stdout, log.With("node", o.Name))
}

func cleanup(args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("holdfast-node cleanup", flag.ContinueOnError)
	root := fs.String("root", "", "root directory of the node")
	level := fs.String("log-level", "info", "debug or info")
	if err := daemon.ParseAll(fs, args); err != nil {
		return err
	}
	log, err := logger(*level)
	if err != nil {
		return err
	}
	if *root == "" {
		return errors.New("--root is missing")
	}
	dir, err := filepath.Abs(*root)
	if err != nil {
		return err
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	loops, err := node.Cleanup(ctx, dir, log)
	for _, l := range loops {
		_, perr := fmt.Fprintln(stdout, l)
		err = errors.Join(err, perr)
	}
	return err
}

func logger(level string) (*slog.Logger, error) {
	var l slog.Level
	if err := l.UnmarshalText([]byte(level)); err != nil {
		return nil, fmt.Errorf("--log-level: %w", err)
	}
	return slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: l})), nil
}
