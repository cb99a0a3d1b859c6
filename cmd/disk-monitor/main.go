// Command disk-monitor runs on a node and reports the state of its disks; see
// monitor/README.md. "disk-monitor smart DEVICE…" prints what disks say themselves,
// "disk-monitor check CHECK" is a plugin of node-problem-detector.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"runtime/debug"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"holdfast.dev/internal/daemon"
	"holdfast.dev/monitor"
)

// version is set by the linker.
var version = "devel"

const usage = `Usage: disk-monitor --node-name NODE [flags]
       disk-monitor check|smart|patterns|install ...

Watches the disks of this node and reports their state. Or one of these, each
with a --help of its own:

  check     ask the disk-monitor of this node, as a plugin of node-problem-detector
  smart     print what disks say of their own health
  patterns  print which lines of the kernel's log speak against a disk
  install   copy this program into a directory

`

func main() { os.Exit(start()) }

func start() int {
	if len(os.Args) > 1 && os.Args[1] == "check" {
		return runCheck(context.Background(), os.Stdout, os.Args[2:])
	}
	return daemon.Main("disk-monitor", run)
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "smart":
			return runSmart(ctx, os.Stdout, args[1:])
		case "patterns":
			return runPatterns(os.Stdout, args[1:])
		case "install":
			return runInstall(args[1:])
		}
	}
	var o monitor.Options
	fs := flag.NewFlagSet("disk-monitor", flag.ContinueOnError)
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usage)
		fs.PrintDefaults()
	}
	o.BindFlags(fs)
	printVersion := fs.Bool("version", false, "print the version and end")
	if err := daemon.Parse(fs, args); err != nil {
		return err
	}
	if fs.NArg() > 0 {
		return fmt.Errorf("%q is no subcommand: there are check, smart, patterns and install, which come before any flag (see disk-monitor --help)", fs.Arg(0))
	}
	if *printVersion {
		fmt.Println(version)
		return nil
	}
	if err := o.Validate(); err != nil {
		return err
	}
	// One of these runs on every node. Its live heap is a few MiB: more frequent
	// collection costs nothing that can be measured and halves the memory.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	if os.Getenv("GOMEMLIMIT") == "" {
		debug.SetMemoryLimit(32 << 20)
	}
	handler := slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: o.LogLevel})
	klog.SetSlogLogger(slog.New(handler))
	cfg, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG")) // in-cluster when empty
	if err != nil {
		return fmt.Errorf("find the API server: %w", err)
	}
	cfg.UserAgent = "disk-monitor"
	return monitor.Run(ctx, o, cfg, slog.New(handler))
}
