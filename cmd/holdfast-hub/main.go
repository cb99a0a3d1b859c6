// Command holdfast-hub renders a fleet repository and rolls it out; see
// holdfast.dev/gitops/hub. As "holdfast-hub pre-receive" it is the repository's
// git hook.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"holdfast.dev/gitops/gitrepo"
	"holdfast.dev/gitops/hub"
	"holdfast.dev/internal/daemon"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == "pre-receive" {
		os.Exit(preReceive(os.Args[2:]))
	}
	os.Exit(serve())
}

func serve() int {
	var opts hub.Options
	var common daemon.Options
	fs := flag.NewFlagSet("holdfast-hub", flag.ContinueOnError)
	opts.BindFlags(fs)
	common.BindFlags(fs, "")
	if err := daemon.ParseAll(fs, os.Args[1:]); err != nil {
		return daemon.Fail("holdfast-hub", err)
	}
	if err := opts.Validate(); err != nil {
		return daemon.Fail("holdfast-hub", err)
	}
	log, err := common.Logger(os.Stderr)
	if err != nil {
		return daemon.Fail("holdfast-hub", err)
	}
	ctx, stop := daemon.Context()
	defer stop()
	h, err := hub.New(ctx, opts, log)
	if err != nil {
		return daemon.Fail("holdfast-hub", err)
	}
	if opts.Hook {
		self, err := os.Executable()
		if err == nil {
			err = hub.InstallHook(opts, self)
		}
		if err != nil {
			return daemon.Fail("holdfast-hub", err)
		}
	}
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", opts.Listen)
	if err != nil {
		return daemon.Fail("holdfast-hub", err)
	}
	fmt.Println(l.Addr()) // for whoever asked for port 0
	metrics := prometheus.NewRegistry()
	metrics.MustRegister(h.Metrics())
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return h.Serve(ctx, l) })
	g.Go(func() error { return h.Run(ctx) })
	g.Go(func() error { return common.Serve(ctx, metrics, nil) })
	if err := g.Wait(); err != nil {
		return daemon.Fail("holdfast-hub", err)
	}
	return 0
}

// preReceive runs inside git push: what it prints on stderr is what the person who pushed reads.
func preReceive(args []string) int {
	var opts hub.Options
	fs := flag.NewFlagSet("holdfast-hub pre-receive", flag.ContinueOnError)
	opts.BindFlags(fs)
	if err := daemon.ParseAll(fs, args); err != nil {
		return daemon.Fail("holdfast", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	repo, err := gitrepo.Open(ctx, opts.Repo, os.Environ(), true)
	if err == nil {
		err = hub.PreReceive(ctx, repo, opts, os.Stdin)
	}
	var refused *hub.RefusedError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &refused):
		fmt.Fprintf(os.Stderr, "holdfast: refused, nothing is rolled out:\n  %s\n", strings.Join(refused.Lines(), "\n  "))
		return 1
	}
	return daemon.Fail("holdfast", err)
}
