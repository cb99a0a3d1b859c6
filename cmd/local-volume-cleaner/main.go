// Command local-volume-cleaner runs on a node and cleans the partitions of
// released local volumes whose storage class asks for it; see provisioners/README.md.
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
	"holdfast.dev/provisioners/local/cleaner"
)

func main() { os.Exit(daemon.Main("local-volume-cleaner", run)) }

func run(ctx context.Context, args []string) error {
	var o cleaner.Options
	fs := flag.NewFlagSet("local-volume-cleaner", flag.ContinueOnError)
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
	cfg.UserAgent = "local-volume-cleaner"
	return cleaner.Run(ctx, o, cfg, slog.New(handler))
}
