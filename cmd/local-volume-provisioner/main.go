// Command local-volume-provisioner runs on a node and offers its prepared
// partitions as local PersistentVolumes; see provisioners/README.md.
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
	"holdfast.dev/provisioners/local"
)

func main() { os.Exit(daemon.Main("local-volume-provisioner", run)) }

func run(ctx context.Context, args []string) error {
	var o local.Options
	fs := flag.NewFlagSet("local-volume-provisioner", flag.ContinueOnError)
	o.BindFlags(fs)
	if err := fs.Parse(args); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return err
	}
	handler := slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: o.LogLevel})
	ctrllog.SetLogger(logr.FromSlogHandler(handler))
	klog.SetSlogLogger(slog.New(handler))
	cfg, err := config.GetConfig()
	if err != nil {
		return fmt.Errorf("find the API server: %w", err)
	}
	cfg.UserAgent = "local-volume-provisioner"
	return local.Run(ctx, o, cfg, slog.New(handler))
}
