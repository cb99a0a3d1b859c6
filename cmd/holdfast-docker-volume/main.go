// Command holdfast-docker-volume is Docker's volume plugin for the logical volumes
// of one host; see provisioners/docker/README.md.
package main

import (
	"context"
	"flag"
	"os"

	"holdfast.dev/internal/daemon"
	"holdfast.dev/provisioners/docker"
)

const name = "holdfast-docker-volume"

func main() { os.Exit(daemon.Main(name, run)) }

func run(ctx context.Context, args []string) error {
	var o docker.Options
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
	return docker.Run(ctx, o, log)
}
