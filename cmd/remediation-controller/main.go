// Command remediation-controller quarantines bad disks and has them replaced.
package main

import (
	"context"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"holdfast.dev/internal/daemon"
	"holdfast.dev/remediation"
)

func main() { os.Exit(daemon.Main("remediation-controller", run)) }

func run(ctx context.Context, args []string) error {
	o := remediation.DefaultOptions()
	flags := flag.NewFlagSet("remediation-controller", flag.ContinueOnError)
	o.BindFlags(flags)
	if err := daemon.ParseAll(flags, args); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return err
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, &slog.HandlerOptions{Level: o.LogLevel}))
	bridge := logr.FromSlogHandler(log.Handler())
	klog.SetLogger(bridge)
	ctrl.SetLogger(bridge)
	cfg, err := ctrl.GetConfig()
	if err != nil {
		return fmt.Errorf("find the API server: %w", err)
	}
	return remediation.Run(ctx, cfg, o, log)
}
