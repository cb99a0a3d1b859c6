// Command holdfast-agent runs one cluster's addons; see holdfast.dev/gitops/agent.
package main

import (
	"flag"
	"os"

	"github.com/go-logr/logr"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client/config"
	"sigs.k8s.io/controller-runtime/pkg/metrics"

	"holdfast.dev/gitops/agent"
	"holdfast.dev/internal/daemon"
)

func main() { os.Exit(run()) }

func run() int {
	var opts agent.Options
	var common daemon.Options
	opts.BindFlags(flag.CommandLine)
	common.BindFlags(flag.CommandLine, "")
	flag.CommandLine.Init("holdfast-agent", flag.ContinueOnError)
	if err := daemon.ParseAll(flag.CommandLine, os.Args[1:]); err != nil {
		return daemon.Fail("holdfast-agent", err)
	}
	if err := opts.Validate(); err != nil {
		return daemon.Fail("holdfast-agent", err)
	}
	log, err := common.Logger(os.Stderr)
	if err != nil {
		return daemon.Fail("holdfast-agent", err)
	}
	ctrl.SetLogger(logr.FromSlogHandler(log.Handler()))
	klog.SetSlogLogger(log)
	ctx, stop := daemon.Context()
	defer stop()
	cfg, err := config.GetConfig()
	if err != nil {
		return daemon.Fail("holdfast-agent", err)
	}
	a, err := agent.New(cfg, opts, log)
	if err != nil {
		return daemon.Fail("holdfast-agent", err)
	}
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return common.Serve(ctx, metrics.Registry, a.Alive) })
	g.Go(func() error { return a.Run(ctx) })
	if err := g.Wait(); err != nil {
		return daemon.Fail("holdfast-agent", err)
	}
	return 0
}
