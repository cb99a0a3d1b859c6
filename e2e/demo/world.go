package demo

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"holdfast.dev/api/v1alpha1"
	"holdfast.dev/e2e/cluster"
	"holdfast.dev/e2e/cluster/datadir"
	"holdfast.dev/e2e/node"
	"holdfast.dev/internal/hostexec"
)

// world is everything that the demo runs: control planes, nodes, the hub and
// the git repositories, all below one directory.
type world struct {
	opts  Options
	data  *datadir.Dir
	dir   string // data's path
	rep   *report
	sites []*site
	hub   *hostexec.Process
	// hubURL and adminToken let the command line ask the hub.
	hubURL     string
	adminToken string // file
	repo, work string // bare repository, and a clone that people edit
	kubeconfig string // a context for each cluster
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
	pollEvery       = 20 * time.Millisecond
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
	w := &world{opts: o, data: data, dir: dir, rep: rep, repo: filepath.Join(dir, "fleet.git"), work: filepath.Join(dir, "fleet"), kubeconfig: filepath.Join(dir, "kubeconfig")}
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
	if w.hub != nil {
		w.hub.Stop(5 * time.Second)
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
	nd.process, err = startAndWait(ctx, time.Minute, hostexec.Command{Path: w.bin("holdfast-node"), Args: args, Stderr: log})
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

// startHub makes the bare repository and starts the hub on it.
func (w *world) startHub(ctx context.Context) error {
	if err := w.git(ctx, w.dir, "init", "-q", "--bare", "--initial-branch=main", w.repo); err != nil {
		return err
	}
	log, err := w.logFile("hub")
	if err != nil {
		return err
	}
	var first firstLine
	w.hub, err = startAndWaitFor(ctx, 20*time.Second, hostexec.Command{Path: w.bin("holdfast-hub"), Stderr: log,
		Args: []string{"--repo", w.repo, "--data-dir", filepath.Join(w.dir, "hub"), "--listen", "127.0.0.1:0"}}, &first)
	if err != nil {
		return fmt.Errorf("start hub: %w", err)
	}
	w.hubURL = "http://" + strings.TrimSpace(first.String())
	token, err := w.holdfast(ctx, "join", "--admin", "--data-dir", filepath.Join(w.dir, "hub"))
	if err != nil {
		return err
	}
	w.adminToken = filepath.Join(w.dir, "admin.token")
	return os.WriteFile(w.adminToken, token, 0o600)
}

// join brings the agent into a cluster, as "holdfast join | kubectl apply --server-side" does.
func (w *world) join(ctx context.Context, s *site) error {
	manifests, err := w.holdfast(ctx, "join", s.name, "--data-dir", filepath.Join(w.dir, "hub"), "--hub", w.hubURL)
	if err != nil {
		return err
	}
	dec := utilyaml.NewYAMLOrJSONDecoder(bytes.NewReader(manifests), 4096)
	for {
		o := &unstructured.Unstructured{}
		if err := dec.Decode(o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read agent manifests: %w", err)
		}
		data, err := o.MarshalJSON()
		if err != nil {
			return err
		}
		if err := s.client.Patch(ctx, o, client.RawPatch(types.ApplyPatchType, data), client.FieldOwner("holdfast-join"), client.ForceOwnership); err != nil {
			return fmt.Errorf("apply %s %s: %w", o.GetKind(), o.GetName(), err)
		}
	}
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

// holdfast runs the command line and returns what it prints.
func (w *world) holdfast(ctx context.Context, args ...string) ([]byte, error) {
	env := append(os.Environ(), "KUBECONFIG="+w.kubeconfig, "HOLDFAST_HUB="+w.hubURL, "HOLDFAST_TOKEN_FILE="+w.adminToken)
	return hostexec.Run(ctx, time.Minute, hostexec.Command{Path: w.bin("holdfast"), Args: args, Env: env})
}

func (w *world) git(ctx context.Context, dir string, args ...string) error {
	_, err := hostexec.Run(ctx, time.Minute, hostexec.Command{Path: "git", Dir: dir, Env: gitEnv(), Args: args})
	return err
}

// gitEnv keeps the demo's commits apart from the person's git configuration.
func gitEnv() []string {
	return append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=Platform Engineer", "GIT_AUTHOR_EMAIL=platform@example.com",
		"GIT_COMMITTER_NAME=Platform Engineer", "GIT_COMMITTER_EMAIL=platform@example.com", "LC_ALL=C")
}

// firstLine keeps what a program prints and tells when a line is complete.
type firstLine struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	full chan struct{}
}

func (f *firstLine) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	had := bytes.IndexByte(f.buf.Bytes(), '\n') >= 0
	if !had {
		f.buf.Write(p)
		if bytes.IndexByte(f.buf.Bytes(), '\n') >= 0 && f.full != nil {
			close(f.full)
		}
	}
	return len(p), nil
}

func (f *firstLine) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	line, _, _ := strings.Cut(f.buf.String(), "\n")
	return line
}

func startAndWait(ctx context.Context, timeout time.Duration, c hostexec.Command) (*hostexec.Process, error) {
	return startAndWaitFor(ctx, timeout, c, &firstLine{})
}

// startAndWaitFor starts a program and waits for its first line: it is ready.
func startAndWaitFor(ctx context.Context, timeout time.Duration, c hostexec.Command, line *firstLine) (*hostexec.Process, error) {
	line.full = make(chan struct{})
	c.Stdout = line
	p, err := hostexec.Start(c)
	if err != nil {
		return nil, err
	}
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-line.full:
		return p, nil
	case <-p.Done():
		if err := p.Err(); err != nil {
			return nil, err
		}
		return nil, errors.New("it ended before it was ready")
	case <-t.C:
		err = fmt.Errorf("not ready within %s", timeout)
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.Stop(time.Second)
	return nil, err
}

// until polls f until it returns true; what says in the error what was waited for.
func until(ctx context.Context, timeout time.Duration, what string, f func() (bool, error)) (time.Duration, error) {
	start := time.Now()
	deadline := start.Add(timeout)
	var last error
	for {
		ok, err := f()
		if ok && err == nil {
			return time.Since(start), nil
		}
		last = err
		if time.Now().After(deadline) {
			if last != nil {
				return 0, fmt.Errorf("%s: not within %s: %w", what, timeout, last)
			}
			return 0, fmt.Errorf("%s: not within %s", what, timeout)
		}
		select {
		case <-ctx.Done():
			return 0, ctx.Err()
		case <-time.After(pollEvery):
		}
	}
}
