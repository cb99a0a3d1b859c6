package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"holdfast.dev/e2e/fleet"
	"holdfast.dev/e2e/lab/containers"
	"holdfast.dev/e2e/lab/network"
	gitfleet "holdfast.dev/gitops/fleet"
	"holdfast.dev/gitops/render"
	"holdfast.dev/internal/build/images"
)

// ArchivedImage is the image that nodes also find as an OCI archive, for
// ImportArchive.
const ArchivedImage = "pause"

// startFleet starts the hub and makes the fleet repository: one cluster in one
// ring, the images pinned to the digests that the machines have.
func (l *Lab) startFleet(ctx context.Context) (err error) {
	dir := filepath.Join(l.dir, "fleet")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	if l.hubLog, err = os.Create(filepath.Join(l.o.LogDir, "hub.log")); err != nil {
		return err
	}
	l.Fleet, err = fleet.Start(ctx, fleet.Options{
		BinDir: l.o.BinDir, Dir: dir, Log: l.hubLog, Kubeconfig: l.Cluster.Kubeconfig(),
		// The agent is a pod, which sees this host under another address.
		HubURL: func(listen string) string {
			_, port, _ := net.SplitHostPort(listen) // the hub prints host:port
			return "https://" + net.JoinHostPort(network.Host, port)
		},
	})
	if err != nil {
		return err
	}
	err = l.Fleet.Init(ctx, render.InitOptions{
		Clusters: []gitfleet.Cluster{{Name: ClusterName, AZ: "az1", Kubernetes: "1.36", Labels: map[string]string{"tier": "lab"}}},
		Rings:    []gitfleet.Ring{{Name: "lab", Select: map[string]string{"tier": "lab"}, Timeout: 10 * time.Minute}},
	})
	if err != nil {
		return err
	}
	if _, err := l.Fleet.Holdfast(ctx, "pin", l.Fleet.Work, "--images", l.imagesFile()); err != nil {
		return err
	}
	// A warning that a disk takes back must not cost a test five minutes.
	if err := l.Fleet.Edit("salt/pillar/common.sls", "  scanInterval: 30s", "  scanInterval: 30s\n  smartInterval: 20s"); err != nil {
		return err
	}
	// The nodes' flavor is the lab's own.
	return l.Fleet.Edit("salt/pillar/common.sls", "    database:\n    - {name: data, role: static, count: 2}", fmt.Sprintf("    %s:\n    - {name: %s, role: static, count: %d}", Flavor, Group, l.staticDisks()))
}

// staticDisks is how many prepared disks the nodes have; it is the same for all.
func (l *Lab) staticDisks() int {
	count := 0
	for _, n := range l.o.Nodes {
		have := 0
		for _, d := range n.Disks {
			if d.StorageClass != "" {
				have++
			}
		}
		count = max(count, have)
	}
	return count
}

func (l *Lab) imagesFile() string { return filepath.Join(l.o.BinDir, "images.json") }

// writeImages writes what nodes have of the images: a containerd's directory
// with all but the hub's, which is large and runs on this host; and one of them
// as an archive.
func (l *Lab) writeImages(ctx context.Context, dir string) error {
	layout := filepath.Join(l.o.BinDir, "images")
	var names []string
	for _, i := range images.All() {
		if i.Name != "holdfast-hub" {
			names = append(names, i.Name)
		}
	}
	if err := writeStore(ctx, dir, layout, names...); err != nil {
		return err
	}
	if l.o.Images != "" {
		if err := writeStore(ctx, dir, l.o.Images); err != nil {
			return err
		}
	}
	_, err := images.WriteArchiveFile(filepath.Join(dir, ArchivedImage+".tar"), layout, ArchivedImage)
	return err
}

// writeStore adds the named images of a layout to a containerd's directory, all when none
// is named.
func writeStore(ctx context.Context, dir, layout string, names ...string) error {
	entries, err := images.Entries(layout, names...)
	if err != nil {
		return err
	}
	var list []containers.Image
	for _, e := range entries {
		list = append(list, containers.Image{Names: e.Names, Manifest: ocispec.Descriptor{
			MediaType: string(e.Manifest.MediaType), Digest: digest.Digest(e.Manifest.Digest.String()), Size: e.Manifest.Size}})
	}
	return containers.WriteStore(ctx, filepath.Join(dir, "containerd"), layout, list)
}

// Image is the reference, with digest, of one of our images, as pods in the
// nodes name it: they have it already.
func (l *Lab) Image(name string) (string, error) {
	return images.Reference(l.imagesFile(), name)
}

// Join brings the agent into the cluster; from then on pushes arrive there.
func (l *Lab) Join(ctx context.Context) error {
	ref, err := l.Image("holdfast-agent")
	if err != nil {
		return err
	}
	return l.Fleet.Join(ctx, l.Client, ClusterName, "--image", ref)
}
