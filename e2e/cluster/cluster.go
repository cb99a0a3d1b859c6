// Package cluster starts real Kubernetes control planes for tests and for the
// demo: etcd, kube-apiserver, kube-controller-manager and kube-scheduler of
// the program holdfast-cluster, with RBAC on, and without nodes. The program
// is a child process, so this package links none of Kubernetes' servers.
package cluster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"holdfast.dev/e2e/cluster/credential"
	"holdfast.dev/e2e/cluster/datadir"
	"holdfast.dev/internal/hostexec"
)

// Options say how to start a cluster. The zero value is of use.
type Options struct {
	// Name is the cluster's name, a DNS label of at most 40 characters; default "holdfast".
	Name string
	// Binary is the program; default is $HOLDFAST_CLUSTER_BINARY, else
	// bin/holdfast-cluster of the source tree that holds the working directory.
	Binary string
	// Parent is the directory in which the data directory is made; default is
	// one for this user in the directory for temporary files. Data directories
	// in it that nobody uses any more are removed.
	Parent string
	// BindAddress is the address of the API server; default 127.0.0.1.
	BindAddress string
	// LogDir, when set, receives the logs, which stay.
	LogDir string
	// Keep keeps the data directory after the end.
	Keep bool
	// NodeMonitorGracePeriod is how long a Node may be silent before it is
	// NotReady; default is Kubernetes' own.
	NodeMonitorGracePeriod time.Duration
	// ReadyTimeout is how long the start may take; default 2 minutes.
	ReadyTimeout time.Duration
	// Args follow the program's flags.
	Args []string
}

// Cluster is a running control plane. Its methods may be called concurrently.
type Cluster struct {
	ready   Ready
	took    time.Duration
	parent  string
	process *hostexec.Process
	config  *rest.Config
	stop    sync.Once
	stopErr error
}

// Ready is the JSON line that holdfast-cluster prints when it is ready.
type Ready struct {
	Name       string  `json:"name"`
	Server     string  `json:"server"`
	Kubeconfig string  `json:"kubeconfig"`
	Dir        string  `json:"dir"`
	Seconds    float64 `json:"seconds"`
}

// stopGrace is how long a control plane may take to end before it is killed.
const stopGrace = 10 * time.Second

// Start starts a control plane and returns when it is ready. The control plane
// dies with this process, however that ends. When ctx ends while Start waits,
// nothing is left running.
func Start(ctx context.Context, o Options) (*Cluster, error) {
	if o.Parent == "" {
		o.Parent = datadir.DefaultParent(os.TempDir(), os.Getuid())
	}
	if o.ReadyTimeout == 0 {
		o.ReadyTimeout = 2 * time.Minute
	}
	if o.Binary == "" {
		var err error
		if o.Binary, err = defaultBinary(); err != nil {
			return nil, err
		}
	}
	began := time.Now()
	out := &firstLine{done: make(chan struct{})}
	p, err := hostexec.Start(hostexec.Command{Path: o.Binary, Args: o.args(), Stdout: out})
	if err != nil {
		return nil, fmt.Errorf("start control plane: %w", err)
	}
	c := &Cluster{parent: o.Parent, process: p}
	if err := c.await(ctx, out, o.ReadyTimeout); err != nil {
		p.Stop(stopGrace)
		return nil, fmt.Errorf("start control plane: %w", errors.Join(err, c.clean(ctx)))
	}
	c.took = time.Since(began)
	return c, nil
}

func (o *Options) args() []string {
	args := []string{"--dir=" + o.Parent, "--ready-timeout=" + o.ReadyTimeout.String()}
	for _, f := range [][2]string{{"name", o.Name}, {"bind-address", o.BindAddress}, {"log-dir", o.LogDir}} {
		if f[1] != "" {
			args = append(args, "--"+f[0]+"="+f[1])
		}
	}
	if o.Keep {
		args = append(args, "--keep")
	}
	if o.NodeMonitorGracePeriod != 0 {
		args = append(args, "--node-monitor-grace-period="+o.NodeMonitorGracePeriod.String())
	}
	return append(args, o.Args...)
}

func (c *Cluster) await(ctx context.Context, out *firstLine, timeout time.Duration) error {
	// The program's own deadline comes first, since its error says more.
	ctx, cancel := context.WithTimeout(ctx, timeout+5*time.Second)
	defer cancel()
	select {
	case <-out.done:
	case <-c.process.Done():
		if err := c.process.Err(); err != nil {
			return err
		}
		return errors.New("it ended before it was ready")
	case <-ctx.Done():
		return fmt.Errorf("wait until it is ready: %w", ctx.Err())
	}
	if err := json.Unmarshal(out.line, &c.ready); err != nil {
		return fmt.Errorf("read its ready line: %w", err)
	}
	config, err := clientcmd.BuildConfigFromFlags("", c.ready.Kubeconfig)
	if err != nil {
		return fmt.Errorf("read its kubeconfig: %w", err)
	}
	// Tests and the demo measure what they do, not client-go's own throttle.
	config.QPS = -1
	c.config = config
	return nil
}

// Stop ends the control plane and waits until it is gone with all its files.
// When ctx ends first, it is killed. A control plane that ended before it was
// told to is an error. Stop may be called more than once.
func (c *Cluster) Stop(ctx context.Context) error {
	c.stop.Do(func() {
		if err := c.end(ctx); err != nil {
			c.stopErr = fmt.Errorf("stop control plane: %w", err)
		}
	})
	return c.stopErr
}

func (c *Cluster) end(ctx context.Context) error {
	select {
	case <-c.process.Done():
		return errors.Join(errors.New("it had ended already"), c.process.Err(), c.clean(ctx))
	default:
	}
	if err := c.process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("ask it to end: %w", err)
	}
	grace := time.NewTimer(stopGrace)
	defer grace.Stop()
	select {
	case <-c.process.Done():
	case <-ctx.Done():
		c.process.Stop(0)
	case <-grace.C:
		c.process.Stop(0)
	}
	return errors.Join(c.process.Err(), c.clean(ctx))
}

// clean removes what a control plane left that was killed or crashed.
func (c *Cluster) clean(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopGrace)
	defer cancel()
	_, err := datadir.RemoveStale(ctx, c.parent)
	return err
}

// Done is closed when the control plane has ended, whether it was told to or not.
func (c *Cluster) Done() <-chan struct{} { return c.process.Done() }

// Name is the cluster's name, and that of the context in its kubeconfigs.
func (c *Cluster) Name() string { return c.ready.Name }

// Server is the URL of the API server.
func (c *Cluster) Server() string { return c.ready.Server }

// Dir is the data directory. It goes away with the cluster.
func (c *Cluster) Dir() string { return c.ready.Dir }

// PID is the process id of the control plane.
func (c *Cluster) PID() int { return c.process.PID() }

// ReadySeconds is how long Start took, in seconds.
func (c *Cluster) ReadySeconds() float64 { return c.took.Seconds() }

// Kubeconfig is the path of the administrator's kubeconfig (group system:masters).
func (c *Cluster) Kubeconfig() string { return c.ready.Kubeconfig }

// RESTConfig is a copy of the administrator's client configuration, without a
// limit on the rate of requests.
func (c *Cluster) RESTConfig() *rest.Config { return rest.CopyConfig(c.config) }

// NodeKubeconfig writes a kubeconfig that authenticates as a node's kubelet
// does, and returns its path. The Node authorizer and the NodeRestriction
// admission plugin confine it to its own Node and the pods bound to that.
func (c *Cluster) NodeKubeconfig(node string) (string, error) {
	return c.UserKubeconfig("system:node:"+node, "system:nodes")
}

// UserKubeconfig writes a kubeconfig for a user in groups, and returns its
// path. RBAC says what the user may do: without a binding next to nothing.
func (c *Cluster) UserKubeconfig(user string, groups ...string) (string, error) {
	a, err := credential.LoadAuthority(filepath.Join(c.ready.Dir, "pki"))
	if err != nil {
		return "", fmt.Errorf("make kubeconfig of %q: %w", user, err)
	}
	client, err := a.SignClient(user, groups)
	if err != nil {
		return "", fmt.Errorf("make kubeconfig of %q: %w", user, err)
	}
	ca, err := a.CertPEM()
	if err != nil {
		return "", fmt.Errorf("make kubeconfig of %q: %w", user, err)
	}
	b, err := credential.Kubeconfig(c.ready.Name, c.ready.Server, ca, client)
	if err != nil {
		return "", fmt.Errorf("make kubeconfig of %q: %w", user, err)
	}
	f, err := os.CreateTemp(c.ready.Dir, "user-*.kubeconfig")
	if err != nil {
		return "", fmt.Errorf("make kubeconfig of %q: %w", user, err)
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Close()); err != nil {
		return "", fmt.Errorf("make kubeconfig of %q: %w", user, err)
	}
	return f.Name(), nil
}

// firstLine keeps what is written up to the first line's end, and closes done there.
type firstLine struct {
	line []byte
	full bool
	done chan struct{}
}

func (f *firstLine) Write(p []byte) (int, error) {
	if f.full {
		return len(p), nil
	}
	line, _, found := bytes.Cut(p, []byte("\n"))
	f.line = append(f.line, line...)
	if found {
		f.full = true
		close(f.done)
	}
	return len(p), nil
}
