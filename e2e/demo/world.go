package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/cluster/datadir"
	"holdfast.dev/e2e/fleet"
	"holdfast.dev/e2e/node"
	"holdfast.dev/internal/hostexec"
)

// world is everything that the demo runs: control planes, nodes, the hub and
// the git repositories, all below one directory.
type world struct {
	opts       Options
	data       *datadir.Dir
	dir        string // data's path
	rep        *report
	sites      []*site
	fleet      *fleet.Fleet // from startHub on
	kubeconfig string       // a context for each cluster
}

// site is one cluster with its nodes.
type site struct {
	name    string
	az      string
	cluster *cluster.Cluster
	client  client.WithWatch
	nodes   []*simNode
}

// simNode is one node runner.
type simNode struct {
	name, address string
	process       *hostexec.Process
	api           *node.Client
}

const (
	nodesPerCluster = 2
	disksPerNode    = 2
	flavor          = "database"
)

// newWorld makes the directory, and removes what demos that were killed left.
func newWorld(ctx context.Context, o Options, rep *report) (*world, error) {
	// Short: UNIX socket paths are at most 107 bytes.
	data, removed, err := datadir.Create(ctx, filepath.Join(os.TempDir(), fmt.Sprintf("holdfast-demo-%d", os.Getuid())), "run")
	if err != nil {
		return nil, err
	}
	for _, path := range removed {
		rep.line("removed %s, which a demo that was killed left behind", path)
	}
	dir := data.Path()
	// Pods of controllers run as another user and must reach their files.
	for path, mode := range map[string]os.FileMode{filepath.Dir(dir): 0o711, dir: 0o755} {
		if err := os.Chmod(path, mode); err != nil {
			return nil, errors.Join(err, data.Remove(ctx))
		}
	}
	w := &world{opts: o, data: data, dir: dir, rep: rep, kubeconfig: filepath.Join(dir, "kubeconfig")}
	for _, s := range []site{{name: "canary", az: "az1"}, {name: "az1-c1", az: "az1"}, {name: "az2-c1", az: "az2"}} {
		w.sites = append(w.sites, &s)
	}
	return w, nil
}

func (w *world) site(name string) *site {
	for _, s := range w.sites {
		if s.name == name {
			return s
		}
	}
	return nil
}

// stop ends everything that was started, nodes first: they hold the disks.
func (w *world) stop() error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var errs error
	for _, s := range w.sites {
		wg.Go(func() {
			for _, n := range s.nodes {
				if n.process != nil {
					n.process.Stop(15 * time.Second)
				}
			}
			if s.cluster != nil {
				ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
				defer cancel()
				if err := s.cluster.Stop(ctx); err != nil {
					mu.Lock()
					defer mu.Unlock()
					errs = errors.Join(errs, err)
				}
			}
		})
	}
	if w.fleet != nil {
		w.fleet.Stop()
	}
	wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return errors.Join(errs, w.data.Remove(ctx))
}

func (w *world) bin(name string) string { return filepath.Join(w.opts.BinDir, name) }

func (w *world) startCluster(ctx context.Context, s *site) error {
	c, err := cluster.Start(ctx, cluster.Options{Name: s.name, Binary: w.bin("holdfast-cluster"), Parent: filepath.Join(w.dir, "c"), LogDir: filepath.Join(w.dir, "log", s.name)})
	if err != nil {
		return err
	}
	s.cluster = c
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, eventsv1.AddToScheme, storagev1.AddToScheme, v1alpha1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	cfg := c.RESTConfig()
	cfg.QPS, cfg.Burst = 200, 400
	s.client, err = client.NewWithWatch(cfg, client.Options{Scheme: scheme})
	return err
}

// firstNet is the second octet of the first cluster's loopback addresses. It
// differs from run to run, so that two demos can run side by side.
func firstNet() int { return 16 + os.Getpid()*3%192 }

// startNode starts the i-th node of the n-th cluster.
func (w *world) startNode(ctx context.Context, s *site, n, i int) error {
	nd := &simNode{name: fmt.Sprintf("%s-n%d", s.name, i+1), address: fmt.Sprintf("127.%d.0.%d", firstNet()+n, 10+i)}
	kubeconfig, err := s.cluster.NodeKubeconfig(nd.name)
	if err != nil {
		return err
	}
	root := filepath.Join(w.dir, "n", nd.name)
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	log, err := w.logFile(nd.name)
	if err != nil {
		return err
	}
	socket := filepath.Join(w.dir, nd.name+".sock")
	args := []string{"--name", nd.name, "--kubeconfig", kubeconfig, "--root", root, "--address", nd.address,
		"--pod-cidr", fmt.Sprintf("127.%d.%d.0/24", firstNet()+n, 128+i), "--bin-dir", w.opts.BinDir,
		"--labels", "holdfast.dev/flavor=" + flavor + ",topology.kubernetes.io/zone=" + s.az,
		"--disks", fmt.Sprint(disksPerNode), "--disk-size", "64Mi", "--storage-class", "local-ssd", "--flavor", flavor, "--group", "data",
		"--socket", socket}
	if w.opts.Simulate {
		args = append(args, "--simulate")
	}
	nd.process, _, err = fleet.StartProgram(ctx, time.Minute, hostexec.Command{Path: w.bin("holdfast-node"), Args: args, Stderr: log})
	if err != nil {
		return fmt.Errorf("start node %s: %w", nd.name, err)
	}
	nd.api = node.NewClient(socket)
	s.nodes = append(s.nodes, nd)
	return nil
}

func (w *world) logFile(name string) (*os.File, error) {
	dir := filepath.Join(w.dir, "log")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	return os.Create(filepath.Join(dir, name+".log"))
}

// startHub makes the fleet's repositories and starts the hub on them.
func (w *world) startHub(ctx context.Context) error {
	log, err := w.logFile("hub")
	if err != nil {
		return err
	}
	w.fleet, err = fleet.Start(ctx, fleet.Options{BinDir: w.opts.BinDir, Dir: w.dir, Log: log, Kubeconfig: w.kubeconfig})
	return err
}

// awaitRollout waits until every cluster runs what commit wants, and returns when each had it.
func (w *world) awaitRollout(ctx context.Context, commit string) (map[string]fleet.Landed, error) {
	var names []string
	for _, s := range w.sites {
		names = append(names, s.name)
	}
	return w.fleet.AwaitRollout(ctx, commit, rolloutTimeout, names...)
}

// writeKubeconfig puts one context for each cluster into one file.
func (w *world) writeKubeconfig() error {
	var out *api.Config
	for _, s := range w.sites {
		one, err := clientcmd.LoadFromFile(s.cluster.Kubeconfig())
		if err != nil {
			return err
		}
		rename(one, s.name)
		if out == nil {
			out = one
			continue
		}
		out.Clusters[s.name], out.Contexts[s.name], out.AuthInfos[s.name] = one.Clusters[s.name], one.Contexts[s.name], one.AuthInfos[s.name]
	}
	return clientcmd.WriteToFile(*out, w.kubeconfig)
}
