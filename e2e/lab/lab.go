// Package lab runs a cluster on virtual machines: real kubelets and kernels,
// containers from the addons' own images, a fleet repository that is pushed with
// git, Prometheus and Alertmanager, and disks, nodes and networks that fail when
// they are told to. docs/lab.md is its manual.
//
// The control plane, the hub and the monitoring run on this host, each on
// loopback addresses; the machines reach them over package network. Nothing
// needs root.
package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/cluster/datadir"
	"holdfast.dev/e2e/fleet"
	"holdfast.dev/e2e/lab/guest"
	"holdfast.dev/e2e/lab/image"
	"holdfast.dev/e2e/lab/machine"
	"holdfast.dev/e2e/lab/monitoring"
	"holdfast.dev/e2e/lab/network"
	"holdfast.dev/internal/build/cache"
)

const (
	// ClusterName is the name of the lab's cluster in its fleet.
	ClusterName = "lab"
	// SystemNamespace is where the addons are.
	SystemNamespace = "holdfast-system"
	// scrapeInterval is what emulated nodes bear: a scrape costs each of their
	// daemons some 20 ms.
	scrapeInterval = 5 * time.Second
	// Flavor is the NodeFlavor of the nodes.
	Flavor = "lab"
	// Group is the flavor's group that all prepared disks belong to.
	Group = "data"
	// PayloadDir is where machines find what they were given of this host.
	PayloadDir = "/run/holdfast-lab/payload"
)

// Options say what the lab is made of.
type Options struct {
	// BinDir holds Holdfast's programs, the kubelet and the directory "images".
	BinDir string
	// LogDir receives logs that stay: of the control plane and the hub as they are
	// written, all others by CollectLogs.
	LogDir string
	// Nodes are declared; they are made and stay off until PowerOn or Up.
	Nodes []NodeOptions
	// Cache is the directory of system images; default is the user's.
	Cache string
	// Detached labs live until Down ends them.
	Detached bool
	// Addons are installed beside those of a new fleet, sooner or later: their alert
	// rules are loaded.
	Addons []string
	// Programs are further files that the machines find in PayloadDir.
	Programs []string
	// Images is the directory of a layout of further images that the nodes have; empty for
	// none.
	Images string
	// Log receives progress.
	Log io.Writer
}

// Lab is a running lab.
type Lab struct {
	Cluster     *cluster.Cluster
	Client      client.WithWatch
	Nodes       []*Node
	Fleet       *fleet.Fleet
	Monitoring  *monitoring.Pair
	Accelerator string // of the machines: kvm or tcg
	ImageBuild  time.Duration

	o            Options
	started      bool
	watching     sync.WaitGroup
	stopWatching context.CancelFunc

	data      *datadir.Dir
	hubLog    *os.File
	dir       string
	image     image.Image
	payload   string // image of a file system with the kubelet and the containers
	keys      *guest.Keys
	bootstrap []byte // kubeconfig
	ca        []byte
	net       *network.Network
	proxies   []*network.Proxy
}

// DefaultParent is the directory that labs of this user keep their files in.
func DefaultParent() string {
	return filepath.Join(os.TempDir(), fmt.Sprintf("holdfast-lab-%d", os.Getuid()))
}

// Start makes a lab: the image if it is not cached, control plane, network,
// hub, monitoring, and the nodes' machines, which are off. What a lab that was
// killed left behind is removed first.
func Start(ctx context.Context, o Options) (_ *Lab, err error) {
	l := &Lab{o: o}
	if l.o.BinDir, err = filepath.Abs(o.BinDir); err != nil {
		return nil, err
	}
	if l.o.LogDir, err = filepath.Abs(o.LogDir); err != nil {
		return nil, err
	}
	if o.Cache == "" {
		caches, err := cache.Default()
		if err != nil {
			return nil, err
		}
		l.o.Cache = filepath.Join(caches, "lab")
	}
	if err := os.MkdirAll(l.o.LogDir, 0o755); err != nil {
		return nil, err
	}
	l.say("system image")
	if l.image, err = image.Ensure(ctx, l.o.Cache, o.Log); err != nil {
		return nil, err
	}
	if l.ImageBuild = l.image.Took; l.ImageBuild > 0 {
		l.say("system image built in %.0f s", l.ImageBuild.Seconds())
	}
	var removed []string
	if l.data, removed, err = datadir.Create(ctx, DefaultParent(), "r"); err != nil {
		return nil, errors.Join(err, l.image.Close())
	}
	for _, path := range removed {
		l.say("removed %s, which a lab that was killed left behind", path)
	}
	l.dir = l.data.Path()
	defer func() {
		if err != nil {
			err = errors.Join(err, l.Stop())
		}
	}()
	if err := l.start(ctx); err != nil {
		return nil, fmt.Errorf("start lab: %w", err)
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context) (err error) {
	if err := l.writeInfo(); err != nil { // from now on Down can end it
		return err
	}
	l.Accelerator = machine.Accelerator(ctx, l.image)
	l.say("machines run on %s", l.Accelerator)
	if l.keys, err = guest.NewKeys(l.dir); err != nil {
		return err
	}
	if l.net, err = network.Start(filepath.Join(l.dir, "net.sock")); err != nil {
		return err
	}
	proxy, err := l.startProxy("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	if err := l.startCluster(ctx); err != nil {
		return err
	}
	l.say("control plane at %s, ready after %.1f s", l.Cluster.Server(), l.Cluster.ReadySeconds())
	if err := l.startFleet(ctx); err != nil {
		return err
	}
	token, err := l.metricsToken(ctx)
	if err != nil {
		return err
	}
	if l.Monitoring, err = monitoring.Start(ctx, monitoring.Options{
		Token: token, Dir: filepath.Join(l.dir, "monitoring"), ProxyURL: "http://" + proxy.Address(), ScrapeInterval: scrapeInterval,
		Addons: append([]string{"disk-monitor", "local-volume-provisioner", "remediation-controller"}, l.o.Addons...)}); err != nil {
		return err
	}
	l.say("hub at %s, Prometheus at %s, Alertmanager at %s", l.Fleet.HubURL, l.Monitoring.PrometheusURL(), l.Monitoring.AlertmanagerURL())
	if err := l.writePayload(ctx); err != nil {
		return fmt.Errorf("write the machines' programs: %w", err)
	}
	for i, no := range l.o.Nodes {
		n, err := l.newNode(ctx, i+1, no)
		if err != nil {
			return err
		}
		l.Nodes = append(l.Nodes, n)
	}
	watch, stop := context.WithCancel(context.WithoutCancel(ctx))
	l.watching.Go(func() { l.watchTargets(watch) })
	l.stopWatching = stop
	l.started = true
	return l.writeInfo()
}

func (l *Lab) say(format string, args ...any) {
	if l.o.Log != nil {
		fmt.Fprintf(l.o.Log, "lab: "+format+"\n", args...)
	}
}

func (l *Lab) startProxy(netw, address string) (*network.Proxy, error) {
	p, err := l.net.StartProxy(netw, address)
	if err != nil {
		return nil, err
	}
	l.proxies = append(l.proxies, p)
	return p, nil
}

// writePayload makes the file system with what every machine runs: the kubelet,
// containerd's directory with the images in it, and disk-monitor for people and
// tests that want to ask a disk.
func (l *Lab) writePayload(ctx context.Context) error {
	src := filepath.Join(l.dir, "payload")
	if err := os.Mkdir(src, 0o755); err != nil {
		return err
	}
	programs := []string{filepath.Join(l.o.BinDir, "kubelet"), filepath.Join(l.o.BinDir, "disk-monitor")}
	for _, from := range append(programs, l.o.Programs...) {
		to := filepath.Join(src, filepath.Base(from))
		if os.Link(from, to) == nil {
			continue
		}
		if err := copyFile(from, to); err != nil {
			return err
		}
	}
	if err := l.writeImages(ctx, src); err != nil {
		return err
	}
	l.payload = filepath.Join(l.dir, "payload.img")
	if err := writeFilesystem(ctx, "payload", src, l.payload, payloadFree); err != nil {
		return err
	}
	return os.RemoveAll(src)
}

func copyFile(src, dst string) (err error) {
	in, err := os.Open(src)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // read only
	out, err := os.OpenFile(dst, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// Up turns the nodes on and returns when all are Ready and their disks
// prepared. It returns how long the slowest node took from power-on to Ready.
func (l *Lab) Up(ctx context.Context) (time.Duration, error) {
	var mu sync.Mutex
	var slowest time.Duration
	err := l.OnAll(ctx, func(ctx context.Context, n *Node) error {
		began := time.Now()
		if err := n.PowerOn(ctx); err != nil {
			return err
		}
		if err := n.AwaitReady(ctx, ""); err != nil {
			return err
		}
		mu.Lock()
		slowest = max(slowest, time.Since(began))
		mu.Unlock()
		return n.Prepare(ctx)
	})
	return slowest, err
}

// OnAll does something to all nodes at once.
func (l *Lab) OnAll(ctx context.Context, f func(ctx context.Context, n *Node) error) error {
	errs := make([]error, len(l.Nodes))
	var wg sync.WaitGroup
	for i, n := range l.Nodes {
		wg.Go(func() { errs[i] = f(ctx, n) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// Stop ends everything and removes the lab's files, but for the logs.
func (l *Lab) Stop() error {
	var errs error
	if l.stopWatching != nil {
		l.stopWatching()
		l.watching.Wait()
	}
	for _, n := range l.Nodes {
		n.PowerCut()
	}
	if l.Monitoring != nil {
		l.Monitoring.Stop()
	}
	if l.Fleet != nil {
		l.Fleet.Stop()
	}
	if l.hubLog != nil {
		errs = errors.Join(errs, l.hubLog.Close())
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if l.Cluster != nil {
		errs = errors.Join(errs, l.Cluster.Stop(ctx))
	}
	for _, p := range l.proxies {
		errs = errors.Join(errs, p.Close())
	}
	if l.net != nil {
		errs = errors.Join(errs, l.net.Close())
	}
	return errors.Join(errs, l.data.Remove(ctx), l.image.Close())
}
