// Command local-volume-provisioner runs on a node and offers its prepared
// partitions as local PersistentVolumes; see provisioners/README.md. Two
// subcommands are for people, in the daemon's own pod:
//
//	local-volume-provisioner volume --keep NAMESPACE/CLAIM VOLUME | kubectl create -f -
//	local-volume-provisioner volume --discard VOLUME | kubectl create -f -
//	local-volume-provisioner certify VOLUME
//
// and own-state-dir is the init container's.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strconv"

	"holdfast.dev/internal/daemon"
	"holdfast.dev/provisioners/local"
)

const name = "local-volume-provisioner"

func main() { os.Exit(daemon.Main(name, run)) }

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "volume":
			return volume(ctx, args[1:])
		case "certify":
			return certify(ctx, args[1:])
		case "own-state-dir":
			return ownStateDir(args[1:])
		}
	}
	var o local.Options
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	o.BindFlags(fs)
	if err := daemon.ParseAll(fs, args); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return err
	}
	if name := os.Getenv("POD_NAME"); name != "" {
		o.Pod = os.Getenv("POD_NAMESPACE") + "/" + name
	}
	log, cfg, err := local.Connect(name, o.LogLevel)
	if err != nil {
		return err
	}
	return local.Run(ctx, o, cfg, log)
}

// forPeople binds the daemon's options with the defaults of its pod's environment,
// which a shell in the pod has too.
func forPeople(name string) (*flag.FlagSet, *local.Options, error) {
	o := &local.Options{}
	fs := flag.NewFlagSet("local-volume-provisioner "+name, flag.ContinueOnError)
	o.BindFlags(fs)
	for env, name := range map[string]string{"NODE_NAME": "node-name", "HOST_ROOT": "host-root", "STATE_DIR": "state-dir", "CLEAN": "clean"} {
		if v := os.Getenv(env); v != "" {
			if err := fs.Set(name, v); err != nil {
				return nil, nil, fmt.Errorf("environment variable %s: %w", env, err)
			}
		}
	}
	return fs, o, nil
}

func parse(fs *flag.FlagSet, o *local.Options, args []string) (name string, err error) {
	if err := daemon.Parse(fs, args); err != nil {
		return "", err
	}
	if fs.NArg() != 1 {
		return "", errors.New("name one volume, as the Event of the Node does")
	}
	return fs.Arg(0), o.Validate()
}

func volume(ctx context.Context, args []string) error {
	fs, o, err := forPeople("volume")
	if err != nil {
		return err
	}
	var w local.Wish
	fs.StringVar(&w.Keep, "keep", "", "NAMESPACE/CLAIM that gets the volume with its data")
	fs.BoolVar(&w.Discard, "discard", false, "give the data up: the volume is cleaned and offered anew")
	name, err := parse(fs, o, args)
	if err != nil {
		return err
	}
	manifest, err := local.Manifest(ctx, *o, name, w)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(manifest)
	return err
}

func certify(ctx context.Context, args []string) error {
	fs, o, err := forPeople("certify")
	if err != nil {
		return err
	}
	name, err := parse(fs, o, args)
	if err != nil {
		return err
	}
	return local.Certify(ctx, *o, name)
}

// ownStateDir gives a directory to the user of the daemon: the kubelet makes a
// hostPath for root.
func ownStateDir(args []string) error {
	if len(args) != 2 {
		return errors.New("give a directory and a numeric user")
	}
	user, err := strconv.Atoi(args[1])
	if err != nil {
		return fmt.Errorf("user %q: %w", args[1], err)
	}
	if os.Getuid() != 0 {
		return nil // a node that is not run by root has no other users
	}
	return os.Lchown(args[0], user, user)
}
