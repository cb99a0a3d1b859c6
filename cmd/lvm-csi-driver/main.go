// Command lvm-csi-driver is the CSI driver lvm.holdfast.dev of one node; see
// provisioners/README.md. With the argument volumes it lists the node's logical
// volumes from their tags, for holdfast volumes recover.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"holdfast.dev/internal/daemon"
	"holdfast.dev/provisioners/lvm"
)

const name = "lvm-csi-driver"

// version is what the driver tells as vendor version. The linker sets it.
var version = "devel"

func main() { os.Exit(daemon.Main(name, run)) }

func run(ctx context.Context, args []string) error {
	if len(args) > 0 && args[0] == "volumes" {
		return volumes(ctx, args[1:])
	}
	var o lvm.Options
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	o.BindFlags(fs)
	if err := daemon.ParseAll(fs, args); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return err
	}
	log, err := o.Logger(os.Stderr)
	if err != nil {
		return err
	}
	slog.SetDefault(log)
	ctrllog.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.SetSlogLogger(log)
	cfg, err := config.GetConfig()
	if err != nil {
		return fmt.Errorf("find the API server: %w", err)
	}
	cfg.UserAgent = name
	// A claim takes four requests, and a node may get a hundred claims at once: with
	// controller-runtime's 20 a second they would take most of half a minute.
	cfg.QPS, cfg.Burst = 50, 100
	return lvm.Run(ctx, o, cfg, version, log)
}

// volumes prints what the node's volume groups hold.
func volumes(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet(name+" volumes", flag.ContinueOnError)
	node := fs.String("node-name", os.Getenv("NODE_NAME"), "name of this Node")
	root := fs.String("host-root", "/host", "where the host's / is mounted")
	if err := daemon.ParseAll(fs, args); err != nil {
		return err
	}
	return lvm.WriteInventory(ctx, os.Stdout, *root, *node)
}
