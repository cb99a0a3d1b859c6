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

func main() {
	if len(os.Args) > 1 && os.Args[1] == "check" {
		os.Exit(runCheck(context.Background(), os.Stdout, os.Args[2:]))
	}
	os.Exit(daemon.Main("disk-monitor", run))
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
	o.BindFlags(fs)
	if err := fs.Parse(args); err != nil {
		return err
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
