// Command remediation-controller quarantines bad disks and has them replaced.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"

	"holdfast.dev/remediation"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case err != nil:
		fmt.Fprintln(os.Stderr, "remediation-controller:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	o := remediation.DefaultOptions()
	flags := flag.NewFlagSet("remediation-controller", flag.ContinueOnError)
	o.BindFlags(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
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
