// Command write writes the container images of Holdfast; "make images" runs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"holdfast.dev/internal/build/cache"
	"holdfast.dev/internal/build/images"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx); err != nil {
		stop()
		fmt.Fprintf(os.Stderr, "images: %v\n", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) error {
	bin := flag.String("bin-dir", "bin", "directory with the programs; the layout is written there")
	tag := flag.String("tag", "v0.1.0", "tag of the images")
	name := flag.String("layout", "images", "name in bin-dir of the layout, and of the file of references beside it")
	standIns := flag.Bool("stand-ins", false, "write the images of Kubernetes' own storage suite in place of Holdfast's")
	flag.Parse()
	caches, err := cache.Default()
	if err != nil {
		return err
	}
	list := images.All()
	if *standIns {
		list = images.StandIns()
	}
	start := time.Now()
	var inUse []*cache.Entry
	defer func() {
		for _, e := range inUse {
			_ = e.Close() // it was only read
		}
	}()
	done, err := images.Write(ctx, images.Options{
		Images: list, BinDir: *bin, Tag: *tag,
		Layout: filepath.Join(*bin, *name), File: filepath.Join(*bin, *name+".json"),
		Base: func(ctx context.Context, name string) (string, error) {
			e, err := images.EnsureBase(ctx, filepath.Join(caches, "images"), name, os.Stderr)
			if err != nil {
				return "", err
			}
			inUse = append(inUse, e)
			return filepath.Join(e.Dir, images.BaseArchive), nil
		},
	})
	if err != nil {
		return err
	}
	for _, w := range done {
		fmt.Fprintf(os.Stdout, "%6.1f MB  %s\n", float64(w.Bytes)/1e6, w.Reference)
	}
	fmt.Fprintf(os.Stdout, "wrote %d images to %s in %.1f s\n", len(done), filepath.Join(*bin, *name), time.Since(start).Seconds())
	return nil
}
