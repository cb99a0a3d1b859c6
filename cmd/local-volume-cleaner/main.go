// Command local-volume-cleaner runs on a node and cleans the partitions of
// released local volumes whose storage class asks for it; see provisioners/README.md.
package main

import (
	"context"
	"flag"
	"os"

	"holdfast.dev/internal/daemon"
	"holdfast.dev/provisioners/local"
	"holdfast.dev/provisioners/local/cleaner"
)

const name = "local-volume-cleaner"

func main() { os.Exit(daemon.Main(name, run)) }

func run(ctx context.Context, args []string) error {
	var o cleaner.Options
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	o.BindFlags(fs)
	if err := daemon.ParseAll(fs, args); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return err
	}
	log, cfg, err := local.Connect(name, o.LogLevel)
	if err != nil {
		return err
	}
	return cleaner.Run(ctx, o, cfg, log)
}
