// Command node-prepare makes a node's disks what its NodeFlavor says; see
// provisioners/README.md. Without --apply it prints a plan.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"

	"github.com/go-logr/logr"
	"k8s.io/klog/v2"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"holdfast.dev/internal/daemon"
	"holdfast.dev/provisioners/nodeprep"
)

const usage = `usage: node-prepare (--flavor-file FILE | --node-name NODE) [flags]

Makes the disks of this node what its NodeFlavor says: partitions and file
systems, mounted by systemd, or LVM volume groups; and writes
/etc/holdfast/disks.yaml. Without --apply it only says what it would do.

A disk with anything on it is refused. To give up what is on it, pass the token
that the plan prints: --wipe <disk>=<token>. A token works once, on that disk,
while exactly that is on it.

Exit codes: 0 the node is as its flavor says (or --apply makes it so), 1 failed,
2 a flag or the flavor is wrong, 3 a disk is refused or missing.

`

func main() { os.Exit(prepare()) }

func prepare() int {
	ctx, stop := daemon.Context()
	defer stop()
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		return nodeprep.ExitOK
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "node-prepare: %v\n", err)
	}
	return nodeprep.ExitCode(err)
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o nodeprep.Options
	fs := flag.NewFlagSet("node-prepare", flag.ContinueOnError)
	fs.SetOutput(stderr)
	o.BindFlags(fs)
	fs.Usage = func() {
		fmt.Fprint(fs.Output(), usage)
		fs.PrintDefaults()
	}
	if err := daemon.ParseAll(fs, args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return &nodeprep.BadInput{Err: err}
	}
	quiet := slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	ctrllog.SetLogger(logr.FromSlogHandler(quiet.Handler()))
	klog.SetSlogLogger(quiet)
	return nodeprep.Run(ctx, o, stdout, stderr)
}
