// Command holdfast-cluster runs a Kubernetes control plane in one process and
// in the foreground: etcd, kube-apiserver, kube-controller-manager and
// kube-scheduler. It prints one JSON line when the cluster is ready, and
// removes what it made when it is told to end.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/cluster/server"
	"holdfast.dev/internal/daemon"
)

// version is Holdfast's, set by the linker.
var version = "devel"

func main() {
	if err := run(); err != nil {
		os.Exit(daemon.Fail("holdfast-cluster", err))
	}
}

func run() error {
	var o server.Options
	fs := flag.NewFlagSet("holdfast-cluster", flag.ContinueOnError)
	o.BindFlags(fs)
	printVersion := fs.Bool("version", false, "print the version and end")
	if err := daemon.ParseAll(fs, os.Args[1:]); err != nil {
		return err
	}
	if *printVersion {
		fmt.Println("holdfast-cluster", version, "with", server.Version())
		return nil
	}
	if err := o.Validate(); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if os.Getenv("GOGC") == "" {
		// Saves 40 of 310 MiB and costs a tenth of a second at the start.
		debug.SetGCPercent(50)
	}
	return server.Run(ctx, o, func(r cluster.Ready) error {
		if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
			return fmt.Errorf("print ready line: %w", err)
		}
		return nil
	})
}
